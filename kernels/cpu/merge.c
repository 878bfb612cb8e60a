/* SPDX-License-Identifier: Apache-2.0 */
/*
 * merge.c - rows that go leave their value with the row that stays and whose key is nearest.
 *
 *      evicted e ──cos(k_e, k_t)──▶ nearest kept t, c      w = max(c, 0) |v_e| / (|v_e| + |v_t| + 1e-6), if c is good enough
 *      v_t = (v_t + sum w v_e) / (1 + sum w)
 *
 * Kept keys are laid out once per head; 48 evicted ones at a time meet them 64 by 64, and only the best so far is kept of
 * what comes out. Sums are made by ranges of kept rows, each in the order of the evicted ones.
 *
 * PRESSES 2.4 (Merging). "Good enough": c >= threshold, and with fraction < 1 also c >= the (1 - fraction) quantile of all
 * evicted rows' c, those below the threshold counted as minus infinity. Where that quantile is minus infinity fewer than
 * `fraction` of the rows passed the threshold, and there is nothing more to hold back.
 */
#include "kernels/cpu/product.h"

#include "common/base/order.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { ROWS = 48, COLUMNS = 64, PACKED = 256, LANES_MAX = 16, RANGES = 4 };

struct merging {
    const struct cpu *c;
    const struct cpu_score_loops *loops;
    const struct kv_rows *in;
    const int32_t *index;
    const int64_t *first;
    float threshold;
    double fraction;
    float *heads, *workers; /* rooms */
    int64_t head_floats, worker_floats, longest, pieces;
};

/* What one head works in. */
struct head_room {
    float *packed;           /* kept keys of length one, as columns */
    float *cosine;           /* [longest] per evicted row */
    float *sorted;           /* [longest] */
    float *k_norm, *v_norm;  /* [longest] of all rows */
    float *sum;              /* [longest][D + 1] per kept row: sum w v, and sum w */
    int32_t *gone, *nearest; /* [longest] evicted rows, and the kept slot each goes to */
    int64_t *count;          /* of evicted rows */
    float *gate;             /* what c must reach */
};

/* What one worker works in. */
struct worker_room {
    float *units;   /* [PACKED][D] */
    float *product; /* [ROWS][COLUMNS] */
    float *best;    /* [ROWS][LANES_MAX] */
    int32_t *at;
};

static struct head_room head_room(const struct merging *s, int64_t head)
{
    const int64_t n = s->longest, dim = s->in->dim;
    struct head_room r = { .packed = s->heads + head * s->head_floats };

    r.cosine = r.packed + product_width(s->c, n) * dim;
    r.sorted = r.cosine + n;
    r.k_norm = r.sorted + n;
    r.v_norm = r.k_norm + n;
    r.sum = r.v_norm + n;
    r.gone = (int32_t *)(r.sum + n * (dim + 1));
    r.nearest = r.gone + n;
    r.count = (int64_t *)(void *)(s->heads + (head + 1) * s->head_floats - 4);
    r.gate = (float *)(r.count + 1);
    return r;
}

static struct worker_room worker_room(const struct merging *s, int worker)
{
    struct worker_room r = { .units = s->workers + worker * s->worker_floats };

    r.product = r.units + PACKED * s->in->dim;
    r.best = r.product + ROWS * COLUMNS;
    r.at = (int32_t *)(r.best + ROWS * LANES_MAX);
    return r;
}

static int64_t kept_of(const struct merging *s, int32_t head)
{
    return s->first[head + 1] - s->first[head];
}

/* Fills gone with the rows that were not chosen. */
static void list_task(void *arg, int64_t head, int worker)
{
    const struct merging *s = arg;
    struct head_room r = head_room(s, head);
    int64_t count = 0, at = s->first[head];

    (void)worker;
    for (int64_t row = 0; row < s->in->rows[head]; row++)
        if (at < s->first[head + 1] && s->index[at] == row)
            at++;
        else
            r.gone[count++] = (int32_t)row;
    *r.count = count;
    *r.gate = s->threshold;
}

