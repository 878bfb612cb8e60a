/* SPDX-License-Identifier: Apache-2.0 */
/*
 * attend.c - attention that never holds a T x T matrix, and prefill's use of it.
 *
 *             K (64 rows, as panels)      V (64 rows, as units)
 *   q strip ──▶ scores [strip][64] ──▶ exp(s - max) ──▶ out [strip][D] += p . V      max, sum, out are kept per row
 *
 * A decode node's few rows take K and V where they stand, where the instruction set can (direct.c); all else is the same.
 *
 * The heads of a group stand together as rows, so K and V are read and laid out once for all of them. Blocks of 64 begin
 * at multiples of 64 of the context's own token numbers, and a block of which a row sees nothing leaves its state as it
 * is: what a row gives does not depend on which other rows are asked for at the same time.
 *
 * A prefill task is (KV head, some tokens); the last tokens, which see most, are dealt out first.
 */
#include "kernels/cpu/attend.h"

#include <assert.h>
#include <math.h>
#include <string.h>

enum { DIRECT_AHEAD_BYTES = 2048 };

struct attend attend_shape(const struct cpu *c, int32_t dim, int32_t group, int32_t window, float scale)
{
    const int32_t align = c->math->units_align, numbers = cpu_unit_numbers(c);

    assert(dim % numbers == 0 && dim <= KV_HEAD_DIM_MAX && group <= ATTEND_ROWS);
    return (struct attend){
        .c = c,
        .dim = dim,
        .width = (dim + PANEL_MAX - 1) / PANEL_MAX * PANEL_MAX,
        .units = (dim / numbers + align - 1) / align * align,
        .group = group,
        .window = window,
        .scale = scale,
        .columns = ATTEND_TOKENS,
    };
}

void attend_directly(struct attend *a)
{
    if (a->c->base.kv != DT_BF16 || a->dim % 32 != 0 || !a->c->isa->direct)
        return;
    a->direct = a->c->isa->direct;
    a->columns = DIRECT_TOKENS;
}

static void operand_row(const struct attend *a, const float *in, int32_t count, char *out)
{
    const struct cpu_math *math = a->c->math;

    if (math->operand)
        math->operand(in, count, out);
    else
        memcpy(out, in, (size_t)count * 4);
}

void attend_reset(const struct attend *a, struct cpu_room *room, int32_t rows)
{
    for (int32_t r = 0; r < rows; r++) {
        room->max[r] = -INFINITY;
        room->sum[r] = 0.0f;
    }
    memset(room->out, 0, (size_t)rows * (size_t)a->width * 4);
}

void attend_queries(const struct attend *a, struct cpu_room *room, const float *q, int32_t q_heads, int32_t head,
                    int32_t tokens)
{
    const struct cpu_math *math = a->c->math;
    const int64_t bytes = (int64_t)a->units * math->operand_bytes;
    const int64_t used = (int64_t)a->dim / cpu_unit_numbers(a->c) * math->operand_bytes;
    char *to = room->q;

    for (int32_t i = 0; i < tokens; i++)
        for (int32_t h = 0; h < a->group; h++, to += bytes) {
            operand_row(a, q + ((int64_t)i * q_heads + head * a->group + h) * a->dim, a->dim, to);
            memset(to + used, 0, (size_t)(bytes - used));
        }
    attend_reset(a, room, tokens * a->group);
}

/* Scores of some rows as operands, weights of V: in the room. Gives where they stand, and the bytes between rows. */
static const void *weights_of(const struct attend *a, struct cpu_room *room, int32_t rows, int32_t units,
                              int64_t *stride)
{
    const struct cpu_math *math = a->c->math;

    *stride = a->columns * 4;
    if (!math->operand)
        return room->scores;
    *stride = (int64_t)a->columns / cpu_unit_numbers(a->c) * math->operand_bytes;
    for (int32_t r = 0; r < rows; r++)
        math->operand(room->scores + r * a->columns, units * cpu_unit_numbers(a->c),
                      (char *)room->weights + r * *stride);
    return room->weights;
}

void attend_load_keys(const struct attend *a, struct cpu_room *room, const void *k, int32_t count, int64_t ahead)
{
    const struct cpu *c = a->c;
    const int32_t panel = c->math->panel, used = a->dim / cpu_unit_numbers(c);
    const int64_t row_bytes = (int64_t)used * 4, panel_bytes = (int64_t)a->units * panel * 4;

    for (int32_t t = 0; t < count; t += panel) {
        char *to = (char *)room->k_panels + t / panel * panel_bytes;
        int32_t rows = count - t < panel ? count - t : panel;

        c->isa->layout->panel_rows((const char *)k + t * row_bytes, row_bytes, rows, used, panel, ahead, to);
        memset(to + (int64_t)used * panel * 4, 0, (size_t)(a->units - used) * (size_t)panel * 4);
    }
}

