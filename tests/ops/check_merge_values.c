/* SPDX-License-Identifier: Apache-2.0 */
/*
 * check_merge_values.c - values of rows that go, merged into the nearest row that stays, against double precision.
 *
 * Where the two nearest rows, or a cosine and the gate, are so close that f32 may choose the other one, either choice is
 * right and the head is not compared; the inputs are such that this is rare, and a check counts that it is.
 */
#include "tests/ops/ops.h"
#include "common/base/order.h"
#include "tests/ops/view.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

struct merged {
    const struct layer_view *w;
    const int32_t *index;
    const int64_t *first;
    double threshold, fraction;
    int32_t *gone, *nearest;
    double *cosine, *out; /* out: values as they should be, laid out as w->v */
};

static bool is_kept(const struct merged *m, int32_t g, int64_t row)
{
    for (int64_t i = m->first[g]; i < m->first[g + 1]; i++)
        if (m->index[i] == row)
            return true;
    return false;
}

/* The kept row nearest to `row`; false: two are equally near. */
static bool find(const struct merged *m, int32_t g, int64_t row, int32_t *best, double *cosine)
{
    const struct layer_view *w = m->w;
    const int32_t dim = w->rows.dim;
    const float *k = view_row(w, w->k, g, row);
    double second = -INFINITY;

    *cosine = -INFINITY;
    for (int64_t i = m->first[g]; i < m->first[g + 1]; i++) {
        const float *other = view_row(w, w->k, g, m->index[i]);
        double c = view_dot(k, other, dim) / sqrt(view_dot(k, k, dim) * view_dot(other, other, dim));

        if (c > *cosine) {
            second = *cosine;
            *cosine = c;
            *best = m->index[i];
        } else if (c > second) {
            second = c;
        }
    }
    return *cosine - second > 1e-5;
}

static double gate_of(struct ops *o, const struct merged *m, int64_t gone)
{
    double *sorted = ops_doubles(o, gone), place = (1 - m->fraction) * (double)(gone - 1), low = floor(place), gate;

    for (int64_t e = 0; e < gone; e++)
        sorted[e] = m->cosine[e] >= m->threshold ? m->cosine[e] : -INFINITY;
    qsort(sorted, (size_t)gone, sizeof *sorted, order_f64);
    if (m->fraction >= 1 || isinf(sorted[(int64_t)low]))
        return m->threshold;
    gate = sorted[(int64_t)low];
    gate += (place - low) * (sorted[(int64_t)ceil(place)] - gate);
    return fmax(gate, m->threshold);
}

static void add_values(const struct merged *m, int32_t g, int64_t row, int64_t gone, double gate)
{
    const struct layer_view *w = m->w;
    const int32_t dim = w->rows.dim;
    const float *v = view_row(w, w->v, g, row);
    double *out = m->out + (w->rows.first[g] + row) * dim, total = 0;

    for (int64_t e = 0; e < gone; e++) {
        const float *from = view_row(w, w->v, g, m->gone[e]);
        double here = sqrt(view_dot(from, from, dim)), there = sqrt(view_dot(v, v, dim)), weight;

        if (m->nearest[e] != row || m->cosine[e] < gate || m->cosine[e] <= 0)
            continue;
        weight = m->cosine[e] * here / (here + there + 1e-6);
        total += weight;
        for (int32_t d = 0; d < dim; d++)
            out[d] += weight * (double)from[d];
    }
    for (int32_t d = 0; d < dim; d++)
        out[d] /= 1 + total;
}

