/* SPDX-License-Identifier: Apache-2.0 */
/* check_systems.c - cap, leverage and chunks without a mask against double precision, written out as their formulas. */
#include "tests/ops/ops.h"
#include "tests/ops/reference.h"
#include "tests/ops/view.h"

#include <math.h>
#include <string.h>

struct case_of {
    int32_t q_heads, kv_heads, dim;
    int64_t tokens;
    bool ragged;
};
static const struct case_of cases[] = {
    { 8, 2, 64, 300, false }, { 3, 1, 128, 270, true }, { 4, 4, 80, 70, true },
    { 6, 2, 96, 40, false },  { 2, 2, 32, 1, false },
};

/* Fewer under a tool that watches every pair of accesses. */
static int64_t tokens_of(const struct ops *o, size_t i)
{
    return o->small > 1 ? cases[i].tokens / 4 + 1 : cases[i].tokens;
}

/* x of a x = b for a symmetric, positive definite a [n][n]; both are overwritten. */
static void solve(double *a, double *b, int32_t n)
{
    for (int32_t p = 0; p < n; p++)
        for (int32_t i = p + 1; i < n; i++) {
            double factor = a[i * n + p] / a[p * n + p];

            for (int32_t j = p; j < n; j++)
                a[i * n + j] -= factor * a[p * n + j];
            b[i] -= factor * b[p];
        }
    for (int32_t i = n - 1; i >= 0; i--) {
        for (int32_t j = i + 1; j < n; j++)
            b[i] -= a[i * n + j] * b[j];
        b[i] /= a[i * n + i];
    }
}

/* x' a^-1 x; room [n][n] and [n]. */
static double form_of(const double *a, const double *x, int32_t n, double *room, double *vector)
{
    double sum = 0;

    memcpy(room, a, (size_t)(n * n) * sizeof *room);
    memcpy(vector, x, (size_t)n * sizeof *vector);
    solve(room, vector, n);
    for (int32_t i = 0; i < n; i++)
        sum += x[i] * vector[i];
    return sum;
}

/* Zeros with the guard behind them: scores that are left alone stay zero. */
static void *zero_scores(struct ops *o, int64_t count)
{
    float *zeros = arena_array(&o->arena, (size_t)count + 64, sizeof *zeros);

    memset(zeros, 0, (size_t)count * sizeof *zeros);
    memset(zeros + count, 0xff, 64 * sizeof *zeros);
    return ops_up_bytes(o, zeros, (uint64_t)(count + 64) * sizeof *zeros);
}

/* ---- cap ---- */

static void ref_cap(struct ops *o, const struct layer_view *w, int32_t q_heads, int64_t from, const float *mean,
                    double *want)
{
    const int32_t dim = w->rows.dim, group = q_heads / w->rows.heads;
    double *a = ops_doubles(o, dim * dim), *room = ops_doubles(o, dim * dim), *vector = ops_doubles(o, dim);
    double *weight = ops_doubles(o, w->scores), *x = ops_doubles(o, dim);

    for (int32_t h = 0; h < q_heads; h++) {
        const int32_t g = h / group;
        double most = -INFINITY;

        memset(a, 0, (size_t)(dim * dim) * sizeof *a);
        for (int32_t i = 0; i < dim; i++)
            a[i * dim + i] = 1;
        for (int64_t r = from; r < w->rows.rows[g]; r++) {
            const float *k = view_row(w, w->k, g, r), *m = mean + h * dim;

            weight[r] = 5 * view_dot(k, m, dim) / sqrt(view_dot(k, k, dim) * view_dot(m, m, dim));
            most = fmax(most, weight[r]);
        }
        for (int64_t r = from; r < w->rows.rows[g]; r++) {
            const float *v = view_row(w, w->v, g, r);

            weight[r] = exp(weight[r] - most);
            for (int32_t i = 0; i < dim; i++)
                for (int32_t j = 0; j < dim; j++)
                    a[i * dim + j] += (weight[r] + 1e-3) * (double)v[i] * (double)v[j];
        }
        for (int64_t r = from; r < w->rows.rows[g]; r++) {
            for (int32_t i = 0; i < dim; i++)
                x[i] = (double)view_row(w, w->v, g, r)[i];
            want[w->rows.at[g] + r] += weight[r] * form_of(a, x, dim, room, vector) / group;
        }
    }
}

