/* SPDX-License-Identifier: Apache-2.0 */
/*
 * score_values.c - norms of V rows after the output projection, and small learned layers.
 *
 *   value_out_norms   v [96][D] . Wo_a [D][dim]: the packed projection's depth [a D, (a + 1) D) is read where it lies, a
 *                     panel at a time, whose columns become sums at once; [T][dim] is never held
 *   linear            x . w^T + b in f32
 *
 * PRESSES 2.4 (arXiv:2502.03805), 2.5 (KVzap, Fast-KVzip).
 */
#include "kernels/cpu/product.h"

#include <assert.h>
#include <math.h>
#include <string.h>

enum {
    BLOCK = 48,
    NORM_ROWS = 96 /* a panel of the projection is in the first cache while they meet it */
};

/* ---- norms after the projection -------------------------------------------------------------------------------------- */

struct norms {
    const struct cpu *c;
    const struct kv_rows *in;
    const int32_t *index; /* NULL: all rows */
    const int64_t *first;
    const struct weight *o;
    int32_t group, power;
    int64_t pieces, room_floats;
    float *rooms, *out;
};

/* Row `i` of those that are wanted of a head. */
static int64_t row_of(const struct norms *s, int32_t head, int64_t i)
{
    return s->index ? s->index[s->first[head] + i] : i;
}

static int64_t rows_of(const struct norms *s, int32_t head)
{
    return s->index ? s->first[head + 1] - s->first[head] : s->in->rows[head];
}

/* V rows as operands. */
static void load_values(const struct norms *s, int32_t head, int64_t from, int32_t count, float *row, char *operands)
{
    const struct cpu_math *math = s->c->math;
    const int32_t dim = s->in->dim, bytes = dim / cpu_unit_numbers(s->c) * math->operand_bytes;

    for (int32_t r = 0; r < count; r++) {
        const float *v = view_rows(s->c, s->in, true, head, row_of(s, head, from + r), 1, row);

        if (math->operand)
            math->operand(v, dim, operands + (int64_t)r * bytes);
        else
            memcpy(operands + (int64_t)r * bytes, v, (size_t)bytes);
    }
}

/* parts [count][16]: pieces of the power sums over the projection's columns of V rows as operands, for query head a. */
static void add_columns(const struct norms *s, const char *operands, int32_t count, int32_t a, float *columns,
                        float *parts)
{
    const struct cpu_math *math = s->c->math;
    const int32_t units = s->in->dim / cpu_unit_numbers(s->c);
    struct tile t = {
        .a_stride = (int64_t)units * math->operand_bytes,
        .b_stride = math->panel * 4,
        .b_panel = s->o->panel_bytes,
        .c = columns,
        .c_stride = math->panel,
        .panels = 1,
        .units = units,
    };

    for (int64_t panel = 0; panel < s->o->panels; panel++) {
        t.b = (const char *)s->o->packed + panel * s->o->panel_bytes + (int64_t)a * units * math->panel * 4;
        for (int32_t row = 0; row < count; row += math->strip) {
            t.rows = count - row < math->strip ? count - row : math->strip;
            t.a = operands + row * t.a_stride;
            t.ahead[0] = row == 0 && panel + 1 < s->o->panels ? s->o->panel_bytes : 0;
            t.ahead[1] = t.ahead[0] + (t.ahead[0] ? 64 : 0);
            math->tile(&t);
            s->c->isa->score_loops->add_power(columns, t.rows, math->panel, s->power, parts + row * 16);
        }
    }
}

static void norms_task(void *arg, int64_t i, int worker)
{
    static const float ones[16] = { 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1 };
    const struct norms *s = arg;
    const int32_t head = (int32_t)(i / s->pieces);
    const int64_t from = i % s->pieces * NORM_ROWS, left = rows_of(s, head) - from, all = s->in->at[s->in->heads];
    int32_t count = (int32_t)(left < NORM_ROWS ? left : NORM_ROWS);
    float *row = s->rooms + worker * s->room_floats, *columns = row + KV_HEAD_DIM_MAX;
    char *operands = (char *)(columns + STRIP_MAX * PANEL_MAX);

    if (count <= 0)
        return;
    load_values(s, head, from, count, row, operands);
    for (int32_t h = 0; h < s->group; h++) {
        float sums[NORM_ROWS] = { 0 }, parts[NORM_ROWS * 16] = { 0 }, *out = s->out + h * all + s->in->at[head];

        add_columns(s, operands, count, head * s->group + h, columns, parts);
        s->c->isa->score_loops->rows_dot(parts, count, 16, ones, sums);
        for (int32_t r = 0; r < count; r++)
            out[row_of(s, head, from + r)] = s->power == 1 ? sums[r] : sqrtf(sums[r]);
    }
}

void cpu_value_out_norms(struct backend *be, const struct kv_rows *in, const int32_t *index, const int64_t *first,
                         const struct weight *o, int32_t q_heads, int32_t power, float *out)
{
    struct cpu *c = cpu_of(be);
    struct norms s = { .c = c,
                       .in = in,
                       .index = index,
                       .first = first,
                       .o = o,
                       .group = q_heads / in->heads,
                       .power = power,
                       .out = out };

    assert(o->packed && o->cols == (int64_t)q_heads * in->dim);
    assert(in->dim / cpu_unit_numbers(c) % c->math->units_align == 0);
    s.pieces = (view_longest(in) + NORM_ROWS - 1) / NORM_ROWS;
    s.room_floats = KV_HEAD_DIM_MAX + STRIP_MAX * PANEL_MAX +
                    (int64_t)NORM_ROWS * in->dim / cpu_unit_numbers(c) * c->math->operand_bytes / 4;
    s.room_floats = (s.room_floats + 15) / 16 * 16;
    cpu_press_reserve(c, s.room_floats * c->threads);
    s.rooms = c->press;
    pool_run(c->pool, s.pieces * in->heads, norms_task, &s);
}

/* ---- learned layers ------------------------------------------------------------------------------------------------------ */

struct layer {
    const struct cpu *c;
    const float *x, *packed, *bias;
    int64_t rows, cols, room_floats;
    int32_t outs;
    float *rooms, *out;
};

static void linear_task(void *arg, int64_t i, int worker)
{
    const struct layer *s = arg;
    int64_t row = i * BLOCK, count = s->rows - row < BLOCK ? s->rows - row : BLOCK,
            width = product_width(s->c, s->outs);
    float *y = s->rooms + worker * s->room_floats;

    product_run(s->c, s->x + row * s->cols, s->cols, count, s->packed, s->outs, s->cols, y, width, false);
    for (int64_t r = 0; r < count; r++)
        for (int32_t n = 0; n < s->outs; n++)
            s->out[(row + r) * s->outs + n] = y[r * width + n] + (s->bias ? s->bias[n] : 0.0f);
}

void cpu_linear(struct backend *be, const void *x, int64_t rows, int64_t cols, const float *w, const float *bias,
                int32_t outs, float *out)
{
    struct cpu *c = cpu_of(be);
    struct layer s = { .c = c, .x = x, .bias = bias, .rows = rows, .cols = cols, .outs = outs, .out = out };

    s.room_floats = BLOCK * product_width(c, outs);
    cpu_press_reserve(c, s.room_floats * c->threads + product_floats(c, outs, cols));
    s.rooms = c->press;
    s.packed = s.rooms + s.room_floats * c->threads;
    product_pack_columns(c, w, cols, outs, cols, s.rooms + s.room_floats * c->threads);
    pool_run(c->pool, (rows + BLOCK - 1) / BLOCK, linear_task, &s);
}
