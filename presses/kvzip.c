/* SPDX-License-Identifier: Apache-2.0 */
/*
 * kvzip - rows that the model looks at when it repeats the context.
 *
 *      feed i:  "Repeat the previous context exactly." + end of the user's turn + chunk i of the context
 *      columns: sinks | rows of chunk i | the fed rows, causal      P = softmax(q k / sqrt(D)) over these alone
 *      score    = largest P over the fed rows and the group         plus=on: times |v Wo_a|_2 / |x_t|_2
 *
 * All layers and heads compete. Kim et al. 2025, arXiv:2505.23416, section 3.
 */
#include "common/base/bytes.h"
#include "presses/held.h"
#include "presses/parts.h"
#include "presses/scores.h"

#include <math.h>
#include <string.h>

enum { OVERLAP = 8 };

struct kvzip_options {
    int64_t sink;
    bool plus, layerwise;
    int64_t chunk;
};

static const struct opt kvzip_table[] = {
    { .name = "sink",
      .type = OPT_INT,
      .offset = offsetof(struct kvzip_options, sink),
      .min = 0,
      .max = 65536,
      .fallback = "4",
      .help = "rows at the beginning that stay" },
    { .name = "plus",
      .type = OPT_FLAG,
      .offset = offsetof(struct kvzip_options, plus),
      .fallback = "off",
      .help = "weigh by what the row's value becomes (KVzip+)" },
    { .name = "layerwise",
      .type = OPT_FLAG,
      .offset = offsetof(struct kvzip_options, layerwise),
      .fallback = "off",
      .help = "every layer keeps as much" },
    { .name = "chunk",
      .type = OPT_INT,
      .offset = offsetof(struct kvzip_options, chunk),
      .min = 1,
      .max = 65536,
      .fallback = "2048",
      .help = "tokens of the context that are repeated at once" },
};

static const struct kvzip_options *options_of(const struct press_stage *stage)
{
    return stage->options;
}

static void kvzip_needs(const struct press_stage *stage, int64_t query_tokens, struct chain_needs *needs)
{
    (void)stage;
    (void)query_tokens;
    needs->all_layers = true;
    needs->second_pass = true;
}

/* ---- what is fed --------------------------------------------------------------------------------------------------- */

static int32_t kvzip_feeds(const struct press_stage *stage, const struct press_prompt *prompt)
{
    int64_t left = prompt->tokens - prompt->prefix_tokens, chunk = options_of(stage)->chunk;

    return left > 0 ? (int32_t)((left + chunk - 1) / chunk) : 0;
}

/* The rows [begin, end) of the context that feed i repeats. */
static void chunk_rows(const struct press_stage *stage, const struct press_prompt *prompt, int32_t feed, int64_t *begin,
                       int64_t *end)
{
    *begin = prompt->prefix_tokens + feed * options_of(stage)->chunk;
    *end = *begin + options_of(stage)->chunk;
    if (*end > prompt->tokens)
        *end = prompt->tokens;
}

static int64_t put(int32_t *token, int64_t at, const int32_t *from, int64_t count)
{
    if (token && count > 0)
        memcpy(token + at, from, (size_t)count * sizeof *token);
    return at + count;
}

static int64_t kvzip_feed(const struct press_stage *stage, const struct press_prompt *prompt, int32_t feed,
                          int32_t *token)
{
    int64_t begin, end, at = 0;

    chunk_rows(stage, prompt, feed, &begin, &end);
    if (feed == 0) {
        at = put(token, at, prompt->repeat_all, prompt->repeat_all_tokens);
    } else {
        int64_t before = begin - prompt->prefix_tokens < OVERLAP ? begin - prompt->prefix_tokens : OVERLAP;

        if (before > options_of(stage)->chunk)
            before = options_of(stage)->chunk;
        at = put(token, at, prompt->repeat_part, prompt->repeat_part_tokens);
        at = put(token, at, prompt->token + begin - before, before);
    }
    at = put(token, at, prompt->suffix, prompt->suffix_tokens);
    return put(token, at, prompt->token + begin, end - begin);
}

static void kvzip_feed_needs(const struct press_stage *stage, struct chain_needs *needs)
{
    needs->q_rotated = true;
    needs->hidden = options_of(stage)->plus;
}

/* ---- what it saw ------------------------------------------------------------------------------------------------------ */

/* One chunk's columns: sinks, the chunk, the fed rows. On devices a head has room for a multiple of HELD_STRIDE: a last chunk is
 * as long as its context makes it, and attention there is planned by the stride. */
struct columns {
    int64_t sinks, begin, end, rows, count, stride;
};

static int64_t stride_of(const struct backend *be, int64_t count)
{
    return be->ops->host_is_device ? count : (count + HELD_STRIDE - 1) / HELD_STRIDE * HELD_STRIDE;
}

