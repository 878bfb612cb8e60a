/* SPDX-License-Identifier: Apache-2.0 */
/*
 * check_statistics.c - operations that single presses need, against double precision. An operation that a back end does
 * not have is not checked; chains that want it are refused there.
 */
#include "tests/ops/ops.h"
#include "tests/ops/reference.h"
#include "tests/ops/view.h"

#include <math.h>
#include <string.h>

static void check_rows_alone_of(struct ops *o, const struct layer_view *w)
{
    enum { COLUMNS = 20 };
    const int32_t dim = w->rows.dim;
    float *sketch = ops_random(o, dim * COLUMNS, 1.0f), *filter = ops_random(o, w->rows.heads * dim, 1.0f);
    double *k2 = ops_doubles(o, w->scores), *v2 = ops_doubles(o, w->scores), *dot = ops_doubles(o, w->scores);
    double *sketched = ops_doubles(o, w->scores);
    void *out_k = view_scores(o, w->scores), *out_v = view_scores(o, w->scores);

    for (int32_t g = 0; g < w->rows.heads; g++)
        for (int64_t r = 0; r < w->rows.rows[g]; r++) {
            const float *k = view_row(w, w->k, g, r), *v = view_row(w, w->v, g, r);
            int64_t at = w->rows.at[g] + r;

            k2[at] = view_dot(k, k, dim);
            v2[at] = view_dot(v, v, dim);
            dot[at] = 0.5 * view_dot(k, filter + g * dim, dim);
            for (int j = 0; j < COLUMNS; j++) {
                double y = 0;

                for (int32_t d = 0; d < dim; d++)
                    y += (double)k[d] * (double)sketch[d * COLUMNS + j];
                sketched[at] += y * y;
            }
        }
    if (o->be->ops->row_squares) {
        o->be->ops->row_squares(o->be, &w->rows, NULL, 0, out_k, out_v);
        view_judge(o, "squares of keys", out_k, k2, w->scores, 1e-6);
        view_judge(o, "squares of values", out_v, v2, w->scores, 1e-6);
        o->be->ops->row_squares(o->be, &w->rows, ops_up_bytes(o, sketch, sizeof *sketch * (size_t)(dim * COLUMNS)),
                                COLUMNS, out_k, NULL);
        view_judge(o, "squares of sketched keys", out_k, sketched, w->scores, 1e-5);
    }
    if (o->be->ops->score_key_dot) {
        o->be->ops->score_key_dot(o->be, &w->rows,
                                  ops_up_bytes(o, filter, sizeof *filter * (size_t)(w->rows.heads * dim)), 0.5f, out_k);
        view_judge(o, "key filter", out_k, dot, w->scores, 1e-5);
    }
}

static void check_key_diff_of(struct ops *o, const struct layer_view *w)
{
    const int32_t dim = w->rows.dim;
    double *want = ops_doubles(o, w->scores), *mean = ops_doubles(o, dim);
    void *out = view_scores(o, w->scores);

    if (!o->be->ops->score_key_diff)
        return;
    for (int32_t g = 0; g < w->rows.heads; g++) {
        double length = 0;

        memset(mean, 0, (size_t)dim * sizeof *mean);
        for (int64_t r = 0; r < w->rows.rows[g]; r++) {
            const float *k = view_row(w, w->k, g, r);
            double norm = sqrt(view_dot(k, k, dim));

            for (int32_t d = 0; d < dim; d++)
                mean[d] += (double)k[d] / norm;
        }
        for (int32_t d = 0; d < dim; d++)
            length += mean[d] * mean[d];
        for (int64_t r = 0; r < w->rows.rows[g]; r++) {
            const float *k = view_row(w, w->k, g, r);
            double sum = 0;

            for (int32_t d = 0; d < dim; d++)
                sum += (double)k[d] * mean[d];
            want[w->rows.at[g] + r] = -sum / sqrt(view_dot(k, k, dim) * length);
        }
    }
    o->be->ops->score_key_diff(o->be, &w->rows, out);
    view_judge(o, "distance from the mean key", out, want, w->scores, 1e-4);
}

