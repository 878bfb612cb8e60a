/* SPDX-License-Identifier: Apache-2.0 */
/*
 * sdpa.c - prefill attention by cuDNN's fused kernel, built from its backend API.
 *
 *      S = Q K' * scale ─ lengths ─ causal, bottom-right ─ softmax (max, sub, exp, sum, log-sum-exp, div) ─ O = P V
 *
 * The order of the 22 operations and their types are what the library recognises; they are not to be tidied up. One
 * ragged plan per (heads, head size, allotted rows, log-sum-exp wanted) serves every mix of spans: whole contexts, the
 * next part of one, several short ones. Lengths and offsets lie on the device and are written in stream order before
 * each call; empty slots cost nothing. K and V offsets count from the lowest address among the spans.
 *
 * Building a plan takes 0.5 to 1 s the first time on a machine; a node does one pass of each shape before it serves.
 */
#include "kernels/cuda/cuda.h"

#include "common/base/arena.h"

#include <assert.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { PLANS_MAX = 8, DESCRIPTORS_MAX = 128, CONFIGS_MAX = 16, OPS = 22 };

enum {
    UID_Q = 1,
    UID_K,
    UID_V,
    UID_O,
    UID_LSE,
    UID_ROWS,
    UID_TOKENS,
    UID_AT_Q,
    UID_AT_K,
    UID_AT_V,
    UID_AT_O,
    UID_AT_LSE,
    UID_SCALE,
    UID_NOTHING,
    UID_INNER = 100
};

/* What makes a plan another one. */
struct sdpa_key {
    int32_t q_heads, kv_heads, dim;
    int64_t stride, lse_stride; /* lse_stride 0: no log-sum-exp */
};

struct sdpa_plan {
    struct sdpa_key key;
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
};

/* A graph under construction. Descriptors are destroyed together at the end. */
struct build {
    struct dnn_library *dnn;
    cudnnHandle_t handle;
    const struct sdpa_key *key;
    int64_t rows, tokens; /* the largest there will be */
    cudnnBackendDescriptor_t made[DESCRIPTORS_MAX];
    int32_t count;
    cudnnBackendDescriptor_t op[OPS];
    int32_t ops;
    int64_t next_uid;
    cudnnStatus_t status; /* of the first failure */
    const char *where;
};

static void check(struct build *b, cudnnStatus_t st, const char *where)
{
    if (st != CUDNN_STATUS_SUCCESS && b->status == CUDNN_STATUS_SUCCESS) {
        b->status = st;
        b->where = where;
    }
}

static cudnnBackendDescriptor_t make(struct build *b, cudnnBackendDescriptorType_t type)
{
    cudnnBackendDescriptor_t d = NULL;

    assert(b->count < DESCRIPTORS_MAX);
    check(b, b->dnn->backend_create_descriptor(type, &d), "descriptor");
    b->made[b->count++] = d;
    return d;
}

static void set(struct build *b, cudnnBackendDescriptor_t d, cudnnBackendAttributeName_t name,
                cudnnBackendAttributeType_t type, int64_t count, const void *value)
{
    if (b->status == CUDNN_STATUS_SUCCESS)
        check(b, b->dnn->backend_set_attribute(d, name, type, count, value), "attribute");
}

static void set_descriptor(struct build *b, cudnnBackendDescriptor_t d, cudnnBackendAttributeName_t name,
                           cudnnBackendDescriptor_t value)
{
    set(b, d, name, CUDNN_TYPE_BACKEND_DESCRIPTOR, 1, &value);
}

static cudnnBackendDescriptor_t final(struct build *b, cudnnBackendDescriptor_t d)
{
    if (b->status == CUDNN_STATUS_SUCCESS)
        check(b, b->dnn->backend_finalize(d), "finalize");
    return d;
}

/* ---- tensors ---- */

enum place { IN_MEMORY, INNER, BY_VALUE };

