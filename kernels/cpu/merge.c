/* SPDX-License-Identifier: Apache-2.0 */
/*
 * merge.c - rows that go leave their value with the row that stays and whose key is nearest.
 *
 *      evicted e ──cos(k_e, k_t)──▶ nearest kept t, c      w = max(c, 0) |v_e| / (|v_e| + |v_t| + 1e-6), if c is good enough
 *      v_t = (v_t + sum w v_e) / (1 + sum w)
 *
 * PRESSES 2.4 (Merging). "Good enough": c >= threshold, and with fraction < 1 also c >= the (1 - fraction) quantile of all
 * evicted rows' c, those below the threshold counted as minus infinity. Where that quantile is minus infinity fewer than
 * `fraction` of the rows passed the threshold, and there is nothing more to hold back.
 */
#include "kernels/cpu/product.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { BLOCK = 48 };

struct merging {
    const struct cpu *c;
    const struct kv_rows *in;
    const int32_t *index;
    const int64_t *first;
    float threshold;
    double fraction;
    float *rooms; /* per head */
    int64_t room_floats, longest;
};

/* What one head works in. */
struct room {
    float *units;            /* [longest][D] kept keys of length one, then evicted ones, BLOCK at a time */
    float *packed;           /* kept keys */
    float *product;          /* [BLOCK][width] */
    float *cosine;           /* [longest] per evicted row */
    float *sorted;           /* [longest] */
    float *sum;              /* [longest][D + 1] per kept row: sum w v, and sum w */
    int32_t *gone, *nearest; /* [longest] evicted rows, and the kept slot each goes to */
};

static struct room room_at(const struct merging *s, int64_t head)
{
    const int64_t n = s->longest, dim = s->in->dim, width = product_width(s->c, n);
    float *at = s->rooms + head * s->room_floats;
    struct room r;

    r.units = at;
    r.packed = r.units + n * dim;
    r.product = r.packed + width * dim;
    r.cosine = r.product + BLOCK * width;
    r.sorted = r.cosine + n;
    r.sum = r.sorted + n;
    r.gone = (int32_t *)(r.sum + n * (dim + 1));
    r.nearest = r.gone + n;
    return r;
}

static int64_t room_size(const struct merging *s)
{
    const int64_t n = s->longest, dim = s->in->dim, width = product_width(s->c, n);

    return n * dim + width * dim + BLOCK * width + 2 * n + n * (dim + 1) + 2 * n;
}

static void unit_key(const struct merging *s, int32_t head, int64_t row, float *out)
{
    const float *k = view_rows(s->c, s->in, false, head, row, 1, out);
    float norm = sqrtf(s->c->loops->square_sum(k, s->in->dim));

    if (k != out)
        memcpy(out, k, (size_t)s->in->dim * 4);
    s->c->loops->scale(out, 1.0f / (norm > 1e-6f ? norm : 1e-6f), s->in->dim);
}

/* Fills gone with the rows that were not chosen; returns how many. */
static int64_t list_gone(const struct merging *s, int32_t head, int32_t *gone)
{
    int64_t count = 0, at = s->first[head];

    for (int64_t row = 0; row < s->in->rows[head]; row++)
        if (at < s->first[head + 1] && s->index[at] == row)
            at++;
        else
            gone[count++] = (int32_t)row;
    return count;
}

/* The nearest kept slot of every row that goes, and how near. */
static void find_nearest(const struct merging *s, int32_t head, struct room *r, int64_t gone)
{
    const int64_t dim = s->in->dim, kept = s->first[head + 1] - s->first[head], width = product_width(s->c, kept);

    for (int64_t i = 0; i < kept; i++)
        unit_key(s, head, s->index[s->first[head] + i], r->units + i * dim);
    product_pack_columns(s->c, r->units, dim, kept, dim, r->packed);
    for (int64_t e = 0; e < gone; e += BLOCK) {
        int64_t count = gone - e < BLOCK ? gone - e : BLOCK;

        for (int64_t i = 0; i < count; i++)
            unit_key(s, head, r->gone[e + i], r->units + i * dim);
        product_run(s->c, r->units, dim, count, r->packed, kept, dim, r->product, width, false);
        for (int64_t i = 0; i < count; i++)
            r->nearest[e + i] = (int32_t)s->c->loops->argmax(r->product + i * width, kept, &r->cosine[e + i]);
    }
}

