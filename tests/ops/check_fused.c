/* SPDX-License-Identifier: Apache-2.0 */
/*
 * check_fused.c - parts of a step in one launch against what they replace: norm, product and gate against double
 * precision; norm, product, rotation and tails, and the product that adds to x with the norm and head of chosen rows behind
 * it, against the operations one by one, which have checks of their own. Their rows come from the step's tokens. A back end
 * that has none of these has nothing to show here.
 */
#include "tests/ops/ops.h"
#include "tests/ops/reference.h"

#include <math.h>
#include <string.h>

enum { ROWS_MAX = 96, TOKENS = 41 };

struct normed {
    struct normed_product p;
    struct weight *norm, *w, *bias;
    float *norm_values, *w_values, *bias_values;
};

static struct normed normed_open(struct ops *o, int64_t n, int64_t k, enum weight_use use, bool with_bias)
{
    struct normed m = { 0 };

    m.norm = ops_weight(o, 1, k, WEIGHT_VECTOR, 1.0f, &m.norm_values);
    m.w = ops_weight(o, n, k, use, 1.0f / sqrtf((float)k), &m.w_values);
    m.bias = ops_weight(o, 1, n, WEIGHT_VECTOR, 0.3f, &m.bias_values);
    m.p = (struct normed_product){ m.norm, m.w, with_bias ? m.bias : NULL, 1e-5f };
    return m;
}

static void normed_close(struct ops *o, struct normed *m)
{
    o->be->ops->weight_close(o->be, m->norm);
    o->be->ops->weight_close(o->be, m->w);
    o->be->ops->weight_close(o->be, m->bias);
}

/* Number `n` of norm(x) . w^T (+ bias), and how large what was added up is. */
static double product_of(const struct normed *m, const double *row, int64_t n, int64_t k, double *bound)
{
    double sum = m->p.bias ? (double)m->bias_values[n] : 0;

    *bound = fabs(sum);
    for (int64_t i = 0; i < k; i++) {
        sum += row[i] * (double)m->w_values[n * k + i];
        *bound += fabs(row[i] * (double)m->w_values[n * k + i]);
    }
    return sum;
}

/* The bf16 products that a back end for cards takes: up to 32 rows in runs of 64 bytes, up to 16 in runs of 16 bytes where
 * the matrix is large; with warpgroups up to 96 there, and up to 64 where it is small, in runs of 16 bytes. */
static bool taken(const struct ops *o, int64_t rows, int64_t n, int64_t k, bool runs)
{
    const bool large = n >= 2048 && k >= 2048, warpgroups = strstr(o->be->ops->describe(o->be), " sm_90 ") != NULL;

    return o->be->act == DT_BF16 &&
           ((warpgroups && rows <= (large ? 96 : 64) && k % 8 == 0) || (large && rows <= 16 && k % 8 == 0) ||
            (rows <= (large ? 16 : 32) && runs && k % 32 == 0));
}

static void check_gated_case(struct ops *o, int64_t rows, int64_t ff, int32_t k, bool with_bias, enum activation kind)
{
    struct normed m = normed_open(o, 2 * ff, k, WEIGHT_MATRIX, with_bias);
    float *x = ops_random_x(o, rows * k, 3.0f);
    double *exact = ops_doubles(o, k), *row = ops_doubles(o, k);
    double *want = ops_doubles(o, rows * ff), *tolerance = ops_doubles(o, rows * ff);
    void *out = ops_poisoned_act(o, rows * ff);

    if (!o->be->ops->normed_gated(o->be, &m.p, kind, ops_up_x(o, x, rows * k), rows, out)) {
        const float *untouched = ops_down(o, LANE_COMPUTE, out, rows * ff);

        for (int64_t i = 0; i < rows * ff; i++)
            ops_true(o, "what is not taken is not touched", isnan(untouched[i]));
        ops_true(o, "few rows of bf16 are taken", !taken(o, rows, 2 * ff, k, ff % 8 == 0));
        normed_close(o, &m);
        return;
    }
    for (int64_t r = 0; r < rows; r++) {
        for (int32_t i = 0; i < k; i++)
            exact[i] = (double)x[r * k + i];
        ref_rms_norm(exact, m.norm_values, 1e-5, k, row);
        for (int64_t n = 0; n < ff; n++) {
            double gate_bound, up_bound, gate = product_of(&m, row, n, k, &gate_bound),
                                         up = product_of(&m, row, ff + n, k, &up_bound);
            double gate_off = gate_bound * ops_eps_act(o), up_off = up_bound * ops_eps_act(o);

            want[r * ff + n] = ref_activation(kind, gate) * up;
            tolerance[r * ff + n] = 1.2 * gate_off * (fabs(up) + up_off) +
                                    (fabs(ref_activation(kind, gate)) + 1e-3) * up_off +
                                    fabs(want[r * ff + n]) * 2 * ops_eps_act(o) + 1e-5;
        }
    }
    ops_near(o, "norm, product, gate", ops_down(o, LANE_COMPUTE, out, rows * ff), want, tolerance, rows * ff);
    normed_close(o, &m);
}