static cudnnBackendDescriptor_t tensor(struct build *b, int64_t uid, cudnnDataType_t type, const int64_t dims[4],
                                       const int64_t strides[4], enum place place, cudnnBackendDescriptor_t offsets)
{
    cudnnBackendDescriptor_t d = make(b, CUDNN_BACKEND_TENSOR_DESCRIPTOR);
    const int64_t alignment = 16;
    const bool yes = true;

    set(b, d, CUDNN_ATTR_TENSOR_DATA_TYPE, CUDNN_TYPE_DATA_TYPE, 1, &type);
    set(b, d, CUDNN_ATTR_TENSOR_DIMENSIONS, CUDNN_TYPE_INT64, 4, dims);
    set(b, d, CUDNN_ATTR_TENSOR_STRIDES, CUDNN_TYPE_INT64, 4, strides);
    set(b, d, CUDNN_ATTR_TENSOR_UNIQUE_ID, CUDNN_TYPE_INT64, 1, &uid);
    set(b, d, CUDNN_ATTR_TENSOR_BYTE_ALIGNMENT, CUDNN_TYPE_INT64, 1, &alignment);
    if (place == INNER)
        set(b, d, CUDNN_ATTR_TENSOR_IS_VIRTUAL, CUDNN_TYPE_BOOLEAN, 1, &yes);
    if (place == BY_VALUE)
        set(b, d, CUDNN_ATTR_TENSOR_IS_BY_VALUE, CUDNN_TYPE_BOOLEAN, 1, &yes);
    if (offsets)
        set_descriptor(b, d, CUDNN_ATTR_TENSOR_RAGGED_OFFSET_DESC, offsets);
    return final(b, d);
}

static cudnnBackendDescriptor_t scalar(struct build *b, int64_t uid)
{
    const int64_t one[4] = { 1, 1, 1, 1 };

    return tensor(b, uid, CUDNN_DATA_FLOAT, one, one, BY_VALUE, NULL);
}

static cudnnBackendDescriptor_t per_span(struct build *b, int64_t uid, cudnnDataType_t type, int64_t count)
{
    const int64_t dims[4] = { count, 1, 1, 1 }, strides[4] = { 1, 1, 1, 1 };

    return tensor(b, uid, type, dims, strides, IN_MEMORY, NULL);
}

/* The shape of S, or of one number per row of S. */
static cudnnBackendDescriptor_t inner(struct build *b, cudnnDataType_t type, bool whole)
{
    const int64_t h = b->key->q_heads, cols = whole ? b->tokens : 1;
    const int64_t dims[4] = { CUDA_SPANS_MAX, h, b->rows, cols };
    const int64_t strides[4] = { h * b->rows * cols, b->rows * cols, cols, 1 };

    return tensor(b, b->next_uid++, type, dims, strides, INNER, NULL);
}

/* ---- operations ---- */

static void op_add(struct build *b, cudnnBackendDescriptor_t op)
{
    final(b, op);
    assert(b->ops < OPS);
    b->op[b->ops++] = op;
}

static cudnnBackendDescriptor_t pointwise(struct build *b, cudnnPointwiseMode_t mode, cudnnDataType_t math,
                                          cudnnBackendDescriptor_t x, cudnnBackendDescriptor_t y2,
                                          cudnnBackendDescriptor_t t, cudnnBackendDescriptor_t out, int64_t axis)
{
    cudnnBackendDescriptor_t how = make(b, CUDNN_BACKEND_POINTWISE_DESCRIPTOR), op;
    const float one = 1.0f;

    set(b, how, CUDNN_ATTR_POINTWISE_MODE, CUDNN_TYPE_POINTWISE_MODE, 1, &mode);
    set(b, how, CUDNN_ATTR_POINTWISE_MATH_PREC, CUDNN_TYPE_DATA_TYPE, 1, &math);
    if (mode == CUDNN_POINTWISE_GEN_INDEX)
        set(b, how, CUDNN_ATTR_POINTWISE_AXIS, CUDNN_TYPE_INT64, 1, &axis);
    final(b, how);
    op = make(b, CUDNN_BACKEND_OPERATION_POINTWISE_DESCRIPTOR);
    set_descriptor(b, op, CUDNN_ATTR_OPERATION_POINTWISE_PW_DESCRIPTOR, how);
    set_descriptor(b, op, CUDNN_ATTR_OPERATION_POINTWISE_XDESC, x);
    if (y2)
        set_descriptor(b, op, CUDNN_ATTR_OPERATION_POINTWISE_BDESC, y2);
    if (t)
        set_descriptor(b, op, CUDNN_ATTR_OPERATION_POINTWISE_TDESC, t);
    set_descriptor(b, op, CUDNN_ATTR_OPERATION_POINTWISE_YDESC, out);
    set(b, op, CUDNN_ATTR_OPERATION_POINTWISE_ALPHA1, CUDNN_TYPE_FLOAT, 1, &one);
    set(b, op, CUDNN_ATTR_OPERATION_POINTWISE_ALPHA2, CUDNN_TYPE_FLOAT, 1, &one);
    op_add(b, op);
    return out;
}

