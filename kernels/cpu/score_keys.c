/* SPDX-License-Identifier: Apache-2.0 */
/*
 * score_keys.c - scores from K and V rows alone: norms, distance from the mean key, filters, lags, channels.
 *
 * Sums that go over rows are made per piece of ROWS_PER_TASK rows and then added in order, so that the number of threads
 * changes nothing.
 */
#include "kernels/cpu/product.h"

#include <assert.h>
#include <math.h>
#include <string.h>

enum { ROWS_PER_TASK = 256, BLOCK = 64 };

struct keys {
    const struct cpu *c;
    const struct cpu_score_loops *loops;
    const struct kv_rows *in;
    const float *vectors; /* sketch or filters */
    int32_t width;        /* of the sketch */
    float factor;
    float *k2, *v2, *score, *room;
    int64_t from, lag, room_floats; /* of a partition */
    const int32_t *index;
    const int64_t *first;
    double *sums;   /* [heads][pieces][D] */
    int64_t pieces; /* per head */
};

static struct keys keys_of(struct backend *be, const struct kv_rows *in, float *score)
{
    struct cpu *c = cpu_of(be);

    assert(in->dtype == be->kv);
    return (struct keys){ .c = c, .loops = c->isa->score_loops, .in = in, .score = score };
}

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

/* Up to BLOCK rows from `row` on; *count says how many. */
static const float *block_of(const struct keys *s, bool values, int32_t head, int64_t row, int64_t end, int worker,
                             int64_t *count)
{
    *count = end - row < BLOCK ? end - row : BLOCK;
    return view_rows(s->c, s->in, values, head, row, *count, s->c->room[worker].out);
}

/* ---- norms ------------------------------------------------------------------------------------------------------- */

static void norm_task(void *arg, int64_t i, int worker)
{
    const struct keys *s = arg;
    int64_t row, end, count;
    int32_t head = piece(s, i, &row, &end);

    for (; row < end; row += count) {
        const float *k = block_of(s, false, head, row, end, worker, &count);
        float *score = s->score + s->in->at[head] + row;

        s->loops->squares(k, count, s->in->dim, score);
        for (int64_t r = 0; r < count; r++)
            score[r] = s->factor * sqrtf(score[r]);
    }
}

void cpu_score_key_norm(struct backend *be, const struct kv_rows *in, float factor, float *score)
{
    struct keys s = keys_of(be, in, score);

    s.factor = factor;
    run_pieces(&s, norm_task);
}

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
    const int32_t dim = s->in->dim;
    int64_t from, end, count;
    int32_t head = piece(s, i, &from, &end);

    for (int values = 0; values < 2; values++) {
        float *out = (values ? s->v2 : s->k2) ? (values ? s->v2 : s->k2) + s->in->at[head] : NULL;

        for (int64_t row = from; out && row < end; row += count) {
            const float *x = block_of(s, values, head, row, end, worker, &count);

            if (!s->vectors)
                s->loops->squares(x, count, dim, out + row);
            for (int64_t r = 0; s->vectors && r < count; r++)
                out[row + r] = sketched_square(s, x + r * dim);
        }
    }
}

void cpu_row_squares(struct backend *be, const struct kv_rows *in, const float *sketch, int32_t sketch_dim, float *k2,
                     float *v2)
{
    struct keys s = keys_of(be, in, NULL);

    s.vectors = sketch;
    s.width = sketch_dim;
    s.k2 = k2;
    s.v2 = v2;
    run_pieces(&s, squares_task);
}

/* ---- distance from the mean key ------------------------------------------------------------------------------------ */

/* Sum of the piece's keys made unit length. */
static void anchor_task(void *arg, int64_t i, int worker)
{
    const struct keys *s = arg;
    const int32_t dim = s->in->dim;
    int64_t row, end, count;
    int32_t head = piece(s, i, &row, &end);
    float *sum = s->room + i * dim, weight[BLOCK];

    memset(sum, 0, (size_t)dim * 4);
    for (; row < end; row += count) {
        const float *k = block_of(s, false, head, row, end, worker, &count);

        s->loops->squares(k, count, dim, weight);
        for (int64_t r = 0; r < count; r++)
            weight[r] = 1.0f / fmaxf(sqrtf(weight[r]), 1e-12f);
        s->loops->weighted_sum(k, count, dim, weight, sum);
    }
}