static void norm_task(void *arg, int64_t i, int worker)
{
    const struct merging *s = arg;
    const int32_t head = (int32_t)(i / s->pieces);
    const int64_t from = i % s->pieces * PACKED, left = s->in->rows[head] - from;
    const int64_t count = left < PACKED ? left : PACKED;
    struct head_room r = head_room(s, head);
    float *room = worker_room(s, worker).units;

    for (int values = 0; values < 2 && count > 0; values++) {
        float *norm = (values ? r.v_norm : r.k_norm) + from;

        s->loops->squares(view_rows(s->c, s->in, values, head, from, count, room), count, s->in->dim, norm);
        for (int64_t j = 0; j < count; j++)
            norm[j] = sqrtf(norm[j]);
    }
}

/* ---- the nearest kept row ------------------------------------------------------------------------------------------ */

/* Keys of rows row[0 .. count) made unit length. */
static void unit_keys(const struct merging *s, int32_t head, const int32_t *row, int64_t count, float *out)
{
    const int32_t dim = s->in->dim;
    const float *norm = head_room(s, head).k_norm;

    for (int64_t i = 0; i < count; i++, out += dim) {
        const float *k = view_rows(s->c, s->in, false, head, row[i], 1, out);

        if (k != out)
            memcpy(out, k, (size_t)dim * 4);
        s->c->loops->scale(out, 1.0f / (norm[row[i]] > 1e-6f ? norm[row[i]] : 1e-6f), dim);
    }
}

static void pack_task(void *arg, int64_t i, int worker)
{
    const struct merging *s = arg;
    const int32_t dim = s->in->dim, head = (int32_t)(i / s->pieces);
    const int64_t from = i % s->pieces * PACKED, left = kept_of(s, head) - from;
    const int64_t count = left < PACKED ? left : PACKED;
    struct worker_room w = worker_room(s, worker);

    if (count <= 0)
        return;
    unit_keys(s, head, s->index + s->first[head] + from, count, w.units);
    product_pack_columns(s->c, w.units, dim, count, dim, head_room(s, head).packed + from * dim);
}

/* Kept rows [from, from + COLUMNS) against `rows` evicted ones in w->units. */
static void meet(const struct merging *s, const struct head_room *r, const struct worker_room *w, int64_t rows,
                 int64_t from, int64_t kept)
{
    const int64_t dim = s->in->dim, count = kept - from < COLUMNS ? kept - from : COLUMNS;

    product_run(s->c, w->units, dim, rows, r->packed + from * dim, count, dim, w->product, COLUMNS, false);
    for (int64_t i = 0; i < rows && count < COLUMNS; i++)
        for (int64_t c = count; c < COLUMNS; c++)
            w->product[i * COLUMNS + c] = -INFINITY;
    s->loops->best_columns(w->product, rows, COLUMNS, (int32_t)from, w->best, w->at);
}

static void near_task(void *arg, int64_t i, int worker)
{
    const struct merging *s = arg;
    const int32_t head = (int32_t)(i / s->pieces);
    struct head_room r = head_room(s, head);
    struct worker_room w = worker_room(s, worker);
    int64_t from = i % s->pieces * ROWS, kept = kept_of(s, head);
    int64_t rows = *r.count - from < ROWS ? *r.count - from : ROWS;

    if (rows <= 0 || kept == 0)
        return;
    unit_keys(s, head, r.gone + from, rows, w.units);
    for (int64_t j = 0; j < rows * LANES_MAX; j++) {
        w.best[j] = -INFINITY;
        w.at[j] = 0;
    }
    for (int64_t column = 0; column < kept; column += COLUMNS)
        meet(s, &r, &w, rows, column, kept);
    s->loops->best_end(w.best, w.at, rows, r.cosine + from, r.nearest + from);
}

/* ---- what is near enough ---------------------------------------------------------------------------------------------- */

static void gate_task(void *arg, int64_t head, int worker)
{
    const struct merging *s = arg;
    struct head_room r = head_room(s, head);
    const int64_t gone = *r.count;
    double place = (1.0 - s->fraction) * (double)(gone - 1), low = floor(place);
    float a, b;

    (void)worker;
    if (gone == 0 || kept_of(s, (int32_t)head) == 0)
        return;
    for (int64_t e = 0; e < gone; e++)
        r.sorted[e] = r.cosine[e] >= s->threshold ? r.cosine[e] : -INFINITY;
    qsort(r.sorted, (size_t)gone, sizeof *r.sorted, order_f32);
    a = r.sorted[(int64_t)low];
    b = r.sorted[(int64_t)ceil(place)];
    if (isinf(a))
        return;
    a += (float)(place - low) * (b - a);
    *r.gate = a > s->threshold ? a : s->threshold;
}

