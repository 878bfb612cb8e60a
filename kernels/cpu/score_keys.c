/* SPDX-License-Identifier: Apache-2.0 */
/*
 * score_keys.c - scores from K and V rows alone: squared norms, distance from the mean key, filters, lags, channels.
 *
 * Sums that go over rows are made per piece of ROWS_PER_TASK rows and then added in order, so that the number of threads
 * changes nothing.
 */
#include "kernels/cpu/product.h"

#include <assert.h>
#include <float.h>
#include <math.h>
#include <string.h>

enum { ROWS_PER_TASK = 256 };

struct keys {
    const struct cpu *c;
    const struct kv_rows *in;
    const float *vectors; /* sketch, filters or anchors */
    int32_t width;        /* of the sketch */
    float factor;
    float *k2, *v2, *score, *room;
    int64_t from, lag;
    const int32_t *index;
    const int64_t *first;
    int64_t pieces; /* per head */
};

static int64_t pieces_of(int64_t rows)
{
    return (rows + ROWS_PER_TASK - 1) / ROWS_PER_TASK;
}

/* Task i is a piece of a head's rows. */
static int32_t piece(const struct keys *s, int64_t i, int64_t *from, int64_t *end)
{
    int32_t head = (int32_t)(i / s->pieces);

    *from = i % s->pieces * ROWS_PER_TASK;
    *end = *from + ROWS_PER_TASK < s->in->rows[head] ? *from + ROWS_PER_TASK : s->in->rows[head];
    return head;
}

static void run_pieces(struct keys *s, void (*task)(void *arg, int64_t i, int worker))
{
    s->pieces = pieces_of(view_longest(s->in));
    pool_run(s->c->pool, s->pieces * s->in->heads, task, s);
}

static const float *row_of(const struct keys *s, bool values, int32_t head, int64_t row, int worker)
{
    return view_rows(s->c, s->in, values, head, row, 1, s->c->room[worker].row);
}

/* ---- squared norms --------------------------------------------------------------------------------------------- */

static float sketched_square(const struct keys *s, const float *x)
{
    float sum = 0;

    for (int32_t j = 0; j < s->width; j++) {
        float y = 0;

        for (int32_t d = 0; d < s->in->dim; d++)
            y += x[d] * s->vectors[d * s->width + j];
        sum += y * y;
    }
    return sum;
}

static void squares_task(void *arg, int64_t i, int worker)
{
    const struct keys *s = arg;
    int64_t row, end;
    int32_t head = piece(s, i, &row, &end);

    for (; row < end; row++)
        for (int values = 0; values < 2; values++) {
            float *out = values ? s->v2 : s->k2;
            const float *x;

            if (!out)
                continue;
            x = row_of(s, values, head, row, worker);
            out[s->in->at[head] + row] = s->vectors ? sketched_square(s, x) : s->c->loops->square_sum(x, s->in->dim);
        }
}

void cpu_row_squares(struct backend *be, const struct kv_rows *in, const float *sketch, int32_t sketch_dim, float *k2,
                     float *v2)
{
    struct keys s = { .c = cpu_of(be), .in = in, .vectors = sketch, .width = sketch_dim, .k2 = k2, .v2 = v2 };

    run_pieces(&s, squares_task);
}

/* ---- distance from the mean key ------------------------------------------------------------------------------------ */

/* Sum of the piece's keys made unit length. */
static void anchor_task(void *arg, int64_t i, int worker)
{
    const struct keys *s = arg;
    int64_t row, end;
    int32_t head = piece(s, i, &row, &end);
    float *sum = s->room + i * s->in->dim;

    memset(sum, 0, (size_t)s->in->dim * 4);
    for (; row < end; row++) {
        const float *k = row_of(s, false, head, row, worker);
        float norm = sqrtf(s->c->loops->square_sum(k, s->in->dim));

        s->c->loops->blend(sum, 1.0f, k, 1.0f / (norm > 1e-12f ? norm : 1e-12f), s->in->dim);
    }
}

static void diff_task(void *arg, int64_t i, int worker)
{
    const struct keys *s = arg;
    int64_t row, end;
    int32_t head = piece(s, i, &row, &end);
    const float *anchor = s->room + (int64_t)head * s->pieces * s->in->dim;
    float anchor_norm = fmaxf(sqrtf(s->c->loops->square_sum(anchor, s->in->dim)), 1e-8f);

    for (; row < end; row++) {
        const float *k = row_of(s, false, head, row, worker);
        float norm = fmaxf(sqrtf(s->c->loops->square_sum(k, s->in->dim)), 1e-8f);

        s->score[s->in->at[head] + row] = -s->c->loops->dot(k, anchor, s->in->dim) / (norm * anchor_norm);
    }
}

void cpu_score_key_diff(struct backend *be, const struct kv_rows *in, float *score)
{
    struct cpu *c = cpu_of(be);
    struct keys s = { .c = c, .in = in, .score = score };

    cpu_press_reserve(c, pieces_of(view_longest(in)) * in->heads * in->dim);
    s.room = c->press;
    run_pieces(&s, anchor_task);
    for (int32_t g = 0; g < in->heads; g++) {
        float *anchor = s.room + (int64_t)g * s.pieces * in->dim;

        for (int64_t p = 1; p < s.pieces; p++)
            c->loops->add(anchor, anchor + p * in->dim, in->dim);
        if (in->rows[g] > 0)
            c->loops->scale(anchor, 1.0f / (float)in->rows[g], in->dim);
    }
    pool_run(c->pool, s.pieces * in->heads, diff_task, &s);
}

