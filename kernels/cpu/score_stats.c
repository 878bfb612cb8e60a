/* SPDX-License-Identifier: Apache-2.0 */
/*
 * score_stats.c - scores from the statistics of queries and keys: query_stats, expected, cap.
 *
 *      cov [D][D]      += x' . x       64 centred rows at a time
 *      k' C k           = dot(k . C, k)   products of 64 rows with a packed D x D matrix
 *
 * PRESSES 2.3; Devoto et al. 2025, arXiv:2510.00636; arXiv:2604.25975.
 */
#include "kernels/cpu/product.h"

#include <assert.h>
#include <math.h>
#include <string.h>

enum { BLOCK = 64 };

struct stats {
    const struct cpu *c;
    const struct kv_rows *in;
    const float *q;
    int32_t q_heads, dim, group;
    int64_t rows, from;
    const float *mean, *cov;
    float *mean_out, *cov_out;
    float tau, eps;
    float *score;
    float *logits; /* [H][longest] */
    int64_t longest;
    float *packed; /* [H] matrices, packed */
    float *rooms;  /* per worker */
    int64_t room_floats;
    int64_t pieces;
};

static float *room_of(const struct stats *s, int worker)
{
    return s->rooms + worker * s->room_floats;
}

/* ---- mean and covariance of the queries --------------------------------------------------------------------------- */

static void mean_of(const struct stats *s, int64_t a, float *mean)
{
    double sum[KV_HEAD_DIM_MAX] = { 0 };

    for (int64_t t = 0; t < s->rows; t++)
        s->c->isa->score_loops->add_floats(sum, s->q + (t * s->q_heads + a) * s->dim, s->dim);
    for (int32_t d = 0; d < s->dim; d++)
        mean[d] = (float)(sum[d] / (double)s->rows);
}

static void stats_task(void *arg, int64_t a, int worker)
{
    const struct stats *s = arg;
    int32_t dim = s->dim;
    int64_t width = product_width(s->c, dim);
    float *x = room_of(s, worker), *turned = x + BLOCK * dim, *packed = turned + BLOCK * dim,
          *sum = packed + BLOCK * width;
    float *mean = s->mean_out + a * dim;

    mean_of(s, a, mean);
    if (!s->cov_out)
        return;
    memset(sum, 0, (size_t)(dim * width) * 4);
    for (int64_t t = 0; t < s->rows; t += BLOCK) {
        int64_t count = s->rows - t < BLOCK ? s->rows - t : BLOCK;

        for (int64_t i = 0; i < count; i++) {
            memcpy(x + i * dim, s->q + ((t + i) * s->q_heads + a) * dim, (size_t)dim * 4);
            s->c->loops->blend(x + i * dim, 1.0f, mean, -1.0f, dim);
        }
        s->c->isa->layout->panel_rows(x, (int64_t)dim * 4, (int32_t)count, dim, BLOCK, 0, turned);
        product_pack_rows(s->c, x, dim, dim, count, packed);
        product_run(s->c, turned, BLOCK, dim, packed, dim, count, sum, width, true);
    }
    for (int32_t i = 0; i < dim; i++)
        for (int32_t j = 0; j < dim; j++)
            s->cov_out[(a * dim + i) * dim + j] = sum[i * width + j] / (float)s->rows;
}

void cpu_query_stats(struct backend *be, const void *q, int32_t q_heads, int32_t dim, int64_t rows, float *mean,
                     float *cov)
{
    struct cpu *c = cpu_of(be);
    struct stats s = { .c = c, .q = q, .q_heads = q_heads, .dim = dim, .rows = rows, .mean_out = mean, .cov_out = cov };
    int64_t width = product_width(c, dim);

    assert(rows > 0);
    s.room_floats = 2 * BLOCK * dim + BLOCK * width + dim * width;
    cpu_press_reserve(c, s.room_floats * c->threads);
    s.rooms = c->press;
    pool_run(c->pool, q_heads, stats_task, &s);
}

/* ---- quadratic forms ------------------------------------------------------------------------------------------------ */

/* out[i] += factor * x[i]' M x[i] for `count` (<= BLOCK) rows; room [BLOCK][width]. */
static void add_forms(const struct stats *s, const float *x, int64_t count, const float *packed, float factor,
                      float *room, float *out)
{
    int64_t width = product_width(s->c, s->dim);

    product_run(s->c, x, s->dim, count, packed, s->dim, s->dim, room, width, false);
    for (int64_t i = 0; i < count; i++)
        out[i] += factor * s->c->loops->dot(room + i * width, x + i * s->dim, s->dim);
}

