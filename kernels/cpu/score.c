/* SPDX-License-Identifier: Apache-2.0 */
/*
 * score.c - scores of tokens, whatever their rows hold: ranges and random numbers; and the room that scores work in.
 */
#include "kernels/cpu/product.h"
#include "kernels/random.h"

#include "common/base/arena.h"

#include <assert.h>
#include <stdlib.h>

enum { ROWS_PER_TASK = 256 };

static int64_t token_of(const struct kv_rows *in, int32_t head, int64_t row)
{
    return in->token ? in->token[in->at[head] + row] : row;
}

struct row_scores {
    const struct cpu *c;
    const struct kv_rows *in;
    float *score;
    void (*one)(const struct row_scores *s, int32_t head, int64_t row);
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

    (void)worker;
    for (int64_t row = from; row < end; row++)
        s->one(s, head, row);
}

static void run_row_scores(struct row_scores *s)
{
    pool_run(s->c->pool, (view_longest(s->in) + ROWS_PER_TASK - 1) / ROWS_PER_TASK * s->in->heads, head_task, s);
}

static void range_one(const struct row_scores *s, int32_t head, int64_t row)
{
    int64_t token = token_of(s->in, head, row);
    int32_t low = 0, high = s->count;

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

static void random_one(const struct row_scores *s, int32_t head, int64_t row)
{
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
