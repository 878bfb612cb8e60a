/* SPDX-License-Identifier: Apache-2.0 */
/* check_presses.c - scores, the choice of rows, packing, checksums, over dense and ragged views of a layer. */
#include "tests/ops/ops.h"
#include "tests/ops/reference.h"

#include "kernels/random.h"

#include <math.h>
#include <string.h>

#include <xxhash.h>

/* A view of a layer and what the check knows of it. */
struct view {
    struct kv_rows rows;
    float *k, *v;   /* as they stand */
    int32_t *token; /* host; NULL where dense */
    int64_t elements, scores;
};

/* Dense: T rows of every head, some room between heads. Ragged: about half of T tokens, another number in each head. */
static struct view make_view(struct ops *o, int32_t heads, int32_t dim, int64_t tokens, bool ragged)
{
    struct view w = { .rows = { .heads = heads, .dim = dim, .dtype = o->be->kv } };
    int64_t at = 0, score = 0;

    w.token = arena_array(&o->arena, (size_t)(heads * tokens) + 1, sizeof *w.token);
    for (int32_t g = 0; g < heads; g++) {
        w.rows.first[g] = at;
        w.rows.at[g] = score;
        for (int64_t t = 0; t < tokens; t++)
            if (!ragged || ops_below(o, heads + 1) > g)
                w.token[score++] = (int32_t)t;
        w.rows.rows[g] = score - w.rows.at[g];
        at += w.rows.rows[g] + (ragged ? 0 : 13);
    }
    w.rows.at[heads] = score;
    w.elements = at * dim;
    w.scores = score;
    w.k = ops_random(o, w.elements + 1, 1.0f);
    w.v = ops_random(o, w.elements + 1, 1.0f);
    w.rows.k = ops_up_kv(o, w.k, w.elements + 1);
    w.rows.v = ops_up_kv(o, w.v, w.elements + 1);
    if (ragged)
        w.rows.token = ops_up_bytes(o, w.token, (uint64_t)score * sizeof *w.token);
    return w;
}

static const float *key_at(const struct view *w, int32_t g, int64_t row)
{
    return w->k + (w->rows.first[g] + row) * w->rows.dim;
}

static void check_single_rows(struct ops *o, const struct view *w)
{
    const int64_t begin[] = { 0, 4, 100, 1000000 }, scores = w->scores;
    const float value[] = { 3.0f, -1.0f, INFINITY };
    double *want = ops_doubles(o, scores), *tolerance = ops_doubles(o, scores);
    uint64_t bytes = (uint64_t)scores * sizeof(float);
    float *got, *ranges = arena_array(&o->arena, (size_t)scores, sizeof *ranges),
                *random = arena_alloc(&o->arena, bytes);
    void *score = ops_poisoned(o, bytes);

    for (int32_t g = 0; g < w->rows.heads; g++)
        for (int64_t row = 0; row < w->rows.rows[g]; row++) {
            int64_t at = w->rows.at[g] + row;
            int32_t t = w->token[at];

            for (int32_t i = 0; i < w->rows.dim; i++)
                want[at] += (double)key_at(w, g, row)[i] * (double)key_at(w, g, row)[i];
            want[at] = -2 * sqrt(want[at]);
            tolerance[at] = 1e-6 * fabs(want[at]);
            ranges[at] = value[t < 4 ? 0 : t < 100 ? 1 : 2];
            random[at] = random_unit(42, 3, g, t);
        }
    o->be->ops->score_key_norm(o->be, &w->rows, -2.0f, score);
    got = ops_down_bytes(o, LANE_PRESS, score, bytes);
    ops_near(o, "key norm", got, want, tolerance, scores);
    o->be->ops->score_ranges(o->be, &w->rows, begin, value, 3, score);
    ops_equal_bytes(o, "ranges", ops_down_bytes(o, LANE_PRESS, score, bytes), ranges, bytes);
    o->be->ops->score_random(o->be, &w->rows, 42, 3, score);
    ops_equal_bytes(o, "random", ops_down_bytes(o, LANE_PRESS, score, bytes), random, bytes);
}

void check_scores(struct ops *o)
{
    for (int ragged = 0; ragged < 2; ragged++) {
        struct view a = make_view(o, 3, 64, 300, ragged), b = make_view(o, 1, 80, 1, ragged),
                    c = make_view(o, 8, 130, 40, ragged);

        check_single_rows(o, &a);
        check_single_rows(o, &b);
        check_single_rows(o, &c);
    }
}

