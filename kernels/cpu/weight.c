/* SPDX-License-Identifier: Apache-2.0 */
/*
 * weight.c - a weight from the checkpoint's rows to the form that its use reads fastest.
 *
 *      rows [N][K] f32   ──▶   panels: [N / panel][K units][panel]     every product streams through this once
 *
 * A unit is one f32 or two neighbouring bf16 (tile.c). The last panel and the last units are filled with zeros. A tied
 * head is packed once; embed picks a row's units out of its panel.
 *
 * Reading (dequantising) and packing go on in parallel, some panels to a worker.
 */
#include "kernels/cpu/cpu.h"
#include "kernels/random.h"

#include "common/base/arena.h"

#include <assert.h>
#include <math.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

/* One reading in progress. */
struct reading {
    struct cpu *c;
    const struct weight_source *src;
    struct weight *w;
    int64_t step;      /* rows read at once */
    float **rows;      /* per worker: [step][cols] f32 */
    uint16_t **halves; /* per worker: [step][2 units], bf16 only */
    _Atomic int failed;
    struct err err; /* of the first failure */
};

/* normal(0, scale) by Box and Muller, from the number's place alone. */
static void random_rows(const struct weight_source *src, int64_t row, int64_t rows, float *out)
{
    for (int64_t i = 0; i < rows * src->cols; i++) {
        uint64_t x = random_mix(src->random_seed ^ random_mix((uint64_t)(row * src->cols + i)));
        float a = ((float)(x >> 40) + 0.5f) / 16777216.0f, b = (float)(x & 0xffffff) / 16777216.0f;

        out[i] = src->random_scale * sqrtf(-2.0f * logf(a)) * cosf(6.2831853f * b);
    }
}

static enum status read_rows(const struct weight_source *src, int64_t row, int64_t rows, float *out, struct err *err)
{
    if (src->random_seed == 0)
        return src->read(src->ctx, row, rows, out, err);
    random_rows(src, row, rows, out);
    return ST_OK;
}

static void pack_rows(struct reading *r, int64_t row, int64_t rows, const float *in, uint16_t *halves)
{
    const struct cpu *c = r->c;
    const int32_t panel = c->math->panel,
                  used = (int32_t)((r->w->cols + cpu_unit_numbers(c) - 1) / cpu_unit_numbers(c));
    const bool bf16 = c->base.kv == DT_BF16;
    const int64_t stride = bf16 ? (int64_t)used * 4 : r->w->cols * 4;

    if (bf16)
        for (int64_t i = 0; i < rows; i++) {
            halves[i * used * 2 + used * 2 - 1] = 0; /* an odd depth ends in half a unit */
            c->loops->to_bf16(in + i * r->w->cols, r->w->cols, halves + i * used * 2);
        }
    for (int64_t i = 0; i < rows; i += panel) {
        char *to = (char *)r->w->packed + (row + i) / panel * r->w->panel_bytes;
        int32_t count = (int32_t)(rows - i < panel ? rows - i : panel);
        const char *from = bf16 ? (const char *)halves : (const char *)in;

        c->isa->layout->panel_rows(from + i * stride, stride, count, used, panel, 0, to);
        memset(to + (int64_t)used * panel * 4, 0, (size_t)(r->w->units - used) * (size_t)panel * 4);
    }
}

static void store_rows(struct reading *r, int64_t row, int64_t rows, const float *in)
{
    const struct cpu *c = r->c;
    int64_t cols = r->w->cols;

    if (c->base.kv == DT_BF16)
        c->loops->to_bf16(in, rows * cols, (uint16_t *)r->w->table + row * cols);
    else
        memcpy((float *)r->w->table + row * cols, in, (size_t)(rows * cols) * 4);
}

static void read_step(void *arg, int64_t i, int worker)
{
    struct reading *r = arg;
    int64_t row = i * r->step, rows = r->w->rows - row < r->step ? r->w->rows - row : r->step;
    struct err err = { 0 };

    if (atomic_load_explicit(&r->failed, memory_order_relaxed))
        return;
    if (read_rows(r->src, row, rows, r->rows[worker], &err) != ST_OK) {
        if (atomic_exchange(&r->failed, 1) == 0)
            r->err = err;
        return;
    }
    if (r->w->packed)
        pack_rows(r, row, rows, r->rows[worker], r->halves[worker]);
    else
        store_rows(r, row, rows, r->rows[worker]);
}

static enum status read_all(struct cpu *c, const struct weight_source *src, struct weight *w, struct err *err)
{
    const int64_t panel = c->math->panel;
    struct reading r = { .c = c, .src = src, .w = w };
    int64_t at_once = 1 + (1 << 18) / (src->cols * panel);

