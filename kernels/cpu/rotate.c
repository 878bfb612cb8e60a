/* SPDX-License-Identifier: Apache-2.0 */
/*
 * rotate.c - from the fused projection to q, k and v where attention wants them.
 *
 *      qkv row   [ q: H x D | k: G x D | v: G x D ]
 *                    │          │         └──────────────────────────▶ row of the cache
 *                    │          └─ norm ─ rotate by position ────────▶ row of the cache
 *                    └─ norm ─┬─ rotate by position ─────────────────▶ q
 *                             └──────────────────────────────────────▶ q_plain, where a press wants it
 *
 * One pass over the row; the cache's rows are rounded to its dtype here and nowhere else.
 */
#include "kernels/cpu/cpu.h"

#include "kernels/cpu/cache.h"

#include <assert.h>
#include <string.h>

enum { ROWS_PER_TASK = 4 };

struct rotation {
    struct cpu *c;
    const struct qkv_shape *shape;
    const struct rope_table *rope;
    const float *qkv;
    const int32_t *position;
    const int32_t *length; /* NULL: position + 1 */
    float *q, *q_plain;
    int64_t rows;
    const struct kv_layer *kv; /* prefill: rows go to kv from `token` on */
    int64_t token;
    int32_t layer; /* decode (kv is NULL): rows go to the tails */
};

struct angle_table {
    float cos[KV_HEAD_DIM_MAX / 2], sin[KV_HEAD_DIM_MAX / 2];
};

static void norm_and_rotate(const struct rotation *r, const struct weight *norm, const struct angle_table *angle,
                            float *x, float *plain)
{
    const struct cpu_loops *loops = r->c->loops;
    const int32_t dim = r->shape->dim;

    if (norm)
        loops->rms_norm(x, norm->vector, r->shape->norm_eps, dim, x);
    if (plain)
        memcpy(plain, x, (size_t)dim * 4);
    if (r->rope->inv_freq)
        loops->rotate(x, angle->cos, angle->sin, r->rope->dims / 2);
}

static void store_row(const struct rotation *r, const float *x, void *row)
{
    if (r->c->base.kv == DT_BF16)
        r->c->loops->to_bf16(x, r->shape->dim, row);
    else
        memcpy(row, x, (size_t)r->shape->dim * 4);
}

static void place(const struct rotation *r, int64_t row, int32_t head, void **k, void **v)
{
    int64_t at;

    if (!r->kv) {
        cache_tail_place(r->c, r->layer, row, head, k, v);
        return;
    }
    at = (head * r->kv->stride + r->token + row) * r->shape->dim * cpu_kv_bytes(r->c);
    *k = (char *)r->kv->k + at;
    *v = (char *)r->kv->v + at;
}

/* The frequencies of a row in a sequence of `length` positions. */
static const float *table_at(const struct rope_table *rope, int32_t length)
{
    int64_t table = length - rope->from;

    if (table >= rope->tables)
        table = rope->tables - 1;
    return rope->inv_freq + (table > 0 ? table * (rope->dims / 2) : 0);
}

static void rotate_row(const struct rotation *r, int64_t row, float *room)
{
    const struct qkv_shape *s = r->shape;
    const int32_t dim = s->dim;
    const float *q_in = r->qkv + row * (s->q_heads + 2 * s->kv_heads) * dim, *k_in = q_in + (int64_t)s->q_heads * dim,
                *v_in = k_in + (int64_t)s->kv_heads * dim;
    float *q = r->q + row * s->q_heads * dim, *plain = r->q_plain ? r->q_plain + row * s->q_heads * dim : NULL;
    struct angle_table angle;

    if (r->rope->inv_freq)
        r->c->loops->angles(r->position[row], table_at(r->rope, r->length ? r->length[row] : r->position[row] + 1),
                            r->rope->dims / 2, r->rope->scale, angle.cos, angle.sin);
    memcpy(q, q_in, (size_t)s->q_heads * (size_t)dim * 4);
    for (int32_t h = 0; h < s->q_heads; h++)
        norm_and_rotate(r, s->q_norm, &angle, q + h * dim, plain ? plain + h * dim : NULL);
    for (int32_t g = 0; g < s->kv_heads; g++) {
        void *k, *v;

        place(r, row, g, &k, &v);
        memcpy(room, k_in + g * dim, (size_t)dim * 4);
        norm_and_rotate(r, s->k_norm, &angle, room, NULL);
        store_row(r, room, k);
        store_row(r, v_in + g * dim, v);
    }
}

