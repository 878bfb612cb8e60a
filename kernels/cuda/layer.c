/* SPDX-License-Identifier: Apache-2.0 */
/*
 * layer.c - the half-layers and prefill: arguments checked, the right kernel launched, failures remembered.
 *
 * Inside a step (step.c) row counts are those of the recorded shape: step_rows_of pads them.
 */
#include "kernels/cuda/cuda.h"

#include <assert.h>

void cuda_embed(struct backend *be, const struct weight *table, const int32_t *ids, int64_t rows, float scale, void *x)
{
    struct cuda *c = cuda_of(be);

    if (rows > 0)
        cuda_failed(c,
                    launch_embed(cuda_compute(c), be->act, table->data, (int32_t)table->rows, ids, NULL, rows,
                                 (int32_t)table->cols, scale, x),
                    "embed");
}

void cuda_rms_norm(struct backend *be, const void *x, const struct weight *w, float eps, int64_t rows, int32_t dim,
                   void *out)
{
    struct cuda *c = cuda_of(be);

    rows = step_rows_of(c, rows);
    if (rows > 0)
        cuda_failed(c, launch_rms_norm(cuda_compute(c), be->act, x, w->vector, eps, rows, dim, out), "rms_norm");
}

void cuda_add_normed(struct backend *be, void *y, const struct weight *w, float eps, int64_t rows, int32_t dim, void *x)
{
    struct cuda *c = cuda_of(be);

    rows = step_rows_of(c, rows);
    if (rows > 0)
        cuda_failed(c, launch_add_normed(cuda_compute(c), be->act, y, w->vector, eps, rows, dim, x), "add_normed");
}

void cuda_matmul(struct backend *be, const struct weight *w, const struct weight *bias, const void *in, int64_t rows,
                 void *out, bool accumulate)
{
    struct cuda *c = cuda_of(be);
    const enum gemm_out kind = accumulate ? GEMM_ADDS : w->use == WEIGHT_QKV ? GEMM_F32 : GEMM_ACT;
    const struct gemm_shape shape = { step_rows_of(c, rows), w->rows, w->cols, bias != NULL, kind };
    struct few_product product = {
        .kind = FEW_PLAIN,
        .args = { .w = w->data,
                  .in = in,
                  .bias = bias ? bias->vector : NULL,
                  .out = out,
                  .rows = (int32_t)shape.rows,
                  .n = (int32_t)shape.n,
                  .k = (int32_t)shape.k,
                  .ahead = c->memory_idles ? CUDA_AHEAD_IDLE_BYTES : CUDA_AHEAD_BYTES,
                  .accumulate = accumulate },
    };

    assert(w->data);
    if (shape.rows == 0)
        return;
    c->memory_idles = false;
    if (few_takes(c, &shape) && few_run(c, &product, shape.rows))
        return;
    (void)cuda_compute(c);
    if (!gemm_run(c, &shape, w->data, bias ? kind == GEMM_ACT ? bias->bias : bias->vector : NULL, in, out))
        cuda_failed(
            c, launch_product(cuda_compute(c), be->act, kind == GEMM_ACT ? be->act : DT_F32, &product.args, shape.rows),
            "matmul");
}

bool cuda_normed_gated(struct backend *be, const struct normed_product *p, enum activation kind, const void *x,
                       int64_t rows, void *out)
{
    struct cuda *c = cuda_of(be);
    struct few_product product;

    rows = step_rows_of(c, rows);
    product = few_normed(p, x, rows, out);
    product.kind = FEW_GATED;
    product.args.kind = (int32_t)kind;
    return rows == 0 || few_run(c, &product, rows);
}

void cuda_gated(struct backend *be, enum activation kind, const void *gate_up, int64_t rows, int32_t ff, void *out)
{
    struct cuda *c = cuda_of(be);

    rows = step_rows_of(c, rows);
    if (rows > 0)
        cuda_failed(c, launch_gated(cuda_compute(c), be->act, kind, gate_up, rows, ff, out), "gated");
}

void cuda_gather_rows(struct backend *be, const void *x, const int32_t *index, int64_t count, int32_t dim, void *out)
{
    struct cuda *c = cuda_of(be);

    if (count > 0)
        cuda_failed(c, launch_gather_rows(cuda_compute(c), be->act, x, index, count, dim, out), "gather_rows");
}