/* One head; false: f32 may choose otherwise. */
static bool ref_head(struct ops *o, const struct merged *m, int32_t g)
{
    int64_t gone = 0;
    bool sure = true;
    double gate;

    for (int64_t row = 0; row < m->w->rows.rows[g]; row++)
        if (!is_kept(m, g, row)) {
            m->gone[gone] = (int32_t)row;
            sure = find(m, g, row, &m->nearest[gone], &m->cosine[gone]) && sure;
            gone++;
        }
    if (gone == 0 || m->first[g + 1] == m->first[g])
        return true;
    gate = gate_of(o, m, gone);
    for (int64_t e = 0; e < gone; e++) /* the quantile itself may be a row's cosine, and that row passes */
        sure = sure && (m->cosine[e] == gate || fabs(m->cosine[e] - gate) > 1e-6);
    for (int64_t i = m->first[g]; i < m->first[g + 1]; i++)
        add_values(m, g, m->index[i], gone, gate);
    return sure;
}

static int compare_head(struct ops *o, const struct merged *m, int32_t g, const float *got)
{
    const struct layer_view *w = m->w;
    const int64_t at = w->rows.first[g] * w->rows.dim, count = w->rows.rows[g] * w->rows.dim;
    double *tolerance = ops_doubles(o, count + 1);

    if (!ref_head(o, m, g))
        return 0;
    for (int64_t i = 0; i < count; i++)
        tolerance[i] = 2 * ops_eps_kv(o) * fabs(m->out[at + i]) + 1e-5;
    ops_near(o, "merged values", got + at, m->out + at, tolerance, count);
    return 1;
}

static int check_merge(struct ops *o, int32_t heads, int32_t dim, int64_t tokens, double threshold, double fraction)
{
    struct layer_view w = view_make(o, heads, dim, tokens, heads % 2);
    const int64_t numbers = (w.rows.first[heads - 1] + tokens + 3) * dim;
    int64_t first[KV_HEADS_MAX + 1] = { 0 };
    int32_t *index = arena_array(&o->arena, (size_t)w.scores + 1, sizeof *index);
    struct merged m = { .w = &w, .index = index, .first = first, .threshold = threshold, .fraction = fraction };
    float *got;
    int compared = 0;

    m.gone = arena_array(&o->arena, (size_t)tokens, sizeof *m.gone);
    m.nearest = arena_array(&o->arena, (size_t)tokens, sizeof *m.nearest);
    m.cosine = ops_doubles(o, tokens);
    m.out = ops_doubles(o, numbers);
    for (int64_t i = 0; i < numbers; i++)
        m.out[i] = (double)w.v[i];
    for (int32_t g = 0; g < heads; g++) {
        first[g + 1] = first[g];
        for (int64_t r = 0; r < w.rows.rows[g]; r++)
            if (ops_below(o, g + 2) == 0)
                index[first[g + 1]++] = (int32_t)r;
    }
    o->be->ops->merge_values(o->be, &w.rows, ops_up_bytes(o, index, (uint64_t)w.scores * sizeof *index), first,
                             (float)threshold, fraction);
    o->be->ops->wait(o->be, LANE_PRESS);
    got = arena_array(&o->arena, (size_t)numbers, sizeof *got);
    {
        const uint64_t bytes = dtype_bytes(o->be->kv, (uint64_t)numbers);
        void *raw = arena_alloc(&o->arena, bytes);

        o->be->ops->download(o->be, LANE_PRESS, raw, w.rows.v, bytes);
        o->be->ops->wait(o->be, LANE_PRESS);
        dtype_to_f32(got, raw, o->be->kv, (uint64_t)numbers);
    }
    for (int32_t g = 0; g < heads; g++)
        compared += compare_head(o, &m, g, got);
    return compared;
}

void check_merge_values(struct ops *o)
{
    int compared = 0;

    if (!o->be->ops->merge_values)
        return;
    compared += check_merge(o, 2, 64, 200, 0.0, 1.0);
    compared += check_merge(o, 3, 16, 150, 0.3, 1.0);
    compared += check_merge(o, 2, 32, 130, 0.1, 0.45);
    compared += check_merge(o, 1, 80, 90, -1.0, 0.2);
    compared += check_merge(o, 4, 8, 60, 0.95, 0.5);
    ops_true(o, "most heads can be compared", compared >= 7);
}
