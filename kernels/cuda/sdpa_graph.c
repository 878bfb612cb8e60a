/* SPDX-License-Identifier: Apache-2.0 */
/*
 * sdpa_graph.c - cuDNN's fused attention as a graph of its backend API, made into a plan.
 *
 *      S = Q K' * scale ─ lengths ─ causal, bottom-right ─ softmax (max, sub, exp, sum, log-sum-exp, div) ─ O = P V
 *
 * The order of the operations and their types are what the library recognises; they are not to be tidied up. A dense plan
 * leaves the lengths out.
 */
#include "kernels/cuda/sdpa.h"

#include "common/base/arena.h"

#include <assert.h>
#include <stdbool.h>
#include <stdlib.h>

enum { DESCRIPTORS_MAX = 128, CONFIGS_MAX = 16, OPS = 22 };

/* A graph under construction. Descriptors are destroyed together at the end. */
struct build {
    struct dnn_library *dnn;
    cudnnHandle_t handle;
    const struct sdpa_shape *shape;
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

static cudnnBackendDescriptor_t scalar(struct build *b, int64_t uid, cudnnDataType_t type)
{
    const int64_t one[4] = { 1, 1, 1, 1 };

    return tensor(b, uid, type, one, one, BY_VALUE, NULL);
}

/* One length for each span, or the only one there can be. */
static cudnnBackendDescriptor_t lengths(struct build *b, int64_t uid)
{
    const int64_t dims[4] = { b->shape->spans, 1, 1, 1 }, strides[4] = { 1, 1, 1, 1 };

    return b->shape->ragged ? tensor(b, uid, CUDNN_DATA_INT32, dims, strides, IN_MEMORY, NULL)
                            : scalar(b, uid, CUDNN_DATA_INT32);
}

/* Where each span begins; NULL: at the beginning. */
static cudnnBackendDescriptor_t offsets(struct build *b, int64_t uid)
{
    const int64_t dims[4] = { b->shape->spans + 1, 1, 1, 1 }, strides[4] = { 1, 1, 1, 1 };

    return b->shape->ragged ? tensor(b, uid, CUDNN_DATA_INT64, dims, strides, IN_MEMORY, NULL) : NULL;
}

/* The shape of S, or of one number per row of S. */
static cudnnBackendDescriptor_t inner(struct build *b, cudnnDataType_t type, bool whole)
{
    const int64_t h = b->shape->q_heads, cols = whole ? b->shape->tokens : 1;
    const int64_t dims[4] = { b->shape->spans, h, b->shape->rows, cols };
    const int64_t strides[4] = { h * b->shape->rows * cols, b->shape->rows * cols, cols, 1 };

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

/* Rows and keys beyond a span's lengths count for nothing. */
static cudnnBackendDescriptor_t lengths_ops(struct build *b, cudnnBackendDescriptor_t s, cudnnBackendDescriptor_t rows,
                                            cudnnBackendDescriptor_t tokens, cudnnBackendDescriptor_t nothing)
{
    const cudnnDataType_t f32 = CUDNN_DATA_FLOAT, i32 = CUDNN_DATA_INT32, truth = CUDNN_DATA_BOOLEAN;
    cudnnBackendDescriptor_t row, col, in;

    row = pointwise(b, CUDNN_POINTWISE_GEN_INDEX, i32, s, NULL, NULL, inner(b, i32, true), 2);
    col = pointwise(b, CUDNN_POINTWISE_GEN_INDEX, i32, s, NULL, NULL, inner(b, i32, true), 3);
    row = pointwise(b, CUDNN_POINTWISE_CMP_LT, truth, row, rows, NULL, inner(b, truth, true), 0);
    col = pointwise(b, CUDNN_POINTWISE_CMP_LT, truth, col, tokens, NULL, inner(b, truth, true), 0);
    in = pointwise(b, CUDNN_POINTWISE_LOGICAL_AND, truth, row, col, NULL, inner(b, truth, true), 0);
    return pointwise(b, CUDNN_POINTWISE_BINARY_SELECT, f32, s, nothing, in, inner(b, f32, true), 0);
}

/* A query sees no key behind it; the last query stands at the last key. */
static cudnnBackendDescriptor_t causal_ops(struct build *b, cudnnBackendDescriptor_t s, cudnnBackendDescriptor_t rows,
                                           cudnnBackendDescriptor_t tokens, cudnnBackendDescriptor_t nothing)
{
    const cudnnDataType_t f32 = CUDNN_DATA_FLOAT, i32 = CUDNN_DATA_INT32, truth = CUDNN_DATA_BOOLEAN;
    cudnnBackendDescriptor_t row, col, in;

    row = pointwise(b, CUDNN_POINTWISE_GEN_INDEX, f32, s, NULL, NULL, inner(b, i32, true), 2);
    col = pointwise(b, CUDNN_POINTWISE_GEN_INDEX, f32, s, NULL, NULL, inner(b, i32, true), 3);
    row = pointwise(b, CUDNN_POINTWISE_ADD, i32, row, tokens, NULL, inner(b, i32, true), 0);
    row = pointwise(b, CUDNN_POINTWISE_SUB, i32, row, rows, NULL, inner(b, i32, true), 0);
    in = pointwise(b, CUDNN_POINTWISE_CMP_GE, truth, row, col, NULL, inner(b, truth, true), 0);
    return pointwise(b, CUDNN_POINTWISE_BINARY_SELECT, f32, s, nothing, in, inner(b, f32, true), 0);
}

/* s becomes the weights of V's rows; the log-sum-exp goes to lse. */
static cudnnBackendDescriptor_t softmax_ops(struct build *b, cudnnBackendDescriptor_t s, cudnnBackendDescriptor_t lse)
{
    const cudnnDataType_t f32 = CUDNN_DATA_FLOAT;
    cudnnBackendDescriptor_t max, e, sum, log;

    max = reduce(b, CUDNN_REDUCE_TENSOR_MAX, s, inner(b, f32, false));
    e = pointwise(b, CUDNN_POINTWISE_SUB, f32, s, max, NULL, inner(b, f32, true), 0);
    e = pointwise(b, CUDNN_POINTWISE_EXP, f32, e, NULL, NULL, inner(b, f32, true), 0);
    sum = reduce(b, CUDNN_REDUCE_TENSOR_ADD, e, inner(b, f32, false));
    log = pointwise(b, CUDNN_POINTWISE_LOG, f32, sum, NULL, NULL, inner(b, f32, false), 0);
    pointwise(b, CUDNN_POINTWISE_ADD, f32, max, log, NULL, lse, 0);
    return pointwise(b, CUDNN_POINTWISE_DIV, f32, e, sum, NULL, inner(b, CUDNN_DATA_BFLOAT16, true), 0);
}

static cudnnBackendDescriptor_t lse_tensor(struct build *b)
{
    const int64_t h = b->shape->q_heads, stride = b->shape->lse_stride;
    const int64_t dims[4] = { b->shape->spans, h, b->shape->rows, 1 }, strides[4] = { h * stride, stride, 1, 1 };

    return stride > 0 ? tensor(b, SDPA_LSE, CUDNN_DATA_FLOAT, dims, strides, IN_MEMORY, offsets(b, SDPA_AT_LSE))
                      : inner(b, CUDNN_DATA_FLOAT, false);
}

static void graph_ops(struct build *b)
{
    const cudnnDataType_t half = CUDNN_DATA_BFLOAT16, f32 = CUDNN_DATA_FLOAT;
    const struct sdpa_shape *z = b->shape;
    const int64_t n = z->spans, h = z->q_heads, g = z->kv_heads, d = z->dim;
    const int64_t q_dims[4] = { n, h, z->rows, d }, q_strides[4] = { z->rows * h * d, d, h * d, 1 };
    const int64_t k_dims[4] = { n, g, d, z->tokens }, k_strides[4] = { g * z->stride * d, z->stride * d, 1, d };
    const int64_t v_dims[4] = { n, g, z->tokens, d }, v_strides[4] = { g * z->stride * d, z->stride * d, d, 1 };
    cudnnBackendDescriptor_t rows = lengths(b, SDPA_ROWS), tokens = lengths(b, SDPA_TOKENS);
    cudnnBackendDescriptor_t q = tensor(b, SDPA_Q, half, q_dims, q_strides, IN_MEMORY, offsets(b, SDPA_AT_Q));
    cudnnBackendDescriptor_t k = tensor(b, SDPA_K, half, k_dims, k_strides, IN_MEMORY, offsets(b, SDPA_AT_K));
    cudnnBackendDescriptor_t v = tensor(b, SDPA_V, half, v_dims, v_strides, IN_MEMORY, offsets(b, SDPA_AT_V));
    cudnnBackendDescriptor_t o = tensor(b, SDPA_O, half, q_dims, q_strides, IN_MEMORY, offsets(b, SDPA_AT_O));
    cudnnBackendDescriptor_t scale = scalar(b, SDPA_SCALE, f32), nothing = scalar(b, SDPA_NOTHING, f32);
    cudnnBackendDescriptor_t lse = lse_tensor(b), s = inner(b, f32, true), p;

    product(b, q, k, s, z->ragged ? rows : NULL, z->ragged ? tokens : NULL, NULL);
    s = pointwise(b, CUDNN_POINTWISE_MUL, f32, s, scale, NULL, inner(b, f32, true), 0);
    if (z->ragged)
        s = lengths_ops(b, s, rows, tokens, nothing);
    s = causal_ops(b, s, rows, tokens, nothing);
    p = softmax_ops(b, s, lse);
    product(b, p, v, o, z->ragged ? rows : NULL, NULL, z->ragged ? tokens : NULL);
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

static cudnnBackendDescriptor_t graph_plan(struct build *b)
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

cudnnBackendDescriptor_t sdpa_plan_build(struct dnn_library *dnn, cudnnHandle_t handle, const struct sdpa_shape *shape,
                                         cudnnStatus_t *status, const char **where)
{
    struct build *b = mem_zero(1, sizeof *b);
    cudnnBackendDescriptor_t plan;

    b->dnn = dnn;
    b->handle = handle;
    b->shape = shape;
    b->next_uid = SDPA_INNER;
    plan = graph_plan(b);
    *status = b->status;
    *where = b->where;
    free(b);
    return plan;
}
