/* SPDX-License-Identifier: Apache-2.0 */
/*
 * sdpa.c - prefill attention by cuDNN's fused kernel: plans, and calls with them.
 *
 *   rows of a span     [ 2048 | 2048 | 2048 ................ ][ what is left ]
 *                        a dense plan for so many rows and keys   the ragged plan
 *
 * One ragged plan per (heads, head size, allotted rows, log-sum-exp wanted) serves every mix of spans: whole contexts, the
 * next part of one, several short ones. Lengths and offsets lie on the device and are written in stream order before each
 * call; empty slots cost nothing. K and V offsets count from the lowest address among the spans. It is 5 to 14 % slower
 * than a plan for just these rows and keys, so long spans by themselves are cut at a multiple of DENSE_ROWS: few enough
 * lengths that there is a plan for each (docs/decisions/2026-11-29-dense-attention-plans.md).
 */
#include "kernels/cuda/sdpa.h"

#include "common/base/arena.h"
#include "kernels/cuda/cuda.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* A node of 128k tokens has 64 dense plans, twice that with log-sum-exps; and ragged ones: its own, those of the lengths that
 * prefill_held_rows gives, and of kvzip's columns, in multiples of 512. Fewer than LEFT_ROWS are not worth a call. */
enum { PLANS_MAX = 224, DENSE_ROWS = 2048, LEFT_ROWS = 512 };

struct sdpa_plan {
    struct sdpa_shape shape;
    cudnnBackendDescriptor_t plan;
    void *workspace;
    bool refused; /* cuDNN has no engine for it */
};

/* owned by: the engine thread. */
struct sdpa {
    cudnnHandle_t handle;
    struct span_arrays *arrays; /* device */
    struct sdpa_plan plan[PLANS_MAX];
    int32_t plans;
    int64_t dense_stride; /* of the layers that attn_prepare was told of: others pass once and are not worth plans */
};

/* ---- plans ---- */

static void plan_close(struct cuda *c, struct sdpa_plan *p)
{
    if (p->plan) {
        (void)cuda_lane_wait(c, LANE_COMPUTE, "attention before its plan goes");
        c->dnn.backend_destroy_descriptor(p->plan);
    }
    cuda_free(&c->base, p->workspace);
    memset(p, 0, sizeof *p);
}

/* Another kernel takes over: the ragged plan, or our own. */
static void tell_refused(struct cuda *c, const struct sdpa_shape *z, const char *where, cudnnStatus_t status)
{
    cuda_fell_back(c, &(struct fallback){ .instead = z->ragged ? "own attention" : "ragged attention",
                                          .library = "cudnn",
                                          .why = where ? where : "workspace",
                                          .status = (int32_t)status,
                                          .shape = { z->q_heads, z->kv_heads, z->dim } });
}

static void plan_open(struct cuda *c, struct sdpa_plan *p, const struct sdpa_shape *shape)
{
    cudnnStatus_t status = CUDNN_STATUS_SUCCESS;
    const char *where = NULL;
    int64_t bytes = 0, got = 0;

    p->shape = *shape;
    p->plan = sdpa_plan_build(&c->dnn, c->sdpa->handle, &p->shape, &status, &where);
    p->refused = p->plan == NULL;
    if (p->plan && c->dnn.backend_get_attribute(p->plan, CUDNN_ATTR_EXECUTION_PLAN_WORKSPACE_SIZE, CUDNN_TYPE_INT64, 1,
                                                &got, &bytes) != CUDNN_STATUS_SUCCESS)
        p->refused = true;
    if (!p->refused && bytes > 0 && cuda_alloc(&c->base, (uint64_t)bytes, "other", &p->workspace, NULL) != ST_OK)
        p->refused = true;
    if (p->refused)
        tell_refused(c, &p->shape, where, status);
}

static const struct sdpa_plan *plan_of(struct cuda *c, const struct sdpa_shape *shape)
{
    struct sdpa *s = c->sdpa;
    struct sdpa_plan *p;

    for (int32_t i = 0; i < s->plans; i++)
        if (memcmp(&s->plan[i].shape, shape, sizeof *shape) == 0)
            return &s->plan[i];
    if (s->plans < PLANS_MAX) {
        p = &s->plan[s->plans++];
    } else { /* the oldest makes room */
        plan_close(c, &s->plan[0]);
        memmove(&s->plan[0], &s->plan[1], (PLANS_MAX - 1) * sizeof s->plan[0]);
        p = &s->plan[PLANS_MAX - 1];
        memset(p, 0, sizeof *p);
    }
    plan_open(c, p, shape);
    return p;
}