/* ---- values -------------------------------------------------------------------------------------------------------------- */

static const float *value_of(const struct merging *s, int32_t head, int64_t row, float *room)
{
    return view_rows(s->c, s->in, true, head, row, 1, room);
}

/* Adds what goes to kept slots [low, high) to their sums. */
static void add_gone(const struct merging *s, int32_t head, struct head_room *r, int64_t low, int64_t high)
{
    const int32_t dim = s->in->dim;
    float room[KV_HEAD_DIM_MAX];

    for (int64_t e = 0; e < *r->count; e++) {
        int32_t slot = r->nearest[e];
        float *sum = r->sum + (int64_t)slot * (dim + 1), w, there, here;

        if (slot < low || slot >= high || !(r->cosine[e] >= *r->gate) || r->cosine[e] <= 0)
            continue;
        there = r->v_norm[s->index[s->first[head] + slot]];
        here = r->v_norm[r->gone[e]];
        w = r->cosine[e] * here / (here + there + 1e-6f);
        s->c->loops->blend(sum, 1.0f, value_of(s, head, r->gone[e], room), w, dim);
        sum[dim] += w;
    }
}

static void value_task(void *arg, int64_t i, int worker)
{
    const struct merging *s = arg;
    const int32_t dim = s->in->dim, head = (int32_t)(i / RANGES);
    const int64_t kept = kept_of(s, head), low = kept * (i % RANGES) / RANGES, high = kept * (i % RANGES + 1) / RANGES;
    struct head_room r = head_room(s, head);
    float room[KV_HEAD_DIM_MAX];

    (void)worker;
    if (*r.count == 0)
        return;
    memset(r.sum + low * (dim + 1), 0, (size_t)((high - low) * (dim + 1)) * 4);
    add_gone(s, head, &r, low, high);
    for (int64_t slot = low; slot < high; slot++) {
        float *sum = r.sum + slot * (dim + 1);
        int64_t row = s->index[s->first[head] + slot];

        if (!(sum[dim] > 0))
            continue;
        s->c->loops->add(sum, value_of(s, head, row, room), dim);
        s->c->loops->scale(sum, 1.0f / (1.0f + sum[dim]), dim);
        dtype_from_f32((char *)(uintptr_t)s->in->v + (s->in->first[head] + row) * dim * cpu_kv_bytes(s->c),
                       s->in->dtype, sum, (uint64_t)dim);
    }
}

static void merging_reserve(struct merging *s, struct cpu *c)
{
    const int64_t n = s->longest, dim = s->in->dim;

    s->head_floats = (product_width(c, n) * dim + 6 * n + n * (dim + 1) + 4 + 3) / 4 * 4;
    s->worker_floats = PACKED * dim + ROWS * COLUMNS + 2 * ROWS * LANES_MAX;
    cpu_press_reserve(c, s->head_floats * s->in->heads + s->worker_floats * c->threads);
    s->heads = c->press;
    s->workers = s->heads + s->head_floats * s->in->heads;
}

void cpu_merge_values(struct backend *be, const struct kv_rows *in, const int32_t *index, const int64_t *first,
                      float threshold, double fraction)
{
    struct cpu *c = cpu_of(be);
    struct merging s = { .c = c,
                         .loops = c->isa->score_loops,
                         .in = in,
                         .index = index,
                         .first = first,
                         .threshold = threshold,
                         .fraction = fraction,
                         .longest = view_longest(in) };

    merging_reserve(&s, c);
    pool_run(c->pool, in->heads, list_task, &s);
    s.pieces = (s.longest + PACKED - 1) / PACKED;
    pool_run(c->pool, s.pieces * in->heads, norm_task, &s);
    pool_run(c->pool, s.pieces * in->heads, pack_task, &s);
    s.pieces = (s.longest + ROWS - 1) / ROWS;
    pool_run(c->pool, s.pieces * in->heads, near_task, &s);
    if (fraction < 1.0)
        pool_run(c->pool, in->heads, gate_task, &s);
    pool_run(c->pool, (int64_t)RANGES * in->heads, value_task, &s);
}