/* Packs the columns of every head one after another, as a dense layer; the last one again where nobody looks. */
static enum status gather(struct press_round *round, const struct columns *c, struct kv_layer *out, struct err *err)
{
    const struct kv_layer *kv = &round->in->kv;
    int64_t all = c->stride * kv->heads;
    uint64_t bytes = kv_align(dtype_bytes(kv->dtype, (uint64_t)(all * kv->dim)));
    struct kv_rows wide = { .k = kv->k, .v = kv->v, .dtype = kv->dtype, .heads = kv->heads, .dim = kv->dim };
    struct kv_block block = { .heads = kv->heads,
                              .dim = kv->dim,
                              .k_dim = kv->dim,
                              .dtype = kv->dtype,
                              .codec = KV_PLAIN,
                              .v_offset = bytes,
                              .bytes = 2 * bytes };
    struct pack_args args = { .rows = &wide };
    int32_t *host = press_work_host(round, (uint64_t)all * sizeof *host);
    void *index;
    enum status st = press_work_device(round, (uint64_t)all * sizeof *host, &index, err);

    if (st == ST_OK)
        st = press_work_device(round, 2 * bytes, &block.data, err);
    if (st != ST_OK)
        return st;
    for (int32_t g = 0; g < kv->heads; g++) {
        int32_t *to = host + g * c->stride, *const end = to + c->stride;

        for (int64_t i = 0; i < c->sinks; i++)
            *to++ = (int32_t)i;
        for (int64_t i = c->begin; i < c->end; i++)
            *to++ = (int32_t)i;
        for (int64_t i = 0; i < c->rows; i++)
            *to++ = (int32_t)(round->in->tokens + i);
        while (to < end)
            *to++ = (int32_t)(round->in->tokens + c->rows - 1);
        wide.first[g] = g * kv->stride;
        wide.rows[g] = round->in->tokens + c->rows;
        wide.at[g + 1] = wide.at[g] + wide.rows[g];
        block.first[g + 1] = args.first[g + 1] = (g + 1) * c->stride;
    }
    args.index = index;
    press_index_put(round, index, host, all);
    round->be->ops->pack(round->be, &args, &block);
    *out = (struct kv_layer){ block.data, (char *)block.data + block.v_offset, kv->dtype, kv->heads, kv->dim, c->count,
                              c->stride };
    return ST_OK;
}

/* Log-sum-exp of the fed rows over the columns: [H][count], the fed rows' at the end. */
static enum status column_lse(struct press_round *round, const struct columns *c, float **out, struct err *err)
{
    const struct hparams *hp = round->in->hp;
    uint64_t width = (uint64_t)hp->q_heads * (uint64_t)hp->head_dim;
    struct attn_span span = { .rows = c->rows, .token = c->sinks + c->end - c->begin };
    void *lse, *ignored;
    enum status st = gather(round, c, &span.kv, err);

    if (st == ST_OK)
        st = press_work_device(round, (uint64_t)hp->q_heads * (uint64_t)c->stride * sizeof(float), &lse, err);
    if (st == ST_OK)
        st = press_work_device(round, dtype_bytes(round->be->act, (uint64_t)c->rows * width), &ignored, err);
    if (st != ST_OK)
        return st;
    round->be->ops->wait(round->be, LANE_PRESS); /* attention runs on the other lane */
    round->be->ops->attn_prefill(round->be, &span, 1, round->in->q, hp->q_heads, 1.0f / sqrtf((float)hp->head_dim), 0,
                                 ignored, lse, c->stride);
    round->be->ops->wait(round->be, LANE_COMPUTE);
    *out = (float *)lse + span.token;
    return ST_OK;
}

/* 1 / |x_t|_2 of the fed rows' hidden states, device. */
static enum status row_weights(struct press_round *round, int64_t rows, const float **out, struct err *err)
{
    int64_t dim = round->in->hp->dim;
    char *raw = press_work_host(round, dtype_bytes(round->be->act, (uint64_t)(rows * dim)));
    float *x = press_work_host(round, (uint64_t)(rows * dim) * sizeof *x);
    float *weight = press_work_host(round, (uint64_t)rows * sizeof *weight);
    const void *device;
    enum status st;

    round->be->ops->download(round->be, LANE_PRESS, raw, round->in->hidden,
                             dtype_bytes(round->be->act, (uint64_t)(rows * dim)));
    round->be->ops->wait(round->be, LANE_PRESS);
    dtype_to_f32(x, raw, round->be->act, (uint64_t)(rows * dim));
    for (int64_t t = 0; t < rows; t++) {
        double sum = 0;

        for (int64_t i = 0; i < dim; i++)
            sum += (double)x[t * dim + i] * x[t * dim + i];
        weight[t] = (float)(1.0 / fmax(sqrt(sum), 1e-30));
    }
    st = press_to_device(round, weight, (uint64_t)rows * sizeof *weight, &device, err);
    *out = device;
    return st;
}

