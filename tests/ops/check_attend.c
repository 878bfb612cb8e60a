/* SPDX-License-Identifier: Apache-2.0 */
/* check_attend.c - q, k, v out of the projection, and attention of a prefill pass. */
#include "tests/ops/ops.h"
#include "tests/ops/reference.h"

#include <math.h>
#include <string.h>

enum { TABLES_FROM = 4000 };

static void set_freqs(float *freq, int32_t tables, int32_t pairs)
{
    for (int32_t t = 0; t < tables; t++)
        for (int32_t i = 0; i < pairs; i++)
            freq[t * pairs + i] = powf(10000.0f * (float)(t + 1), -(float)i / (float)pairs);
}

/* The frequencies that a row at `position` turns by. */
static const float *freqs_at(const float *freq, int32_t tables, int32_t pairs, int32_t position)
{
    int32_t table = position + 1 - TABLES_FROM;

    table = table < 0 ? 0 : table >= tables ? tables - 1 : table;
    return freq + table * pairs;
}

/* Heads [head, head + heads) of qkv rows, normed and rotated in double. plain: before the rotation. */
static void ref_heads(const float *qkv, int64_t rows, int32_t all, int32_t head, int32_t heads, int32_t dim,
                      const float *norm, const float *freq, int32_t tables, int32_t pairs, const int32_t *position,
                      double *out, double *plain)
{
    for (int64_t r = 0; r < rows; r++)
        for (int32_t h = 0; h < heads; h++) {
            double *to = out + (r * heads + h) * dim;

            for (int32_t i = 0; i < dim; i++)
                to[i] = (double)qkv[(r * all + head + h) * dim + i];
            if (norm)
                ref_rms_norm(to, norm, 1e-6, dim, to);
            if (plain)
                memcpy(plain + (r * heads + h) * dim, to, (size_t)dim * sizeof *to);
            if (pairs)
                ref_rotate(to, freqs_at(freq, tables, pairs, position[r]), pairs, position[r], 1.0);
        }
}

struct qkv_case {
    int32_t q_heads, kv_heads, dim, pairs, tables;
    bool norms, plain;
};