static void diff_task(void *arg, int64_t i, int worker)
{
    const struct keys *s = arg;
    const int32_t dim = s->in->dim;
    int64_t row, end, count;
    int32_t head = piece(s, i, &row, &end);
    const float *anchor = s->room + (int64_t)head * s->pieces * dim;
    float anchor_norm = fmaxf(sqrtf(s->c->loops->square_sum(anchor, dim)), 1e-8f), square[BLOCK];

    for (; row < end; row += count) {
        const float *k = block_of(s, false, head, row, end, worker, &count);
        float *score = s->score + s->in->at[head] + row;

        s->loops->squares(k, count, dim, square);
        s->loops->dots(k, count, dim, anchor, 1, 0, score);
        for (int64_t r = 0; r < count; r++)
            score[r] = -score[r] / (fmaxf(sqrtf(square[r]), 1e-8f) * anchor_norm);
    }
}

void cpu_score_key_diff(struct backend *be, const struct kv_rows *in, float *score)
{
    struct cpu *c = cpu_of(be);
    struct keys s = keys_of(be, in, score);

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
    const int32_t dim = s->in->dim;
    int64_t row, end, count;
    int32_t head = piece(s, i, &row, &end);

    for (; row < end; row += count) {
        const float *k = block_of(s, false, head, row, end, worker, &count);
        float *score = s->score + s->in->at[head] + row;

        s->loops->dots(k, count, dim, s->vectors + (int64_t)head * dim, 1, 0, score);
        s->c->loops->scale(score, s->factor, count);
    }
}

void cpu_score_key_dot(struct backend *be, const struct kv_rows *in, const float *filter, float factor, float *score)
{
    struct keys s = keys_of(be, in, score);

    s.vectors = filter;
    s.factor = factor;
    run_pieces(&s, dot_task);
}

/* ---- lags ------------------------------------------------------------------------------------------------------------- */

/* u[t] = how far row `row` + t's channels differ, measured by the partition after its own. */
static void lag_measures(const struct keys *s, bool values, int32_t head, int64_t row, int worker, float *u)
{
    const int32_t dim = s->in->dim;
    float least[KV_HEAD_DIM_MAX], most[KV_HEAD_DIM_MAX];
    int64_t count;

    for (int32_t d = 0; d < dim; d++) {
        least[d] = INFINITY;
        most[d] = -INFINITY;
    }
    for (int64_t t = s->lag; t < 2 * s->lag; t += count) {
        const float *x = block_of(s, values, head, row + t, row + 2 * s->lag, worker, &count);

        s->loops->channel_ranges(x, count, dim, least, most);
    }
    for (int64_t t = 0; t < s->lag; t += count) {
        const float *x = block_of(s, values, head, row + t, row + s->lag, worker, &count);

        s->loops->deviations(x, count, dim, least, most, u + t);
    }
}

/* score = the mean of K's and V's softmax over a partition. */
static void lag_task(void *arg, int64_t i, int worker)
{
    const struct keys *s = arg;
    const struct cpu_loops *loops = s->c->loops;
    const struct score_mask all = { .seen = s->lag, .group = 1 };
    int32_t head = (int32_t)(i / s->pieces);
    int64_t row = s->from + i % s->pieces * s->lag;
    float *u = s->room + worker * s->room_floats, *score = s->score + s->in->at[head] + row;

    if (row + 2 * s->lag > s->in->rows[head])
        return;
    memset(score, 0, (size_t)s->lag * 4);
    for (int values = 0; values < 2; values++) {
        float max = -INFINITY, sum = 0;

        lag_measures(s, values, head, row, worker, u);
        loops->softmax(u, 0, 1, (int32_t)s->lag, 1.0f, &all, &max, &sum, NULL, 0);
        loops->blend(score, 1.0f, u, 0.5f / sum, (int32_t)s->lag);
    }
}

