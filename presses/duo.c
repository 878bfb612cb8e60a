/* SPDX-License-Identifier: Apache-2.0 */
/*
 * duo - heads that need the whole context keep it, the others keep only first and recent rows.
 *
 *      streaming heads = the round(L G heads) lowest head scores of the model      they keep [0, sink) and the last `recent`
 *
 * File: tab-separated [L][G] scores, clipped to [0, 1]; sink_size and recent_size from config.json beside it (128 and 256
 * where there is none). probe=on scores the heads on the context at hand: mean query and mean key of each head, rotated
 * over 500 positions; score = mean of the running sum of the last query's attention.
 *
 * Xiao et al. 2024, arXiv:2410.10819.
 */
#include "common/base/arena.h"
#include "common/base/bytes.h"
#include "presses/held.h"
#include "presses/params.h"
#include "presses/scores.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { SINK = 128, RECENT = 256, PROBE_POSITIONS = 500 };

struct duo_options {
    const char *file;
    bool probe;
    double heads;
};

static const struct opt duo_table[] = {
    { .name = "file",
      .type = OPT_TEXT,
      .offset = offsetof(struct duo_options, file),
      .value = "F",
      .help = "the operator's name of the head scores" },
    { .name = "probe",
      .type = OPT_FLAG,
      .offset = offsetof(struct duo_options, probe),
      .fallback = "off",
      .help = "score the heads on this context instead" },
    { .name = "heads",
      .type = OPT_FLOAT,
      .offset = offsetof(struct duo_options, heads),
      .min = 0,
      .max = 1,
      .fallback = "0.5",
      .help = "share of the heads that stream" },
};

struct duo_file {
    float *scores;
    int64_t sink, recent;
};

static void duo_close(void *file)
{
    struct duo_file *f = file;

    if (f)
        free(f->scores);
    free(f);
}

static enum status duo_open(void **out, const char *path, const struct hparams *hp, struct err *err)
{
    const int64_t shape[] = { hp->layers, hp->kv_heads };
    struct duo_file *f;
    struct params *p;
    enum status st = params_open(&p, path, err);

    if (st != ST_OK)
        return st;
    f = mem_zero(1, sizeof *f);
    f->sink = SINK;
    f->recent = RECENT;
    st = params_read(p, "scores", shape, 2, &f->scores, err);
    if (st == ST_OK)
        st = params_neighbour(path, "config.json", "sink_size", &f->sink, err);
    if (st == ST_OK)
        st = params_neighbour(path, "config.json", "recent_size", &f->recent, err);
    for (int64_t i = 0; st == ST_OK && i < shape[0] * shape[1]; i++)
        f->scores[i] = fminf(fmaxf(f->scores[i], 0.0f), 1.0f);
    params_close(p);
    if (st == ST_OK)
        *out = f;
    else
        duo_close(f);
    return st;
}

static enum status duo_check(const struct press_stage *stage, const struct opt **at, struct err *err)
{
    const struct duo_options *o = stage->options;

    if (!o->file && !o->probe)
        return err_set(err, ST_EINVAL, "duo needs the scores of the heads: file= and a name, or probe=on");
    if (!o->file || !o->probe)
        return ST_OK;
    *at = &duo_table[1];
    return err_set(err, ST_EINVAL, "duo takes the scores of the heads from file= or by probe=on, not both");
}

/* Whether head g of `layer` is among the lowest. scores [layers][heads]. */
static bool streams(const float *scores, int64_t count, int64_t head, double share)
{
    int64_t wanted = (int64_t)rint((double)count * share), below = 0;

    for (int64_t i = 0; i < count; i++)
        below += scores[i] < scores[head] || (scores[i] == scores[head] && i < head);
    return below < wanted;
}

