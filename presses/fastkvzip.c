/* SPDX-License-Identifier: Apache-2.0 */
/*
 * fastkvzip - a learned gate reads a row's worth from its token's hidden state; all layers and heads compete.
 *
 *      u = norm(Wq x + b) [G][group][16], v = norm(Wk x) [G][16]      logit = v.u / 4 + b', base_i = c_i.u / 4, 16 learned c
 *      score = mean over the group of 1 / (1 + sum_i exp(base_i - logit))      sinks and the last window: 1
 *
 * File: tensors layers.<l>.{q_proj.weight, q_proj.bias, k_proj.weight, q_norm.weight, k_norm.weight, k_base, b}.
 * arXiv:2601.17668.
 */
#include "common/base/arena.h"
#include "common/base/bytes.h"
#include "presses/held.h"
#include "presses/params.h"
#include "presses/scores.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { E = 16, TOKENS_AT_ONCE = 512 };

struct fastkvzip_options {
    const char *file;
    int64_t sink, window;
    double share;
    bool layerwise;
};

#define AT(member) offsetof(struct fastkvzip_options, member)
static const struct opt fastkvzip_table[] = {
    { .name = "file",
      .type = OPT_TEXT,
      .offset = AT(file),
      .value = "F",
      .help = "the operator's name of the parameter file",
      .required = true },
    { .name = "sink",
      .type = OPT_INT,
      .offset = AT(sink),
      .min = 0,
      .max = 65536,
      .fallback = "4",
      .help = "rows at the beginning that stay" },
    { .name = "window",
      .type = OPT_INT,
      .offset = AT(window),
      .min = 0,
      .max = INT32_MAX,
      .fallback = "4096",
      .help = "rows at the end that stay, from 32000 tokens on" },
    { .name = "share",
      .type = OPT_FLOAT,
      .offset = AT(share),
      .min = 0,
      .max = 1,
      .fallback = "0.02",
      .help = "share of the context at the end that stays, below" },
    { .name = "layerwise",
      .type = OPT_FLAG,
      .offset = AT(layerwise),
      .fallback = "off",
      .help = "every layer keeps as much" },
};
#undef AT

struct gate {
    float *q, *q_bias, *k, *q_norm, *k_norm, *base, *b;
};

struct gates {
    int32_t layers;
    int64_t bases;
    struct gate *gate;
};

static void gates_close(void *file)
{
    struct gates *f = file;

    for (int32_t l = 0; f && l < f->layers; l++) {
        float *all[] = { f->gate[l].q,      f->gate[l].q_bias, f->gate[l].k, f->gate[l].q_norm,
                         f->gate[l].k_norm, f->gate[l].base,   f->gate[l].b };

        for (size_t i = 0; i < ARRAY_LEN(all); i++)
            free(all[i]);
    }
    if (f)
        free(f->gate);
    free(f);
}

static enum status gate_read(const struct params *p, int32_t layer, const struct hparams *hp, struct gate *g,
                             int64_t bases, struct err *err)
{
    const int64_t group = hp->q_heads / hp->kv_heads, dim = hp->dim;
    const struct {
        const char *name;
        float **to;
        int64_t shape[3];
        int32_t rank;
    } tensors[] = {
        { "q_proj.weight", &g->q, { hp->q_heads * E, dim }, 2 },
        { "q_proj.bias", &g->q_bias, { hp->q_heads * E }, 1 },
        { "k_proj.weight", &g->k, { hp->kv_heads * E, dim }, 2 },
        { "q_norm.weight", &g->q_norm, { E }, 1 },
        { "k_norm.weight", &g->k_norm, { E }, 1 },
        { "k_base", &g->base, { hp->kv_heads, bases, E }, 3 },
        { "b", &g->b, { hp->kv_heads, group }, 2 },
    };
    char name[64];
    enum status st = ST_OK;

    for (size_t i = 0; i < ARRAY_LEN(tensors) && st == ST_OK; i++) {
        (void)snprintf(name, sizeof name, "layers.%d.%s", layer, tensors[i].name);
        st = params_read(p, name, tensors[i].shape, tensors[i].rank, tensors[i].to, err);
    }
    return st;
}

static enum status gates_open(void **out, const char *path, const struct hparams *hp, struct err *err)
{
    struct gates *f;
    struct params *p;
    enum status st = params_open(&p, path, err);

    if (st != ST_OK)
        return st;
    f = mem_zero(1, sizeof *f);
    f->layers = hp->layers;
    f->bases = E;
    f->gate = mem_zero((size_t)hp->layers, sizeof *f->gate);
    for (int32_t l = 0; l < hp->layers && st == ST_OK; l++)
        st = gate_read(p, l, hp, &f->gate[l], f->bases, err);
    params_close(p);
    if (st == ST_OK)
        *out = f;
    else
        gates_close(f);
    return st;
}

static void fastkvzip_needs(const struct press_stage *stage, int64_t query_tokens, struct chain_needs *needs)
{
    (void)query_tokens;
    needs->hidden = true;
    if (!((const struct fastkvzip_options *)stage->options)->layerwise)
        needs->all_layers = true;
}

static void norm16(float *x, const float *w)
{
    float sum = 0, factor;

    for (int i = 0; i < E; i++)
        sum += x[i] * x[i];
    factor = 1.0f / sqrtf(sum / E + 1e-6f);
    for (int i = 0; i < E; i++)
        x[i] *= factor * w[i];
}

static float dot16(const float *x, const float *y)
{
    float sum = 0;

    for (int i = 0; i < E; i++)
        sum += x[i] * y[i];
    return sum;
}