enum { WINDOW_TOKENS_MAX = 10000 };

struct window_case {
    int32_t q_heads, kv_heads, dim, window, kernel;
    int64_t tokens;
    bool ragged, weighted, by_place;
    float pad;
};

/* Sums of the window's attention over the body of head g, pooled; *top the largest. */
static void ref_window_head(const struct view *w, const struct window_case *c, const float *q, const float *weight,
                            int32_t g, int64_t tokens, int64_t body, double *out)
{
    const int32_t dim = c->dim, group = c->q_heads / c->kv_heads;
    static double sums[WINDOW_TOKENS_MAX], score[WINDOW_TOKENS_MAX];

    memset(sums, 0, sizeof sums);

    for (int32_t h = g * group; h < (g + 1) * group; h++)
        for (int32_t i = 0; i < c->window; i++) {
            double sum = 0;

            for (int64_t row = 0; row < w->rows.rows[g]; row++) {
                int64_t token = c->by_place ? row : w->token[w->rows.at[g] + row];

                score[row] = 0;
                for (int32_t d = 0; d < dim; d++)
                    score[row] += (double)q[((int64_t)i * c->q_heads + h) * dim + d] * (double)key_at(w, g, row)[d];
                score[row] = token <= tokens - c->window + i ? exp(score[row] / sqrt(dim)) : 0;
                sum += score[row];
            }
            for (int64_t row = 0; row < body; row++)
                sums[row] += score[row] / sum * (weight ? (double)weight[i] : 1) / (c->window * group);
        }
    for (int64_t row = 0; row < body; row++) {
        out[row] = 0;
        for (int64_t k = row - c->kernel / 2; k <= row + c->kernel / 2; k++)
            out[row] += k >= 0 && k < body ? sums[k] / c->kernel : 0;
    }
}

static void check_window_case(struct ops *o, const struct window_case *c)
{
    struct view w = make_view(o, c->kv_heads, c->dim, c->tokens, c->ragged);
    float *q = ops_random(o, (int64_t)c->window * c->q_heads * c->dim, 1.0f), *weight = NULL, *got;
    double *want = ops_doubles(o, w.scores), *tolerance = ops_doubles(o, w.scores), top = -INFINITY;
    void *score = ops_poisoned(o, (uint64_t)w.scores * sizeof(float));

    if (c->weighted)
        weight = ops_random(o, c->window, 1.0f);
    if (c->by_place)
        w.rows.token = NULL;
    for (int64_t i = 0; i < w.scores; i++)
        want[i] = NAN;
    for (int32_t g = 0; g < c->kv_heads; g++) {
        int64_t rows = w.rows.rows[g], tokens = c->by_place ? rows : c->tokens, body = 0;

        while (body < rows && (c->by_place ? body : w.token[w.rows.at[g] + body]) < tokens - c->window)
            body++;
        ref_window_head(&w, c, q, weight, g, tokens, body, want + w.rows.at[g]);
        for (int64_t row = 0; row < body; row++)
            top = want[w.rows.at[g] + row] > top ? want[w.rows.at[g] + row] : top;
    }
    for (int64_t i = 0; i < w.scores; i++) {
        if (isnan(want[i]))
            want[i] = isinf(c->pad) ? (top > -INFINITY ? top : 0) + 1 : (double)c->pad;
        tolerance[i] = 4e-6 * (fabs(want[i]) + 0.01);
    }
    o->be->ops->score_window(o->be, &w.rows, ops_up(o, q, (int64_t)c->window * c->q_heads * c->dim), c->q_heads,
                             c->window, c->by_place ? 0 : c->tokens, weight, c->kernel, c->pad, score);
    got = ops_down_bytes(o, LANE_PRESS, score, (uint64_t)w.scores * sizeof(float));
    ops_near(o, "window", got, want, tolerance, w.scores);
}

