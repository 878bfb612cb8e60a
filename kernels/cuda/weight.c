/* SPDX-License-Identifier: Apache-2.0 */
/*
 * weight.c - a weight from the checkpoint's rows to device memory in the compute dtype, row-major as it stood.
 *
 *      rows [N][K] f32 ──read──▶ pinned ──▶ device f32 ──convert──▶ [N][K] bf16
 *
 * Products read the same memory as the embedding, so a tied head costs nothing. Waits: loading happens before serving.
 */
#include "kernels/cuda/cuda.h"

#include "common/base/arena.h"

#include <stdlib.h>

enum { STAGE_BYTES = 32 << 20 };

static enum status read_rows(struct cuda *c, const struct weight_source *src, void *to, enum dtype t, struct err *err)
{
    const uint64_t row_bytes = (uint64_t)src->cols * 4;
    const int64_t most = row_bytes < STAGE_BYTES ? (int64_t)(STAGE_BYTES / row_bytes) : 1;
    const int64_t step = most < src->rows ? most : src->rows;
    void *host = NULL, *device = NULL;
    enum status st = cuda_host_alloc(&c->base, (uint64_t)step * row_bytes, &host, err);

    if (st == ST_OK)
        st = cuda_alloc(&c->base, (uint64_t)step * row_bytes, "other", &device, err);
    for (int64_t row = 0; st == ST_OK && row < src->rows; row += step) {
        int64_t rows = src->rows - row < step ? src->rows - row : step;
        char *at = (char *)to + (uint64_t)(row * src->cols) * dtype_bytes(t, 1);

        st = src->read(src->ctx, row, rows, host, err);
        if (st != ST_OK)
            break;
        cuda_upload(&c->base, LANE_COMPUTE, device, host, (uint64_t)rows * row_bytes);
        cuda_failed(c, launch_convert(c->queue[LANE_COMPUTE], t, device, rows * src->cols, at), "convert");
        cuda_wait(&c->base, LANE_COMPUTE);
        st = c->base.ops->health(&c->base, err);
    }
    cuda_free(&c->base, device);
    cuda_host_free(&c->base, host);
    return st;
}

static enum status fill(struct cuda *c, const struct weight_source *src, void *to, enum dtype t, struct err *err)
{
    if (src->random_seed == 0)
        return read_rows(c, src, to, t, err);
    cuda_failed(
        c, launch_random(c->queue[LANE_COMPUTE], t, src->random_seed, src->random_scale, src->rows * src->cols, to),
        "random weights");
    cuda_wait(&c->base, LANE_COMPUTE);
    return c->base.ops->health(&c->base, err);
}

/* A vector in the activations' dtype: biases stand in bf16 files, so this loses nothing. */
static enum status bias_open(struct cuda *c, struct weight *w, struct err *err)
{
    enum status st = cuda_alloc(&c->base, (uint64_t)w->cols * act_bytes(c), "weights", &w->bias, err);

    if (st != ST_OK)
        return st;
    cuda_failed(c, launch_convert(c->queue[LANE_COMPUTE], c->base.act, w->vector, w->cols, w->bias), "convert");
    cuda_wait(&c->base, LANE_COMPUTE);
    return c->base.ops->health(&c->base, err);
}

enum status cuda_weight_open(struct backend *be, const struct weight_source *src, enum weight_use use,
                             struct weight **out, struct err *err)
{
    struct cuda *c = cuda_of(be);
    const enum dtype t = use == WEIGHT_VECTOR ? DT_F32 : be->act;
    struct weight *w = mem_zero(1, sizeof *w);
    void *at = NULL;
    enum status st = cuda_alloc(be, (uint64_t)(src->rows * src->cols) * dtype_bytes(t, 1), "weights", &at, err);

    w->use = use;
    w->rows = src->rows;
    w->cols = src->cols;
    if (use == WEIGHT_VECTOR)
        w->vector = at;
    else
        w->data = at;
    if (st == ST_OK)
        st = fill(c, src, at, t, err);
    if (st == ST_OK && use == WEIGHT_VECTOR)
        st = bias_open(c, w, err);
    if (st == ST_OK && use != WEIGHT_VECTOR && use != WEIGHT_TABLE)
        st = gemm_tune(c, w->rows, w->cols,
                       use == WEIGHT_ADDS  ? GEMM_ADDS
                       : use == WEIGHT_QKV ? GEMM_F32
                                           : GEMM_ACT,
                       w->data, err);
    if (st != ST_OK) {
        cuda_weight_close(be, w);
        return st;
    }
    *out = w;
    return ST_OK;
}

void cuda_weight_close(struct backend *be, struct weight *w)
{
    if (!w)
        return;
    cuda_free(be, w->data);
    cuda_free(be, w->vector);
    cuda_free(be, w->bias);
    free(w);
}
