/* SPDX-License-Identifier: Apache-2.0 */
/* gemm.h - how a product is run: what gemm.c (running) and tune.c (choosing) share. */
#ifndef PLATEN_KERNELS_CUDA_GEMM_H
#define PLATEN_KERNELS_CUDA_GEMM_H

#include "kernels/cuda/cuda.h"

#ifdef __cplusplus
extern "C" {
#endif

enum { GEMM_WORKSPACE = 64 << 20, GEMM_CHOICES_MAX = 1024, GEMM_CANDIDATES = 8 };

/* What was chosen for products of up to `rows` rows (a bucket) with an n x k weight. */
struct gemm_choice {
    int64_t rows, n, k;
    bool bias;
    enum gemm_out out;
    cublasLtMatmulAlgo_t algo;
    float us; /* 0: not timed, the library's first guess */
};

/* owned by: the engine thread. */
struct gemm {
    cublasLtHandle_t handle;
    cublasLtMatmulDesc_t desc;
    cublasLtMatrixLayout_t w, in, out; /* column-major K x N, K x rows, N x rows: our row-major memory as it is */
    cublasLtMatmulPreference_t preference;
    void *workspace;
    struct gemm_choice choice[GEMM_CHOICES_MAX];
    int32_t choices;
    char path[512]; /* of the file of choices; empty: none */
};

/* The smallest row count of the ladder that is at least `rows`. */
int64_t gemm_bucket(int64_t rows);
/* The choice for a bucket, or NULL. */
const struct gemm_choice *gemm_find(const struct gemm *g, const struct gemm_shape *shape);
/* Sets the layouts of a product, the dtype of its output, and whether it ends in a bias. */
bool gemm_layouts(struct cuda *c, const struct gemm_shape *shape);
cublasStatus_t gemm_launch(struct cuda *c, const void *w, const void *in, void *out, enum gemm_out kind,
                           const cublasLtMatmulAlgo_t *algo);
/* The library's candidates for the layouts as they are set, best first; `found` of them, at least one where it succeeds. */
cublasStatus_t gemm_candidates(struct cuda *c, cublasLtMatmulHeuristicResult_t *out, int most, int *found);
/* Whether gemm_tune times a bucket: products of `shape->rows` rows come to the library, and no choice is known for them. */
bool tune_wants(const struct cuda *c, const struct gemm_shape *shape);
/* Choices of earlier runs. */
void tune_load(struct cuda *c);

#ifdef __cplusplus
}
#endif
#endif
