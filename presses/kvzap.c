/* SPDX-License-Identifier: Apache-2.0 */
/*
 * kvzap - a small learned network reads from a token's hidden state how much its rows will matter.
 *
 *      score[g][t] = W x_t + b                          linear: tensors layers.<l>.{weight,bias}
 *                  = W2 gelu(W1 x_t + b1) + b2          MLP: layers.<l>.0.{weight,bias}, layers.<l>.2.{weight,bias}
 *
 * Independent of K and V. NVIDIA 2026, arXiv:2601.07891.
 */
#include "common/base/arena.h"
#include "common/base/bytes.h"
#include "presses/params.h"
#include "presses/press.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

enum { TOKENS_AT_ONCE = 512 };

struct kvzap_options {
    const char *file;
};

static const struct opt kvzap_table[] = {
    { .name = "file",
      .type = OPT_TEXT,
      .offset = offsetof(struct kvzap_options, file),
      .value = "F",
      .help = "the operator's name of the parameter file",
      .required = true },
};

/* One layer's network; hidden 0: linear, in w2 and b2. */
struct net {
    float *w1, *b1, *w2, *b2;
};

struct kvzap_file {
    int32_t layers;
    int64_t hidden;
    struct net *net;
};

static void kvzap_close(void *file)
{
    struct kvzap_file *f = file;

    for (int32_t l = 0; f && l < f->layers; l++) {
        free(f->net[l].w1);
        free(f->net[l].b1);
        free(f->net[l].w2);
        free(f->net[l].b2);
    }
    if (f)
        free(f->net);
    free(f);
}

/* Tensors `layers.<l>.<part>weight` [outs][ins] and `...bias` [outs]. */
static enum status linear_read(const struct params *p, int32_t layer, const char *part, int64_t outs, int64_t ins,
                               float **w, float **b, struct err *err)
{
    const int64_t shape[] = { outs, ins };
    char name[64];
    enum status st;

    (void)snprintf(name, sizeof name, "layers.%d.%sweight", layer, part);
    st = params_read(p, name, shape, 2, w, err);
    (void)snprintf(name, sizeof name, "layers.%d.%sbias", layer, part);
    return st == ST_OK ? params_read(p, name, shape, 1, b, err) : st;
}

static enum status kvzap_open(void **out, const char *path, const struct hparams *hp, struct err *err)
{
    struct kvzap_file *f;
    struct params *p;
    enum status st = params_open(&p, path, err);

    if (st != ST_OK)
        return st;
    f = mem_zero(1, sizeof *f);
    f->layers = hp->layers;
    f->net = mem_zero((size_t)hp->layers, sizeof *f->net);
    if (params_has(p, "layers.0.0.weight"))
        f->hidden = params_size(p, "layers.0.0.weight", 0);
    for (int32_t l = 0; l < hp->layers && st == ST_OK; l++) {
        struct net *n = &f->net[l];

        if (f->hidden > 0)
            st = linear_read(p, l, "0.", f->hidden, hp->dim, &n->w1, &n->b1, err);
        if (st == ST_OK)
            st = linear_read(p, l, f->hidden > 0 ? "2." : "", hp->kv_heads, f->hidden > 0 ? f->hidden : hp->dim, &n->w2,
                             &n->b2, err);
    }
    params_close(p);
    if (st == ST_OK)
        *out = f;
    else
        kvzap_close(f);
    return st;
}

static void kvzap_needs(const struct press_stage *stage, int64_t query_tokens, struct chain_needs *needs)
{
    (void)stage;
    (void)query_tokens;
    needs->hidden = true;
}

static float gelu(float x)
{
    return 0.5f * x * (1.0f + erff(x * 0.70710678f));
}

/* out[rows][outs] on the host. */
static enum status apply(struct press_round *round, const void *x, int64_t rows, int64_t ins, const float *w,
                         const float *b, int64_t outs, float **host, void **device, struct err *err)
{
    const void *dw, *db;
    struct kv_rows flat = { .heads = 1 };
    enum status st = press_file_to_device(round, w, (uint64_t)(outs * ins) * sizeof *w, &dw, err);

    if (st == ST_OK)
        st = press_file_to_device(round, b, (uint64_t)outs * sizeof *b, &db, err);
    if (st == ST_OK)
        st = press_work_device(round, (uint64_t)(rows * outs) * sizeof(float), device, err);
    if (st != ST_OK)
        return st;
    round->be->ops->linear(round->be, x, rows, ins, dw, db, (int32_t)outs, *device);
    flat.at[1] = rows * outs;
    *host = press_scores_get(round, &flat, *device);
    return ST_OK;
}

