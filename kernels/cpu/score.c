/* SPDX-License-Identifier: Apache-2.0 */
/*
 * score.c - scores of the presses: norms of keys, attention of the last queries, ranges of tokens, random numbers.
 *
 * score_window (PRESSES 2.2, Li et al. 2024, arXiv:2404.14469) goes over K twice and holds no window x T matrix:
 *
 *   pass 1   per KV head and some queries: log of the sum of exp of what each query sees
 *   pass 2   per KV head and 64 rows:      sum over queries of weight * exp(score - lse)
 *   pass 3   per KV head:                  pooling over `kernel` neighbours, in place
 *
 * Mean over the window, pooling and mean over the group are linear; the sums are taken first and divided once.
 */
#include "kernels/cpu/attend.h"
#include "kernels/random.h"

#include "common/base/arena.h"

#include <assert.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { ROWS_PER_TASK = 256, KERNEL_MAX = 255 };

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

/* ---- attention of the last queries ---- */

struct window {
    struct attend a;
    const struct kv_rows *in;
    const float *q;
    int32_t q_heads, window, task_tokens, pieces;
    int64_t tokens;
    const float *row_weight;
    int32_t kernel;
    float *lse; /* [H][window] */
    float *score;
    int64_t body[KV_HEADS_MAX]; /* rows of each head that are not among the last `window` tokens */
};

/* T as head `head` sees it. */
static int64_t tokens_of(const struct window *w, int32_t head)
{
    return w->tokens > 0 ? w->tokens : w->in->rows[head];
}