void cpu_score_lag(struct backend *be, const struct kv_rows *in, int64_t from, int64_t lag, float *score)
{
    struct cpu *c = cpu_of(be);
    struct keys s = keys_of(be, in, score);

    assert(lag > 0 && lag <= INT32_MAX && from >= 0);
    s.from = from;
    s.lag = lag;
    s.room_floats = (lag + 31) / 32 * 32;
    cpu_press_reserve(c, s.room_floats * c->threads);
    s.room = c->press;
    s.pieces = (view_longest(in) + lag - 1) / lag;
    pool_run(c->pool, s.pieces * in->heads, lag_task, &s);
}

/* ---- channels ---------------------------------------------------------------------------------------------------------- */

/* Sums over a piece of what a head keeps. Rows that stand together are taken together. */
static void channels_task(void *arg, int64_t i, int worker)
{
    const struct keys *s = arg;
    const int32_t dim = s->in->dim, head = (int32_t)(i / s->pieces);
    int64_t at = s->first[head] + i % s->pieces * ROWS_PER_TASK, left = s->first[head + 1] - at, count;
    int64_t end = at + (left < ROWS_PER_TASK ? left : ROWS_PER_TASK);
    double *sums = s->sums + i * dim;

    memset(sums, 0, (size_t)dim * sizeof *sums);
    for (; at < end; at += count) {
        float part[KV_HEAD_DIM_MAX] = { 0 };
        int64_t run = 1;

        while (at + run < end && run < BLOCK && s->index[at + run] == s->index[at] + run)
            run++;
        s->loops->channel_squares(block_of(s, false, head, s->index[at], s->index[at] + run, worker, &count), run, dim,
                                  part);
        s->loops->add_floats(sums, part, dim);
    }
}

void cpu_channel_squares(struct backend *be, const struct kv_rows *in, const int32_t *index, const int64_t *first,
                         float *out)
{
    struct cpu *c = cpu_of(be);
    struct keys s = keys_of(be, in, out);
    const int32_t dim = in->dim;

    s.index = index;
    s.first = first;
    s.pieces = pieces_of(view_longest(in));
    cpu_press_reserve(c, 2 * s.pieces * in->heads * dim);
    s.sums = (double *)c->press;
    pool_run(c->pool, s.pieces * in->heads, channels_task, &s);
    for (int32_t g = 0; g < in->heads; g++) {
        const double *sums = s.sums + g * s.pieces * dim;
        int64_t count = first[g + 1] - first[g];

        for (int32_t d = 0; d < dim; d++) {
            double sum = 0;

            for (int64_t p = 0; p < s.pieces; p++)
                sum += sums[p * dim + d];
            out[g * dim + d] = count > 0 ? (float)(sum / (double)count) : 0.0f;
        }
    }
}

/* gone[dim - k_dim] = the channels that `stays` does not name; both ascending. */
static int32_t channels_gone(const int32_t *stays, int32_t k_dim, int32_t dim, int32_t *gone)
{
    int32_t count = 0;

    for (int32_t c = 0, at = 0; c < dim; c++)
        if (at < k_dim && stays[at] == c)
            at++;
        else
            gone[count++] = c;
    return count;
}

void cpu_keep_channels(struct backend *be, const struct kv_rows *in, const int32_t *index, const int64_t *first,
                       const int32_t *channel, int32_t k_dim)
{
    const uint64_t bytes = dtype_bytes(in->dtype, 1), row_bytes = bytes * (uint64_t)in->dim;
    int32_t gone[KV_HEAD_DIM_MAX];

    (void)be;
    for (int32_t g = 0; g < in->heads; g++) {
        const int32_t count = channels_gone(channel + g * k_dim, k_dim, in->dim, gone);

        for (int64_t i = first[g]; i < first[g + 1]; i++) {
            char *k = (char *)(uintptr_t)in->k + (uint64_t)(in->first[g] + index[i]) * row_bytes;

            for (int32_t c = 0; c < count; c++)
                memset(k + (uint64_t)gone[c] * bytes, 0, bytes);
        }
    }
}
