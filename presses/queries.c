/* SPDX-License-Identifier: Apache-2.0 */
/*
 * queries.c - the queries to come, as the context's own tell of them.
 *
 *      mean, covariance of the plain queries ──▶ R mean, R C R'     R = mean rotation of positions n .. n + future - 1
 *
 * R mixes channel j with j + D/2 only: [c -s; s c] with c, s the means of cos and sin over those positions.
 */
#include "presses/queries.h"

int64_t query_count(const struct press_round *round)
{
    if (round->q_part)
        return round->q_part_rows;
    return round->part_end >= 0 ? round->part_end - round->part_begin : round->in->tokens;
}

/* Turns what is in out to the next `future` positions. */
static void rotate_stats(struct press_round *round, int64_t future, const struct query_stats *out)
{
    const struct press_layer *in = round->in;

    round->be->ops->rotate_stats(round->be, &in->rope, query_count(round), future, in->hp->q_heads, in->hp->head_dim,
                                 out->mean, out->cov);
}

static enum status stats_reserve(struct press_round *round, bool cov, struct query_stats *out, struct err *err)
{
    uint64_t mean = (uint64_t)round->in->hp->q_heads * (uint64_t)round->in->hp->head_dim * sizeof(float);
    void *device = NULL;
    enum status st = press_work_device(round, mean, &device, err);

    out->mean = device;
    out->cov = NULL;
    if (st == ST_OK && cov) {
        st = press_work_device(round, mean * (uint64_t)round->in->hp->head_dim, &device, err);
        out->cov = device;
    }
    return st;
}

enum status query_stats_of(struct press_round *round, int64_t sink, int64_t future, bool cov, struct query_stats *out,
                           struct err *err)
{
    const struct press_layer *in = round->in;
    const struct backend_ops *ops = round->be->ops;
    const int64_t heads = in->hp->q_heads, dim = in->hp->head_dim;
    int64_t begin = (round->q_part ? 0 : round->part_begin) + sink;
    const char *all = round->q_part ? round->q_part : in->q_plain;
    const char *q = all + (uint64_t)begin * dtype_bytes(round->be->act, (uint64_t)(heads * dim));
    enum status st = stats_reserve(round, cov, out, err);

    if (st != ST_OK)
        return st;
    ops->query_stats(round->be, q, (int32_t)heads, (int32_t)dim, query_count(round) - sink, out->mean, out->cov);
    rotate_stats(round, future, out);
    return ST_OK;
}

enum status query_stats_given(struct press_round *round, const float *mean, const float *cov, int64_t future,
                              struct query_stats *out, struct err *err)
{
    const int64_t heads = round->in->hp->q_heads, dim = round->in->hp->head_dim;
    const struct backend_ops *ops = round->be->ops;
    enum status st = stats_reserve(round, cov != NULL, out, err);

    if (st != ST_OK)
        return st;
    ops->upload(round->be, LANE_PRESS, out->mean, mean, (uint64_t)(heads * dim) * sizeof *mean);
    if (cov)
        ops->upload(round->be, LANE_PRESS, out->cov, cov, (uint64_t)(heads * dim * dim) * sizeof *cov);
    rotate_stats(round, future, out);
    return ST_OK;
}

enum status expected_score_with(struct press_round *round, const struct kv_rows *view, const struct query_stats *stats,
                                const struct expected_options *o, float *score, struct err *err)
{
    const struct backend_ops *ops = round->be->ops;
    void *squares = NULL;
    enum status st = ST_OK;

    ops->score_expected(round->be, view, o->sink, stats->mean, stats->cov, round->in->hp->q_heads, score);
    if (o->vnorm) {
        st = press_work_device(round, (uint64_t)view->at[view->heads] * sizeof(float), &squares, err);
        if (st != ST_OK)
            return st;
        ops->row_squares(round->be, view, NULL, 0, NULL, squares);
    }
    ops->score_weigh(round->be, view, o->sink, squares, (float)o->eps, score);
    return ST_OK;
}

enum status query_admit(const struct press_stage *stage, const struct press_door *door, struct err *err)
{
    enum status st = press_admit_op(stage, door, door->ops->rotate_stats != NULL, "rotate_stats", err);

    return st == ST_OK ? press_admit_op(stage, door, door->ops->score_weigh != NULL, "score_weigh", err) : st;
}