static int ascending(const void *a, const void *b)
{
    float x = *(const float *)a, y = *(const float *)b;

    return (x > y) - (x < y);
}

/* What c must reach. */
static float gate_of(const struct merging *s, const struct room *r, int64_t gone)
{
    double place = (1.0 - s->fraction) * (double)(gone - 1), low = floor(place);
    float a, b;

    if (s->fraction >= 1.0)
        return s->threshold;
    for (int64_t e = 0; e < gone; e++)
        r->sorted[e] = r->cosine[e] >= s->threshold ? r->cosine[e] : -INFINITY;
    qsort(r->sorted, (size_t)gone, sizeof *r->sorted, ascending);
    a = r->sorted[(int64_t)low];
    b = r->sorted[(int64_t)ceil(place)];
    if (isinf(a))
        return s->threshold;
    a += (float)(place - low) * (b - a);
    return a > s->threshold ? a : s->threshold;
}

static float value_norm(const struct merging *s, int32_t head, int64_t row, float *room)
{
    return sqrtf(s->c->loops->square_sum(view_rows(s->c, s->in, true, head, row, 1, room), s->in->dim));
}

static void add_values(const struct merging *s, int32_t head, struct room *r, int64_t gone, float gate)
{
    const int32_t dim = s->in->dim;
    const int64_t kept = s->first[head + 1] - s->first[head];
    float buffer[KV_HEAD_DIM_MAX];

    memset(r->sum, 0, (size_t)(kept * (dim + 1)) * 4);
    for (int64_t e = 0; e < gone; e++) {
        int32_t slot = r->nearest[e];
        float *sum = r->sum + (int64_t)slot * (dim + 1), w, there, here;

        if (!(r->cosine[e] >= gate) || r->cosine[e] <= 0)
            continue;
        there = value_norm(s, head, s->index[s->first[head] + slot], buffer);
        here = value_norm(s, head, r->gone[e], buffer);
        w = r->cosine[e] * here / (here + there + 1e-6f);
        s->c->loops->blend(sum, 1.0f, view_rows(s->c, s->in, true, head, r->gone[e], 1, buffer), w, dim);
        sum[dim] += w;
    }
    for (int64_t slot = 0; slot < kept; slot++) {
        float *sum = r->sum + slot * (dim + 1);
        char *to = (char *)(uintptr_t)s->in->v +
                   (s->in->first[head] + s->index[s->first[head] + slot]) * dim * cpu_kv_bytes(s->c);

        if (!(sum[dim] > 0))
            continue;
        s->c->loops->add(sum, view_rows(s->c, s->in, true, head, s->index[s->first[head] + slot], 1, buffer), dim);
        s->c->loops->scale(sum, 1.0f / (1.0f + sum[dim]), dim);
        dtype_from_f32(to, s->in->dtype, sum, (uint64_t)dim);
    }
}

static void merge_task(void *arg, int64_t head, int worker)
{
    const struct merging *s = arg;
    struct room r = room_at(s, head);
    int64_t gone = list_gone(s, (int32_t)head, r.gone);

    (void)worker;
    if (gone == 0 || s->first[head + 1] == s->first[head])
        return;
    find_nearest(s, (int32_t)head, &r, gone);
    add_values(s, (int32_t)head, &r, gone, gate_of(s, &r, gone));
}

void cpu_merge_values(struct backend *be, const struct kv_rows *in, const int32_t *index, const int64_t *first,
                      float threshold, double fraction)
{
    struct cpu *c = cpu_of(be);
    struct merging s = { .c = c,
                         .in = in,
                         .index = index,
                         .first = first,
                         .threshold = threshold,
                         .fraction = fraction,
                         .longest = view_longest(in) };

    if (s.longest < BLOCK)
        s.longest = BLOCK;
    s.room_floats = room_size(&s);
    cpu_press_reserve(c, s.room_floats * in->heads);
    s.rooms = c->press;
    pool_run(c->pool, in->heads, merge_task, &s);
}