/* ---- inside a step ---- */

struct step_case {
    int32_t rows, q_heads, kv_heads, dim, rope_dims, width, vocab;
    bool bias, heads_normed;
};

/* The weights of a step. */
struct parts {
    struct normed qkv, head;
    struct weight *table, *back, *q_norm, *k_norm; /* tokens to x; heads to x */
    struct rope_table rope;
};

struct results {
    float *q, *heads, *logits;
    bool fused;
};

/* One step of sequences of two rows, a last one perhaps of one; every second sequence wants its logits. */
static struct results run(struct ops *o, const struct step_case *c, const struct parts *p, bool fused)
{
    const int32_t wide = (c->q_heads + 2 * c->kv_heads) * c->dim, seqs = (c->rows + 1) / 2;
    const int32_t outputs = (seqs + 1) / 2;
    const struct normed *qkv = &p->qkv, *head = &p->head;
    const struct qkv_shape shape = { .q_heads = c->q_heads,
                                     .kv_heads = c->kv_heads,
                                     .dim = c->dim,
                                     .q_norm = c->heads_normed ? p->q_norm : NULL,
                                     .k_norm = c->heads_normed ? p->k_norm : NULL,
                                     .norm_eps = 1e-6f };
    const struct cache_config config = { .slots = seqs,
                                         .pages = seqs,
                                         .pages_per_slot = 1,
                                         .rows_max = c->rows,
                                         .layers = 1,
                                         .q_heads = c->q_heads,
                                         .kv_heads = c->kv_heads,
                                         .dim = c->dim };
    const struct backend_ops *ops = o->be->ops;
    const int64_t q_count = (int64_t)c->rows * c->q_heads * c->dim;
    void *x = ops_poisoned_x(o, (int64_t)c->rows * c->width);
    void *q = ops_poisoned_act(o, q_count), *heads = ops_poisoned_act(o, q_count);
    void *between = ops_poisoned_x(o, (int64_t)c->rows * wide), *last = ops_poisoned_x(o, (int64_t)outputs * c->width);
    void *normed = ops_poisoned_act(o, (int64_t)c->rows * c->width);
    void *logits = ops_poisoned_act(o, (int64_t)outputs * c->vocab);
    int32_t token[ROWS_MAX] = { 0 }, position[ROWS_MAX], output[ROWS_MAX], ids[ROWS_MAX];
    struct step_seq seq[ROWS_MAX];
    const struct step step = {
        .rows = c->rows, .seqs = seqs, .seq = seq, .token = token, .position = position, .output = output
    };
    struct results r = { .fused = fused };
    struct err err = { 0 };