void cuda_argmax(struct backend *be, const void *logits, int64_t rows, int32_t vocab, int32_t *ids)
{
    struct cuda *c = cuda_of(be);
    const int64_t step = CUDA_ARGMAX_ROWS;

    for (int64_t row = 0; row < rows; row += step) {
        const char *at = (const char *)logits + (uint64_t)(row * vocab) * act_bytes(c);
        int64_t count = rows - row < step ? rows - row : step;

        cuda_failed(c,
                    launch_argmax(cuda_compute(c), be->act, at, count, vocab, c->argmax_partial, c->argmax_count,
                                  (struct chosen){ .ids = ids + row }),
                    "argmax");
    }
}

struct rotate_args layer_rotation(const struct qkv_shape *shape, const struct rope_table *rope)
{
    return (struct rotate_args){ .q_heads = shape->q_heads,
                                 .kv_heads = shape->kv_heads,
                                 .dim = shape->dim,
                                 .rope_dims = rope->dims,
                                 .rope_tables = rope->tables,
                                 .rope_from = rope->from,
                                 .inv_freq = rope->inv_freq,
                                 .rope_scale = rope->scale,
                                 .norm_eps = shape->norm_eps,
                                 .q_norm = shape->q_norm ? shape->q_norm->vector : NULL,
                                 .k_norm = shape->k_norm ? shape->k_norm->vector : NULL };
}

void cuda_qkv_to_layer(struct backend *be, const struct qkv_shape *shape, const struct rope_table *rope,
                       const void *qkv, const int32_t *position, int64_t rows, void *q, void *q_plain,
                       const struct kv_layer *kv, int64_t token)
{
    struct cuda *c = cuda_of(be);
    struct rotate_args args = layer_rotation(shape, rope);

    args.qkv = qkv;
    args.position = position;
    args.q = q;
    args.q_plain = q_plain;
    args.k = kv->k;
    args.v = kv->v;
    args.stride = kv->stride;
    args.token = token;
    assert(kv->dtype == be->kv && token + rows <= kv->stride);
    if (rows > 0)
        cuda_failed(c, launch_rotate(cuda_compute(c), be->act, &args, rows), "qkv_to_layer");
}

static void attend_span(struct cuda *c, const struct attn_span *s, const void *q, int32_t q_heads, float scale,
                        int32_t window, void *out, float *lse, int64_t lse_stride)
{
    const uint64_t at = (uint64_t)s->row * (uint64_t)(q_heads * s->kv.dim) * act_bytes(c);
    const struct attend_args args = { .q = (const char *)q + at,
                                      .k = s->kv.k,
                                      .v = s->kv.v,
                                      .out = (char *)out + at,
                                      .lse = lse,
                                      .rows = s->rows,
                                      .token = s->token,
                                      .stride = s->kv.stride,
                                      .lse_stride = lse_stride,
                                      .q_heads = q_heads,
                                      .kv_heads = s->kv.heads,
                                      .dim = s->kv.dim,
                                      .window = window,
                                      .scale = scale };

    if (s->rows > 0)
        cuda_failed(c, launch_attend(cuda_compute(c), c->base.act, &args), "attn_prefill");
}

void cuda_attn_prefill(struct backend *be, const struct attn_span *span, int32_t count, const void *q, int32_t q_heads,
                       float scale, int32_t window, void *out, float *lse, int64_t lse_stride)
{
    struct cuda *c = cuda_of(be);

    if (window == 0 && c->sdpa && sdpa_run(c, span, count, q, q_heads, scale, out, lse, lse_stride))
        return;
    for (int32_t i = 0; i < count; i++)
        attend_span(c, &span[i], q, q_heads, scale, window, out, lse, lse_stride);
}

void cuda_mix_rows(struct backend *be, const void *x, const int32_t *index, int32_t slices, int64_t rows, int32_t cols,
                   void *out)
{
    struct cuda *c = cuda_of(be);

    assert(slices >= 1 && slices <= cols);
    cuda_failed(c, launch_mix_rows(c->queue[LANE_PRESS], be->act, x, index, slices, rows, cols, out), "mix_rows");
}

void cuda_rotate_rows(struct backend *be, const void *in, int32_t heads, int32_t dim, const struct rope_table *rope,
                      int64_t position, int64_t step, int64_t rows, void *out)
{
    struct cuda *c = cuda_of(be);
    const struct rotate_rows_args args = {
        in, heads, dim, rope->dims, rope->inv_freq, rope->scale, position, step, out
    };

    if (rows > 0)
        cuda_failed(c, launch_rotate_rows(c->queue[LANE_PRESS], be->act, &args, rows), "rotate_rows");
}