static cudnnBackendDescriptor_t reduce(struct build *b, cudnnReduceTensorOp_t kind, cudnnBackendDescriptor_t x,
                                       cudnnBackendDescriptor_t out)
{
    cudnnBackendDescriptor_t how = make(b, CUDNN_BACKEND_REDUCTION_DESCRIPTOR), op;
    const cudnnDataType_t math = CUDNN_DATA_FLOAT;

    set(b, how, CUDNN_ATTR_REDUCTION_OPERATOR, CUDNN_TYPE_REDUCTION_OPERATOR_TYPE, 1, &kind);
    set(b, how, CUDNN_ATTR_REDUCTION_COMP_TYPE, CUDNN_TYPE_DATA_TYPE, 1, &math);
    final(b, how);
    op = make(b, CUDNN_BACKEND_OPERATION_REDUCTION_DESCRIPTOR);
    set_descriptor(b, op, CUDNN_ATTR_OPERATION_REDUCTION_DESC, how);
    set_descriptor(b, op, CUDNN_ATTR_OPERATION_REDUCTION_XDESC, x);
    set_descriptor(b, op, CUDNN_ATTR_OPERATION_REDUCTION_YDESC, out);
    op_add(b, op);
    return out;
}

static void product(struct build *b, cudnnBackendDescriptor_t left, cudnnBackendDescriptor_t right,
                    cudnnBackendDescriptor_t out, cudnnBackendDescriptor_t m, cudnnBackendDescriptor_t n,
                    cudnnBackendDescriptor_t k)
{
    cudnnBackendDescriptor_t how = make(b, CUDNN_BACKEND_MATMUL_DESCRIPTOR), op;
    const cudnnDataType_t math = CUDNN_DATA_FLOAT;

    set(b, how, CUDNN_ATTR_MATMUL_COMP_TYPE, CUDNN_TYPE_DATA_TYPE, 1, &math);
    final(b, how);
    op = make(b, CUDNN_BACKEND_OPERATION_MATMUL_DESCRIPTOR);
    set_descriptor(b, op, CUDNN_ATTR_OPERATION_MATMUL_ADESC, left);
    set_descriptor(b, op, CUDNN_ATTR_OPERATION_MATMUL_BDESC, right);
    set_descriptor(b, op, CUDNN_ATTR_OPERATION_MATMUL_CDESC, out);
    set_descriptor(b, op, CUDNN_ATTR_OPERATION_MATMUL_DESC, how);
    if (m)
        set_descriptor(b, op, CUDNN_ATTR_OPERATION_MATMUL_GEMM_M_OVERRIDE_DESC, m);
    if (n)
        set_descriptor(b, op, CUDNN_ATTR_OPERATION_MATMUL_GEMM_N_OVERRIDE_DESC, n);
    if (k)
        set_descriptor(b, op, CUDNN_ATTR_OPERATION_MATMUL_GEMM_K_OVERRIDE_DESC, k);
    op_add(b, op);
}

/* ---- the graph: a list that reads like the table it was tried from ---- */