/* Rows of a head whose token is at most `token`: rows are in ascending order of tokens. */
static int64_t rows_up_to(const struct kv_rows *in, int32_t head, int64_t token)
{
    int64_t low = 0, high = in->rows[head];

    while (low < high) {
        int64_t middle = (low + high) / 2;

        if (token_of(in, head, middle) <= token)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

/* Rows [row, row + rows) of the room against the loaded keys, of which each sees the first `seen`. */
static void lse_rows(const struct attend *a, struct cpu_room *room, int32_t row, int32_t rows, int32_t count,
                     int64_t seen)
{
    const struct score_mask mask = { .seen = seen, .group = ATTEND_ROWS };

    if (seen <= 0)
        return;
    attend_scores(a, room, row, rows, count);
    a->c->loops->softmax(room->scores, ATTEND_TOKENS, rows, count, a->scale, &mask, room->max + row, room->sum + row,
                         room->out, 0);
}

/* Queries [query, query + tokens) against `count` keys from `at` on. Where the first of them sees all of the keys they
 * go by strips; else each query's end is looked up by its token. */
static void lse_keys(const struct window *w, struct cpu_room *room, int32_t head, int32_t query, int32_t tokens,
                     int64_t at, int32_t count)
{
    const struct attend *a = &w->a;
    const int64_t first = tokens_of(w, head) - w->window + query;
    const int32_t strip = a->c->math->strip, rows = tokens * a->group;

    if (rows_up_to(w->in, head, first) >= at + count) {
        for (int32_t row = 0; row < rows; row += strip)
            lse_rows(a, room, row, rows - row < strip ? rows - row : strip, count, count);
        return;
    }
    for (int32_t t = 0; t < tokens; t++)
        for (int32_t h = 0; h < a->group; h += strip)
            lse_rows(a, room, t * a->group + h, a->group - h < strip ? a->group - h : strip, count,
                     rows_up_to(w->in, head, first + t) - at);
}

static void lse_task(void *arg, int64_t i, int worker)
{
    const struct window *w = arg;
    const struct attend *a = &w->a;
    struct cpu_room *room = &a->c->room[worker];
    int32_t head = (int32_t)(i % w->in->heads), query = (int32_t)(i / w->in->heads) * w->task_tokens;
    int32_t tokens = w->window - query < w->task_tokens ? w->window - query : w->task_tokens;
    int64_t end = rows_up_to(w->in, head, tokens_of(w, head) - w->window + query + tokens - 1);

    attend_queries(a, room, w->q + (int64_t)query * w->q_heads * a->dim, w->q_heads, head, tokens);
    for (int64_t at = 0; at < end; at += ATTEND_TOKENS) {
        int32_t count = (int32_t)(end - at < ATTEND_TOKENS ? end - at : ATTEND_TOKENS);

        attend_load_keys(a, room, key_row(a->c, w->in, head, at), count, 0);
        lse_keys(w, room, head, query, tokens, at, count);
    }
    for (int32_t r = 0; r < tokens * a->group; r++)
        w->lse[(int64_t)(head * a->group + r % a->group) * w->window + query + r / a->group] =
            room->max[r] + logf(room->sum[r]);
}

/* Rows [at, at + count) of a head's body: every query sees all of them. */
static void sum_rows(const struct window *w, struct cpu_room *room, int32_t head, int64_t at, int32_t count)
{
    const struct attend *a = &w->a;
    float *score = w->score + w->in->at[head] + at, factor = 1.0f / (float)(w->window * a->group);

    memset(score, 0, (size_t)count * 4);
    for (int32_t query = 0; query < w->window; query += w->task_tokens) {
        int32_t tokens = w->window - query < w->task_tokens ? w->window - query : w->task_tokens, strip;

        attend_queries(a, room, w->q + (int64_t)query * w->q_heads * a->dim, w->q_heads, head, tokens);
        for (int32_t row = 0; row < tokens * a->group; row += strip) {
            strip = tokens * a->group - row < a->c->math->strip ? tokens * a->group - row : a->c->math->strip;
            attend_scores(a, room, row, strip, count);
            for (int32_t r = 0; r < strip; r++) {
                int32_t i = query + (row + r) / a->group, h = (row + r) % a->group;
                float weight = w->row_weight ? w->row_weight[i] : 1.0f;

                a->c->loops->softmax_sum(room->scores + r * ATTEND_TOKENS, count, a->scale,
                                         w->lse[(int64_t)(head * a->group + h) * w->window + i], weight, score);
            }
        }
    }
    a->c->loops->scale(score, factor, count);
}

static void sum_task(void *arg, int64_t i, int worker)
{
    const struct window *w = arg;
    const struct attend *a = &w->a;
    struct cpu_room *room = &a->c->room[worker];
    int32_t head = (int32_t)(i % w->in->heads);
    int64_t at = i / w->in->heads * ATTEND_TOKENS;
    int32_t count = (int32_t)(w->body[head] - at < ATTEND_TOKENS ? w->body[head] - at : ATTEND_TOKENS);

    if (at >= w->body[head])
        return;
    attend_load_keys(a, room, key_row(a->c, w->in, head, at), count, 0);
    sum_rows(w, room, head, at, count);
}

/* Average over `kernel` neighbours with zeros outside, in place: `past` holds what was overwritten. */
static void pool_task(void *arg, int64_t i, int worker)
{
    const struct window *w = arg;
    const int32_t half = w->kernel / 2;
    float *score = w->score + w->in->at[i], past[KERNEL_MAX] = { 0 };
    int64_t rows = w->body[i];

    (void)worker;
    for (int64_t row = 0; row < rows; row++) {
        float sum = 0.0f;

        for (int32_t k = half; k > 0; k--)
            sum += row >= k ? past[(row - k) % half] : 0.0f;
        for (int64_t k = row; k <= row + half && k < rows; k++)
            sum += score[k];
        if (half > 0)
            past[row % half] = score[row];
        score[row] = sum / (float)w->kernel;
    }
}

/* Rows of the window itself get `pad`, or more than any other row of any head. */
static void pad_window(const struct window *w, float pad)
{
    float largest = -INFINITY, here;

    if (isinf(pad)) {
        for (int32_t g = 0; g < w->in->heads; g++) {
            w->a.c->loops->argmax(w->score + w->in->at[g], w->body[g], &here);
            largest = here > largest ? here : largest;
        }
        pad = (largest > -INFINITY ? largest : 0.0f) + 1.0f;
    }
    for (int32_t g = 0; g < w->in->heads; g++)
        for (int64_t row = w->body[g]; row < w->in->rows[g]; row++)
            w->score[w->in->at[g] + row] = pad;
}

void cpu_press_reserve(struct cpu *c, int64_t floats)
{
    if (floats <= c->press_floats)
        return;
    free(c->press);
    c->press = mem_aligned((size_t)floats * 4);
    c->press_floats = floats;
}

void cpu_score_window(struct backend *be, const struct kv_rows *in, const void *q, int32_t q_heads, int32_t window,
                      int64_t tokens, const float *row_weight, int32_t kernel, float pad, float *score)
{
    struct cpu *c = cpu_of(be);
    struct window w = {
        .a = attend_shape(c, in->dim, q_heads / in->heads, 0, 1.0f / sqrtf((float)in->dim)),
        .in = in,
        .q = q,
        .q_heads = q_heads,
        .window = window,
        .tokens = tokens,
        .row_weight = row_weight,
        .kernel = kernel,
        .score = score,
    };
    int64_t blocks;

    assert(in->dtype == be->kv && window > 0 && kernel > 0 && kernel <= KERNEL_MAX && kernel % 2 == 1);
    cpu_press_reserve(c, (int64_t)q_heads * window);
    w.lse = c->press;
    w.task_tokens = w.a.group < ATTEND_TOKENS ? ATTEND_TOKENS / w.a.group : 1;
    w.pieces = (window + w.task_tokens - 1) / w.task_tokens;
    for (int32_t g = 0; g < in->heads; g++)
        w.body[g] = rows_up_to(in, g, tokens_of(&w, g) - window - 1);
    pool_run(c->pool, (int64_t)w.pieces * in->heads, lse_task, &w);
    w.task_tokens = ATTEND_ROWS / w.a.group;
    blocks = (most_rows(in) + ATTEND_TOKENS - 1) / ATTEND_TOKENS;
    pool_run(c->pool, blocks * in->heads, sum_task, &w);
    pool_run(c->pool, in->heads, pool_task, &w);
    pad_window(&w, pad);
}