static double deviation(const struct layer_view *w, const float *x, int32_t g, int64_t row, int64_t next, int64_t lag)
{
    const int32_t dim = w->rows.dim;
    double z[KV_HEAD_DIM_MAX], mean = 0, sum = 0;

    for (int32_t d = 0; d < dim; d++) {
        double low = INFINITY, high = -INFINITY;

        for (int64_t r = next; r < next + lag; r++) {
            low = fmin(low, (double)view_row(w, x, g, r)[d]);
            high = fmax(high, (double)view_row(w, x, g, r)[d]);
        }
        z[d] = ((double)view_row(w, x, g, row)[d] - low) / (high - low);
        mean += z[d] / dim;
    }
    for (int32_t d = 0; d < dim; d++)
        sum += (z[d] - mean) * (z[d] - mean);
    return sqrt(sum / (dim - 1));
}

static void check_lag_of(struct ops *o, const struct layer_view *w)
{
    enum { FROM = 4, LAG = 16 };
    double *want = ops_doubles(o, w->scores);
    float *zeros = arena_array(&o->arena, (size_t)w->scores + 64, sizeof *zeros);
    void *out;

    if (!o->be->ops->score_lag)
        return;
    memset(zeros + w->scores, 0xff, 64 * sizeof *zeros); /* the guard */
    out = ops_up_bytes(o, zeros, (uint64_t)(w->scores + 64) * sizeof *zeros);
    for (int32_t g = 0; g < w->rows.heads; g++)
        for (int64_t at = FROM; at + 2 * LAG <= w->rows.rows[g]; at += LAG)
            for (int which = 0; which < 2; which++) {
                double u[LAG], sum = 0;

                for (int t = 0; t < LAG; t++) {
                    u[t] = exp(deviation(w, which ? w->v : w->k, g, at + t, at + LAG, LAG));
                    sum += u[t];
                }
                for (int t = 0; t < LAG; t++)
                    want[w->rows.at[g] + at + t] += 0.5 * u[t] / sum;
            }
    o->be->ops->score_lag(o->be, &w->rows, FROM, LAG, out);
    view_judge(o, "lag", out, want, w->scores, 1e-4);
}

static void check_channels_of(struct ops *o, const struct layer_view *w)
{
    const int32_t dim = w->rows.dim;
    int64_t first[KV_HEADS_MAX + 1] = { 0 };
    int32_t *index = arena_array(&o->arena, (size_t)w->scores + 1, sizeof *index);
    double *want = ops_doubles(o, w->rows.heads * dim);
    void *out = view_scores(o, w->rows.heads * dim);

    if (!o->be->ops->channel_squares)
        return;
    for (int32_t g = 0; g < w->rows.heads; g++) {
        first[g + 1] = first[g];
        for (int64_t r = 0; r < w->rows.rows[g]; r += 3)
            index[first[g + 1]++] = (int32_t)r;
        for (int64_t i = first[g]; i < first[g + 1]; i++)
            for (int32_t d = 0; d < dim; d++) {
                double k = (double)view_row(w, w->k, g, index[i])[d];

                want[g * dim + d] += k * k / (double)(first[g + 1] - first[g]);
            }
    }
    o->be->ops->channel_squares(o->be, &w->rows, ops_up_bytes(o, index, sizeof *index * (size_t)w->scores), first, out);
    view_judge(o, "squares of channels", out, want, w->rows.heads * dim, 1e-5);
}

