/* SPDX-License-Identifier: Apache-2.0 */
/*
 * library.h - NVIDIA's libraries, opened at run time, so that one binary starts on machines that have none of them.
 *
 * A table holds one pointer per function, typed as in the library's own header.
 */
#ifndef PLATEN_KERNELS_CUDA_LIBRARY_H
#define PLATEN_KERNELS_CUDA_LIBRARY_H

#include "common/base/status.h"

#include <cublasLt.h>
#include <cudnn_graph.h>

#ifdef __cplusplus
extern "C" {
#endif

#define BLAS_FUNCTIONS(F)                                                    \
    F(create, cublasLtCreate)                                                \
    F(destroy, cublasLtDestroy)                                              \
    F(get_version, cublasLtGetVersion)                                       \
    F(matmul, cublasLtMatmul)                                                \
    F(matmul_desc_create, cublasLtMatmulDescCreate)                          \
    F(matmul_desc_destroy, cublasLtMatmulDescDestroy)                        \
    F(matmul_desc_set_attribute, cublasLtMatmulDescSetAttribute)             \
    F(matrix_layout_create, cublasLtMatrixLayoutCreate)                      \
    F(matrix_layout_destroy, cublasLtMatrixLayoutDestroy)                    \
    F(matrix_layout_set_attribute, cublasLtMatrixLayoutSetAttribute)         \
    F(matmul_preference_create, cublasLtMatmulPreferenceCreate)              \
    F(matmul_preference_destroy, cublasLtMatmulPreferenceDestroy)            \
    F(matmul_preference_set_attribute, cublasLtMatmulPreferenceSetAttribute) \
    F(matmul_algo_get_heuristic, cublasLtMatmulAlgoGetHeuristic)             \
    F(matmul_algo_check, cublasLtMatmulAlgoCheck)

#define DNN_FUNCTIONS(F)                                         \
    F(create, cudnnCreate)                                       \
    F(destroy, cudnnDestroy)                                     \
    F(set_stream, cudnnSetStream)                                \
    F(get_version, cudnnGetVersion)                              \
    F(get_error_string, cudnnGetErrorString)                     \
    F(backend_create_descriptor, cudnnBackendCreateDescriptor)   \
    F(backend_destroy_descriptor, cudnnBackendDestroyDescriptor) \
    F(backend_set_attribute, cudnnBackendSetAttribute)           \
    F(backend_get_attribute, cudnnBackendGetAttribute)           \
    F(backend_finalize, cudnnBackendFinalize)                    \
    F(backend_execute, cudnnBackendExecute)

#define LIBRARY_MEMBER(member, name) __typeof__(name) *member;

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
