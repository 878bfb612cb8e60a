/* SPDX-License-Identifier: Apache-2.0 */
/*
 * queries.c - the queries to come, as the context's own tell of them.
 *
 *      mean, covariance of the plain queries ──▶ R mean, R C R'     R = mean rotation of positions n .. n + future - 1
 *
 * R mixes channel j with j + D/2 only: [c -s; s c] with c, s the means of cos and sin over those positions.
 */
#include "presses/queries.h"
#include "presses/scores.h"

#include <math.h>
#include <string.h>

/* Means of cos and sin per pair of channels over positions [from, from + count). */
static void mean_rotation(const struct rope_table *rope, const float *inv_freq, int64_t from, int64_t count, double *c,
                          double *s)
{
    for (int32_t j = 0; j < rope->dims / 2; j++) {
        c[j] = s[j] = 0;
        for (int64_t t = from; t < from + count; t++) {
            float angle = (float)t * inv_freq[j];

            c[j] += (double)cosf(angle);
            s[j] += (double)sinf(angle);
        }
        c[j] *= (double)rope->scale / (double)count;
        s[j] *= (double)rope->scale / (double)count;
    }
}

/* x = R x for a vector whose channels stand `stride` apart. */
static void turn(float *x, int64_t stride, int32_t pairs, const double *c, const double *s)
{
    for (int32_t j = 0; j < pairs; j++) {
        double a = x[j * stride], b = x[(j + pairs) * stride];

        x[j * stride] = (float)(a * c[j] - b * s[j]);
        x[(j + pairs) * stride] = (float)(b * c[j] + a * s[j]);
    }
}

int64_t query_count(const struct press_round *round)
{
    if (round->q_part)
        return round->q_part_rows;
    return round->part_end >= 0 ? round->part_end - round->part_begin : round->in->tokens;
}

/* Host mean and covariance are turned in place, then brought to the device. */
static enum status rotate_stats(struct press_round *round, float *mean, float *cov, int64_t future,
                                struct query_stats *out, struct err *err)
{
    const struct press_layer *in = round->in;
    const struct backend_ops *ops = round->be->ops;
    const int32_t heads = in->hp->q_heads, dim = in->hp->head_dim, pairs = in->rope.dims / 2;
    int64_t n = query_count(round);
    double c[KV_HEAD_DIM_MAX / 2], s[KV_HEAD_DIM_MAX / 2];
    float inv_freq[KV_HEAD_DIM_MAX / 2];

    (void)err;
    if (in->rope.inv_freq) {
        ops->download(round->be, LANE_PRESS, inv_freq, in->rope.inv_freq, (uint64_t)pairs * sizeof(float));
        ops->wait(round->be, LANE_PRESS);
        mean_rotation(&in->rope, inv_freq, n, future, c, s);
        for (int32_t a = 0; a < heads; a++) {
            turn(mean + a * dim, 1, pairs, c, s);
            for (int32_t i = 0; cov && i < dim; i++)
                turn(cov + ((int64_t)a * dim + i) * dim, 1, pairs, c, s);
            for (int32_t i = 0; cov && i < dim; i++)
                turn(cov + (int64_t)a * dim * dim + i, dim, pairs, c, s);
        }
    }
    ops->upload(round->be, LANE_PRESS, out->mean, mean, (uint64_t)heads * (uint64_t)dim * sizeof(float));
    if (cov)
        ops->upload(round->be, LANE_PRESS, out->cov, cov,
                    (uint64_t)heads * (uint64_t)dim * (uint64_t)dim * sizeof(float));
    ops->wait(round->be, LANE_PRESS);
    return ST_OK;
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
    float *mean = press_work_host(round, (uint64_t)(heads * dim) * sizeof *mean);
    float *covariance = cov ? press_work_host(round, (uint64_t)(heads * dim * dim) * sizeof *covariance) : NULL;
    enum status st = stats_reserve(round, cov, out, err);

    if (st != ST_OK)
        return st;
    ops->query_stats(round->be, q, (int32_t)heads, (int32_t)dim, query_count(round) - sink, out->mean, out->cov);
    ops->download(round->be, LANE_PRESS, mean, out->mean, (uint64_t)(heads * dim) * sizeof *mean);
    if (cov)
        ops->download(round->be, LANE_PRESS, covariance, out->cov, (uint64_t)(heads * dim * dim) * sizeof *covariance);
    ops->wait(round->be, LANE_PRESS);
    return rotate_stats(round, mean, covariance, future, out, err);
}

enum status query_stats_given(struct press_round *round, const float *mean, const float *cov, int64_t future,
                              struct query_stats *out, struct err *err)
{
    const int64_t heads = round->in->hp->q_heads, dim = round->in->hp->head_dim;
    float *m = press_work_host(round, (uint64_t)(heads * dim) * sizeof *m);
    float *c = cov ? press_work_host(round, (uint64_t)(heads * dim * dim) * sizeof *c) : NULL;
    enum status st = stats_reserve(round, cov != NULL, out, err);

    if (st != ST_OK)
        return st;
    memcpy(m, mean, (size_t)(heads * dim) * sizeof *m);
    if (cov)
        memcpy(c, cov, (size_t)(heads * dim * dim) * sizeof *c);
    return rotate_stats(round, m, c, future, out, err);
}

enum status expected_score_with(struct press_round *round, const struct kv_rows *view, const struct query_stats *stats,
                                const struct expected_options *o, float *score, struct err *err)
{
    const struct backend_ops *ops = round->be->ops;
    void *squares = NULL;
    const float *v2;
    float *host;
    enum status st = ST_OK;

    ops->score_expected(round->be, view, o->sink, stats->mean, stats->cov, round->in->hp->q_heads, score);
    if (o->vnorm) {
        st = press_work_device(round, (uint64_t)view->at[view->heads] * sizeof(float), &squares, err);
        if (st != ST_OK)
            return st;
        ops->row_squares(round->be, view, NULL, 0, NULL, squares);
    }
    host = press_scores_get(round, view, score);
    v2 = o->vnorm ? press_scores_get(round, view, squares) : NULL;
    for (int32_t g = 0; g < view->heads && v2; g++)
        for (int64_t r = o->sink; r < view->rows[g]; r++)
            host[view->at[g] + r] = (host[view->at[g] + r] + (float)o->eps) * sqrtf(v2[view->at[g] + r]);
    scores_protect(view, host, o->sink, 0);
    press_scores_put(round, view, score, host);
    return ST_OK;
}