    r.step = panel * (at_once < 16 ? at_once : 16);
    r.rows = mem_zero((size_t)c->threads, sizeof *r.rows);
    r.halves = mem_zero((size_t)c->threads, sizeof *r.halves);
    for (int t = 0; t < c->threads; t++) {
        r.rows[t] = mem_aligned((size_t)(r.step * src->cols) * 4);
        r.halves[t] = mem_aligned((size_t)(r.step * (src->cols + 1)) * 2);
    }
    pool_run(c->pool, (w->rows + r.step - 1) / r.step, read_step, &r);
    for (int t = 0; t < c->threads; t++) {
        free(r.rows[t]);
        free(r.halves[t]);
    }
    free(r.rows);
    free(r.halves);
    if (!atomic_load(&r.failed))
        return ST_OK;
    return err_set(err, r.err.code, "%s", r.err.text);
}

/* Room for the rows of a product of this depth as operands. */
static enum status operand_reserve(struct cpu *c, int64_t units, struct err *err)
{
    void *room;
    enum status st;

    if (units <= c->operand_units || (!c->math->operand && c->math->units_align == 1))
        return ST_OK;
    st = cpu_alloc(&c->base, (uint64_t)(c->rows_max * units * c->math->operand_bytes), "activations", &room, err);
    if (st != ST_OK)
        return st;
    cpu_free(&c->base, c->operand);
    c->operand = room;
    c->operand_units = units;
    return ST_OK;
}

static enum status matrix_open(struct cpu *c, const struct weight_source *src, struct weight *w, struct err *err)
{
    const int32_t align = c->math->units_align, numbers = cpu_unit_numbers(c);
    enum status st;

    w->units = (int32_t)((src->cols + numbers - 1) / numbers + align - 1) / align * align;
    w->panels = (src->rows + c->math->panel - 1) / c->math->panel;
    w->panel_bytes = (int64_t)w->units * c->math->panel * 4;
    st = operand_reserve(c, w->units, err);
    if (st != ST_OK)
        return st;
    st = cpu_alloc(&c->base, (uint64_t)(w->panels * w->panel_bytes), "weights", &w->packed, err);
    return st == ST_OK ? read_all(c, src, w, err) : st;
}

static enum status table_open(struct cpu *c, const struct weight_source *src, struct weight *w, struct err *err)
{
    enum status st =
        cpu_alloc(&c->base, (uint64_t)(src->rows * src->cols * cpu_kv_bytes(c)), "weights", &w->table, err);

    return st == ST_OK ? read_all(c, src, w, err) : st;
}

static enum status vector_open(struct cpu *c, const struct weight_source *src, struct weight *w, struct err *err)
{
    void *room;
    enum status st;

    assert(src->rows == 1);
    st = cpu_alloc(&c->base, (uint64_t)src->cols * 4, "weights", &room, err);
    if (st != ST_OK)
        return st;
    w->vector = room;
    return read_rows(src, 0, 1, w->vector, err);
}

enum status cpu_weight_open(struct backend *be, const struct weight_source *src, enum weight_use use,
                            struct weight **out, struct err *err)
{
    struct cpu *c = cpu_of(be);
    struct weight *w = mem_zero(1, sizeof *w);
    enum status st;

    *w = (struct weight){ .use = use, .rows = src->rows, .cols = src->cols };
    if (use == WEIGHT_VECTOR)
        st = vector_open(c, src, w, err);
    else if (use == WEIGHT_TABLE)
        st = table_open(c, src, w, err);
    else
        st = matrix_open(c, src, w, err);
    if (st != ST_OK) {
        cpu_weight_close(be, w);
        return st;
    }
    *out = w;
    return ST_OK;
}

void cpu_weight_close(struct backend *be, struct weight *w)
{
    if (!w)
        return;
    cpu_free(be, w->packed);
    cpu_free(be, w->table);
    cpu_free(be, w->vector);
    free(w);
}

/* Row `row` of a packed matrix: every unit of one column. */
static void packed_row(const struct cpu *c, const struct weight *w, int64_t row, float *out)
{
    const int32_t panel = c->math->panel;
    const uint32_t *unit = (const uint32_t *)((const char *)w->packed + row / panel * w->panel_bytes) + row % panel;

    if (c->base.kv == DT_F32)
        for (int64_t i = 0; i < w->cols; i++)
            memcpy(&out[i], unit + i * panel, 4);
    else
        for (int64_t i = 0; i < w->cols; i++)
            out[i] = bf16_to_f32((uint16_t)(unit[i / 2 * panel] >> (i % 2 * 16)));
}

void weight_row(const struct cpu *c, const struct weight *w, int64_t row, float *out)
{
    assert(row >= 0 && row < w->rows);
    if (w->packed)
        packed_row(c, w, row, out);
    else if (c->base.kv == DT_BF16)
        c->loops->from_bf16((const uint16_t *)w->table + row * w->cols, w->cols, out);
    else
        memcpy(out, (const float *)w->table + row * w->cols, (size_t)w->cols * 4);
}
