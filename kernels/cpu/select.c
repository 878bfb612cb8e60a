/* SPDX-License-Identifier: Apache-2.0 */
/*
 * select.c - the best rows of each head, or of all heads together, in ascending order.
 *
 *   radix select   three counting passes (11, 11, 10 bits) over order-preserving keys give the k-th largest key
 *   ties           one pass finds the place up to which rows with exactly that key are taken
 *   compaction     rows above the cut are written in order
 *
 * Nothing is sorted and nothing of the size of the scores is allocated: a cut is a key and a place, and whether a row is
 * chosen follows from its score and its place alone. NaN counts as the largest score, and -0 equals 0.
 */
#include "kernels/cpu/cpu.h"

#include <assert.h>
#include <math.h>
#include <string.h>

enum { DIGIT_BITS = 11, DIGITS = 1 << DIGIT_BITS };

/* Rows with a larger key are chosen; those with this key up to (row, head), or from it on where the newest win. */
struct cut {
    uint32_t key;
    int64_t row;
    int32_t head;
    bool newest;
};

struct selection {
    const struct kv_rows *in;
    const struct select_args *args;
    struct cut own[KV_HEADS_MAX]; /* per head: its keep, or its safe rows */
    struct cut joint;             /* over all heads; chooses nothing when heads are chosen for themselves */
    int32_t *index;
    int64_t first[KV_HEADS_MAX + 1];
};

static const struct cut cut_none = { .key = UINT32_MAX, .row = -1, .head = -1 };
static const struct cut cut_all = { .key = 0, .row = INT64_MAX };

static uint32_t key_of(float x)
{
    uint32_t u;

    if (x != x)
        return UINT32_MAX;
    x += 0.0f;
    memcpy(&u, &x, sizeof u);
    return u & 0x80000000u ? ~u : u | 0x80000000u;
}

static bool is_above(const struct cut *cut, uint32_t key, int64_t row, int32_t head)
{
    if (key != cut->key)
        return key > cut->key;
    if (row != cut->row)
        return cut->newest ? row > cut->row : row < cut->row;
    return head <= cut->head;
}

/* Candidates of a cut: heads [from, to), without the rows that `safe` (NULL: none) has chosen already. */
struct candidates {
    const struct selection *s;
    int32_t from, to;
    const struct cut *safe;
};

static const float *scores_of(const struct selection *s, int32_t head)
{
    return s->args->score + s->in->at[head];
}

static bool is_candidate(const struct candidates *c, uint32_t key, int64_t row, int32_t head)
{
    return !c->safe || !is_above(&c->safe[head], key, row, head);
}

/* Counts the digit at `shift` of the candidates whose higher bits are those of `prefix`. */
static void count_digits(const struct candidates *c, uint32_t prefix, uint32_t mask, int shift, uint32_t digit,
                         int64_t count[DIGITS])
{
    memset(count, 0, DIGITS * sizeof *count);
    for (int32_t g = c->from; g < c->to; g++) {
        const float *score = scores_of(c->s, g);

        for (int64_t row = 0; row < c->s->in->rows[g]; row++) {
            uint32_t key = key_of(score[row]);

            if ((key & mask) == prefix && is_candidate(c, key, row, g))
                count[key >> shift & digit]++;
        }
    }
}

/* The k-th largest key of the candidates; *ties is how many of that key are wanted. */
static uint32_t kth_key(const struct candidates *c, int64_t k, int64_t *ties)
{
    static const int shifts[] = { 21, 10, 0 };
    uint32_t key = 0, mask = 0;
    int64_t count[DIGITS];

    for (int pass = 0; pass < 3; pass++) {
        uint32_t bits = pass < 2 ? DIGIT_BITS : 32 - 2 * DIGIT_BITS, digit = (1u << bits) - 1;

        count_digits(c, key, mask, shifts[pass], digit, count);
        while (digit > 0 && count[digit] < k)
            k -= count[digit--];
        key |= digit << shifts[pass];
        mask |= ((1u << bits) - 1) << shifts[pass];
    }
    *ties = k;
    return key;
}