/* Keys of the chosen rows without some channels; all others as they were. */
static void check_kept_channels_of(struct ops *o, const struct layer_view *w)
{
    const int32_t dim = w->rows.dim, heads = w->rows.heads, k_dim = dim / 2 + 1;
    const int64_t numbers = w->rows.first[heads - 1] * dim + w->rows.rows[heads - 1] * dim;
    const uint64_t bytes = dtype_bytes(o->be->kv, (uint64_t)numbers);
    int32_t *index = arena_array(&o->arena, (size_t)w->scores + 1, sizeof *index);
    int32_t *channel = arena_array(&o->arena, (size_t)(heads * k_dim), sizeof *channel);
    int64_t first[KV_HEADS_MAX + 1] = { 0 };
    char *want = arena_alloc(&o->arena, bytes), *got = arena_alloc(&o->arena, bytes);

    if (!o->be->ops->keep_channels)
        return;
    dtype_from_f32(want, o->be->kv, w->k, (uint64_t)numbers);
    for (int32_t g = 0; g < heads; g++) {
        first[g + 1] = first[g];
        for (int32_t c = 0, at = 0; c < dim; c++)
            if (at < k_dim && ops_below(o, dim - c) < k_dim - at)
                channel[g * k_dim + at++] = c;
        for (int64_t r = g % 2; r < w->rows.rows[g]; r += 3) {
            const int64_t row = (w->rows.first[g] + r) * dim;

            index[first[g + 1]++] = (int32_t)r;
            for (int32_t c = 0, at = 0; c < dim; c++) {
                if (at < k_dim && channel[g * k_dim + at] == c)
                    at++;
                else
                    memset(want + dtype_bytes(o->be->kv, (uint64_t)(row + c)), 0, dtype_bytes(o->be->kv, 1));
            }
        }
    }
    o->be->ops->keep_channels(o->be, &w->rows, ops_up_bytes(o, index, sizeof *index * (size_t)w->scores), first,
                              channel, k_dim);
    o->be->ops->download(o->be, LANE_PRESS, got, w->rows.k, bytes);
    o->be->ops->wait(o->be, LANE_PRESS);
    ops_equal_bytes(o, "kept channels", got, want, bytes);
}

/* Mean and covariance of q in double. */
static void ref_stats(const float *q, int32_t heads, int32_t dim, int64_t rows, double *mean, double *cov)
{
    for (int32_t h = 0; h < heads; h++) {
        for (int64_t r = 0; r < rows; r++)
            for (int32_t d = 0; d < dim; d++)
                mean[h * dim + d] += (double)q[(r * heads + h) * dim + d] / (double)rows;
        for (int64_t r = 0; r < rows; r++)
            for (int32_t i = 0; i < dim; i++)
                for (int32_t j = 0; j < dim; j++)
                    cov[(h * dim + i) * dim + j] += ((double)q[(r * heads + h) * dim + i] - mean[h * dim + i]) *
                                                    ((double)q[(r * heads + h) * dim + j] - mean[h * dim + j]) /
                                                    (double)rows;
    }
}

static float *as_floats(struct ops *o, const double *x, int64_t count)
{
    float *out = arena_array(&o->arena, (size_t)count, sizeof *out);

    for (int64_t i = 0; i < count; i++)
        out[i] = (float)x[i];
    return out;
}

static void ref_expected(const struct layer_view *w, int32_t q_heads, int64_t from, const float *mean, const float *cov,
                         double *e, double *want)
{
    const int32_t dim = w->rows.dim, group = q_heads / w->rows.heads;

    for (int32_t h = 0; h < q_heads; h++) {
        const int32_t g = h / group;
        double sum = 0;

        for (int64_t r = from; r < w->rows.rows[g]; r++) {
            const float *k = view_row(w, w->k, g, r);

            e[r] = view_dot(k, mean + h * dim, dim) / sqrt(dim);
            for (int32_t i = 0; cov && i < dim; i++)
                e[r] += (double)k[i] * view_dot(k, cov + (h * dim + i) * dim, dim) / (2.0 * dim);
            sum += exp(e[r]);
        }
        for (int64_t r = from; r < w->rows.rows[g]; r++)
            want[w->rows.at[g] + r] += exp(e[r]) / sum / group;
    }
}