    ops_true(o, "cache opens", ops->cache_open(o->be, &config, &err) == ST_OK);
    for (int32_t row = 0; row < c->rows; row++) {
        token[row] = 7 * row % TOKENS;
        position[row] = 1000 * (row / 2) + row % 2;
    }
    for (int32_t s = 0; s < seqs; s++) {
        seq[s] = (struct step_seq){ .slot = s, .row = 2 * s, .rows = c->rows - 2 * s < 2 ? 1 : 2 };
        output[s] = s % 2 == 0 ? 2 * s + seq[s].rows - 1 : -1;
        ops->slot_page(o->be, s, 0, s);
    }
    ops->step_begin(o->be, &step);
    ops->step_embed(o->be, p->table, 1.5f, x);
    if (fused)
        r.fused = ops->normed_qkv_to_tail(o->be, &qkv->p, &shape, &p->rope, 0, x, q);
    if (!r.fused) {
        ops->rms_norm(o->be, x, qkv->norm, 1e-5f, c->rows, c->width, normed);
        ops->matmul(o->be, qkv->w, qkv->p.bias, normed, c->rows, between, false);
        ops->qkv_to_tail(o->be, &shape, &p->rope, 0, between, q);
    }
    ops->attn_decode(o->be, 0, q, c->q_heads, 1.0f / sqrtf((float)c->dim), 0, heads);
    ops->matmul(o->be, p->back, NULL, heads, c->rows, x, true);
    if (!r.fused || !ops->normed_outputs(o->be, &head->p, x, logits)) {
        ops->step_outputs(o->be, x, c->width, last);
        ops->rms_norm(o->be, last, head->norm, 1e-5f, outputs, c->width, normed);
        ops->matmul(o->be, head->w, NULL, normed, outputs, logits, false);
    }
    ops->step_choose(o->be, logits, c->vocab);
    ops->step_end(o->be);
    ops->step_result(o->be, 0, ids);
    r.q = ops_down(o, LANE_COMPUTE, q, q_count);
    r.heads = ops_down(o, LANE_COMPUTE, heads, q_count);
    r.logits = ops_down(o, LANE_COMPUTE, logits, (int64_t)outputs * c->vocab);
    for (int32_t s = 0, at = 0; s < seqs; s++) {
        const float *row = r.logits + (int64_t)at * c->vocab;

        if (output[s] < 0)
            continue;
        for (int32_t v = 0; v < c->vocab; v++)
            ops_true(o, "the chosen id has the largest logit", row[v] <= row[ids[s]]);
        at++;
    }
    ops->cache_close(o->be);
    return r;
}

static void near_each_other(struct ops *o, const char *what, const float *got, const float *other, int64_t count,
                            double most)
{
    double *want = ops_doubles(o, count), *tolerance = ops_doubles(o, count);

    for (int64_t i = 0; i < count; i++) {
        want[i] = (double)other[i];
        tolerance[i] = (fabs((double)other[i]) + most) * 8 * ops_eps_act(o);
    }
    ops_near(o, what, got, want, tolerance, count);
}

static struct parts parts_open(struct ops *o, const struct step_case *c)
{
    const int32_t wide = (c->q_heads + 2 * c->kv_heads) * c->dim, heads = c->q_heads * c->dim;
    float freq[KV_HEAD_DIM_MAX / 2], *values;
    struct parts p = { .rope = { .dims = c->rope_dims, .scale = 1.0f } };

    p.qkv = normed_open(o, wide, c->width, WEIGHT_QKV, c->bias);
    p.head = normed_open(o, c->vocab, c->width, WEIGHT_MATRIX, false);
    p.table = ops_weight(o, TOKENS, c->width, WEIGHT_TABLE, 2.0f, &values);
    p.back = ops_weight(o, c->width, heads, WEIGHT_ADDS, 1.0f / sqrtf((float)heads), &values);
    p.q_norm = ops_weight(o, 1, c->dim, WEIGHT_VECTOR, 1.0f, &values);
    p.k_norm = ops_weight(o, 1, c->dim, WEIGHT_VECTOR, 1.0f, &values);
    for (int32_t i = 0; i < c->rope_dims / 2; i++)
        freq[i] = powf(10000.0f, -2.0f * (float)i / (float)c->rope_dims);
    p.rope.inv_freq = c->rope_dims > 0 ? ops_up_bytes(o, freq, sizeof freq) : NULL;
    return p;
}

static void parts_close(struct ops *o, struct parts *p)
{
    normed_close(o, &p->qkv);
    normed_close(o, &p->head);
    o->be->ops->weight_close(o->be, p->table);
    o->be->ops->weight_close(o->be, p->back);
    o->be->ops->weight_close(o->be, p->q_norm);
    o->be->ops->weight_close(o->be, p->k_norm);
}