void attend_scores(const struct attend *a, struct cpu_room *room, int32_t row, int32_t rows, int32_t count)
{
    const struct cpu_math *math = a->c->math;
    const int64_t q_bytes = (int64_t)a->units * math->operand_bytes;
    const struct tile t = {
        .a = (const char *)room->q + row * q_bytes,
        .a_stride = q_bytes,
        .b = room->k_panels,
        .b_stride = math->panel * 4,
        .b_panel = (int64_t)a->units * math->panel * 4,
        .c = room->scores,
        .c_stride = a->columns,
        .rows = rows,
        .panels = (count + math->panel - 1) / math->panel,
        .units = a->units,
    };

    math->tile(&t);
}

/* V as units of the depth (its tokens). Returns how many; *v and *stride say where they stand. */
static int32_t load_values(const struct attend *a, struct cpu_room *room, const void **v, int32_t count, int64_t ahead)
{
    const struct cpu *c = a->c;
    const int32_t align = c->math->units_align;
    const float *rows = *v;

    if (c->base.kv == DT_BF16) {
        int32_t units = ((count + 1) / 2 + align - 1) / align * align;

        c->isa->layout->pair_rows(*v, a->dim, count, units * 2, a->dim, a->width, ahead, room->v_rows);
        *v = room->v_rows;
        return units;
    }
    if (a->dim == a->width)
        return count;
    for (int32_t t = 0; t < count; t++) {
        float *to = (float *)room->v_rows + (int64_t)t * a->width;

        memcpy(to, rows + (int64_t)t * a->dim, (size_t)a->dim * 4);
        memset(to + a->dim, 0, (size_t)(a->width - a->dim) * 4);
    }
    *v = room->v_rows;
    return count;
}

static void add_values(const struct attend *a, struct cpu_room *room, const void *v, int32_t row, int32_t rows,
                       int32_t units)
{
    const struct cpu_math *math = a->c->math;
    struct tile t = {
        .b = v,
        .b_stride = (int64_t)a->width * 4,
        .b_panel = math->panel * 4,
        .c = room->out + (int64_t)row * a->width,
        .c_stride = a->width,
        .rows = rows,
        .panels = a->width / math->panel,
        .units = units,
        .add = true,
    };

    t.a = weights_of(a, room, rows, units, &t.a_stride);
    math->tile(&t);
}

/* Columns of scores or weights times the scale of their row. */
static void scale_columns(const struct attend *a, float *scores, int32_t rows, const float *scale, int32_t count)
{
    for (int32_t r = 0; r < rows; r++, scores += a->columns)
        for (int32_t t = 0; t < count; t++)
            scores[t] *= scale[t];
}

/* K and V of some cache rows, laid out or where they stand. */
struct laid {
    struct direct_rows k, v; /* direct */
    const void *v_units;     /* panels */
    int32_t units;
};

static struct laid lay_out(const struct attend *a, struct cpu_room *room, const struct attend_rows *c, int64_t ahead)
{
    struct laid l = { .v_units = c->v };

    if (a->direct) {
        /* rows follow each other quickly: requests for a whole tile would come faster than memory takes them */
        const int64_t near = ahead < DIRECT_AHEAD_BYTES ? ahead : DIRECT_AHEAD_BYTES;

        l.k = (struct direct_rows){ c->k, c->count, a->dim, near };
        l.v = (struct direct_rows){ c->v, c->count, a->dim, near };
        return l;
    }
    l.units = load_values(a, room, &l.v_units, c->count, ahead);
    attend_load_keys(a, room, c->k, c->count, ahead);
    return l;
}

static void direct_scores(const struct attend *a, struct cpu_room *room, const struct laid *l, int32_t row,
                          int32_t rows)
{
    const int64_t q_bytes = (int64_t)a->units * a->c->math->operand_bytes;

    a->direct->scores(&l->k, (const char *)room->q + row * q_bytes, q_bytes, rows, room->scores, a->columns);
}

static void direct_values(const struct attend *a, struct cpu_room *room, const struct laid *l, int32_t row,
                          int32_t rows)
{
    int64_t stride;
    const void *weights = weights_of(a, room, rows, (l->v.count + 1) / 2, &stride);

    a->direct->values(&l->v, weights, stride, rows, room->out + (int64_t)row * a->width, a->width);
}