static void rotate_task(void *arg, int64_t i, int worker)
{
    const struct rotation *r = arg;
    int64_t end = (i + 1) * ROWS_PER_TASK < r->rows ? (i + 1) * ROWS_PER_TASK : r->rows;

    for (int64_t row = i * ROWS_PER_TASK; row < end; row++)
        rotate_row(r, row, r->c->room[worker].row);
}

static void run_rotation(struct rotation *r)
{
    assert(r->shape->dim <= KV_HEAD_DIM_MAX && r->rope->dims <= r->shape->dim);
    pool_run(r->c->pool, (r->rows + ROWS_PER_TASK - 1) / ROWS_PER_TASK, rotate_task, r);
}

void cpu_qkv_to_layer(struct backend *be, const struct qkv_shape *shape, const struct rope_table *rope, const void *qkv,
                      const int32_t *position, int64_t rows, void *q, void *q_plain, const struct kv_layer *kv,
                      int64_t token)
{
    struct rotation r = { .c = cpu_of(be),
                          .shape = shape,
                          .rope = rope,
                          .qkv = qkv,
                          .position = position,
                          .q = q,
                          .q_plain = q_plain,
                          .rows = rows,
                          .kv = kv,
                          .token = token };

    assert(kv->dtype == be->kv && token + rows <= kv->stride);
    run_rotation(&r);
}

void cpu_qkv_to_tail(struct backend *be, const struct qkv_shape *shape, const struct rope_table *rope, int32_t layer,
                     const void *qkv, void *q)
{
    struct cpu *c = cpu_of(be);
    struct rotation r = { .c = c,
                          .shape = shape,
                          .rope = rope,
                          .qkv = qkv,
                          .position = cache_positions(c),
                          .length = cache_lengths(c),
                          .q = q,
                          .rows = cache_rows(c),
                          .layer = layer };

    run_rotation(&r);
}

/* ---- rotating rows by themselves ---- */

struct plain_rotation {
    const struct cpu *c;
    const struct rope_table *rope;
    const float *in;
    float *out;
    int32_t heads, dim;
    int64_t position, step;
};

static void plain_task(void *arg, int64_t row, int worker)
{
    const struct plain_rotation *r = arg;
    const int64_t width = (int64_t)r->heads * r->dim;
    float *to = r->out + row * width;
    struct angle_table angle;

    (void)worker;
    if (r->out != r->in)
        memcpy(to, r->in + row * width, (size_t)width * 4);
    if (!r->rope->inv_freq)
        return;
    r->c->loops->angles(r->position + row * r->step, r->rope->inv_freq, r->rope->dims / 2, r->rope->scale, angle.cos,
                        angle.sin);
    for (int32_t h = 0; h < r->heads; h++)
        r->c->loops->rotate(to + (int64_t)h * r->dim, angle.cos, angle.sin, r->rope->dims / 2);
}

void cpu_rotate_rows(struct backend *be, const void *in, int32_t heads, int32_t dim, const struct rope_table *rope,
                     int64_t position, int64_t step, int64_t rows, void *out)
{
    struct plain_rotation r = { .c = cpu_of(be),
                                .rope = rope,
                                .in = in,
                                .out = out,
                                .heads = heads,
                                .dim = dim,
                                .position = position,
                                .step = step };

    pool_run(r.c->pool, rows, plain_task, &r);
}

/* ---- queries as a press wants them while tokens are generated ---- */

struct plain_queries {
    const struct cpu *c;
    const struct qkv_shape *shape;
    const float *qkv;
    float *out;
};

static void queries_task(void *arg, int64_t row, int worker)
{
    const struct plain_queries *p = arg;
    const struct qkv_shape *s = p->shape;
    const int64_t width = (int64_t)s->q_heads * s->dim;
    float *to = p->out + row * width;

    (void)worker;
    memcpy(to, p->qkv + row * (s->q_heads + 2 * s->kv_heads) * s->dim, (size_t)width * 4);
    for (int32_t h = 0; h < s->q_heads && s->q_norm; h++)
        p->c->loops->rms_norm(to + (int64_t)h * s->dim, s->q_norm->vector, s->norm_eps, s->dim,
                              to + (int64_t)h * s->dim);
}

/* hot */
void cpu_queries_plain(struct backend *be, const struct qkv_shape *shape, const void *qkv, int64_t rows, void *out)
{
    struct plain_queries p = { cpu_of(be), shape, qkv, out };

    pool_run(p.c->pool, rows, queries_task, &p);
}