static void check_expected_of(struct ops *o, const struct layer_view *w, int32_t q_heads)
{
    enum { FROM = 4 };
    const int64_t rows = o->small > 1 ? 150 : 700;
    const int32_t dim = w->rows.dim;
    const bool exact = o->be->act == DT_F32;
    float *q = ops_random(o, rows * q_heads * dim, 1.0f);
    double *mean = ops_doubles(o, q_heads * dim), *cov = ops_doubles(o, q_heads * dim * dim);
    double *want = ops_doubles(o, w->scores), *e = ops_doubles(o, w->scores);
    void *mean_out = view_scores(o, q_heads * dim), *cov_out = view_scores(o, q_heads * dim * dim);
    float *zeros = arena_array(&o->arena, (size_t)w->scores + 64, sizeof *zeros), *mean_f, *cov_f;
    void *out;

    if (!o->be->ops->query_stats || !o->be->ops->score_expected)
        return;
    for (int64_t i = 0; i < rows * q_heads * dim; i++)
        q[i] = bf16_to_f32(f32_to_bf16(q[i] + 0.5f)); /* a mean that is not near zero */
    ref_stats(q, q_heads, dim, rows, mean, cov);
    o->be->ops->query_stats(o->be, ops_up(o, q, rows * q_heads * dim), q_heads, dim, rows, mean_out, cov_out);
    view_judge(o, "mean of queries", mean_out, mean, q_heads * dim, 1e-5);
    view_judge(o, "covariance of queries", cov_out, cov, q_heads * dim * dim, exact ? 1e-5 : 1e-3);
    memset(zeros + w->scores, 0xff, 64 * sizeof *zeros);
    out = ops_up_bytes(o, zeros, (uint64_t)(w->scores + 64) * sizeof *zeros);
    mean_f = as_floats(o, mean, q_heads * dim);
    cov_f = as_floats(o, cov, q_heads * dim * dim);
    ref_expected(w, q_heads, FROM, mean_f, cov_f, e, want);
    o->be->ops->score_expected(o->be, &w->rows, FROM, ops_up_bytes(o, mean_f, sizeof(float) * (size_t)(q_heads * dim)),
                               ops_up_bytes(o, cov_f, sizeof(float) * (size_t)(q_heads * dim * dim)), q_heads, out);
    view_judge(o, "expected attention", out, want, w->scores, 2e-4);
}

/* mean and cov of heads turned by the mean rotation of positions [from, from + count), as matrices. */
static void ref_turned(struct ops *o, const float *freq, int32_t pairs, int32_t dim, int64_t from, int64_t count,
                       double scale, double *mean, double *cov)
{
    double *turn = ops_doubles(o, dim * dim), *half = ops_doubles(o, dim * dim), *turned = ops_doubles(o, dim);

    for (int32_t i = 0; i < dim; i++)
        for (int64_t p = from; p < from + count; p++) { /* column i: what becomes of channel i */
            memset(turned, 0, (size_t)dim * sizeof *turned);
            turned[i] = 1;
            ref_rotate(turned, freq, pairs, p, scale);
            for (int32_t d = 0; d < dim; d++)
                turn[d * dim + i] += turned[d] / (double)count;
        }
    memset(turned, 0, (size_t)dim * sizeof *turned);
    for (int32_t i = 0; i < dim; i++)
        for (int32_t j = 0; j < dim; j++) {
            turned[i] += turn[i * dim + j] * mean[j];
            for (int32_t k = 0; k < dim; k++)
                half[i * dim + j] += turn[i * dim + k] * cov[k * dim + j];
        }
    memcpy(mean, turned, (size_t)dim * sizeof *mean);
    memset(cov, 0, (size_t)(dim * dim) * sizeof *cov);
    for (int32_t i = 0; i < dim; i++)
        for (int32_t j = 0; j < dim; j++)
            for (int32_t k = 0; k < dim; k++)
                cov[i * dim + j] += half[i * dim + k] * turn[j * dim + k];
}