static void softmax_row(float *e, int64_t count)
{
    float most = -INFINITY;
    double sum = 0;

    for (int64_t i = 0; i < count; i++)
        most = e[i] > most ? e[i] : most;
    for (int64_t i = 0; i < count; i++) {
        e[i] = expf(e[i] - most);
        sum += e[i];
    }
    for (int64_t i = 0; i < count; i++)
        e[i] = (float)(e[i] / sum);
}

/* score[r] = mean over the group of what stands in logits. */
static void group_task(void *arg, int64_t head, int worker)
{
    const struct stats *s = arg;

    (void)worker;
    for (int64_t r = s->from; r < s->in->rows[head]; r++) {
        float sum = 0;

        for (int32_t i = 0; i < s->group; i++)
            sum += s->logits[(head * s->group + i) * s->longest + r];
        s->score[s->in->at[head] + r] = sum / (float)s->group;
    }
}

/* ---- expected attention ---------------------------------------------------------------------------------------------- */

static void expected_logits(void *arg, int64_t i, int worker)
{
    const struct stats *s = arg;
    int32_t head = (int32_t)(i / s->pieces), dim = s->dim;
    int64_t row = s->from + i % s->pieces * BLOCK, left = s->in->rows[head] - row;
    int64_t count = left < BLOCK ? left : BLOCK;
    float *room = room_of(s, worker), *product = room + BLOCK * dim;
    const float *k;

    if (count <= 0)
        return;
    k = view_rows(s->c, s->in, false, head, row, count, room);
    for (int32_t h = 0; h < s->group; h++) {
        int64_t a = head * s->group + h;
        float *e = s->logits + a * s->longest + row;

        for (int64_t r = 0; r < count; r++)
            e[r] = s->c->loops->dot(k + r * dim, s->mean + a * dim, dim) / sqrtf((float)dim);
        if (s->cov)
            add_forms(s, k, count, s->packed + a * product_floats(s->c, dim, dim), 0.5f / (float)dim, product, e);
    }
}

static void expected_softmax(void *arg, int64_t a, int worker)
{
    const struct stats *s = arg;
    int64_t rows = s->in->rows[a / s->group] - s->from;

    (void)worker;
    if (rows > 0)
        softmax_row(s->logits + a * s->longest + s->from, rows);
}

/* Scratch for the longest head's logits and one packed matrix per query head. */
static void stats_reserve(struct cpu *c, struct stats *s, int64_t room_floats)
{
    int64_t matrix = product_floats(c, s->dim, s->dim);

    s->room_floats = room_floats;
    cpu_press_reserve(c, s->q_heads * (s->longest + matrix) + room_floats * c->threads);
    s->packed = c->press;
    s->logits = s->packed + s->q_heads * matrix;
    s->rooms = s->logits + s->q_heads * s->longest;
}

static struct stats stats_of(struct backend *be, const struct kv_rows *in, int64_t from, int32_t q_heads, float *score)
{
    return (struct stats){ .c = cpu_of(be),
                           .in = in,
                           .q_heads = q_heads,
                           .dim = in->dim,
                           .group = q_heads / in->heads,
                           .from = from,
                           .score = score,
                           .longest = view_longest(in) };
}

void cpu_score_expected(struct backend *be, const struct kv_rows *in, int64_t from, const float *mean, const float *cov,
                        int32_t q_heads, float *score)
{
    struct cpu *c = cpu_of(be);
    struct stats s = stats_of(be, in, from, q_heads, score);
    int64_t dim = in->dim;

    s.mean = mean;
    s.cov = cov;
    stats_reserve(c, &s, BLOCK * (dim + product_width(c, dim)));
    for (int64_t a = 0; cov && a < q_heads; a++)
        product_pack_columns(c, cov + a * dim * dim, dim, dim, dim, s.packed + a * product_floats(c, dim, dim));
    s.pieces = s.longest > from ? (s.longest - from + BLOCK - 1) / BLOCK : 0;
    pool_run(c->pool, s.pieces * in->heads, expected_logits, &s);
    pool_run(c->pool, q_heads, expected_softmax, &s);
    pool_run(c->pool, in->heads, group_task, &s);
}

/* ---- cap ----------------------------------------------------------------------------------------------------------------- */

/* logits[r] = w = exp(tau cos(k, mean) - its largest) */
static void cap_weights(const struct stats *s, int64_t a, float *row_room)
{
    int32_t head = (int32_t)(a / s->group), dim = s->dim;
    const float *mean = s->mean + a * dim;
    float norm = fmaxf(sqrtf(s->c->loops->square_sum(mean, dim)), 1e-12f), most = -INFINITY;
    float *w = s->logits + a * s->longest;

    for (int64_t r = s->from; r < s->in->rows[head]; r++) {
        const float *k = view_rows(s->c, s->in, false, head, r, 1, row_room);
        float cosine = s->c->loops->dot(k, mean, dim) / (fmaxf(sqrtf(s->c->loops->square_sum(k, dim)), 1e-12f) * norm);

        w[r] = s->tau * fminf(fmaxf(cosine, -1.0f), 1.0f);
        most = w[r] > most ? w[r] : most;
    }
    for (int64_t r = s->from; r < s->in->rows[head]; r++)
        w[r] = expf(w[r] - most);
}