static struct sdpa_shape ragged_shape(const struct cuda *c, int32_t q_heads, const struct kv_layer *kv,
                                      int64_t lse_stride)
{
    const int64_t rows =
        c->rows_max > 2 ? c->rows_max : 2; /* one row per span would be another engine, with a wrong lse */

    return (struct sdpa_shape){ .q_heads = q_heads,
                                .kv_heads = kv->heads,
                                .dim = kv->dim,
                                .stride = kv->stride,
                                .lse_stride = lse_stride,
                                .ragged = 1,
                                .spans = CUDA_SPANS_MAX,
                                .rows = rows,
                                .tokens = kv->stride > rows ? kv->stride : rows };
}

static struct sdpa_shape dense_shape(const struct sdpa_shape *ragged, int64_t rows, int64_t token)
{
    struct sdpa_shape dense = *ragged;

    dense.ragged = 0;
    dense.spans = 1;
    dense.rows = rows;
    dense.tokens = token + rows;
    return dense;
}

void cuda_attn_prepare(struct backend *be, int32_t q_heads, const struct kv_layer *kv)
{
    struct cuda *c = cuda_of(be);
    struct sdpa_shape ragged, dense;

    if (!c->sdpa || kv->dtype != DT_BF16 || kv->dim % 8 != 0)
        return;
    c->sdpa->dense_stride = kv->stride;
    ragged = ragged_shape(c, q_heads, kv, 0);
    if (plan_of(c, &ragged)->refused)
        return;
    for (int64_t token = 0; token < kv->stride; token += ragged.rows)
        for (int64_t rows = DENSE_ROWS; rows <= ragged.rows && token + rows <= kv->stride; rows += DENSE_ROWS) {
            dense = dense_shape(&ragged, rows, token);
            if (token % DENSE_ROWS != 0 || c->sdpa->plans == PLANS_MAX || plan_of(c, &dense)->refused)
                return;
        }
}

/* ---- running ---- */

static enum status execute(struct cuda *c, const struct sdpa_plan *p, int32_t count, const int64_t *uid, void **at)
{
    struct dnn_library *dnn = &c->dnn;
    cudnnBackendDescriptor_t pack = NULL;
    void *workspace = p->workspace;
    cudnnStatus_t st = dnn->backend_create_descriptor(CUDNN_BACKEND_VARIANT_PACK_DESCRIPTOR, &pack);

    if (st == CUDNN_STATUS_SUCCESS)
        st = dnn->backend_set_attribute(pack, CUDNN_ATTR_VARIANT_PACK_UNIQUE_IDS, CUDNN_TYPE_INT64, count, uid);
    if (st == CUDNN_STATUS_SUCCESS)
        st = dnn->backend_set_attribute(pack, CUDNN_ATTR_VARIANT_PACK_DATA_POINTERS, CUDNN_TYPE_VOID_PTR, count, at);
    if (st == CUDNN_STATUS_SUCCESS)
        st = dnn->backend_set_attribute(pack, CUDNN_ATTR_VARIANT_PACK_WORKSPACE, CUDNN_TYPE_VOID_PTR, 1, &workspace);
    if (st == CUDNN_STATUS_SUCCESS)
        st = dnn->backend_finalize(pack);
    if (st == CUDNN_STATUS_SUCCESS)
        st = dnn->backend_execute(c->sdpa->handle, p->plan, pack);
    if (pack)
        dnn->backend_destroy_descriptor(pack);
    if (st != CUDNN_STATUS_SUCCESS)
        cuda_broken(c, "cuDNN attention", dnn->get_error_string(st));
    return st == CUDNN_STATUS_SUCCESS ? ST_OK : ST_EINTERNAL;
}

/* Some spans in one call; all have the shape of the plan. */
static void spans_run(struct cuda *c, const struct sdpa_plan *p, const struct attn_span *span, int32_t count,
                      const void *q, float scale, void *out, float *lse)
{
    struct span_arrays *d = c->sdpa->arrays;
    const int64_t row = (int64_t)p->shape.q_heads * p->shape.dim;
    const char *k = span[0].kv.k, *v = span[0].kv.v;
    struct span_lengths l = { .count = count };
    float nothing = -INFINITY;

    for (int32_t i = 1; i < count; i++) {
        k = (const char *)span[i].kv.k < k ? span[i].kv.k : k;
        v = (const char *)span[i].kv.v < v ? span[i].kv.v : v;
    }
    for (int32_t i = 0; i < count; i++) {
        l.rows[i] = (int32_t)span[i].rows;
        l.tokens[i] = (int32_t)(span[i].token + span[i].rows);
        l.q[i] = l.o[i] = span[i].row * row;
        l.k[i] = ((const char *)span[i].kv.k - k) / 2;
        l.v[i] = ((const char *)span[i].kv.v - v) / 2;
        l.lse[i] = span[i].token;
    }
    if (cuda_failed(c, launch_span_lengths(c->queue[LANE_COMPUTE], &l, d), "lengths of spans"))
        return;
    const int64_t uid[] = { SDPA_Q,    SDPA_K,    SDPA_V,    SDPA_O,     SDPA_ROWS,    SDPA_TOKENS, SDPA_AT_Q,
                            SDPA_AT_K, SDPA_AT_V, SDPA_AT_O, SDPA_SCALE, SDPA_NOTHING, SDPA_LSE,    SDPA_AT_LSE };
    void *at[] = { (void *)q, (void *)k, (void *)v, out,    d->rows,  d->tokens, d->q,
                   d->k,      d->v,      d->o,      &scale, &nothing, lse,       d->lse };

    (void)execute(c, p, lse ? 14 : 12, uid, at);
}