static void check_turned_of(struct ops *o, int32_t heads, int32_t dim)
{
    enum { FROM = 700, COUNT = 300 };
    const int32_t pairs = dim / 2 - 8;
    const int64_t means = heads * dim, covs = means * dim;
    float *mean = ops_random(o, means + 64, 1.0f), *cov = ops_random(o, covs + 64, 1.0f), freq[KV_HEAD_DIM_MAX];
    double *want_mean = ops_doubles(o, means), *want_cov = ops_doubles(o, covs);
    struct rope_table rope = { .dims = 2 * pairs, .scale = 1.0f };
    void *mean_device, *cov_device;

    if (!o->be->ops->rotate_stats)
        return;
    for (int32_t j = 0; j < pairs; j++)
        freq[j] = powf(10000.0f, -(float)j / (float)pairs);
    rope.inv_freq = ops_up_bytes(o, freq, (uint64_t)pairs * sizeof *freq);
    for (int64_t i = 0; i < means; i++)
        want_mean[i] = (double)mean[i];
    for (int64_t i = 0; i < covs; i++)
        want_cov[i] = (double)cov[i];
    for (int32_t h = 0; h < heads; h++)
        ref_turned(o, freq, pairs, dim, FROM, COUNT, 1.0, want_mean + h * dim, want_cov + h * dim * dim);
    memset(mean + means, 0xff, 64 * sizeof *mean);
    memset(cov + covs, 0xff, 64 * sizeof *cov);
    mean_device = ops_up_bytes(o, mean, (uint64_t)(means + 64) * sizeof *mean);
    cov_device = ops_up_bytes(o, cov, (uint64_t)(covs + 64) * sizeof *cov);
    o->be->ops->rotate_stats(o->be, &rope, FROM, COUNT, heads, dim, mean_device, cov_device);
    view_judge(o, "mean turned", mean_device, want_mean, means, 1e-6);
    view_judge(o, "covariance turned", cov_device, want_cov, covs, 1e-6);
}

static void check_weigh_of(struct ops *o, const struct layer_view *w, int64_t from, bool alone)
{
    float *score = ops_random(o, w->scores + 64, 1.0f), *v2 = ops_random(o, w->scores + 1, 2.0f), most = -INFINITY;
    double *want = ops_doubles(o, w->scores);
    void *out;

    if (!o->be->ops->score_weigh)
        return;
    for (int64_t i = 0; i < w->scores; i++)
        v2[i] = fabsf(v2[i]);
    for (int32_t g = 0; g < w->rows.heads; g++)
        for (int64_t r = from; r < w->rows.rows[g]; r++) {
            const int64_t at = w->rows.at[g] + r;

            want[at] = alone ? (double)score[at] : ((double)score[at] + 0.25) * sqrt((double)v2[at]);
            most = (float)want[at] > most ? (float)want[at] : most;
        }
    for (int32_t g = 0; g < w->rows.heads; g++)
        for (int64_t r = 0; r < from && r < w->rows.rows[g]; r++)
            want[w->rows.at[g] + r] = isinf(most) ? 1 : (double)most + 1;
    memset(score + w->scores, 0xff, 64 * sizeof *score);
    out = ops_up_bytes(o, score, (uint64_t)(w->scores + 64) * sizeof *score);
    o->be->ops->score_weigh(o->be, &w->rows, from, alone ? NULL : ops_up_bytes(o, v2, (uint64_t)w->scores * sizeof *v2),
                            0.25f, out);
    view_judge(o, "scores weighed", out, want, w->scores, 1e-6);
}

static void check_share_of(struct ops *o, const struct layer_view *w, int64_t tail)
{
    float *score = ops_random(o, w->scores + 64, 1.0f);
    double *want = ops_doubles(o, w->scores);
    const int64_t rows = w->rows.rows[0], body = rows > tail ? rows - tail : 0;
    double most = -INFINITY;
    void *out;

    for (int64_t r = 0; r < rows; r++) {
        double sum = 0;

        for (int32_t g = 0; g < w->rows.heads; g++)
            sum += (double)score[w->rows.at[g] + r] / w->rows.heads;
        most = r < body && sum > most ? sum : most;
        for (int32_t g = 0; g < w->rows.heads; g++)
            want[w->rows.at[g] + r] = r < body ? sum : body > 0 ? most + 1 : 1;
    }
    memset(score + w->scores, 0xff, 64 * sizeof *score);
    out = ops_up_bytes(o, score, (uint64_t)(w->scores + 64) * sizeof *score);
    o->be->ops->score_share(o->be, &w->rows, tail, out);
    view_judge(o, "scores shared", out, want, w->scores, 1e-6);
}