/* Score of one token in one head; u [group][16] and v [16] are normed in place. */
static float gate_score(const struct gate *g, int64_t bases, int32_t head, int32_t group, float *u, float *v)
{
    float sum = 0;

    norm16(v, g->k_norm);
    for (int32_t h = 0; h < group; h++) {
        float logit, others = 0;

        norm16(u + h * E, g->q_norm);
        logit = dot16(v, u + h * E) / 4.0f + g->b[head * group + h];
        for (int64_t i = 0; i < bases; i++)
            others += expf(dot16(g->base + (head * bases + i) * E, u + h * E) / 4.0f - logit);
        sum += 1.0f / (1.0f + others);
    }
    return sum / (float)group;
}

static enum status project(struct press_round *round, const void *x, int64_t rows, const float *w, const float *b,
                           int64_t outs, float **out, struct err *err)
{
    int64_t dim = round->in->hp->dim;
    struct kv_rows flat = { .heads = 1 };
    const void *dw, *db = NULL;
    void *device;
    enum status st = press_to_device(round, w, (uint64_t)(outs * dim) * sizeof *w, &dw, err);

    if (st == ST_OK && b)
        st = press_to_device(round, b, (uint64_t)outs * sizeof *b, &db, err);
    if (st == ST_OK)
        st = press_work_device(round, (uint64_t)(rows * outs) * sizeof(float), &device, err);
    if (st != ST_OK)
        return st;
    round->be->ops->linear(round->be, x, rows, dim, dw, db, (int32_t)outs, device);
    flat.at[1] = rows * outs;
    *out = press_scores_get(round, &flat, device);
    return ST_OK;
}

/* Scores of tokens [from, from + rows). */
static enum status score_tokens(const struct gates *f, struct press_round *round, const struct kv_rows *view,
                                int64_t from, int64_t rows, float *score, struct err *err)
{
    const struct hparams *hp = round->in->hp;
    const struct gate *g = &f->gate[round->in->layer];
    const void *x = (const char *)round->in->hidden + (uint64_t)from * dtype_bytes(round->be->act, (uint64_t)hp->dim);
    int32_t group = hp->q_heads / hp->kv_heads;
    float *u, *v;
    enum status st = project(round, x, rows, g->q, g->q_bias, hp->q_heads * E, &u, err);

    if (st == ST_OK)
        st = project(round, x, rows, g->k, NULL, hp->kv_heads * E, &v, err);
    for (int64_t t = 0; t < rows && st == ST_OK; t++)
        for (int32_t head = 0; head < hp->kv_heads; head++)
            score[view->at[head] + from + t] = gate_score(
                g, f->bases, head, group, u + (t * hp->q_heads + head * group) * E, v + (t * hp->kv_heads + head) * E);
    return st;
}

static enum status fastkvzip_score(const struct press_stage *stage, struct press_round *round,
                                   const struct kv_rows *view, float *score, struct err *err)
{
    const struct fastkvzip_options *o = stage->options;
    int64_t n = round->in->tokens, window = o->window;
    float *host = press_scores_get(round, view, score);
    enum status st = ST_OK;

    for (int64_t t = 0; t < n && st == ST_OK; t += TOKENS_AT_ONCE) {
        struct press_scratch mark = press_scratch_mark(round);

        st = score_tokens(stage->file, round, view, t, n - t < TOKENS_AT_ONCE ? n - t : TOKENS_AT_ONCE, host, err);
        press_scratch_back(round, mark);
    }
    if (n < 32000) {
        window = (int64_t)(o->share * (double)n);
        window = window < 1 ? 1 : window;
    }
    scores_set_ends(view, host, o->sink, window, 1.0f);
    press_scores_put(round, view, score, host);
    return st;
}

static enum status fastkvzip_budget(const struct press_stage *stage, struct press_round *round, struct err *err)
{
    (void)stage;
    (void)err;
    held_layerwise(round);
    return ST_OK;
}

static enum status fastkvzip_settle(const struct press_stage *stage, struct press_held *held,
                                    const struct press_keep *keep, struct err *err)
{
    (void)stage;
    (void)err;
    held_compete(held, keep);
    return ST_OK;
}

static int64_t fastkvzip_rows_max(const struct press_stage *stage, const struct press_keep *keep, int32_t place,
                                  int32_t places, int64_t n)
{
    (void)place;
    (void)places;
    return ((const struct fastkvzip_options *)stage->options)->layerwise ? press_keep_rows(keep, n) + 1 : n;
}

static enum status fastkvzip_admit(const struct press_stage *stage, const struct press_door *door, struct err *err)
{
    return press_admit_op(stage, door, door->ops->linear != NULL, "linear", err);
}

const struct press press_fastkvzip = {
    .name = "fastkvzip",
    .kind = PRESS_SCORE,
    .summary = "keeps the rows that a learned gate lets pass; all layers and heads compete",
    .source = "arXiv:2601.17668",
    .reference = "FastKVzipPress",
    .cost = "T H 16 dim",
    .differs = "Parameters come as safetensors; deploy/press_params.py turns the published pickles into them.",
    .options = fastkvzip_table,
    .option_count = ARRAY_LEN(fastkvzip_table),
    .options_bytes = sizeof(struct fastkvzip_options),
    .first_only = true,
    .whole_only = true,
    .uneven = true,
    .prefill_only = true,
    .needs = fastkvzip_needs,
    .admit = fastkvzip_admit,
    .score = fastkvzip_score,
    .budget = fastkvzip_budget,
    .settle = fastkvzip_settle,
    .rows_max = fastkvzip_rows_max,
    .exact_total = true,
    .file_open = gates_open,
    .file_close = gates_close,
};