/* The span's first rows, as many as the plan is for. */
static void dense_run(struct cuda *c, const struct sdpa_plan *p, const struct attn_span *span, const void *q,
                      float scale, void *out, float *lse)
{
    const int64_t first = span->row * p->shape.q_heads * p->shape.dim;
    int32_t rows = (int32_t)p->shape.rows, tokens = (int32_t)p->shape.tokens;
    float nothing = -INFINITY;
    const int64_t uid[] = {
        SDPA_Q, SDPA_K, SDPA_V, SDPA_O, SDPA_ROWS, SDPA_TOKENS, SDPA_SCALE, SDPA_NOTHING, SDPA_LSE
    };
    void *at[] = { (uint16_t *)q + first,
                   (void *)span->kv.k,
                   (void *)span->kv.v,
                   (uint16_t *)out + first,
                   &rows,
                   &tokens,
                   &scale,
                   &nothing,
                   lse ? lse + span->token : NULL };

    (void)execute(c, p, lse ? 9 : 8, uid, at);
}

/* Rows at a span's beginning that a dense plan takes. */
static int64_t dense_rows(const struct attn_span *span)
{
    const int64_t left = span->rows % DENSE_ROWS;

    return span->token % DENSE_ROWS == 0 && (left == 0 || left >= LEFT_ROWS) ? span->rows - left : 0;
}

/* Takes the rows that a dense plan is for off the span's beginning. */
static void dense_part(struct cuda *c, const struct sdpa_shape *ragged, struct attn_span *span, const void *q,
                       float scale, void *out, float *lse)
{
    const int64_t rows = ragged->stride == c->sdpa->dense_stride ? dense_rows(span) : 0;
    struct sdpa_shape shape;
    const struct sdpa_plan *p;

    if (rows == 0)
        return;
    shape = dense_shape(ragged, rows, span->token);
    p = plan_of(c, &shape);
    if (p->refused)
        return;
    dense_run(c, p, span, q, scale, out, lse);
    span->row += rows;
    span->rows -= rows;
    span->token += rows;
}

bool sdpa_run(struct cuda *c, const struct attn_span *span, int32_t count, const void *q, int32_t q_heads, float scale,
              void *out, float *lse, int64_t lse_stride)
{
    const struct kv_layer *kv = &span[0].kv;
    const struct sdpa_shape shape = ragged_shape(c, q_heads, kv, lse ? lse_stride : 0);
    struct attn_span alone = span[0];

    if (kv->dtype != DT_BF16)
        return false;
    if (kv->dim % 8 != 0) {
        tell_refused(c, &shape, "head size", CUDNN_STATUS_SUCCESS);
        return false;
    }
    for (int32_t i = 1; i < count; i++)
        if (span[i].kv.stride != kv->stride || span[i].kv.heads != kv->heads || span[i].kv.dim != kv->dim)
            return false;
    if (plan_of(c, &shape)->refused)
        return false;
    if (count == 1) {
        dense_part(c, &shape, &alone, q, scale, out, lse);
        span = &alone;
        count = alone.rows > 0;
    }
    for (int32_t i = 0; i < count; i += CUDA_SPANS_MAX)
        spans_run(c, plan_of(c, &shape), span + i, count - i < CUDA_SPANS_MAX ? count - i : CUDA_SPANS_MAX, q, scale,
                  out, lse);
    return true;
}

enum status sdpa_open(struct cuda *c, struct err *err)
{
    struct sdpa *s = mem_zero(1, sizeof *s);
    void *at = NULL;
    enum status st = ST_OK;

    c->sdpa = s;
    if (c->dnn.create(&s->handle) != CUDNN_STATUS_SUCCESS ||
        c->dnn.set_stream(s->handle, c->stream[LANE_COMPUTE]) != CUDNN_STATUS_SUCCESS)
        st = err_set(err, ST_EUNAVAILABLE, "cuDNN cannot be started");
    if (st == ST_OK)
        st = cuda_alloc(&c->base, sizeof(struct span_arrays), "other", &at, err);
    s->arrays = at;
    if (st != ST_OK)
        sdpa_close(c);
    return st;
}

void sdpa_close(struct cuda *c)
{
    struct sdpa *s = c->sdpa;

    if (!s)
        return;
    for (int32_t i = 0; i < s->plans; i++)
        plan_close(c, &s->plan[i]);
    cuda_free(&c->base, s->arrays);
    if (s->handle)
        c->dnn.destroy(s->handle);
    free(s);
    c->sdpa = NULL;
}