static void choose_rows(struct press_round *round, const bool *streaming, int64_t sink, int64_t recent, int32_t *index,
                        int64_t *first)
{
    const struct kv_rows *view = &round->view;
    int32_t *host = press_work_host(round, (uint64_t)view->at[view->heads] * sizeof *host);
    int64_t count = 0;

    for (int32_t g = 0; g < view->heads; g++) {
        first[g] = count;
        for (int64_t r = 0; r < view->rows[g]; r++)
            if (!streaming[g] || r < sink || r >= view->rows[g] - recent)
                host[count++] = (int32_t)r;
    }
    first[view->heads] = count;
    press_index_put(round, index, host, count);
}

static enum status duo_choose(const struct press_stage *stage, struct press_round *round, int32_t *index,
                              int64_t *first, struct err *err)
{
    const struct duo_options *o = stage->options;
    const struct duo_file *f = stage->file;
    const float *scores = f ? f->scores : round->held->head_scores;
    int64_t heads = round->view.heads, row = f ? round->in->layer : round->place;
    int64_t layers = f ? round->in->hp->layers : round->places;
    bool streaming[KV_HEADS_MAX] = { false };

    (void)err;
    for (int64_t g = 0; g < heads; g++)
        streaming[g] = streams(scores, layers * heads, row * heads + g, o->heads);
    choose_rows(round, streaming, f ? f->sink : SINK, f ? f->recent : RECENT, index, first);
    return ST_OK;
}

/* ---- scoring the heads on the context at hand ---------------------------------------------------------------------- */

/* sum over channels of q . k when both stand `apart` positions from each other. */
static double rotated_dot(const float *q, const float *k, int32_t dim, const float *inv_freq, int32_t pairs,
                          int64_t apart, double scale)
{
    double sum = 0;

    for (int32_t j = 0; j < pairs; j++) {
        double angle = (double)apart * (double)inv_freq[j], c = cos(angle), s = sin(angle);

        sum += c * ((double)q[j] * k[j] + (double)q[j + pairs] * k[j + pairs]) +
               s * ((double)q[j + pairs] * k[j] - (double)q[j] * k[j + pairs]);
    }
    sum *= scale * scale;
    for (int32_t d = 2 * pairs; d < dim; d++)
        sum += (double)q[d] * k[d];
    return sum;
}

/* Mean of the running sum of the last query's attention over the positions. */
static double head_score(const float *q, const float *k, const struct press_layer *in, const float *inv_freq)
{
    int32_t dim = in->hp->head_dim, pairs = in->rope.inv_freq ? in->rope.dims / 2 : 0;
    double p[PROBE_POSITIONS], most = -HUGE_VAL, sum = 0, running = 0, mean = 0;

    for (int64_t t = 0; t < PROBE_POSITIONS; t++) {
        p[t] = rotated_dot(q, k, dim, inv_freq, pairs, t - (PROBE_POSITIONS - 1), (double)in->rope.scale) / sqrt(dim);
        most = p[t] > most ? p[t] : most;
    }
    for (int64_t t = 0; t < PROBE_POSITIONS; t++) {
        p[t] = exp(p[t] - most);
        sum += p[t];
    }
    for (int64_t t = 0; t < PROBE_POSITIONS; t++) {
        running += p[t] / sum;
        mean += running / PROBE_POSITIONS;
    }
    return mean;
}

/* Mean over the context of the head's keys before the rotation. */
static void mean_key(const float *keys, const struct press_layer *in, const float *inv_freq, float *out)
{
    int32_t dim = in->hp->head_dim, pairs = in->rope.inv_freq ? in->rope.dims / 2 : 0;
    double sum[KV_HEAD_DIM_MAX] = { 0 };

    for (int64_t t = 0; t < in->tokens; t++) {
        const float *k = keys + t * dim;

        for (int32_t j = 0; j < pairs; j++) {
            double c = cos((double)((float)t * inv_freq[j])), s = sin((double)((float)t * inv_freq[j]));

            sum[j] += (k[j] * c + k[j + pairs] * s) / (double)in->rope.scale;
            sum[j + pairs] += (k[j + pairs] * c - k[j] * s) / (double)in->rope.scale;
        }
        for (int32_t d = 2 * pairs; d < dim; d++)
            sum[d] += k[d];
    }
    for (int32_t d = 0; d < dim; d++)
        out[d] = (float)(sum[d] / (double)in->tokens);
}

