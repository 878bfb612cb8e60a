/* SPDX-License-Identifier: Apache-2.0 */
/*
 * noncausal - the attention that a row gets within its chunk when nothing is hidden from anybody.
 *
 *      chunks of queries and keys attend to themselves, no mask, no scale ──▶ column sums, mean over the group
 *      times |v|, mean of three neighbours, standardized over all heads together
 *
 * Chari and Van Durme 2025, arXiv:2507.08143 (Compactor), section 3.2.
 */
#include "common/base/bytes.h"
#include "presses/compactor.h"
#include "presses/scores.h"

#include <math.h>

struct noncausal_options {
    int64_t chunk;
};

static const struct opt noncausal_table[] = {
    { .name = "chunk",
      .type = OPT_INT,
      .offset = offsetof(struct noncausal_options, chunk),
      .min = 1,
      .max = 4096,
      .fallback = "256",
      .help = "rows that attend to each other" },
};

void noncausal_needs(struct chain_needs *needs)
{
    needs->q_rotated = true;
}

/* A part of the context that is scored alone (chunk, block): its own queries, rotated to the context's last positions but
 * for the `behind` last, as the reference does it. */
static enum status part_queries(struct press_round *round, int64_t from, int64_t rows, int64_t behind, const void **q,
                                struct err *err)
{
    const struct press_layer *in = round->in;
    uint64_t row = dtype_bytes(round->be->act, (uint64_t)in->hp->q_heads * (uint64_t)in->hp->head_dim);
    const char *plain = round->q_part ? round->q_part : in->q_plain;
    void *out;
    enum status st = press_work_device(round, (uint64_t)rows * row, &out, err);

    if (st != ST_OK)
        return st;
    round->be->ops->rotate_rows(round->be, plain + (uint64_t)from * row, in->hp->q_heads, in->hp->head_dim, &in->rope,
                                in->tokens - behind - rows, 1, rows, out);
    *q = out;
    return ST_OK;
}

enum status noncausal_part(struct press_round *round, const struct kv_rows *view, int64_t from, int64_t behind,
                           int64_t chunk, float *score, struct err *err)
{
    const struct press_layer *in = round->in;
    const struct backend_ops *ops = round->be->ops;
    uint64_t row = dtype_bytes(round->be->act, (uint64_t)in->hp->q_heads * (uint64_t)in->hp->head_dim);
    const void *q = (const char *)in->q + (uint64_t)from * row;
    struct kv_rows rows = *view;
    uint64_t bytes = (uint64_t)view->at[view->heads] * sizeof(float);
    void *squares = NULL;
    float *host, *room;
    const float *v2;
    enum status st = press_work_device(round, bytes, &squares, err);

    if (st == ST_OK && (round->q_part || (round->part_end >= 0 && !view->token))) {
        st = part_queries(round, from, view->rows[0], behind, &q, err);
        rows.token = NULL; /* query r is row r's */
    }
    if (st != ST_OK)
        return st;
    ops->score_noncausal(round->be, &rows, q, in->hp->q_heads, chunk, score);
    ops->row_squares(round->be, view, NULL, 0, NULL, squares);
    host = press_scores_get(round, view, score);
    v2 = press_scores_get(round, view, squares);
    room = press_work_host(round, bytes);
    for (int32_t g = 0; g < view->heads; g++)
        for (int64_t r = 0; r < view->rows[g]; r++)
            host[view->at[g] + r] *= sqrtf(v2[view->at[g] + r]);
    scores_pool3(view, host, room);
    scores_standardize(view, host);
    press_scores_put(round, view, score, host);
    return ST_OK;
}

static void needs(const struct press_stage *stage, int64_t query_tokens, struct chain_needs *out)
{
    (void)stage;
    (void)query_tokens;
    noncausal_needs(out);
}

static enum status noncausal_score(const struct press_stage *stage, struct press_round *round,
                                   const struct kv_rows *view, float *score, struct err *err)
{
    int64_t chunk = ((const struct noncausal_options *)stage->options)->chunk;

    return noncausal_part(round, view, view->token ? 0 : round->part_begin, 0, chunk, score, err);
}

enum status noncausal_admit(const struct press_stage *stage, const struct press_door *door, struct err *err)
{
    enum status st = press_admit_op(stage, door, door->ops->score_noncausal != NULL, "score_noncausal", err);

    return st == ST_OK ? press_admit_op(stage, door, door->ops->row_squares != NULL, "row_squares", err) : st;
}

const struct press press_noncausal = {
    .name = "noncausal",
    .kind = PRESS_SCORE,
    .summary = "keeps what attention without a mask, chunk by chunk, looks at",
    .source = "arXiv:2507.08143",
    .reference = "NonCausalAttnPress",
    .cost = "T chunk H D",
    .differs = "",
    .options = noncausal_table,
    .option_count = ARRAY_LEN(noncausal_table),
    .options_bytes = sizeof(struct noncausal_options),
    .prefill_only = true,
    .needs = needs,
    .admit = noncausal_admit,
    .score = noncausal_score,
};
