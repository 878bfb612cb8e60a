/* SPDX-License-Identifier: Apache-2.0 */
/*
 * score_columns.c - attention read by columns: what every row got from many queries, without a T x T matrix.
 *
 *   score_columns     the row's log-sum-exp is known, so a block of 64 rows meets the queries once and keeps one number per
 *                     row and query head (the second pass of flash attention, by columns)
 *   score_noncausal   chunks attend to themselves, without mask and scale
 *
 * PRESSES 2.2 (observed attention), 2.3 (arXiv:2507.08143), 2.5 (KVzip, KVCompose).
 */
#include "kernels/cpu/attend.h"
#include "kernels/cpu/product.h"

#include <assert.h>
#include <math.h>
#include <string.h>

/* ---- columns of known rows --------------------------------------------------------------------------------------- */

struct columns {
    struct attend a;
    const struct kv_rows *in;
    const struct column_args *args;
    int32_t task_tokens;
    float *rooms; /* per worker [group][ATTEND_TOKENS] */
    float *score;
};

static int64_t token_of(const struct kv_rows *in, int32_t head, int64_t row)
{
    return in->token ? in->token[in->at[head] + row] : row;
}

/* Brings one query's scores of `count` rows to the head's column. */
static void take_row(const struct columns *s, const float *scores, int32_t count, float lse, float weight,
                     float *column)
{
    if (!s->args->largest) {
        s->a.c->loops->softmax_sum(scores, count, s->a.scale, lse, weight, column);
        return;
    }
    lse -= logf(weight);
    for (int32_t i = 0; i < count; i++) {
        float x = scores[i] * s->a.scale - lse;

        column[i] = x > column[i] ? x : column[i];
    }
}

/* Rows of the block that a query at `position` sees: they stand in ascending order. */
static int32_t seen_of(const struct columns *s, int32_t head, int64_t at, int32_t count, int64_t query)
{
    int64_t position = s->args->position;

    if (position == INT64_MAX)
        return count;
    while (count > 0 && token_of(s->in, head, at + count - 1) > position + query)
        count--;
    return count;
}

static void take_queries(const struct columns *s, struct cpu_room *room, int32_t head, int64_t at, int32_t count,
                         int64_t query, int32_t tokens, float *column)
{
    const struct attend *a = &s->a;
    const struct column_args *args = s->args;
    int32_t strip;

    attend_queries(a, room, (const float *)args->q + query * args->q_heads * a->dim, args->q_heads, head, tokens);
    for (int32_t row = 0; row < tokens * a->group; row += strip) {
        strip = tokens * a->group - row < a->c->math->strip ? tokens * a->group - row : a->c->math->strip;
        attend_scores(a, room, row, strip, count);
        for (int32_t r = 0; r < strip; r++) {
            int64_t i = query + (row + r) / a->group;
            int32_t h = (row + r) % a->group, seen = seen_of(s, head, at, count, i);
            float lse = args->lse[(int64_t)(head * a->group + h) * args->lse_stride + i];

            take_row(s, room->scores + r * ATTEND_TOKENS, seen, lse, args->weight ? args->weight[i] : 1.0f,
                     column + h * ATTEND_TOKENS);
        }
    }
}

/* One number per row from the group's columns. */
static void finish_block(const struct columns *s, int32_t head, int64_t at, int32_t count, const float *column)
{
    const struct column_args *args = s->args;
    int64_t entry = s->in->at[head] + at, all = s->in->at[s->in->heads];

    for (int32_t i = 0; i < count; i++) {
        float sum = 0, most = 0, *score = &s->score[entry + i];

        for (int32_t h = 0; h < s->a.group; h++) {
            float x = column[h * ATTEND_TOKENS + i];

            x = args->largest ? expf(x) : x;
            if (args->column_weight)
                x *= args->column_weight[h * all + entry + i];
            sum += x;
            most = x > most ? x : most;
        }
        sum = args->group_largest ? most : sum / (float)s->a.group;
        *score = args->update && *score > sum ? *score : sum;
    }
}

static void columns_task(void *arg, int64_t i, int worker)
{
    const struct columns *s = arg;
    const struct column_args *args = s->args;
    struct cpu_room *room = &s->a.c->room[worker];
    float *column = s->rooms + (int64_t)worker * s->a.group * ATTEND_TOKENS;
    int32_t head = (int32_t)(i % s->in->heads);
    int64_t at = i / s->in->heads * ATTEND_TOKENS, left = s->in->rows[head] - at, query = 0;
    int32_t count = (int32_t)(left < ATTEND_TOKENS ? left : ATTEND_TOKENS);

    if (count <= 0)
        return;
    for (int32_t j = 0; j < s->a.group * ATTEND_TOKENS; j++)
        column[j] = args->largest ? -INFINITY : 0.0f;
    attend_load_keys(&s->a, room, (const char *)s->in->k + (s->in->first[head] + at) * s->a.dim * cpu_kv_bytes(s->a.c),
                     count, 0);
    if (args->position != INT64_MAX) /* the first query that sees the block's first row */
        query = token_of(s->in, head, at) - args->position;
    for (query = query > 0 ? query : 0; query < args->rows; query += s->task_tokens) {
        int64_t tokens = args->rows - query < s->task_tokens ? args->rows - query : s->task_tokens;

        take_queries(s, room, head, at, count, query, (int32_t)tokens, column);
    }
    finish_block(s, head, at, count, column);
}

