/* SPDX-License-Identifier: Apache-2.0 */
/* view.c - a view of random rows for checks of scores, and the comparison of scores. */
#include "tests/ops/view.h"

#include <math.h>

struct layer_view view_make(struct ops *o, int32_t heads, int32_t dim, int64_t tokens, bool ragged)
{
    struct layer_view w = { .rows = { .heads = heads, .dim = dim, .dtype = o->be->kv } };
    const int64_t stride = tokens + 3;

    w.token = arena_array(&o->arena, (size_t)(heads * tokens) + 1, sizeof *w.token);
    for (int32_t g = 0; g < heads; g++) {
        w.rows.first[g] = g * stride;
        w.rows.at[g] = w.scores;
        for (int64_t t = 0; t < tokens; t++)
            if (!ragged || ops_below(o, heads + 1) > g)
                w.token[w.scores++] = (int32_t)t;
        w.rows.rows[g] = w.scores - w.rows.at[g];
    }
    w.rows.at[heads] = w.scores;
    w.k = ops_random(o, heads * stride * dim, 1.0f);
    w.v = ops_random(o, heads * stride * dim, 1.0f);
    w.rows.k = ops_up_kv(o, w.k, heads * stride * dim);
    w.rows.v = ops_up_kv(o, w.v, heads * stride * dim);
    if (ragged)
        w.rows.token = ops_up_bytes(o, w.token, (uint64_t)w.scores * sizeof *w.token);
    return w;
}

const float *view_row(const struct layer_view *w, const float *x, int32_t g, int64_t row)
{
    return x + (w->rows.first[g] + row) * w->rows.dim;
}

double view_dot(const float *x, const float *y, int32_t dim)
{
    double sum = 0;

    for (int32_t d = 0; d < dim; d++)
        sum += (double)x[d] * (double)y[d];
    return sum;
}

/* Compares scores with `want`, within `tolerance` of the largest. */
void view_judge(struct ops *o, const char *what, const void *device, const double *want, int64_t count,
                double tolerance)
{
    float *got = ops_down_bytes(o, LANE_PRESS, device, (uint64_t)count * sizeof *got);
    double *bound = ops_doubles(o, count), most = 0;

    for (int64_t i = 0; i < count; i++)
        most = fabs(want[i]) > most ? fabs(want[i]) : most;
    for (int64_t i = 0; i < count; i++)
        bound[i] = tolerance * most + 1e-30;
    ops_near(o, what, got, want, bound, count);
}

void *view_scores(struct ops *o, int64_t count)
{
    return ops_poisoned(o, (uint64_t)count * sizeof(float));
}