void check_score_window(struct ops *o)
{
    static const struct window_case cases[] = {
        { 9, 3, 64, 64, 5, 500, false, false, false, INFINITY },
        { 9, 3, 64, 64, 5, 500, true, false, false, INFINITY },
        { 4, 4, 128, 8, 1, 130, false, true, false, 7.0f },
        { 8, 1, 80, 20, 7, 90, true, true, false, INFINITY },
        { 6, 2, 32, 33, 5, 35, true, false, true, INFINITY },
        { 4, 2, 64, 1, 1, 65, false, false, false, INFINITY },
        { 8, 1, 32, 150, 5, 200, true, false, false, INFINITY },
        { 2, 1, 32, 9, 3, 9500, false, true, false, INFINITY },
        { 2, 1, 32, 1, 1, 9500, true, false, false, 2.0f },
        { 16, 4, 128, 1, 1, 700, false, false, false, INFINITY },
        { 4, 2, 96, 4, 5, 600, true, true, true, INFINITY },
    };

    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++)
        check_window_case(o, &cases[i]);
}

static void check_selection(struct ops *o, const struct view *w, const struct select_args *how, const float *score)
{
    const int32_t heads = w->rows.heads;
    struct select_args args = *how;
    int64_t first[KV_HEADS_MAX + 1], total = 0;
    uint8_t *chosen = arena_alloc(&o->arena, (size_t)w->scores + 1);
    void *index = ops_poisoned(o, (uint64_t)w->scores * sizeof(int32_t));
    int32_t *got;

    args.score = ops_up_bytes(o, score, (uint64_t)w->scores * sizeof *score);
    ref_select(&w->rows, &args, score, chosen);
    o->be->ops->select(o->be, &w->rows, &args, index, first);
    got = ops_down_bytes(o, LANE_PRESS, index, (uint64_t)w->scores * sizeof *got);
    for (int32_t g = 0; g < heads; g++) {
        ops_true(o, "a head begins where the one before ends", first[g] == total);
        for (int64_t row = 0; row < w->rows.rows[g]; row++)
            if (chosen[w->rows.at[g] + row]) {
                ops_true(o, "the chosen rows, ascending", got[total] == row);
                total++;
            }
    }
    ops_true(o, "as many rows as asked", first[heads] == total);
}

/* Scores with many ties, zeros of both signs, infinities and NaNs among them where `odd`. */
static float *make_scores(struct ops *o, int64_t count, int kinds, bool odd)
{
    static const float odd_ones[] = { 0.0f, -0.0f, NAN, INFINITY, -INFINITY };
    float *score = ops_random(o, count + 1, 1.0f);

    for (int64_t i = 0; i < count; i++) {
        if (kinds)
            score[i] = (float)ops_below(o, kinds) - 2.0f;
        if (odd && ops_below(o, 20) == 0)
            score[i] = odd_ones[ops_below(o, 5)];
    }
    return score;
}

/* Heads that several thread blocks share. */
static void check_select_long(struct ops *o, int64_t tokens, int kind)
{
    struct view w = make_view(o, 2, 8, tokens, false);
    float *score = make_scores(o, w.scores, kind, false);
    struct select_args args = { .total = -1, .protected_score = INFINITY };

    for (int32_t g = 0; g < w.rows.heads; g++) {
        args.keep[g] = tokens / 2 + g;
        args.safe[g] = tokens / 10;
    }
    check_selection(o, &w, &args, score);
    args.total = tokens;
    check_selection(o, &w, &args, score);
    while (o->devices > 0)
        o->be->ops->free(o->be, o->device[--o->devices]);
}

void check_select(struct ops *o)
{
    static const int64_t long_rows[] = { 9000, 30000, 70000 };
    const int kinds[] = { 0, 1, 3, 50 }, each = o->small > 1 ? 7 : 1;

    for (int n = 0; n < 48; n += each) {
        struct view w = make_view(o, n % 3 == 0 ? 1 : n % 3 == 1 ? 3 : 8, 8, 1 + ops_below(o, 400), n & 1);
        float *score = make_scores(o, w.scores, kinds[n % 4], n % 5 == 0);
        struct select_args args = { .total = -1, .protected_score = n % 2 ? INFINITY : n % 4 ? 0.0f : 1.0f };
        int64_t safe = 0, rows = 0;

        if (w.scores == 0)
            continue;
        for (int32_t g = 0; g < w.rows.heads && n >= 40; g++) /* scores behind a head's last row choose nothing */
            w.rows.rows[g] -= ops_below(o, w.rows.rows[g] + 1);
        for (int32_t g = 0; g < w.rows.heads; g++) {
            rows += w.rows.rows[g];
            args.keep[g] = ops_below(o, w.rows.rows[g] + 2);
            args.safe[g] = n % 6 == 1 ? 0 : ops_below(o, w.rows.rows[g] / 4 + 1);
            safe += args.safe[g];
        }
        check_selection(o, &w, &args, score);
        args.total = safe + ops_below(o, rows - safe + 1);
        check_selection(o, &w, &args, score);
        while (o->devices > 0)
            o->be->ops->free(o->be, o->device[--o->devices]);
    }
    for (int n = 0; n < 3 && !o->small; n++)
        check_select_long(o, long_rows[n], kinds[n]);
}