static void check_qkv_case(struct ops *o, const struct qkv_case *c)
{
    enum { ROWS = 19, TOKEN = 5, STRIDE = 40 };
    const int32_t all = c->q_heads + 2 * c->kv_heads, dim = c->dim;
    const int64_t q_count = (int64_t)ROWS * c->q_heads * dim, kv_count = (int64_t)c->kv_heads * STRIDE * dim;
    float *qkv = ops_random(o, (int64_t)ROWS * all * dim, 1.0f), freq[KV_HEAD_DIM_MAX], *qn, *kn, *got_k, *got_v;
    struct weight *q_norm = ops_weight(o, 1, dim, WEIGHT_VECTOR, 1.0f, &qn);
    struct weight *k_norm = ops_weight(o, 1, dim, WEIGHT_VECTOR, 1.0f, &kn);
    struct qkv_shape shape = {
        c->q_heads, c->kv_heads, dim, c->norms ? q_norm : NULL, c->norms ? k_norm : NULL, 1e-6f
    };
    struct rope_table rope = { .dims = 2 * c->pairs, .scale = 1.0f, .tables = c->tables, .from = TABLES_FROM };
    double *q = ops_doubles(o, q_count), *plain = ops_doubles(o, q_count),
           *k = ops_doubles(o, ROWS * c->kv_heads * dim), *tolerance = ops_doubles(o, q_count + kv_count);
    int32_t position[ROWS];
    void *q_out = ops_poisoned_act(o, q_count), *plain_out = ops_poisoned_act(o, q_count);
    struct kv_layer kv = { .dtype = o->be->kv, .heads = c->kv_heads, .dim = dim, .stride = STRIDE };

    set_freqs(freq, c->tables, c->pairs);
    rope.inv_freq = c->pairs ? ops_up_bytes(o, freq, sizeof freq) : NULL;
    for (int r = 0; r < ROWS; r++)
        position[r] = c->tables > 1 ? TABLES_FROM - 3 + r % 6 : (int32_t)ops_below(o, 8000);
    kv.k = ops_poisoned(o, dtype_bytes(o->be->kv, (uint64_t)kv_count));
    kv.v = ops_poisoned(o, dtype_bytes(o->be->kv, (uint64_t)kv_count));
    ref_heads(qkv, ROWS, all, 0, c->q_heads, dim, c->norms ? qn : NULL, freq, c->tables, c->pairs, position, q, plain);
    ref_heads(qkv, ROWS, all, c->q_heads, c->kv_heads, dim, c->norms ? kn : NULL, freq, c->tables, c->pairs, position,
              k, NULL);
    o->be->ops->qkv_to_layer(o->be, &shape, &rope, ops_up_x(o, qkv, (int64_t)ROWS * all * dim),
                             ops_up_bytes(o, position, sizeof position), ROWS, q_out, c->plain ? plain_out : NULL, &kv,
                             TOKEN);
    for (int64_t i = 0; i < q_count + kv_count; i++)
        tolerance[i] = 12 * (ops_eps_act(o) * 2 + ldexp(1, -22));
    ops_near(o, "q", ops_down(o, LANE_COMPUTE, q_out, q_count), q, tolerance, q_count);
    if (c->plain)
        ops_near(o, "q before the rotation", ops_down(o, LANE_COMPUTE, plain_out, q_count), plain, tolerance, q_count);
    if (o->be->ops->queries_plain) {
        void *again = ops_poisoned_act(o, q_count);

        o->be->ops->queries_plain(o->be, &shape, ops_up_x(o, qkv, (int64_t)ROWS * all * dim), ROWS, again);
        ops_near(o, "plain queries by themselves", ops_down(o, LANE_COMPUTE, again, q_count), plain, tolerance,
                 q_count);
    }
    got_k = ops_down_kv(o, LANE_COMPUTE, kv.k, kv_count);
    got_v = ops_down_kv(o, LANE_COMPUTE, kv.v, kv_count);
    for (int64_t i = 0; i < q_count + kv_count; i++)
        tolerance[i] = 12 * (ops_eps_act(o) * 2 + ops_eps_kv(o) + ldexp(1, -22));
    for (int32_t g = 0; g < c->kv_heads; g++) {
        ops_true(o, "rows before stay as they were", isnan(got_k[(g * STRIDE + TOKEN) * dim - 1]));
        ops_true(o, "rows after stay as they were", isnan(got_v[(g * STRIDE + TOKEN + ROWS) * dim]));
        for (int r = 0; r < ROWS; r++) {
            ops_near(o, "k", got_k + (g * STRIDE + TOKEN + r) * dim, k + (r * c->kv_heads + g) * dim, tolerance, dim);
            ops_equal_bytes(o, "v", got_v + (g * STRIDE + TOKEN + r) * dim,
                            qkv + ((int64_t)r * all + c->q_heads + c->kv_heads + g) * dim, (uint64_t)dim * sizeof *qkv);
        }
    }
    o->be->ops->weight_close(o->be, q_norm);
    o->be->ops->weight_close(o->be, k_norm);
}

void check_qkv_to_layer(struct ops *o)
{
    static const struct qkv_case cases[] = {
        { 9, 3, 64, 32, 1, false, false }, { 4, 4, 128, 64, 1, true, true },  { 8, 1, 96, 24, 1, false, true },
        { 2, 2, 80, 0, 1, true, false },   { 3, 1, 256, 128, 1, true, true }, { 4, 2, 96, 48, 3, false, false },
        { 3, 2, 80, 10, 1, true, true },   { 37, 5, 64, 32, 1, true, false },
    };

    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++)
        check_qkv_case(o, &cases[i]);
}

struct span_case {
    int32_t q_heads, kv_heads, dim, window;
    int64_t tokens[2]; /* of two contexts */
    int64_t from[2];   /* first query's token */
    int64_t stride;    /* 0: 300 */
    int64_t every;     /* how far apart the rows lie that are looked at, the last one always; 0: all of them */
};

static double *to_doubles(struct ops *o, const float *x, int64_t count)
{
    double *out = ops_doubles(o, count);

    for (int64_t i = 0; i < count; i++)
        out[i] = (double)x[i];
    return out;
}

static int64_t next_row(int64_t row, int64_t rows, int64_t every)
{
    const int64_t next = row + (every ? every : 1);

    return row < rows - 1 && next > rows - 1 ? rows - 1 : next;
}