static void duo_needs(const struct press_stage *stage, int64_t query_tokens, struct chain_needs *needs)
{
    (void)query_tokens;
    if (!((const struct duo_options *)stage->options)->probe)
        return;
    needs->q_plain = true;
    needs->all_layers = true;
}

/* Scores of this layer's heads, into held->head_scores. */
static enum status duo_hold(const struct press_stage *stage, struct press_round *round, struct err *err)
{
    const struct press_layer *in = round->in;
    const struct backend_ops *ops = round->be->ops;
    const int32_t heads = in->hp->q_heads, dim = in->hp->head_dim, group = heads / in->hp->kv_heads;
    uint64_t head_bytes = dtype_bytes(in->kv.dtype, (uint64_t)(in->tokens * dim));
    float inv_freq[KV_HEAD_DIM_MAX / 2], key[KV_HEAD_DIM_MAX];
    float *means = press_work_host(round, (uint64_t)(heads * dim) * sizeof *means);
    float *keys = press_work_host(round, (uint64_t)(in->tokens * dim) * sizeof *keys);
    char *raw = press_work_host(round, head_bytes);
    void *device;
    enum status st = press_work_device(round, (uint64_t)(heads * dim) * sizeof(float), &device, err);

    (void)stage;
    if (st != ST_OK)
        return st;
    ops->query_stats(round->be, in->q_plain, heads, dim, in->tokens, device, NULL);
    ops->download(round->be, LANE_PRESS, means, device, (uint64_t)(heads * dim) * sizeof *means);
    if (in->rope.inv_freq)
        ops->download(round->be, LANE_PRESS, inv_freq, in->rope.inv_freq,
                      (uint64_t)(in->rope.dims / 2) * sizeof(float));
    for (int32_t g = 0; g < in->hp->kv_heads; g++) {
        double sum = 0;

        ops->download(round->be, LANE_PRESS, raw,
                      (const char *)in->kv.k + (uint64_t)g * dtype_bytes(in->kv.dtype, (uint64_t)(in->kv.stride * dim)),
                      head_bytes);
        ops->wait(round->be, LANE_PRESS);
        dtype_to_f32(keys, raw, in->kv.dtype, (uint64_t)(in->tokens * dim));
        mean_key(keys, in, inv_freq, key);
        for (int32_t h = 0; h < group; h++)
            sum += head_score(means + (g * group + h) * dim, key, in, inv_freq);
        round->held->head_scores[round->place * in->hp->kv_heads + g] = (float)(sum / group);
    }
    return ST_OK;
}

static enum status duo_settle(const struct press_stage *stage, struct press_held *held, const struct press_keep *keep,
                              struct err *err)
{
    (void)stage;
    (void)held;
    (void)keep;
    (void)err;
    return ST_OK;
}

static enum status duo_admit(const struct press_stage *stage, const struct press_door *door, struct err *err)
{
    if (!((const struct duo_options *)stage->options)->probe)
        return ST_OK;
    return press_admit_op(stage, door, door->ops->query_stats != NULL, "query_stats", err);
}

const struct press press_duo = {
    .name = "duo",
    .kind = PRESS_CHOOSE,
    .summary = "keeps the whole context in retrieval heads, first and recent rows in the others",
    .source = "arXiv:2410.10819",
    .reference = "DuoAttentionPress",
    .cost = "T G",
    .differs = "probe=on scores the heads on the context at hand; the reference reads fifty book chapters first.",
    .options = duo_table,
    .option_count = ARRAY_LEN(duo_table),
    .options_bytes = sizeof(struct duo_options),
    .first_only = true,
    .uneven = true,
    .prefill_only = true,
    .check = duo_check,
    .needs = duo_needs,
    .admit = duo_admit,
    .choose = duo_choose,
    .hold = duo_hold,
    .settle = duo_settle,
    .file_open = duo_open,
    .file_close = duo_close,
};
