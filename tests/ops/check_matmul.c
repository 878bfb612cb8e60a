/* SPDX-License-Identifier: Apache-2.0 */
/*
 * check_matmul.c - products of every row count and awkward shape, with and without bias and accumulation; and that a row
 * gives the same bits whatever stands beside it (CPU: the contract of kernels/cpu/isa.h).
 */
#include "tests/ops/ops.h"
#include "tests/ops/reference.h"

#include <math.h>
#include <string.h>

static const struct {
    int64_t rows, n, k;
} shapes[] = { { 1, 576, 576 },   { 2, 33, 64 },      { 3, 960, 96 },     { 5, 7, 33 },       { 8, 130, 1536 },
               { 12, 32, 31 },    { 13, 100, 577 },   { 16, 64, 1100 },   { 17, 65, 64 },     { 31, 3, 1 },
               { 33, 256, 128 },  { 100, 96, 576 },   { 300, 65, 600 },   { 520, 40, 130 },   { 1, 90, 14336 },
               { 4, 70, 4096 },   { 7, 50, 3104 },    { 18, 129, 72 },    { 48, 300, 1000 },  { 64, 127, 88 },
               { 3, 2048, 2056 }, { 17, 2049, 2048 }, { 33, 2051, 2120 }, { 64, 2100, 2048 }, { 96, 2048, 2056 } };

enum { SHAPES = sizeof shapes / sizeof shapes[0] };

static void check_shape(struct ops *o, int64_t rows, int64_t n, int64_t k, bool with_bias, enum weight_use use)
{
    const bool accumulate = use == WEIGHT_ADDS, wide = accumulate || use == WEIGHT_QKV;
    const int64_t count = rows * n;
    float *w_values, *bias_values, *x = ops_random(o, rows * k, 1.0f), *before = ops_random_x(o, count, 1.0f), *got;
    struct weight *w = ops_weight(o, n, k, use, 1.0f, &w_values);
    struct weight *bias = ops_weight(o, 1, n, WEIGHT_VECTOR, 1.0f, &bias_values);
    double *want = ops_doubles(o, count), *bound = ops_doubles(o, count);
    const double eps = wide ? ldexp(1, -24) : ops_eps_act(o);
    void *out = wide ? ops_poisoned_x(o, count) : ops_poisoned_act(o, count);

    ref_matmul(x, w_values, rows, n, k, want, bound);
    for (int64_t i = 0; i < count; i++) {
        const double more = with_bias ? (double)bias_values[i % n] : 0, there = accumulate ? (double)before[i] : 0;

        want[i] += more + there;
        bound[i] =
            (bound[i] * sqrt((double)k) + 4 * (fabs(more) + fabs(there))) * ldexp(1, -23) + fabs(want[i]) * eps * 2;
        bound[i] += 1e-30;
    }
    if (accumulate)
        o->be->ops->copy(o->be, LANE_COMPUTE, out, ops_up_x(o, before, count), (uint64_t)count * sizeof *before);
    o->be->ops->matmul(o->be, w, with_bias ? bias : NULL, ops_up(o, x, rows * k), rows, out, accumulate);
    got = wide ? ops_down_x(o, LANE_COMPUTE, out, count) : ops_down(o, LANE_COMPUTE, out, count);
    ops_near(o, accumulate ? "sum" : "product", got, want, bound, count);
    o->be->ops->weight_close(o->be, w);
    o->be->ops->weight_close(o->be, bias);
    while (o->devices > 0)
        o->be->ops->free(o->be, o->device[--o->devices]);
}

void check_matmul(struct ops *o)
{
    static const enum weight_use uses[] = { WEIGHT_MATRIX, WEIGHT_ADDS, WEIGHT_QKV };

    for (int s = 0; s < SHAPES - (o->small > 0 ? 5 : 0) - (o->small > 1 ? 2 : 0); s++)
        for (int kind = 0; kind < 6; kind++)
            if (o->small < 2 || kind == s % 6)
                check_shape(o, shapes[s].rows, shapes[s].n, shapes[s].k, kind & 1, uses[kind / 2]);
}

/* Products of rows [from, from + rows) alone must be those rows of the product of all. */
static void check_rows_alone(struct ops *o, int64_t n, int64_t k)
{
    enum { ALL = 520 };
    const int64_t some[] = { 1, 2, 3, 4, 5, 7, 8, 11, 12, 13, 16, 17, 31, 32, 33, 40, 257 };
    float *values, *x = ops_random(o, ALL * k, 1.0f), *all, *part;
    struct weight *w = ops_weight(o, n, k, WEIGHT_MATRIX, 1.0f, &values);
    void *in = ops_up(o, x, ALL * k), *out = ops_poisoned_act(o, ALL * n), *few = ops_poisoned_act(o, ALL * n);

    o->be->ops->matmul(o->be, w, NULL, in, ALL, out, false);
    all = ops_down(o, LANE_COMPUTE, out, ALL * n);
    for (size_t i = 0; i < sizeof some / sizeof some[0]; i++) {
        int64_t rows = some[i], from = ops_below(o, ALL - rows);

        o->be->ops->matmul(o->be, w, NULL, (const float *)in + from * k, rows, few, false);
        part = ops_down(o, LANE_COMPUTE, few, ALL * n);
        ops_equal_bytes(o, "rows by themselves", part, all + from * n, (uint64_t)(rows * n) * sizeof *part);
    }
    o->be->ops->weight_close(o->be, w);
}

void check_alone(struct ops *o)
{
    if (!o->be->ops->host_is_device)
        return;
    check_rows_alone(o, 96, 576);
    check_rows_alone(o, 200, 1536);
    check_rows_alone(o, 65, 31);
}