static void check_packing(struct ops *o, bool ragged, bool rerotate)
{
    enum { HEADS = 3, DIM = 64, PAIRS = 32 };
    struct view w = make_view(o, HEADS, DIM, 200, ragged);
    struct pack_args args = { .rows = &w.rows, .token = w.rows.token };
    struct kv_block b = { .heads = HEADS, .dim = DIM, .k_dim = DIM, .dtype = o->be->kv };
    int32_t *index = arena_array(&o->arena, (size_t)w.scores, sizeof *index);
    uint64_t row_bytes = dtype_bytes(o->be->kv, DIM);
    float freq[PAIRS], *k, *v;
    struct rope_table rope = { .dims = 2 * PAIRS, .scale = 1.0f };
    double want[DIM], tolerance[DIM];
    int64_t total = 0;
    uint8_t *bytes;

    for (int i = 0; i < PAIRS; i++)
        freq[i] = powf(10000.0f, -(float)i / PAIRS);
    rope.inv_freq = ops_up_bytes(o, freq, sizeof freq);
    for (int32_t g = 0; g < HEADS; g++) {
        for (int64_t row = 0; row < w.rows.rows[g]; row++)
            if (ops_below(o, g + 2) == 0)
                index[total++] = (int32_t)row;
        args.first[g + 1] = b.first[g + 1] = total;
    }
    args.index = ops_up_bytes(o, index, (uint64_t)total * sizeof *index);
    args.rerotate = rerotate ? &rope : NULL;
    b.v_offset = kv_align((uint64_t)total * row_bytes);
    b.extra_offset = b.bytes = 2 * b.v_offset;
    b.data = ops_poisoned(o, b.bytes);
    o->be->ops->pack(o->be, &args, &b);
    bytes = ops_down_bytes(o, LANE_PRESS, b.data, b.bytes);
    ops_true(o, "checksum", o->be->ops->checksum(o->be, LANE_PRESS, b.data, b.bytes) == XXH3_64bits(bytes, b.bytes));
    for (uint64_t i = (uint64_t)total * row_bytes; i < b.v_offset; i++)
        ops_true(o, "padding is zero", bytes[i] == 0 && bytes[b.v_offset + i] == 0);
    k = arena_array(&o->arena, (size_t)(total * DIM), sizeof *k);
    v = arena_array(&o->arena, (size_t)(total * DIM), sizeof *v);
    dtype_to_f32(k, bytes, o->be->kv, (uint64_t)(total * DIM));
    dtype_to_f32(v, bytes + b.v_offset, o->be->kv, (uint64_t)(total * DIM));
    for (int32_t g = 0; g < HEADS; g++)
        for (int64_t at = b.first[g]; at < b.first[g + 1]; at++) {
            for (int i = 0; i < DIM; i++) {
                want[i] = (double)key_at(&w, g, index[at])[i];
                tolerance[i] = rerotate ? 5 * (2 * ops_eps_kv(o) + ldexp(1, -22)) : 0;
            }
            if (rerotate)
                ref_rotate(want, freq, PAIRS, at - b.first[g] - w.token[w.rows.at[g] + index[at]], 1.0);
            ops_near(o, "packed k", k + at * DIM, want, tolerance, DIM);
            ops_equal_bytes(o, "packed v", v + at * DIM, w.v + (w.rows.first[g] + index[at]) * DIM,
                            DIM * sizeof(float));
        }
}

void check_pack(struct ops *o)
{
    for (int kind = 0; kind < 4; kind++)
        check_packing(o, kind & 1, kind & 2);
}