/* The place of the `ties`-th candidate with this key: by rows, and within a row by heads. */
static void place_ties(const struct candidates *c, struct cut *cut, int64_t ties)
{
    int64_t rows = 0;

    for (int32_t g = c->from; g < c->to; g++)
        rows = c->s->in->rows[g] > rows ? c->s->in->rows[g] : rows;
    for (int64_t i = 0; i < rows; i++) {
        int64_t row = cut->newest ? rows - 1 - i : i;

        for (int32_t g = c->from; g < c->to; g++) {
            if (row >= c->s->in->rows[g] || key_of(scores_of(c->s, g)[row]) != cut->key)
                continue;
            if (is_candidate(c, cut->key, row, g) && --ties == 0) {
                cut->row = row;
                cut->head = g;
                return;
            }
        }
    }
    assert(ties == 0);
}

static struct cut find_cut(const struct candidates *c, int64_t k, int64_t available)
{
    struct cut cut = { 0 };
    int64_t ties;

    if (k <= 0)
        return cut_none;
    if (k >= available)
        return cut_all;
    cut.key = kth_key(c, k, &ties);
    cut.newest = cut.key >= key_of(c->s->args->protected_score) && !isinf(c->s->args->protected_score);
    place_ties(c, &cut, ties);
    return cut;
}

static bool is_chosen(const struct selection *s, float score, int64_t row, int32_t head)
{
    uint32_t key = key_of(score);

    return is_above(&s->own[head], key, row, head) | is_above(&s->joint, key, row, head);
}

static void own_task(void *arg, int64_t head, int worker)
{
    struct selection *s = arg;
    const int64_t *wanted = s->args->total < 0 ? s->args->keep : s->args->safe;
    struct candidates c = { .s = s, .from = (int32_t)head, .to = (int32_t)head + 1 };

    (void)worker;
    s->own[head] = find_cut(&c, wanted[head], s->in->rows[head]);
}

static void joint_cut(struct selection *s)
{
    struct candidates c = { .s = s, .from = 0, .to = s->in->heads, .safe = s->own };
    int64_t left = s->args->total, available = 0;

    for (int32_t g = 0; g < s->in->heads; g++) {
        int64_t rows = s->in->rows[g], safe = s->args->safe[g] < rows ? s->args->safe[g] : rows;

        left -= safe;
        available += rows - safe;
    }
    s->joint = find_cut(&c, left, available);
}

static void count_task(void *arg, int64_t head, int worker)
{
    struct selection *s = arg;
    const float *score = scores_of(s, (int32_t)head);
    int64_t count = 0;

    (void)worker;
    for (int64_t row = 0; row < s->in->rows[head]; row++)
        count += is_chosen(s, score[row], row, (int32_t)head);
    s->first[head + 1] = count;
}

/* Rows of each head in first[head + 1]: what was asked for, or what came of the competition. */
static void count_rows(struct selection *s, struct pool *pool)
{
    if (s->args->total >= 0) {
        pool_run(pool, s->in->heads, count_task, s);
        return;
    }
    for (int32_t g = 0; g < s->in->heads; g++) {
        int64_t keep = s->args->keep[g];

        s->first[g + 1] = keep < 0 ? 0 : keep < s->in->rows[g] ? keep : s->in->rows[g];
    }
}

static void write_task(void *arg, int64_t head, int worker)
{
    const struct selection *s = arg;
    const float *score = scores_of(s, (int32_t)head);
    int32_t *to = s->index + s->first[head];
    int64_t count = s->first[head + 1] - s->first[head], written = 0;

    (void)worker;
    for (int64_t row = 0; written < count; row++) { /* a row that is not chosen is written over */
        to[written] = (int32_t)row;
        written += is_chosen(s, score[row], row, (int32_t)head);
    }
}

void cpu_select(struct backend *be, const struct kv_rows *in, const struct select_args *args, int32_t *index,
                int64_t *first)
{
    struct pool *pool = cpu_of(be)->pool;
    struct selection s = { .in = in, .args = args, .joint = cut_none, .index = index };

    pool_run(pool, in->heads, own_task, &s);
    if (args->total >= 0)
        joint_cut(&s);
    count_rows(&s, pool);
    for (int32_t g = 0; g < in->heads; g++)
        s.first[g + 1] += s.first[g];
    pool_run(pool, in->heads, write_task, &s);
    memcpy(first, s.first, (size_t)(in->heads + 1) * sizeof *first);
}