static void check_span_case(struct ops *o, const struct span_case *c)
{
    const int32_t dim = c->dim, group = c->q_heads / c->kv_heads;
    const int64_t stride = c->stride ? c->stride : 300, kv_count = c->kv_heads * stride * dim;
    const double scale = 1 / sqrt(dim), p_eps = o->be->kv == DT_BF16 ? ldexp(1, -8) : ldexp(1, -21);
    struct attn_span span[2];
    int64_t rows = 0;
    float *q, *got, *alone, *got_lse, *k[2], *v[2];
    double *kd[2], *vd[2], *tolerance = ops_doubles(o, dim), lse_tolerance;
    void *out, *lse, *q_device;

    for (int s = 0; s < 2; s++) {
        k[s] = ops_random(o, kv_count, 1.0f);
        v[s] = ops_random(o, kv_count, 1.0f);
        kd[s] = to_doubles(o, k[s], kv_count);
        vd[s] = to_doubles(o, v[s], kv_count);
        span[s] = (struct attn_span){ .row = rows, .rows = c->tokens[s] - c->from[s], .token = c->from[s] };
        span[s].kv = (struct kv_layer){ ops_up_kv(o, k[s], kv_count),
                                        ops_up_kv(o, v[s], kv_count),
                                        o->be->kv,
                                        c->kv_heads,
                                        dim,
                                        c->tokens[s],
                                        stride };
        rows += span[s].rows;
    }
    q = ops_random(o, rows * c->q_heads * dim, 1.5f);
    q_device = ops_up(o, q, rows * c->q_heads * dim);
    out = ops_poisoned_act(o, rows * c->q_heads * dim);
    lse = ops_poisoned(o, (uint64_t)(c->q_heads * stride) * sizeof(float));
    for (int32_t i = 0; i < dim; i++)
        tolerance[i] = 4 * (p_eps + ops_eps_act(o) * 2);
    lse_tolerance = 40 * ldexp(1, -22);
    if (o->be->ops->attn_prepare)
        o->be->ops->attn_prepare(o->be, c->q_heads, &span[0].kv);
    o->be->ops->attn_prefill(o->be, span, 2, q_device, c->q_heads, (float)scale, c->window, out, NULL, 0);
    got = ops_down(o, LANE_COMPUTE, out, rows * c->q_heads * dim);
    o->be->ops->attn_prefill(o->be, span, 1, q_device, c->q_heads, (float)scale, c->window, out, lse, stride);
    alone = ops_down(o, LANE_COMPUTE, out, rows * c->q_heads * dim);
    got_lse = ops_down_bytes(o, LANE_COMPUTE, lse, (uint64_t)(c->q_heads * stride) * sizeof(float));
    for (int s = 0; s < 2; s++)
        for (int64_t i = 0; i < span[s].rows; i = next_row(i, span[s].rows, c->every))
            for (int32_t h = 0; h < c->q_heads; h++) {
                int64_t at = (span[s].row + i) * c->q_heads + h, seen = c->from[s] + i + 1;
                int64_t first = c->window > 0 && seen > c->window ? seen - c->window : 0,
                        base = h / group * stride * dim;
                double *qd = to_doubles(o, q + at * dim, dim), *want = ops_doubles(o, dim), want_lse;

                ref_attend(qd, kd[s] + base, vd[s] + base, first, seen, dim, scale, want, &want_lse);
                ops_near(o, "attention", got + at * dim, want, tolerance, dim);
                if (s == 0)
                    ops_near(o, "attention of one context by itself", alone + at * dim, want, tolerance, dim);
                if (s == 0)
                    ops_near(o, "lse", got_lse + h * stride + c->from[0] + i, &want_lse, &lse_tolerance, 1);
            }
}

void check_attn_prefill(struct ops *o)
{
    static const struct span_case cases[] = {
        { 9, 3, 64, 0, { 130, 17 }, { 0, 16 }, 0, 0 },
        { 4, 4, 128, 0, { 65, 200 }, { 64, 100 }, 0, 0 },
        { 8, 1, 80, 20, { 150, 40 }, { 0, 3 }, 0, 0 },
        { 7, 7, 32, 64, { 129, 64 }, { 0, 0 }, 0, 0 },
        { 2, 1, 256, 0, { 70, 1 }, { 30, 0 }, 0, 0 },
        /* long enough to be cut: all of it, not all of it, from the middle on */
        { 2, 1, 64, 0, { 2048, 900 }, { 0, 0 }, 2300, 97 },
        { 2, 2, 128, 0, { 2570, 30 }, { 0, 0 }, 2600, 97 },
        { 1, 1, 128, 0, { 4700, 2100 }, { 2048, 2048 }, 4800, 97 },
    };

    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++)
        if (o->small < 2 || !cases[i].stride)
            check_span_case(o, &cases[i]);
}