void attend_tokens(const struct attend *a, struct cpu_room *room, const struct attend_rows *c, int32_t rows,
                   int64_t seen)
{
    const int32_t strip = a->c->math->strip;
    /* The rows behind these are likely to come next. Many query rows hide the wait by themselves. */
    const int64_t ahead = rows <= strip && !c->near ? c->count * a->dim * cpu_kv_bytes(a->c) : 0;
    const struct laid l = lay_out(a, room, c, ahead);

    for (int32_t row = 0; row < rows; row += strip) {
        const struct score_mask mask = { .seen = seen, .row = row, .group = a->group, .window = a->window };
        int32_t here = rows - row < strip ? rows - row : strip;

        if (seen + (row + here - 1) / a->group <= 0)
            continue;
        if (a->direct)
            direct_scores(a, room, &l, row, here);
        else
            attend_scores(a, room, row, here, c->count);
        if (c->k_scale)
            scale_columns(a, room->scores, here, c->k_scale, c->count);
        a->c->loops->softmax(room->scores, a->columns, here, c->count, a->scale, &mask, room->max + row,
                             room->sum + row, room->out + (int64_t)row * a->width, a->width);
        if (c->v_scale)
            scale_columns(a, room->scores, here, c->v_scale, c->count);
        if (a->direct)
            direct_values(a, room, &l, row, here);
        else
            add_values(a, room, l.v_units, row, here, l.units);
    }
}

void attend_result(const struct attend *a, const struct cpu_room *room, int32_t r, float *out)
{
    const float *from = room->out + (int64_t)r * a->width;
    float factor = room->sum[r] > 0.0f ? 1.0f / room->sum[r] : 0.0f;

    for (int32_t i = 0; i < a->dim; i++)
        out[i] = from[i] * factor;
}

/* ---- prefill ---- */

struct prefill {
    struct attend a;
    const struct attn_span *span;
    const float *q;
    float *out, *lse;
    int64_t lse_stride;
    int32_t q_heads, task_tokens;
    int64_t pieces; /* of the span's tokens */
};

static void write_results(const struct prefill *p, const struct cpu_room *room, int64_t from, int32_t tokens,
                          int32_t head)
{
    const struct attend *a = &p->a;

    for (int32_t i = 0; i < tokens; i++)
        for (int32_t h = 0; h < a->group; h++) {
            int32_t r = i * a->group + h;
            int64_t q_head = head * a->group + h;

            attend_result(a, room, r, p->out + ((p->span->row + from + i) * p->q_heads + q_head) * a->dim);
            if (p->lse)
                p->lse[q_head * p->lse_stride + p->span->token + from + i] = room->max[r] + logf(room->sum[r]);
        }
}

static void prefill_task(void *arg, int64_t i, int worker)
{
    const struct prefill *p = arg;
    const struct attend *a = &p->a;
    const struct kv_layer *kv = &p->span->kv;
    struct cpu_room *room = &a->c->room[worker];
    int32_t head = (int32_t)(i % kv->heads);
    int64_t from = (p->pieces - 1 - i / kv->heads) * p->task_tokens, at = p->span->token + from;
    int32_t tokens = (int32_t)(p->span->rows - from < p->task_tokens ? p->span->rows - from : p->task_tokens);
    int64_t row_bytes = a->dim * cpu_kv_bytes(a->c), end = at + tokens, begin = 0;

    attend_queries(a, room, p->q + (p->span->row + from) * p->q_heads * a->dim, p->q_heads, head, tokens);
    if (a->window > 0 && at + 1 > a->window)
        begin = (at + 1 - a->window) / ATTEND_TOKENS * ATTEND_TOKENS;
    for (int64_t t = begin; t < end; t += ATTEND_TOKENS) {
        int64_t offset = (head * kv->stride + t) * row_bytes;
        struct attend_rows c = { .k = (const char *)kv->k + offset, .v = (const char *)kv->v + offset };

        c.count = (int32_t)(end - t < ATTEND_TOKENS ? end - t : ATTEND_TOKENS);
        attend_tokens(a, room, &c, tokens * a->group, at + 1 - t);
    }
    write_results(p, room, from, tokens, head);
}

void cpu_attn_prefill(struct backend *be, const struct attn_span *span, int32_t count, const void *q, int32_t q_heads,
                      float scale, int32_t window, void *out, float *lse, int64_t lse_stride)
{
    struct cpu *c = cpu_of(be);

    for (int32_t s = 0; s < count; s++) {
        const struct kv_layer *kv = &span[s].kv;
        struct prefill p = {
            .a = attend_shape(c, kv->dim, q_heads / kv->heads, window, scale),
            .span = &span[s],
            .q = q,
            .out = out,
            .lse = lse,
            .lse_stride = lse_stride,
            .q_heads = q_heads,
        };

        assert(kv->dtype == be->kv && q_heads % kv->heads == 0 && span[s].token + span[s].rows <= kv->stride);
        p.task_tokens = ATTEND_ROWS / p.a.group < ATTEND_TOKENS ? ATTEND_ROWS / p.a.group : ATTEND_TOKENS;
        p.pieces = (span[s].rows + p.task_tokens - 1) / p.task_tokens;
        pool_run(c->pool, p.pieces * kv->heads, prefill_task, &p);
    }
}