/* sum[D][width] = sum over rows of (w + eps) v v' */
static void cap_gram(const struct stats *s, int64_t a, float *room, float *sum)
{
    int32_t head = (int32_t)(a / s->group), dim = s->dim;
    int64_t width = product_width(s->c, dim), n = s->in->rows[head];
    const float *w = s->logits + a * s->longest;
    float *turned = room + BLOCK * dim, *weighted = turned + BLOCK * dim, *packed = weighted + BLOCK * dim;

    memset(sum, 0, (size_t)(dim * width) * 4);
    for (int64_t row = s->from; row < n; row += BLOCK) {
        int64_t count = n - row < BLOCK ? n - row : BLOCK;
        const float *v = view_rows(s->c, s->in, true, head, row, count, room);

        memcpy(weighted, v, (size_t)(count * dim) * 4);
        for (int64_t i = 0; i < count; i++)
            s->c->loops->scale(weighted + i * dim, w[row + i] + s->eps, dim);
        s->c->isa->layout->panel_rows(weighted, (int64_t)dim * 4, (int32_t)count, dim, BLOCK, 0, turned);
        product_pack_rows(s->c, v, dim, dim, count, packed);
        product_run(s->c, turned, BLOCK, dim, packed, dim, count, sum, width, true);
    }
}

/* inverse[D][D] of I + sum, rounded to f32. */
static void cap_inverse(const struct stats *s, const float *sum, double *matrix, float *inverse)
{
    int32_t dim = s->dim;
    int64_t width = product_width(s->c, dim);
    double *out = matrix + dim * dim;

    for (int32_t i = 0; i < dim; i++)
        for (int32_t j = 0; j < dim; j++)
            matrix[i * dim + j] = 0.5 * ((double)sum[i * width + j] + sum[j * width + i]) + (i == j);
    if (!s->c->isa->score_loops->spd_inverse(matrix, dim, out))
        memset(out, 0, (size_t)(dim * dim) * sizeof *out); /* weights that are no numbers */
    for (int32_t i = 0; i < dim * dim; i++)
        inverse[i] = (float)out[i];
}

static void cap_task(void *arg, int64_t a, int worker)
{
    const struct stats *s = arg;
    int32_t head = (int32_t)(a / s->group), dim = s->dim;
    int64_t width = product_width(s->c, dim), n = s->in->rows[head];
    double *matrix = (double *)room_of(s, worker);
    float *room = (float *)(matrix + 2 * dim * dim), *sum = room + 3 * BLOCK * dim + BLOCK * width;
    float *inverse = sum + dim * width, *packed = s->packed + a * product_floats(s->c, dim, dim);
    float *w = s->logits + a * s->longest, forms[BLOCK];

    if (n <= s->from)
        return;
    cap_weights(s, a, room);
    cap_gram(s, a, room, sum);
    cap_inverse(s, sum, matrix, inverse);
    product_pack_columns(s->c, inverse, dim, dim, dim, packed);
    for (int64_t row = s->from; row < n; row += BLOCK) {
        int64_t count = n - row < BLOCK ? n - row : BLOCK;
        const float *v = view_rows(s->c, s->in, true, head, row, count, room);

        memset(forms, 0, sizeof forms);
        add_forms(s, v, count, packed, 1.0f, room + BLOCK * dim, forms);
        for (int64_t i = 0; i < count; i++)
            w[row + i] *= forms[i];
    }
}

void cpu_score_cap(struct backend *be, const struct kv_rows *in, int64_t from, const float *mean, int32_t q_heads,
                   float tau, float eps, float *score)
{
    struct cpu *c = cpu_of(be);
    struct stats s = stats_of(be, in, from, q_heads, score);
    int64_t dim = in->dim, width = product_width(c, dim), floats;

    s.mean = mean;
    s.tau = tau;
    s.eps = eps;
    s.longest += s.longest % 2; /* rooms begin with doubles */
    floats = 4 * dim * dim + 3 * BLOCK * dim + BLOCK * width + dim * width + dim * dim;
    stats_reserve(c, &s, floats + floats % 2);
    pool_run(c->pool, q_heads, cap_task, &s);
    pool_run(c->pool, in->heads, group_task, &s);
}
