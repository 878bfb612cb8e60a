/* SPDX-License-Identifier: Apache-2.0 */
/*
 * score_values.c - norms of V rows after the output projection, and small learned layers.
 *
 *   value_out_norms   v [64][D] . Wo_a [D][dim]: the packed projection's depth [a D, (a + 1) D) is read where it lies, a
 *                     block of 64 rows at a time; [T][dim] is never held
 *   linear            x . w^T + b in f32
 *
 * PRESSES 2.4 (arXiv:2502.03805), 2.5 (KVzap, Fast-KVzip).
 */
#include "kernels/cpu/product.h"

#include <assert.h>
#include <math.h>
#include <string.h>

enum { BLOCK = 48, COLUMN_PANELS = 16 };

/* ---- norms after the projection -------------------------------------------------------------------------------------- */

struct norms {
    const struct cpu *c;
    const struct kv_rows *in;
    const struct weight *o;
    int32_t group, power;
    int64_t pieces, room_floats;
    float *rooms, *out;
};

static float abs_sum(const float *x, int64_t count)
{
    float part[8] = { 0 }, sum = 0;

    for (int64_t i = 0; i + 8 <= count; i += 8)
        for (int j = 0; j < 8; j++)
            part[j] += fabsf(x[i + j]);
    for (int64_t i = count / 8 * 8; i < count; i++)
        sum += fabsf(x[i]);
    for (int j = 0; j < 8; j++)
        sum += part[j];
    return sum;
}

/* sums[r] += the power sum over the projection's columns of V rows [count] as operands. */
static void add_columns(const struct norms *s, const char *operands, int32_t count, int32_t a, float *columns,
                        float *sums)
{
    const struct cpu_math *math = s->c->math;
    const int32_t units = s->in->dim / cpu_unit_numbers(s->c);
    const int64_t width = COLUMN_PANELS * math->panel;
    struct tile t = {
        .a_stride = (int64_t)units * math->operand_bytes,
        .b_stride = math->panel * 4,
        .b_panel = s->o->panel_bytes,
        .c = columns,
        .c_stride = width,
        .units = units,
    };

    for (int64_t panel = 0; panel < s->o->panels; panel += COLUMN_PANELS) {
        t.panels = (int32_t)(s->o->panels - panel < COLUMN_PANELS ? s->o->panels - panel : COLUMN_PANELS);
        t.b = (const char *)s->o->packed + panel * s->o->panel_bytes + (int64_t)a * units * math->panel * 4;
        for (int32_t row = 0; row < count; row += math->strip) {
            t.rows = count - row < math->strip ? count - row : math->strip;
            t.a = operands + row * t.a_stride;
            math->tile(&t);
            for (int32_t r = 0; r < t.rows; r++) {
                const float *x = columns + r * width;
                int32_t numbers = t.panels * math->panel;

                sums[row + r] += s->power == 1 ? abs_sum(x, numbers) : s->c->loops->square_sum(x, numbers);
            }
        }
    }
}

static void norms_task(void *arg, int64_t i, int worker)
{
    const struct norms *s = arg;
    const struct cpu_math *math = s->c->math;
    const int32_t dim = s->in->dim, units = dim / cpu_unit_numbers(s->c), head = (int32_t)(i / s->pieces);
    int64_t row = i % s->pieces * BLOCK, left = s->in->rows[head] - row, all = s->in->at[s->in->heads];
    int32_t count = (int32_t)(left < BLOCK ? left : BLOCK);
    float *rows = s->rooms + worker * s->room_floats, *columns = rows + BLOCK * dim;
    char *operands = (char *)(columns + STRIP_MAX * COLUMN_PANELS * PANEL_MAX);
    const float *v;

    if (count <= 0)
        return;
    v = view_rows(s->c, s->in, true, head, row, count, rows);
    for (int32_t r = 0; r < count; r++) {
        char *to = operands + (int64_t)r * units * math->operand_bytes;

        if (math->operand)
            math->operand(v + (int64_t)r * dim, dim, to);
        else
            memcpy(to, v + (int64_t)r * dim, (size_t)dim * 4);
    }
    for (int32_t h = 0; h < s->group; h++) {
        float sums[BLOCK] = { 0 }, *out = s->out + h * all + s->in->at[head] + row;

        add_columns(s, operands, count, head * s->group + h, columns, sums);
        for (int32_t r = 0; r < count; r++)
            out[r] = s->power == 1 ? sums[r] : sqrtf(sums[r]);
    }
}

void cpu_value_out_norms(struct backend *be, const struct kv_rows *in, const struct weight *o, int32_t q_heads,
                         int32_t power, float *out)
{
    struct cpu *c = cpu_of(be);
    struct norms s = { .c = c, .in = in, .o = o, .group = q_heads / in->heads, .power = power, .out = out };

    assert(o->packed && o->cols == (int64_t)q_heads * in->dim);
    assert(in->dim / cpu_unit_numbers(c) % c->math->units_align == 0);
    s.pieces = (view_longest(in) + BLOCK - 1) / BLOCK;
    s.room_floats = BLOCK * in->dim + STRIP_MAX * COLUMN_PANELS * PANEL_MAX +
                    (int64_t)BLOCK * in->dim / cpu_unit_numbers(c) * c->math->operand_bytes / 4;
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