static void graph_ops(struct build *b)
{
    const cudnnDataType_t f32 = CUDNN_DATA_FLOAT, i32 = CUDNN_DATA_INT32, truth = CUDNN_DATA_BOOLEAN;
    const cudnnDataType_t half = CUDNN_DATA_BFLOAT16;
    const int64_t n = CUDA_SPANS_MAX, h = b->key->q_heads, g = b->key->kv_heads, d = b->key->dim,
                  stride = b->key->stride;
    const int64_t q_dims[4] = { n, h, b->rows, d }, q_strides[4] = { b->rows * h * d, d, h * d, 1 };
    const int64_t k_dims[4] = { n, g, d, b->tokens }, k_strides[4] = { g * stride * d, stride * d, 1, d };
    const int64_t v_dims[4] = { n, g, b->tokens, d }, v_strides[4] = { g * stride * d, stride * d, d, 1 };
    const int64_t l_dims[4] = { n, h, b->rows, 1 }, l_strides[4] = { h * b->key->lse_stride, b->key->lse_stride, 1, 1 };
    cudnnBackendDescriptor_t rows = per_span(b, UID_ROWS, i32, n), tokens = per_span(b, UID_TOKENS, i32, n);
    cudnnBackendDescriptor_t at_q = per_span(b, UID_AT_Q, CUDNN_DATA_INT64, n + 1);
    cudnnBackendDescriptor_t at_k = per_span(b, UID_AT_K, CUDNN_DATA_INT64, n + 1);
    cudnnBackendDescriptor_t at_v = per_span(b, UID_AT_V, CUDNN_DATA_INT64, n + 1);
    cudnnBackendDescriptor_t at_o = per_span(b, UID_AT_O, CUDNN_DATA_INT64, n + 1);
    cudnnBackendDescriptor_t q = tensor(b, UID_Q, half, q_dims, q_strides, IN_MEMORY, at_q);
    cudnnBackendDescriptor_t k = tensor(b, UID_K, half, k_dims, k_strides, IN_MEMORY, at_k);
    cudnnBackendDescriptor_t v = tensor(b, UID_V, half, v_dims, v_strides, IN_MEMORY, at_v);
    cudnnBackendDescriptor_t o = tensor(b, UID_O, half, q_dims, q_strides, IN_MEMORY, at_o);
    cudnnBackendDescriptor_t scale = scalar(b, UID_SCALE), nothing = scalar(b, UID_NOTHING), lse;
    cudnnBackendDescriptor_t s, row, col, in, max, e, sum, p;

    if (b->key->lse_stride > 0)
        lse = tensor(b, UID_LSE, f32, l_dims, l_strides, IN_MEMORY, per_span(b, UID_AT_LSE, CUDNN_DATA_INT64, n + 1));
    else
        lse = inner(b, f32, false);

    s = inner(b, f32, true);
    product(b, q, k, s, rows, tokens, NULL);
    s = pointwise(b, CUDNN_POINTWISE_MUL, f32, s, scale, NULL, inner(b, f32, true), 0);
    row = pointwise(b, CUDNN_POINTWISE_GEN_INDEX, i32, s, NULL, NULL, inner(b, i32, true), 2);
    col = pointwise(b, CUDNN_POINTWISE_GEN_INDEX, i32, s, NULL, NULL, inner(b, i32, true), 3);
    row = pointwise(b, CUDNN_POINTWISE_CMP_LT, truth, row, rows, NULL, inner(b, truth, true), 0);
    col = pointwise(b, CUDNN_POINTWISE_CMP_LT, truth, col, tokens, NULL, inner(b, truth, true), 0);
    in = pointwise(b, CUDNN_POINTWISE_LOGICAL_AND, truth, row, col, NULL, inner(b, truth, true), 0);
    s = pointwise(b, CUDNN_POINTWISE_BINARY_SELECT, f32, s, nothing, in, inner(b, f32, true), 0);
    row = pointwise(b, CUDNN_POINTWISE_GEN_INDEX, f32, s, NULL, NULL, inner(b, i32, true), 2);
    col = pointwise(b, CUDNN_POINTWISE_GEN_INDEX, f32, s, NULL, NULL, inner(b, i32, true), 3);
    row = pointwise(b, CUDNN_POINTWISE_ADD, i32, row, tokens, NULL, inner(b, i32, true), 0);
    row = pointwise(b, CUDNN_POINTWISE_SUB, i32, row, rows, NULL, inner(b, i32, true), 0);
    in = pointwise(b, CUDNN_POINTWISE_CMP_GE, truth, row, col, NULL, inner(b, truth, true), 0);
    s = pointwise(b, CUDNN_POINTWISE_BINARY_SELECT, f32, s, nothing, in, inner(b, f32, true), 0);
    max = reduce(b, CUDNN_REDUCE_TENSOR_MAX, s, inner(b, f32, false));
    e = pointwise(b, CUDNN_POINTWISE_SUB, f32, s, max, NULL, inner(b, f32, true), 0);
    e = pointwise(b, CUDNN_POINTWISE_EXP, f32, e, NULL, NULL, inner(b, f32, true), 0);
    sum = reduce(b, CUDNN_REDUCE_TENSOR_ADD, e, inner(b, f32, false));
    p = pointwise(b, CUDNN_POINTWISE_LOG, f32, sum, NULL, NULL, inner(b, f32, false), 0);
    pointwise(b, CUDNN_POINTWISE_ADD, f32, max, p, NULL, lse, 0);
    p = pointwise(b, CUDNN_POINTWISE_DIV, f32, e, sum, NULL, inner(b, half, true), 0);
    product(b, p, v, o, rows, NULL, tokens);
}