static enum status kvzip_feed_layer(const struct press_stage *stage, struct press_round *round, int32_t feed,
                                    int64_t rows, struct err *err)
{
    const struct hparams *hp = round->in->hp;
    const struct kvzip_options *o = options_of(stage);
    struct columns c = { .rows = rows };
    struct column_args args = { .q = round->in->q,
                                .rows = rows,
                                .q_heads = hp->q_heads,
                                .scale = 1.0f / sqrtf((float)hp->head_dim),
                                .position = INT64_MAX,
                                .largest = true,
                                .group_largest = true };
    struct kv_rows part;
    float *lse = NULL, *held = held_scores(round->held, round->place);
    const float *score;
    void *norms = NULL;
    enum status st;

    chunk_rows(stage, round->prompt, feed, &c.begin, &c.end);
    c.sinks = o->sink < c.begin ? o->sink : c.begin;
    c.count = c.sinks + c.end - c.begin + rows;
    c.stride = stride_of(round->be, c.count);
    part = parts_view(&round->view, c.begin, c.end - c.begin);
    st = column_lse(round, &c, &lse, err);
    if (st == ST_OK && o->plus)
        st = row_weights(round, rows, &args.weight, err);
    if (st == ST_OK && o->plus)
        st = press_work_device(round, (uint64_t)(hp->q_heads / hp->kv_heads * part.at[part.heads]) * sizeof(float),
                               &norms, err);
    if (st != ST_OK)
        return st;
    if (o->plus)
        round->be->ops->value_out_norms(round->be, &part, NULL, NULL, round->in->o, hp->q_heads, 2, norms);
    args.lse = lse;
    args.lse_stride = c.stride;
    args.column_weight = norms;
    round->be->ops->score_columns(round->be, &part, &args, round->score);
    score = press_scores_get(round, &part, round->score);
    for (int32_t g = 0; g < part.heads; g++)
        memcpy(held + part.at[g], score + part.at[g], (size_t)part.rows[g] * sizeof *held);
    return ST_OK;
}

static enum status kvzip_settle(const struct press_stage *stage, struct press_held *held, const struct press_keep *keep,
                                struct err *err)
{
    const struct kvzip_options *o = options_of(stage);
    int64_t layer = held->heads * held->tokens;
    float most = -INFINITY;

    (void)err;
    for (int64_t i = 0; i < layer * held->places; i++)
        most = held->score[i] > most ? held->score[i] : most;
    for (int64_t i = 0; i < layer * held->places; i++)
        if (i % held->tokens < o->sink)
            held->score[i] = most + 1.0f;
    if (!o->layerwise)
        held_compete(held, keep);
    for (int32_t p = 0; p < held->places && o->layerwise; p++)
        held->total[p] = held_kept(keep, held->tokens, layer);
    return ST_OK;
}

static enum status kvzip_admit(const struct press_stage *stage, const struct press_door *door, struct err *err)
{
    enum status st = press_admit_op(stage, door, door->ops->score_columns != NULL, "score_columns", err);

    if (st == ST_OK && options_of(stage)->plus)
        st = press_admit_op(stage, door, door->ops->value_out_norms != NULL, "value_out_norms", err);
    return st;
}

static int64_t kvzip_rows_max(const struct press_stage *stage, const struct press_keep *keep, int32_t place,
                              int32_t places, int64_t n)
{
    (void)place;
    (void)places;
    return options_of(stage)->layerwise ? press_keep_rows(keep, n) + 1 : n;
}

const struct press press_kvzip = {
    .name = "kvzip",
    .kind = PRESS_SCORE,
    .summary = "keeps the rows that the model uses to repeat the context; all layers and heads compete",
    .source = "arXiv:2505.23416",
    .reference = "KVzipPress",
    .cost = "a second pass over the context",
    .differs = "The rows that lose really leave; the reference masks them.",
    .options = kvzip_table,
    .option_count = ARRAY_LEN(kvzip_table),
    .options_bytes = sizeof(struct kvzip_options),
    .first_only = true,
    .whole_only = true,
    .uneven = true,
    .prefill_only = true,
    .exact_total = true,
    .needs = kvzip_needs,
    .admit = kvzip_admit,
    .settle = kvzip_settle,
    .feeds = kvzip_feeds,
    .feed = kvzip_feed,
    .feed_needs = kvzip_feed_needs,
    .feed_layer = kvzip_feed_layer,
    .rows_max = kvzip_rows_max,
};