/* ---- filters --------------------------------------------------------------------------------------------------------- */

static void dot_task(void *arg, int64_t i, int worker)
{
    const struct keys *s = arg;
    int64_t row, end;
    int32_t head = piece(s, i, &row, &end);
    const float *filter = s->vectors + (int64_t)head * s->in->dim;

    for (; row < end; row++)
        s->score[s->in->at[head] + row] =
            s->factor * s->c->loops->dot(row_of(s, false, head, row, worker), filter, s->in->dim);
}

void cpu_score_key_dot(struct backend *be, const struct kv_rows *in, const float *filter, float factor, float *score)
{
    struct keys s = { .c = cpu_of(be), .in = in, .vectors = filter, .factor = factor, .score = score };

    run_pieces(&s, dot_task);
}

/* ---- lags ------------------------------------------------------------------------------------------------------------- */

/* Per channel, the least and the span of a partition's rows. */
static void extremes(const struct keys *s, bool values, int32_t head, int64_t row, int worker, float *least,
                     float *span)
{
    int32_t dim = s->in->dim;
    float most[KV_HEAD_DIM_MAX];

    for (int32_t d = 0; d < dim; d++) {
        least[d] = FLT_MAX;
        most[d] = -FLT_MAX;
    }
    for (int64_t r = row; r < row + s->lag; r++) {
        const float *x = row_of(s, values, head, r, worker);

        for (int32_t d = 0; d < dim; d++) {
            least[d] = x[d] < least[d] ? x[d] : least[d];
            most[d] = x[d] > most[d] ? x[d] : most[d];
        }
    }
    for (int32_t d = 0; d < dim; d++)
        span[d] = most[d] - least[d];
}

/* Standard deviation over the channels (divisor D - 1) of a row measured by the extremes. */
static float deviation(const float *x, const float *least, const float *span, int32_t dim)
{
    float z[KV_HEAD_DIM_MAX], mean = 0, sum = 0;

    for (int32_t d = 0; d < dim; d++) {
        z[d] = span[d] != 0 ? (x[d] - least[d]) / span[d] : 0.0f;
        mean += z[d];
    }
    mean /= (float)dim;
    for (int32_t d = 0; d < dim; d++)
        sum += (z[d] - mean) * (z[d] - mean);
    return dim > 1 ? sqrtf(sum / (float)(dim - 1)) : 0.0f;
}

/* Adds half the softmax of the deviations of a partition's rows to its scores. */
static void lag_half(const struct keys *s, bool values, int32_t head, int64_t row, int worker)
{
    float least[KV_HEAD_DIM_MAX], span[KV_HEAD_DIM_MAX], most = -FLT_MAX, sum = 0;
    float *u = s->room + s->in->at[head] + row, *out = s->score + s->in->at[head] + row;

    extremes(s, values, head, row + s->lag, worker, least, span);
    for (int64_t t = 0; t < s->lag; t++) {
        u[t] = deviation(row_of(s, values, head, row + t, worker), least, span, s->in->dim);
        most = u[t] > most ? u[t] : most;
    }
    for (int64_t t = 0; t < s->lag; t++) {
        u[t] = expf(u[t] - most);
        sum += u[t];
    }
    for (int64_t t = 0; t < s->lag; t++)
        out[t] += 0.5f * (u[t] / sum);
}

static void lag_task(void *arg, int64_t i, int worker)
{
    const struct keys *s = arg;
    int32_t head = (int32_t)(i / s->pieces);
    int64_t row = s->from + i % s->pieces * s->lag;

    if (row + 2 * s->lag > s->in->rows[head])
        return;
    memset(s->score + s->in->at[head] + row, 0, (size_t)s->lag * 4);
    lag_half(s, false, head, row, worker);
    lag_half(s, true, head, row, worker);
}

void cpu_score_lag(struct backend *be, const struct kv_rows *in, int64_t from, int64_t lag, float *score)
{
    struct cpu *c = cpu_of(be);
    struct keys s = { .c = c, .in = in, .score = score, .from = from, .lag = lag };

    assert(lag > 0 && from >= 0);
    cpu_press_reserve(c, in->at[in->heads]);
    s.room = c->press;
    s.pieces = (view_longest(in) + lag - 1) / lag;
    pool_run(c->pool, s.pieces * in->heads, lag_task, &s);
}

/* ---- channels ---------------------------------------------------------------------------------------------------------- */

static void channels_task(void *arg, int64_t head, int worker)
{
    const struct keys *s = arg;
    int32_t dim = s->in->dim;
    int64_t count = s->first[head + 1] - s->first[head];
    double sum[KV_HEAD_DIM_MAX] = { 0 };

    for (int64_t i = s->first[head]; i < s->first[head + 1]; i++) {
        const float *k = row_of(s, false, (int32_t)head, s->index[i], worker);

        for (int32_t d = 0; d < dim; d++)
            sum[d] += (double)k[d] * k[d];
    }
    for (int32_t d = 0; d < dim; d++)
        s->score[head * dim + d] = count > 0 ? (float)(sum[d] / (double)count) : 0.0f;
}

void cpu_channel_squares(struct backend *be, const struct kv_rows *in, const int32_t *index, const int64_t *first,
                         float *out)
{
    struct keys s = { .c = cpu_of(be), .in = in, .index = index, .first = first, .score = out };

    pool_run(s.c->pool, in->heads, channels_task, &s);
}