/* `count` numbers through gelu, over `device` where they came from: as activations, for the next matrix. */
static void activate(struct press_round *round, float *host, int64_t count, void *device)
{
    const struct backend_ops *ops = round->be->ops;
    struct kv_rows flat = { .heads = 1 };
    uint16_t *half;

    flat.at[1] = count;
    for (int64_t i = 0; i < count; i++)
        host[i] = gelu(host[i]);
    if (round->be->act == DT_F32) {
        press_scores_put(round, &flat, device, host);
        return;
    }
    half = press_work_host(round, (uint64_t)count * sizeof *half);
    for (int64_t i = 0; i < count; i++)
        half[i] = f32_to_bf16(host[i]);
    ops->upload(round->be, LANE_PRESS, device, half, (uint64_t)count * sizeof *half);
    ops->wait(round->be, LANE_PRESS);
}

/* values[rows][G] of tokens that begin at x. */
static enum status net_run(struct press_round *round, const struct kvzap_file *f, const void *x, int64_t rows,
                           float **values, struct err *err)
{
    const struct hparams *hp = round->in->hp;
    const struct net *n = &f->net[round->in->layer];
    void *hidden, *out;
    float *host;
    enum status st;

    if (f->hidden == 0)
        return apply(round, x, rows, hp->dim, n->w2, n->b2, hp->kv_heads, values, &out, err);
    st = apply(round, x, rows, hp->dim, n->w1, n->b1, f->hidden, &host, &hidden, err);
    if (st != ST_OK)
        return st;
    activate(round, host, rows * f->hidden, hidden);
    return apply(round, hidden, rows, f->hidden, n->w2, n->b2, hp->kv_heads, values, &out, err);
}

/* values[tokens][G] of hidden states [from, from + tokens), some at a time. */
static enum status all_values(const struct press_stage *stage, struct press_round *round, const void *hidden,
                              int64_t from, int64_t tokens, float *out, struct err *err)
{
    const struct hparams *hp = round->in->hp;
    uint64_t row = dtype_bytes(round->be->act, (uint64_t)hp->dim);
    enum status st = ST_OK;

    for (int64_t t = 0; t < tokens && st == ST_OK; t += TOKENS_AT_ONCE) {
        int64_t rows = tokens - t < TOKENS_AT_ONCE ? tokens - t : TOKENS_AT_ONCE;
        struct press_scratch mark = press_scratch_mark(round);
        float *values;

        st = net_run(round, stage->file, (const char *)hidden + (uint64_t)(from + t) * row, rows, &values, err);
        for (int64_t i = 0; i < rows * hp->kv_heads && st == ST_OK; i++)
            out[t * hp->kv_heads + i] = values[i];
        press_scratch_back(round, mark);
    }
    return st;
}

static enum status kvzap_score(const struct press_stage *stage, struct press_round *round, const struct kv_rows *view,
                               float *score, struct err *err)
{
    const struct press_layer *in = round->in;
    const int32_t *token = view->token ? press_index_get(round, view->token, view->at[view->heads]) : NULL;
    const void *hidden = round->x_part ? round->x_part : in->hidden;
    int64_t from = token ? 0 : round->part_begin, count = in->tokens;
    float *values = press_work_host(round, (uint64_t)(count * view->heads) * sizeof *values), *host;
    enum status st;

    if (round->x_part) {
        token = round->x_slot;
        count = round->x_part_rows;
    } else if (!token && round->part_end >= 0) {
        count = round->part_end - from;
    }
    st = all_values(stage, round, hidden, from, count, values, err);
    if (st != ST_OK)
        return st;
    host = press_scores_get(round, view, score);
    for (int32_t g = 0; g < view->heads; g++)
        for (int64_t r = 0; r < view->rows[g]; r++) {
            int64_t t = token ? token[view->at[g] + r] : r;

            host[view->at[g] + r] = values[t * view->heads + g];
        }
    press_scores_put(round, view, score, host);
    return ST_OK;
}

static enum status kvzap_admit(const struct press_stage *stage, const struct press_door *door, struct err *err)
{
    return press_admit_op(stage, door, door->ops->linear != NULL, "linear", err);
}

const struct press press_kvzap = {
    .name = "kvzap",
    .kind = PRESS_SCORE,
    .summary = "keeps the rows that a small learned network predicts to matter",
    .source = "arXiv:2601.07891",
    .reference = "KVzapPress",
    .cost = "T dim G (linear), T dim hidden (MLP)",
    .differs = "",
    .options = kvzap_table,
    .option_count = ARRAY_LEN(kvzap_table),
    .options_bytes = sizeof(struct kvzap_options),
    .prefill_only = true,
    .needs = kvzap_needs,
    .admit = kvzap_admit,
    .score = kvzap_score,
    .file_open = kvzap_open,
    .file_close = kvzap_close,
    .token_alone = 1,
};