/* The first configuration of the library's list that can be built. Some in the list cannot. */
static cudnnBackendDescriptor_t plan_find(struct build *b, cudnnBackendDescriptor_t heuristics)
{
    cudnnBackendDescriptor_t config[CONFIGS_MAX], plan = NULL;
    int64_t count = 0;

    if (b->status != CUDNN_STATUS_SUCCESS)
        return NULL;
    for (int i = 0; i < CONFIGS_MAX; i++)
        config[i] = make(b, CUDNN_BACKEND_ENGINECFG_DESCRIPTOR);
    check(b,
          b->dnn->backend_get_attribute(heuristics, CUDNN_ATTR_ENGINEHEUR_RESULTS, CUDNN_TYPE_BACKEND_DESCRIPTOR,
                                        CONFIGS_MAX, &count, config),
          "heuristics");
    for (int64_t i = 0; i < count && i < CONFIGS_MAX && b->status == CUDNN_STATUS_SUCCESS; i++) {
        cudnnStatus_t st = b->dnn->backend_create_descriptor(CUDNN_BACKEND_EXECUTION_PLAN_DESCRIPTOR, &plan);

        if (st == CUDNN_STATUS_SUCCESS)
            st =
                b->dnn->backend_set_attribute(plan, CUDNN_ATTR_EXECUTION_PLAN_HANDLE, CUDNN_TYPE_HANDLE, 1, &b->handle);
        if (st == CUDNN_STATUS_SUCCESS)
            st = b->dnn->backend_set_attribute(plan, CUDNN_ATTR_EXECUTION_PLAN_ENGINE_CONFIG,
                                               CUDNN_TYPE_BACKEND_DESCRIPTOR, 1, &config[i]);
        if (st == CUDNN_STATUS_SUCCESS)
            st = b->dnn->backend_finalize(plan);
        if (st == CUDNN_STATUS_SUCCESS)
            return plan;
        b->dnn->backend_destroy_descriptor(plan);
        plan = NULL;
    }
    check(b, CUDNN_STATUS_NOT_SUPPORTED, "no engine takes this shape");
    return NULL;
}

static cudnnBackendDescriptor_t plan_build(struct build *b)
{
    const cudnnBackendHeurMode_t mode = CUDNN_HEUR_MODE_A;
    cudnnBackendDescriptor_t graph, heuristics, plan;

    graph_ops(b);
    graph = make(b, CUDNN_BACKEND_OPERATIONGRAPH_DESCRIPTOR);
    set(b, graph, CUDNN_ATTR_OPERATIONGRAPH_HANDLE, CUDNN_TYPE_HANDLE, 1, &b->handle);
    set(b, graph, CUDNN_ATTR_OPERATIONGRAPH_OPS, CUDNN_TYPE_BACKEND_DESCRIPTOR, b->ops, b->op);
    final(b, graph);
    heuristics = make(b, CUDNN_BACKEND_ENGINEHEUR_DESCRIPTOR);
    set_descriptor(b, heuristics, CUDNN_ATTR_ENGINEHEUR_OPERATION_GRAPH, graph);
    set(b, heuristics, CUDNN_ATTR_ENGINEHEUR_MODE, CUDNN_TYPE_HEUR_MODE, 1, &mode);
    final(b, heuristics);
    plan = plan_find(b, heuristics);
    for (int32_t i = b->count - 1; i >= 0; i--)
        if (b->made[i])
            b->dnn->backend_destroy_descriptor(b->made[i]);
    return plan;
}

/* ---- plans ---- */

static bool key_equal(const struct sdpa_key *a, const struct sdpa_key *b)
{
    return a->q_heads == b->q_heads && a->kv_heads == b->kv_heads && a->dim == b->dim && a->stride == b->stride &&
           a->lse_stride == b->lse_stride;
}