static void ref_columns(const struct layer_view *w, const struct column_args *a, const float *q, const float *lse,
                        const float *weight, const float *column_weight, double *want)
{
    const int32_t dim = w->rows.dim, group = a->q_heads / w->rows.heads;

    for (int32_t g = 0; g < w->rows.heads; g++)
        for (int64_t r = 0; r < w->rows.rows[g]; r++) {
            const int64_t at = w->rows.at[g] + r;
            double sum = 0, most = 0;

            for (int32_t i = 0; i < group; i++) {
                const int32_t h = g * group + i;
                double column = 0;

                for (int64_t j = 0; j < a->rows; j++) {
                    double p;

                    if (a->position != INT64_MAX && w->token[at] > a->position + j)
                        continue;
                    p = (double)a->scale * view_dot(q + (j * a->q_heads + h) * dim, view_row(w, w->k, g, r), dim);
                    p = exp(p - (double)lse[h * a->lse_stride + j]) * (double)weight[j];
                    column = a->largest ? fmax(column, p) : column + p;
                }
                column *= column_weight ? (double)column_weight[i * w->scores + at] : 1;
                sum += column / group;
                most = fmax(most, column);
            }
            want[at] = a->group_largest ? most : sum;
        }
}

static void check_columns_of(struct ops *o, const struct layer_view *w, int32_t q_heads, bool causal, bool largest)
{
    const int32_t dim = w->rows.dim, rows = o->small > 1 ? 150 : 700, stride = rows + 10;
    float *q = ops_random(o, (int64_t)rows * q_heads * dim, 1.0f), *lse = ops_random(o, q_heads * stride, 0.5f);
    float *weight = ops_random(o, rows, 1.0f), *more = ops_random(o, q_heads * w->scores, 1.0f);
    double *want = ops_doubles(o, w->scores);
    void *out = view_scores(o, w->scores);
    struct column_args a = { .rows = rows,
                             .q_heads = q_heads,
                             .scale = 1.0f / sqrtf((float)dim),
                             .lse_stride = stride,
                             .position = causal ? 30 : INT64_MAX,
                             .largest = largest,
                             .group_largest = largest };

    if (!o->be->ops->score_columns)
        return;
    for (int i = 0; i < rows; i++)
        weight[i] = fabsf(weight[i]) + 0.1f;
    for (int64_t i = 0; i < q_heads * w->scores; i++)
        more[i] = fabsf(more[i]);
    for (int i = 0; i < q_heads * stride; i++)
        lse[i] += 4.0f;
    ref_columns(w, &a, q, lse, weight, causal ? NULL : more, want);
    a.q = ops_up(o, q, (int64_t)rows * q_heads * dim);
    a.lse = ops_up_bytes(o, lse, sizeof *lse * (size_t)(q_heads * stride));
    a.weight = ops_up_bytes(o, weight, sizeof *weight * (size_t)rows);
    a.column_weight = causal ? NULL : ops_up_bytes(o, more, sizeof *more * (size_t)(q_heads * w->scores));
    o->be->ops->score_columns(o->be, &w->rows, &a, out);
    view_judge(o, largest ? "largest of columns" : "sums of columns", out, want, w->scores, 1e-5);
}

/* Of each head the rows 0, 3, 6 ... */
static const int32_t *every_third(struct ops *o, const struct layer_view *w, int64_t *first)
{
    int32_t *index = arena_alloc(&o->arena, sizeof *index * (size_t)(w->scores + 1));
    int64_t count = 0;

    for (int32_t g = 0; g < w->rows.heads; g++) {
        first[g] = count;
        for (int32_t r = 0; r < w->rows.rows[g]; r += 3)
            index[count++] = r;
    }
    first[w->rows.heads] = count;
    return ops_up_bytes(o, index, sizeof *index * (size_t)count);
}