void check_score_cap(struct ops *o)
{
    enum { FROM = 3 };

    for (size_t i = 0; o->be->ops->score_cap && i < sizeof cases / sizeof cases[0]; i++) {
        struct layer_view w = view_make(o, cases[i].kv_heads, cases[i].dim, tokens_of(o, i), cases[i].ragged);
        const int32_t q_heads = cases[i].q_heads;
        float *mean = ops_random(o, q_heads * w.rows.dim, 1.0f);
        double *want = ops_doubles(o, w.scores + 1);
        void *out = zero_scores(o, w.scores);

        ref_cap(o, &w, q_heads, FROM, mean, want);
        o->be->ops->score_cap(o->be, &w.rows, FROM,
                              ops_up_bytes(o, mean, (uint64_t)(q_heads * w.rows.dim) * sizeof *mean), q_heads, 5.0f,
                              1e-3f, out);
        view_judge(o, "cap", out, want, w.scores, 1e-4);
    }
}

/* ---- leverage ---- */

struct leverage_of {
    const float *freq, *sketch; /* sketch [dim][columns] of one head */
    int32_t pairs, columns;
    float scale;
    int64_t position;
};

/* y [rows][columns] of head g: plain keys, centred, times the sketch. */
static void ref_sketched(struct ops *o, const struct layer_view *w, const struct leverage_of *l, int32_t g, double *y)
{
    const int32_t dim = w->rows.dim;
    const int64_t n = w->rows.rows[g];
    double *x = ops_doubles(o, n * dim), *mean = ops_doubles(o, dim);

    for (int64_t r = 0; r < n; r++) {
        const int64_t position = w->rows.token ? w->token[w->rows.at[g] + r] : l->position + r;

        for (int32_t d = 0; d < dim; d++)
            x[r * dim + d] = (double)view_row(w, w->k, g, r)[d];
        ref_rotate(x + r * dim, l->freq, l->pairs, -position, 1.0 / (double)l->scale);
        for (int32_t d = 0; d < dim; d++)
            mean[d] += x[r * dim + d] / (double)n;
    }
    for (int64_t r = 0; r < n; r++)
        for (int32_t j = 0; j < l->columns; j++)
            for (int32_t d = 0; d < dim; d++)
                y[r * l->columns + j] += (x[r * dim + d] - mean[d]) * (double)l->sketch[d * l->columns + j];
}

static void ref_leverage(struct ops *o, const struct layer_view *w, const struct leverage_of *l, int32_t g,
                         double *want)
{
    const int32_t k = l->columns;
    const int64_t n = w->rows.rows[g];
    double *y = ops_doubles(o, n * k + 1), *a = ops_doubles(o, k * k), *room = ops_doubles(o, k * k);
    double *vector = ops_doubles(o, k);

    ref_sketched(o, w, l, g, y);
    for (int32_t i = 0; i < k; i++)
        a[i * k + i] = 0.01;
    for (int64_t r = 0; r < n; r++)
        for (int32_t i = 0; i < k; i++)
            for (int32_t j = 0; j < k; j++)
                a[i * k + j] += y[r * k + i] * y[r * k + j];
    for (int64_t r = 0; r < n; r++)
        want[w->rows.at[g] + r] = form_of(a, y + r * k, k, room, vector);
}

