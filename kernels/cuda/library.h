/* SPDX-License-Identifier: Apache-2.0 */
/*
 * library.h - NVIDIA's libraries, opened at run time, so that one binary starts on machines that have none of them.
 *
 * A table holds one pointer per function, named and typed as in the library's own header.
 */
#ifndef PLATEN_KERNELS_CUDA_LIBRARY_H
#define PLATEN_KERNELS_CUDA_LIBRARY_H

#include "common/base/status.h"

#include <cublasLt.h>
#include <cudnn_graph.h>

#ifdef __cplusplus
extern "C" {
#endif

#define BLAS_FUNCTIONS(F)                   \
    F(cublasLtCreate)                       \
    F(cublasLtDestroy)                      \
    F(cublasLtGetVersion)                   \
    F(cublasLtMatmul)                       \
    F(cublasLtMatmulDescCreate)             \
    F(cublasLtMatmulDescDestroy)            \
    F(cublasLtMatmulDescSetAttribute)       \
    F(cublasLtMatrixLayoutCreate)           \
    F(cublasLtMatrixLayoutDestroy)          \
    F(cublasLtMatrixLayoutSetAttribute)     \
    F(cublasLtMatmulPreferenceCreate)       \
    F(cublasLtMatmulPreferenceDestroy)      \
    F(cublasLtMatmulPreferenceSetAttribute) \
    F(cublasLtMatmulAlgoGetHeuristic)       \
    F(cublasLtMatmulAlgoCheck)

#define DNN_FUNCTIONS(F)             \
    F(cudnnCreate)                   \
    F(cudnnDestroy)                  \
    F(cudnnSetStream)                \
    F(cudnnGetVersion)               \
    F(cudnnGetErrorString)           \
    F(cudnnBackendCreateDescriptor)  \
    F(cudnnBackendDestroyDescriptor) \
    F(cudnnBackendSetAttribute)      \
    F(cudnnBackendGetAttribute)      \
    F(cudnnBackendFinalize)          \
    F(cudnnBackendExecute)

#define LIBRARY_MEMBER(name) __typeof__(name) *name;

struct blas_library {
    void *handle;
    BLAS_FUNCTIONS(LIBRARY_MEMBER)
};

struct dnn_library {
    void *handle; /* NULL: not here */
    DNN_FUNCTIONS(LIBRARY_MEMBER)
};

/* ST_EUNAVAILABLE, with the loader's sentence, when the library or a function is not there. Close is fine on zeros. */
enum status blas_library_open(struct blas_library *lib, struct err *err);
void blas_library_close(struct blas_library *lib);
enum status dnn_library_open(struct dnn_library *lib, struct err *err);
void dnn_library_close(struct dnn_library *lib);

#ifdef __cplusplus
}
#endif
#endif