void cpu_score_columns(struct backend *be, const struct kv_rows *in, const struct column_args *args, float *score)
{
    struct cpu *c = cpu_of(be);
    struct columns s = {
        .a = attend_shape(c, in->dim, args->q_heads / in->heads, 0, args->scale), .in = in, .args = args, .score = score
    };

    s.task_tokens = ATTEND_ROWS / s.a.group;
    cpu_press_reserve(c, (int64_t)c->threads * s.a.group * ATTEND_TOKENS);
    s.rooms = c->press;
    pool_run(c->pool, (view_longest(in) + ATTEND_TOKENS - 1) / ATTEND_TOKENS * in->heads, columns_task, &s);
}

/* ---- chunks among themselves ------------------------------------------------------------------------------------------- */

struct chunks {
    const struct cpu *c;
    const struct kv_rows *in;
    const float *q;
    int32_t q_heads, group;
    int64_t chunk, pieces, room_floats;
    float *rooms, *score;
};

/* Adds one query's softmax over the chunk's rows (and its padding, whose scores are zero) to the columns. */
static void chunk_row(const struct chunks *s, float *scores, int64_t count, int64_t padding, float *column)
{
    float max = padding > 0 ? -1e-9f : -INFINITY, sum = (float)padding;
    const struct score_mask mask = { .seen = count, .group = 1 };

    s->c->loops->softmax(scores, count, 1, (int32_t)count, 1.0f, &mask, &max, &sum, NULL, 0);
    s->c->loops->blend(column, 1.0f, scores, 1.0f / sum, (int32_t)count);
}

static void chunk_task(void *arg, int64_t i, int worker)
{
    const struct chunks *s = arg;
    const struct kv_rows *in = s->in;
    const int32_t strip = s->c->isa->f32->strip, dim = in->dim, head = (int32_t)(i / s->pieces);
    int64_t row = i % s->pieces * s->chunk, left = in->rows[head] - row, count = left < s->chunk ? left : s->chunk;
    int64_t padding = s->chunk - count, width = (s->chunk + 63) / 64 * 64;
    float *packed = s->rooms + worker * s->room_floats, *keys = packed + product_floats(s->c, s->chunk, dim);
    float *column = keys + s->chunk * dim, *q = column + width, *scores = q + strip * dim;
    const float *k;

    if (count <= 0)
        return;
    k = view_rows(s->c, in, false, head, row, count, keys);
    product_pack_columns(s->c, k, dim, count, dim, packed);
    memset(column, 0, (size_t)width * 4);
    for (int32_t h = 0; h < s->group; h++)
        for (int64_t r = 0; r < count; r += strip) {
            int32_t rows = (int32_t)(count - r < strip ? count - r : strip);

            for (int32_t t = 0; t < rows; t++)
                memcpy(q + t * dim, s->q + (token_of(in, head, row + r + t) * s->q_heads + head * s->group + h) * dim,
                       (size_t)dim * 4);
            product_run(s->c, q, dim, rows, packed, count, dim, scores, width, false);
            for (int32_t t = 0; t < rows; t++)
                chunk_row(s, scores + t * width, count, padding, column);
        }
    for (int64_t r = 0; r < count; r++)
        s->score[in->at[head] + row + r] =
            (column[r] + (float)s->group * (float)padding / (float)s->chunk) / (float)s->group;
}

void cpu_score_noncausal(struct backend *be, const struct kv_rows *in, const void *q, int32_t q_heads, int64_t chunk,
                         float *score)
{
    struct cpu *c = cpu_of(be);
    struct chunks s = {
        .c = c, .in = in, .q = q, .q_heads = q_heads, .group = q_heads / in->heads, .chunk = chunk, .score = score
    };
    int64_t width = (chunk + 63) / 64 * 64;

    s.pieces = (view_longest(in) + chunk - 1) / chunk;
    s.room_floats =
        product_floats(c, chunk, in->dim) + chunk * in->dim + width + c->isa->f32->strip * (in->dim + width);
    cpu_press_reserve(c, s.room_floats * c->threads);
    s.rooms = c->press;
    pool_run(c->pool, s.pieces * in->heads, chunk_task, &s);
}
