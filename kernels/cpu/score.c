/* SPDX-License-Identifier: Apache-2.0 */
/*
 * score.c - scores of single rows: norms of keys, ranges of tokens, random numbers; and the room that scores work in.
 */
#include "kernels/cpu/cpu.h"
#include "kernels/random.h"

#include "common/base/arena.h"

#include <assert.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { ROWS_PER_TASK = 256 };

static const char *key_row(const struct cpu *c, const struct kv_rows *in, int32_t head, int64_t row)
{
    return (const char *)in->k + (in->first[head] + row) * in->dim * cpu_kv_bytes(c);
}

static int64_t token_of(const struct kv_rows *in, int32_t head, int64_t row)
{
    return in->token ? in->token[in->at[head] + row] : row;
}

/* ---- scores of single rows ---- */

struct row_scores {
    const struct cpu *c;
    const struct kv_rows *in;
    float *score;
    void (*one)(const struct row_scores *s, int32_t head, int64_t row, float *room);
    float factor;
    const int64_t *begin;
    const float *value;
    int32_t count;
    uint64_t seed;
    int32_t layer;
};

static void head_task(void *arg, int64_t i, int worker)
{
    const struct row_scores *s = arg;
    int32_t head = (int32_t)(i % s->in->heads);
    int64_t from = i / s->in->heads * ROWS_PER_TASK;
    int64_t end = from + ROWS_PER_TASK < s->in->rows[head] ? from + ROWS_PER_TASK : s->in->rows[head];

    for (int64_t row = from; row < end; row++)
        s->one(s, head, row, s->c->room[worker].row);
}

static int64_t most_rows(const struct kv_rows *in)
{
    int64_t most = 0;

    for (int32_t g = 0; g < in->heads; g++)
        most = in->rows[g] > most ? in->rows[g] : most;
    return most;
}

static void run_row_scores(struct row_scores *s)
{
    pool_run(s->c->pool, (most_rows(s->in) + ROWS_PER_TASK - 1) / ROWS_PER_TASK * s->in->heads, head_task, s);
}

static void key_norm_one(const struct row_scores *s, int32_t head, int64_t row, float *room)
{
    const void *k = key_row(s->c, s->in, head, row);

    if (s->in->dtype == DT_BF16)
        s->c->loops->from_bf16(k, s->in->dim, room);
    s->score[s->in->at[head] + row] =
        s->factor * sqrtf(s->c->loops->square_sum(s->in->dtype == DT_BF16 ? room : k, s->in->dim));
}

void cpu_score_key_norm(struct backend *be, const struct kv_rows *in, float factor, float *score)
{
    struct row_scores s = { .c = cpu_of(be), .in = in, .score = score, .one = key_norm_one, .factor = factor };

    assert(in->dtype == be->kv);
    run_row_scores(&s);
}

static void range_one(const struct row_scores *s, int32_t head, int64_t row, float *room)
{
    int64_t token = token_of(s->in, head, row);
    int32_t low = 0, high = s->count;

    (void)room;
    while (high - low > 1) {
        int32_t middle = low + (high - low) / 2;

        if (s->begin[middle] <= token)
            low = middle;
        else
            high = middle;
    }
    s->score[s->in->at[head] + row] = s->value[low];
}

void cpu_score_ranges(struct backend *be, const struct kv_rows *in, const int64_t *begin, const float *value,
                      int32_t count, float *score)
{
    struct row_scores s = {
        .c = cpu_of(be), .in = in, .score = score, .one = range_one, .begin = begin, .value = value, .count = count
    };

    assert(count > 0);
    run_row_scores(&s);
}

static void random_one(const struct row_scores *s, int32_t head, int64_t row, float *room)
{
    (void)room;
    s->score[s->in->at[head] + row] = random_unit(s->seed, s->layer, head, token_of(s->in, head, row));
}

void cpu_score_random(struct backend *be, const struct kv_rows *in, uint64_t seed, int32_t layer, float *score)
{
    struct row_scores s = {
        .c = cpu_of(be), .in = in, .score = score, .one = random_one, .seed = seed, .layer = layer
    };

    run_row_scores(&s);
}

void cpu_press_reserve(struct cpu *c, int64_t floats)
{
    if (floats <= c->press_floats)
        return;
    free(c->press);
    c->press = mem_aligned((size_t)floats * 4);
    c->press_floats = floats;
}