void check_score_leverage(struct ops *o)
{
    for (size_t i = 0; o->be->ops->score_leverage && i < sizeof cases / sizeof cases[0]; i++) {
        struct layer_view w = view_make(o, cases[i].kv_heads, cases[i].dim, tokens_of(o, i), cases[i].ragged);
        const int32_t dim = w.rows.dim, columns = dim / 2 < 24 ? dim / 2 : 24, pairs = dim / 2 - 4;
        float *freq = arena_array(&o->arena, (size_t)pairs, sizeof *freq);
        float *sketch = ops_random(o, w.rows.heads * dim * columns, 0.2f);
        double *want = ops_doubles(o, w.scores + 1);
        struct rope_table rope = { .dims = 2 * pairs, .scale = 1.25f };
        struct leverage_of l = { .freq = freq, .pairs = pairs, .columns = columns, .scale = 1.25f, .position = 11 };
        void *out = view_scores(o, w.scores);

        for (int32_t j = 0; j < pairs; j++)
            freq[j] = powf(10000.0f, -(float)j / (float)pairs);
        rope.inv_freq = ops_up_bytes(o, freq, (uint64_t)pairs * sizeof *freq);
        for (int32_t g = 0; g < w.rows.heads; g++) {
            l.sketch = sketch + g * dim * columns;
            ref_leverage(o, &w, &l, g, want);
        }
        o->be->ops->score_leverage(o->be, &w.rows, &rope, l.position,
                                   ops_up_bytes(o, sketch, (uint64_t)(w.rows.heads * dim * columns) * sizeof *sketch),
                                   columns, out);
        /* f32 forms with entries of 1 / jitter, where a head has fewer rows than the sketch columns */
        view_judge(o, "leverage", out, want, w.scores, 1e-3);
    }
}

/* ---- chunks ---- */

static void ref_chunk(struct ops *o, const struct layer_view *w, const float *q, int32_t q_heads, int32_t h,
                      int64_t row, int64_t chunk, double *want)
{
    const int32_t dim = w->rows.dim, group = q_heads / w->rows.heads, g = h / group;
    const int64_t count = w->rows.rows[g] - row < chunk ? w->rows.rows[g] - row : chunk, at = w->rows.at[g] + row;
    double *p = ops_doubles(o, chunk);

    for (int64_t i = 0; i < chunk; i++) {
        double sum = 0;

        for (int64_t j = 0; j < chunk; j++) {
            p[j] = i < count && j < count ? view_dot(q + ((int64_t)w->token[at + i] * q_heads + h) * dim,
                                                     view_row(w, w->k, g, row + j), dim)
                                          : 0;
            p[j] = exp(p[j]);
            sum += p[j];
        }
        for (int64_t j = 0; j < count; j++)
            want[at + j] += p[j] / sum / group;
    }
}

/* Every seventh query gets products near -128 with all keys: their exponentials are below what f32 holds. */
static void sink_some(struct ops *o, struct layer_view *w, float *q, int32_t q_heads, int64_t tokens)
{
    const int32_t dim = w->rows.dim;
    const int64_t keys = w->rows.heads * (tokens + 3);

    for (int64_t r = 0; r < keys; r++)
        w->k[r * dim] = 8;
    for (int64_t r = 0; r < tokens; r += 7)
        for (int32_t h = 0; h < q_heads; h++)
            q[(r * q_heads + h) * dim] = -16;
    w->rows.k = ops_up_kv(o, w->k, keys * dim);
}

void check_score_noncausal(struct ops *o)
{
    static const int64_t chunks[] = { 256, 100, 7, 64, 3 };

    for (size_t i = 0; o->be->ops->score_noncausal && i < sizeof cases / sizeof cases[0]; i++) {
        struct layer_view w = view_make(o, cases[i].kv_heads, cases[i].dim, tokens_of(o, i), cases[i].ragged);
        const int64_t count = tokens_of(o, i) * cases[i].q_heads * w.rows.dim, chunk = chunks[i];
        float *q = ops_random(o, count, 0.2f);
        double *want = ops_doubles(o, w.scores + 1);
        void *out = view_scores(o, w.scores);

        sink_some(o, &w, q, cases[i].q_heads, tokens_of(o, i));
        for (int32_t h = 0; h < cases[i].q_heads; h++)
            for (int64_t row = 0; row < w.rows.rows[h * w.rows.heads / cases[i].q_heads]; row += chunk)
                ref_chunk(o, &w, q, cases[i].q_heads, h, row, chunk, want);
        o->be->ops->score_noncausal(o->be, &w.rows, ops_up(o, q, count), cases[i].q_heads, chunk, out);
        view_judge(o, "chunks without a mask", out, want, w.scores, 1e-4);
    }
}