static void plan_close(struct cuda *c, struct sdpa_plan *p)
{
    if (p->plan) {
        (void)cudaStreamSynchronize(c->stream[LANE_COMPUTE]);
        c->dnn.backend_destroy_descriptor(p->plan);
    }
    cuda_free(&c->base, p->workspace);
    memset(p, 0, sizeof *p);
}

static void plan_open(struct cuda *c, struct sdpa_plan *p, const struct sdpa_key *key)
{
    struct build *b = mem_zero(1, sizeof *b);
    int64_t bytes = 0, got = 0;

    b->dnn = &c->dnn;
    b->handle = c->sdpa->handle;
    b->key = key;
    b->rows = c->rows_max > 2 ? c->rows_max : 2; /* one row per span would be another engine, with a wrong lse */
    b->tokens = key->stride > b->rows ? key->stride : b->rows;
    b->next_uid = UID_INNER;
    p->key = *key;
    p->plan = plan_build(b);
    p->refused = p->plan == NULL;
    if (p->plan && c->dnn.backend_get_attribute(p->plan, CUDNN_ATTR_EXECUTION_PLAN_WORKSPACE_SIZE, CUDNN_TYPE_INT64, 1,
                                                &got, &bytes) != CUDNN_STATUS_SUCCESS)
        p->refused = true;
    if (!p->refused && bytes > 0 && cuda_alloc(&c->base, (uint64_t)bytes, "other", &p->workspace, NULL) != ST_OK)
        p->refused = true;
    if (p->refused) { /* our own kernel takes over, and whoever reads the description sees it */
        size_t at = strlen(c->describe);
        snprintf(c->describe + at, sizeof c->describe - at, "; own attention for %d/%d x %d (%s, cudnn status %d)",
                 key->q_heads, key->kv_heads, key->dim, b->where ? b->where : "workspace", (int)b->status);
    }
    free(b);
}

static struct sdpa_plan *plan_of(struct cuda *c, const struct sdpa_key *key)
{
    struct sdpa *s = c->sdpa;
    struct sdpa_plan *p;

    for (int32_t i = 0; i < s->plans; i++)
        if (key_equal(&s->plan[i].key, key))
            return &s->plan[i];
    if (s->plans < PLANS_MAX) {
        p = &s->plan[s->plans++];
    } else { /* the oldest makes room */
        plan_close(c, &s->plan[0]);
        memmove(&s->plan[0], &s->plan[1], (PLANS_MAX - 1) * sizeof s->plan[0]);
        p = &s->plan[PLANS_MAX - 1];
        memset(p, 0, sizeof *p);
    }
    plan_open(c, p, key);
    return p;
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
    const int64_t row = (int64_t)p->key.q_heads * p->key.dim;
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
    const int64_t uid[] = { UID_Q,    UID_K,    UID_V,    UID_O,     UID_ROWS,    UID_TOKENS, UID_AT_Q,
                            UID_AT_K, UID_AT_V, UID_AT_O, UID_SCALE, UID_NOTHING, UID_LSE,    UID_AT_LSE };
    void *at[] = { (void *)q, (void *)k, (void *)v, out,    d->rows,  d->tokens, d->q,
                   d->k,      d->v,      d->o,      &scale, &nothing, lse,       d->lse };

    (void)execute(c, p, lse ? 14 : 12, uid, at);
}

bool sdpa_run(struct cuda *c, const struct attn_span *span, int32_t count, const void *q, int32_t q_heads, float scale,
              void *out, float *lse, int64_t lse_stride)
{
    const struct kv_layer *kv = &span[0].kv;
    const struct sdpa_key key = { q_heads, kv->heads, kv->dim, kv->stride, lse ? lse_stride : 0 };
    const struct sdpa_plan *p;

    if (kv->dtype != DT_BF16 || kv->dim % 8 != 0)
        return false;
    for (int32_t i = 1; i < count; i++)
        if (span[i].kv.stride != kv->stride || span[i].kv.heads != kv->heads || span[i].kv.dim != kv->dim)
            return false;
    p = plan_of(c, &key);
    if (p->refused)
        return false;
    for (int32_t i = 0; i < count; i += CUDA_SPANS_MAX)
        spans_run(c, p, span + i, count - i < CUDA_SPANS_MAX ? count - i : CUDA_SPANS_MAX, q, scale, out, lse);
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