static void check_norms_of(struct ops *o, const struct layer_view *w, int32_t q_heads, int32_t power)
{
    const int32_t dim = w->rows.dim, group = q_heads / w->rows.heads, outs = o->small > 1 ? 200 : 700;
    float *values;
    struct weight *wo = ops_weight(o, outs, (int64_t)q_heads * dim, WEIGHT_MATRIX, 1.0f, &values);
    double *want = ops_doubles(o, group * w->scores);
    void *out = view_scores(o, group * w->scores);
    int64_t first[KV_HEADS_MAX + 1];

    if (o->be->ops->value_out_norms) {
        for (int32_t h = 0; h < q_heads; h++)
            for (int64_t r = 0; r < w->rows.rows[h / group]; r++) {
                double *to = &want[h % group * w->scores + w->rows.at[h / group] + r];

                for (int n = 0; n < outs; n++) {
                    double x =
                        view_dot(view_row(w, w->v, h / group, r), values + (int64_t)n * q_heads * dim + h * dim, dim);

                    *to += power == 1 ? fabs(x) : x * x;
                }
                *to = power == 1 ? *to : sqrt(*to);
            }
        o->be->ops->value_out_norms(o->be, &w->rows, NULL, NULL, wo, q_heads, power, out);
        view_judge(o, "norms after the output projection", out, want, group * w->scores, 1e-5);
        o->be->ops->value_out_norms(o->be, &w->rows, every_third(o, w, first), first, wo, q_heads, power, out);
        view_judge(o, "norms of some rows", out, want, group * w->scores, 1e-5);
    }
    o->be->ops->weight_close(o->be, wo);
}

static void check_linear_of(struct ops *o)
{
    enum { ROWS = 37, COLS = 300, OUTS = 11 };
    float *x = ops_random(o, ROWS * COLS, 1.0f), *w = ops_random(o, OUTS * COLS, 1.0f),
          *bias = ops_random(o, OUTS, 1.0f);
    double *want = ops_doubles(o, ROWS * OUTS);
    void *out = view_scores(o, ROWS * OUTS);

    if (!o->be->ops->linear)
        return;
    for (int r = 0; r < ROWS; r++)
        for (int n = 0; n < OUTS; n++)
            want[r * OUTS + n] = view_dot(x + r * COLS, w + n * COLS, COLS) + (double)bias[n];
    o->be->ops->linear(o->be, ops_up(o, x, ROWS * COLS), ROWS, COLS, ops_up_bytes(o, w, sizeof *w * OUTS * COLS),
                       ops_up_bytes(o, bias, sizeof *bias * OUTS), OUTS, out);
    view_judge(o, "small layer", out, want, ROWS * OUTS, 1e-5);
}

void check_statistics(struct ops *o)
{
    static const struct {
        int32_t q_heads, kv_heads, dim;
        int64_t tokens;
        bool ragged;
    } cases[] = { { 8, 2, 64, 300, false }, { 3, 1, 128, 270, true }, { 4, 4, 80, 70, true }, { 6, 2, 96, 40, false } };

    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        const int64_t tokens = o->small > 1 ? cases[i].tokens / 6 : cases[i].tokens;
        struct layer_view w = view_make(o, cases[i].kv_heads, cases[i].dim, tokens, cases[i].ragged);

        check_rows_alone_of(o, &w);
        check_key_diff_of(o, &w);
        check_lag_of(o, &w);
        check_channels_of(o, &w);
        check_expected_of(o, &w, cases[i].q_heads);
        check_turned_of(o, cases[i].q_heads, cases[i].dim);
        check_weigh_of(o, &w, 4, false);
        check_weigh_of(o, &w, 0, false);
        check_weigh_of(o, &w, 3, true);
        check_weigh_of(o, &w, INT64_MAX, true);
        if (!cases[i].ragged) {
            check_share_of(o, &w, 1);
            check_share_of(o, &w, 0);
            check_share_of(o, &w, w.rows.rows[0] + 3);
        }
        check_columns_of(o, &w, cases[i].q_heads, true, false);
        check_columns_of(o, &w, cases[i].q_heads, false, false);
        check_columns_of(o, &w, cases[i].q_heads, false, true);
        check_norms_of(o, &w, cases[i].q_heads, 1);
        check_norms_of(o, &w, cases[i].q_heads, 2);
        check_kept_channels_of(o, &w); /* changes the keys */
    }
    check_linear_of(o);
}