static void check_step_case(struct ops *o, const struct step_case *c)
{
    struct parts p = parts_open(o, c);
    const int64_t q_count = (int64_t)c->rows * c->q_heads * c->dim;
    const struct results many = run(o, c, &p, false), one = run(o, c, &p, true);

    ops_true(o, "few rows of bf16 are taken",
             one.fused || c->dim > 128 ||
                 !taken(o, c->rows, (c->q_heads + 2 * c->kv_heads) * c->dim, c->width, !c->heads_normed));
    near_each_other(o, "q", one.q, many.q, q_count, 2.0);
    near_each_other(o, "attention over the appended rows", one.heads, many.heads, q_count, 2.0);
    near_each_other(o, "logits of the wanted rows", one.logits, many.logits,
                    (int64_t)(((c->rows + 1) / 2 + 1) / 2) * c->vocab, 3.0);
    parts_close(o, &p);
    while (o->devices > 0)
        o->be->ops->free(o->be, o->device[--o->devices]);
}

void check_fused(struct ops *o)
{
    static const int64_t rows[] = { 1, 2, 5, 8, 9, 16, 17, 24, 32, 33, 64, 96, 97 };
    static const struct step_case cases[] = {
        { 1, 9, 3, 64, 64, 576, 331, false, false },       { 8, 4, 2, 80, 80, 96, 97, true, false },
        { 3, 4, 1, 96, 32, 160, 40, false, false },        { 13, 8, 1, 128, 128, 64, 64, true, false },
        { 16, 2, 2, 256, 0, 2080, 33, false, false },      { 17, 9, 3, 64, 64, 576, 331, false, false },
        { 24, 4, 2, 80, 80, 96, 97, true, false },         { 32, 4, 1, 96, 32, 160, 40, false, false },
        { 9, 8, 1, 128, 128, 72, 64, true, true },         { 33, 8, 2, 64, 64, 64, 65, true, false },
        { 2, 32, 8, 128, 128, 4096, 13000, false, false }, { 12, 16, 2, 128, 128, 2048, 4100, true, true },
        { 6, 24, 4, 64, 64, 2048, 2100, false, true },     { 15, 24, 3, 96, 48, 2304, 2304, true, false },
        { 16, 24, 3, 80, 80, 2120, 2050, false, false },   { 4, 8, 2, 256, 256, 2056, 2049, false, false },
        { 1, 16, 2, 128, 0, 2056, 2049, true, false },     { 17, 16, 2, 128, 128, 2048, 4100, true, false },
        { 33, 16, 2, 128, 128, 2048, 4100, true, true },   { 64, 24, 3, 96, 48, 2304, 2304, true, false },
        { 90, 24, 4, 64, 64, 2048, 2100, false, true },    { 96, 24, 3, 80, 80, 2120, 2050, false, false },
    };
    const size_t count = sizeof cases / sizeof cases[0] - (o->small > 0 ? 12 : 0);

    if (!o->be->ops->normed_gated)
        return;
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        check_gated_case(o, rows[i], 24, 96, i % 2, ACT_SILU);
        check_gated_case(o, rows[i], 40, 1504, i % 2 == 0, ACT_GELU_TANH);
        check_gated_case(o, rows[i], 8, 576, false, ACT_SILU);
        check_gated_case(o, rows[i], 24, 2080, i % 2, ACT_SILU);
        if (!o->small) {
            check_gated_case(o, rows[i], 6408, 64, i % 2, ACT_SILU);
            check_gated_case(o, rows[i], 1029, 2056, i % 2, ACT_SILU);
        }
        while (o->devices > 0)
            o->be->ops->free(o->be, o->device[--o->devices]);
    }
    for (int64_t r = 1; r <= 33; r++) {
        check_gated_case(o, r, 72, 64 + 32 * (r % 5), r % 2, ACT_SILU);
        while (o->devices > 0)
            o->be->ops->free(o->be, o->device[--o->devices]);
    }
    check_gated_case(o, 2, 12, 64, false, ACT_SILU);
    check_gated_case(o, 2, 16, 72, false, ACT_SILU);
    for (size_t i = 0; i < count; i++)
        check_step_case(o, &cases[i]);
}
