/* SPDX-License-Identifier: Apache-2.0 */
/*
 * sdpa.h - what cuDNN's attention is planned for (sdpa_graph.c) and run with (sdpa.c).
 */
#ifndef PLATEN_KERNELS_CUDA_SDPA_H
#define PLATEN_KERNELS_CUDA_SDPA_H

#include "kernels/cuda/library.h"

#include <stdint.h>

/* What makes a plan another one. Numbers of one size: shapes are compared byte by byte. */
struct sdpa_shape {
    int64_t q_heads, kv_heads, dim;
    int64_t stride,
        lse_stride; /* rows from one head to the next, of K, V and of the log-sum-exps; lse_stride 0: none */
    int64_t ragged; /* 1: lengths and offsets lie on the device, of `spans` spans; 0: one span, all of it there */
    int64_t spans;
    int64_t rows, tokens; /* queries and keys of a span; ragged: the most there will be */
};

/* Names of what a plan reads and writes. Dense: SDPA_ROWS and SDPA_TOKENS are numbers by value, and no SDPA_AT. */
enum {
    SDPA_Q = 1,
    SDPA_K,
    SDPA_V,
    SDPA_O,
    SDPA_LSE,
    SDPA_ROWS,
    SDPA_TOKENS,
    SDPA_AT_Q,
    SDPA_AT_K,
    SDPA_AT_V,
    SDPA_AT_O,
    SDPA_AT_LSE,
    SDPA_SCALE,
    SDPA_NOTHING,
    SDPA_INNER = 100
};

/* A plan for `shape`, the caller's to destroy; NULL, with the library's status and the step that failed, where cuDNN has
 * none. Takes 40 ms, and a second the first time on a machine. */
cudnnBackendDescriptor_t sdpa_plan_build(struct dnn_library *dnn, cudnnHandle_t handle, const struct sdpa_shape *shape,
                                         cudnnStatus_t *status, const char **where);

#endif
