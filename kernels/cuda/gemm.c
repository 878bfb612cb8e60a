/* SPDX-License-Identifier: Apache-2.0 */
/*
 * gemm.c - products with weights by cuBLASLt.
 *
 * Our memory is row-major: out [rows][N] = in [rows][K] . w [N][K]^T. Read as columns that is out' (N x rows) =
 * w'^T (N x K) . in' (K x rows), the form in which the library is fastest. bf16 with f32 sums, or f32 without TF32. x,
 * to which products add, and qkv are f32 in any case.
 * One descriptor and three layouts are kept and changed per call, so that a call allocates nothing of ours.
 */
#include "kernels/cuda/gemm.h"

#include "common/base/arena.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int64_t gemm_bucket(int64_t rows)
{
    static const int64_t ladder[] = { 16,   24,   32,   48,   64,   96,   128,  192,   256,   384,   512,  768,
                                      1024, 1536, 2048, 3072, 4096, 6144, 8192, 12288, 16384, 24576, 32768 };

    for (size_t i = 0; i < sizeof ladder / sizeof ladder[0]; i++)
        if (rows <= ladder[i])
            return ladder[i];
    return rows;
}

const struct gemm_choice *gemm_find(const struct gemm *g, const struct gemm_shape *shape)
{
    int64_t rows = gemm_bucket(shape->rows);

    for (int32_t i = 0; i < g->choices; i++)
        if (g->choice[i].n == shape->n && g->choice[i].k == shape->k && g->choice[i].rows == rows &&
            g->choice[i].bias == shape->bias && g->choice[i].out == shape->out)
            return &g->choice[i];
    return NULL;
}

static bool layout_set(struct cuda *c, cublasLtMatrixLayout_t layout, enum dtype dtype, uint64_t rows, uint64_t cols)
{
    const uint32_t type = dtype == DT_F32 ? CUDA_R_32F : CUDA_R_16BF;
    int64_t ld = (int64_t)rows;
    struct blas_library *b = &c->blas;

    return b->matrix_layout_set_attribute(layout, CUBLASLT_MATRIX_LAYOUT_TYPE, &type, sizeof type) == 0 &&
           b->matrix_layout_set_attribute(layout, CUBLASLT_MATRIX_LAYOUT_ROWS, &rows, sizeof rows) == 0 &&
           b->matrix_layout_set_attribute(layout, CUBLASLT_MATRIX_LAYOUT_COLS, &cols, sizeof cols) == 0 &&
           b->matrix_layout_set_attribute(layout, CUBLASLT_MATRIX_LAYOUT_LD, &ld, sizeof ld) == 0;
}

bool gemm_layouts(struct cuda *c, const struct gemm_shape *s)
{
    const cublasLtEpilogue_t epilogue = s->bias ? CUBLASLT_EPILOGUE_BIAS : CUBLASLT_EPILOGUE_DEFAULT;
    const enum dtype act = c->base.act;
    const void *none = NULL; /* of a product before: without an epilogue that takes one, the library refuses it */

    return layout_set(c, c->gemm->w, act, (uint64_t)s->k, (uint64_t)s->n) &&
           layout_set(c, c->gemm->in, act, (uint64_t)s->k, (uint64_t)s->rows) &&
           layout_set(c, c->gemm->out, s->out == GEMM_ACT ? act : DT_F32, (uint64_t)s->n, (uint64_t)s->rows) &&
           c->blas.matmul_desc_set_attribute(c->gemm->desc, CUBLASLT_MATMUL_DESC_EPILOGUE, &epilogue,
                                             sizeof epilogue) == 0 &&
           c->blas.matmul_desc_set_attribute(c->gemm->desc, CUBLASLT_MATMUL_DESC_BIAS_POINTER, &none, sizeof none) == 0;
}

cublasStatus_t gemm_launch(struct cuda *c, const void *w, const void *in, void *out, enum gemm_out kind,
                           const cublasLtMatmulAlgo_t *algo)
{
    const float alpha = 1.0f, beta = kind == GEMM_ADDS ? 1.0f : 0.0f;
    struct gemm *g = c->gemm;

    return c->blas.matmul(g->handle, g->desc, &alpha, w, g->w, in, g->in, &beta, out, g->out, out, g->out, algo,
                          g->workspace, GEMM_WORKSPACE, c->stream[LANE_COMPUTE]);
}

cublasStatus_t gemm_candidates(struct cuda *c, cublasLtMatmulHeuristicResult_t *out, int most, int *found)
{
    struct gemm *g = c->gemm;
    cublasStatus_t st;

    *found = 0;
    st = c->blas.matmul_algo_get_heuristic(g->handle, g->desc, g->w, g->in, g->out, g->out, g->preference, most, out,
                                           found);
    if (st != CUBLAS_STATUS_SUCCESS)
        *found = 0;
    return st == CUBLAS_STATUS_SUCCESS && *found == 0 ? CUBLAS_STATUS_NOT_SUPPORTED : st;
}

/* A shape that was never timed takes the library's first guess, remembered for the next call. */
static cublasStatus_t guess(struct cuda *c, const struct gemm_shape *shape, bool timed, cublasLtMatmulAlgo_t *algo)
{
    struct gemm *g = c->gemm;
    cublasLtMatmulHeuristicResult_t first;
    int found;
    cublasStatus_t st = gemm_candidates(c, &first, 1, &found);

    if (st != CUBLAS_STATUS_SUCCESS)
        return st;
    *algo = first.algo;
    if (!timed && g->choices < GEMM_CHOICES_MAX)
        g->choice[g->choices++] = (struct gemm_choice){
            gemm_bucket(shape->rows), shape->n, shape->k, shape->bias, shape->out, first.algo, 0.0f
        };
    return st;
}

/* What the library answered last, and what it was asked: */
static cublasStatus_t run(struct cuda *c, const struct gemm_shape *shape, const void *w, const void *bias,
                          const void *in, void *out, const char **asked)
{
    const struct gemm_choice *choice = gemm_find(c->gemm, shape);
    cublasLtMatmulAlgo_t algo;
    cublasStatus_t st = CUBLAS_STATUS_INVALID_VALUE;

    *asked = "layouts";
    if (!gemm_layouts(c, shape) ||
        (shape->bias && c->blas.matmul_desc_set_attribute(c->gemm->desc, CUBLASLT_MATMUL_DESC_BIAS_POINTER, &bias,
                                                          sizeof bias) != CUBLAS_STATUS_SUCCESS))
        return st;
    if (choice && gemm_launch(c, w, in, out, shape->out, &choice->algo) == CUBLAS_STATUS_SUCCESS)
        return CUBLAS_STATUS_SUCCESS;
    *asked = "heuristics";
    st = guess(c, shape, choice != NULL, &algo); /* the bucket's choice need not fit every row count in it */
    if (st != CUBLAS_STATUS_SUCCESS)
        return st;
    *asked = "launch";
    return gemm_launch(c, w, in, out, shape->out, &algo);
}

/* The library rounds before it adds the bias where a row is no whole number of its vectors. */
static bool bias_fits(const struct gemm_shape *s)
{
    return !s->bias || (s->n % 8 == 0 && s->k % 8 == 0);
}

bool gemm_run(struct cuda *c, const struct gemm_shape *shape, const void *w, const void *bias, const void *in,
              void *out)
{
    const char *asked = "bias";
    const bool fits = bias_fits(shape);
    const cublasStatus_t st = fits ? run(c, shape, w, bias, in, out, &asked) : CUBLAS_STATUS_SUCCESS;

    if (fits && st == CUBLAS_STATUS_SUCCESS)
        return true;
    cuda_fell_back(c, &(struct fallback){ .instead = "own product",
                                          .library = "cublaslt",
                                          .why = asked,
                                          .status = (int32_t)st,
                                          .shape = { gemm_bucket(shape->rows), shape->n, shape->k } });
    return false;
}

enum status gemm_open(struct cuda *c, const char *cache_dir, struct err *err)
{
    struct blas_library *b = &c->blas;
    const cudaDataType_t t = c->base.act == DT_F32 ? CUDA_R_32F : CUDA_R_16BF;
    const cublasOperation_t turned = CUBLAS_OP_T;
    const size_t workspace = GEMM_WORKSPACE;
    /* parts of a split depth are added up in f32, never in bf16 */
    const uint32_t reductions = CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE;
    struct gemm *g = mem_zero(1, sizeof *g);
    bool ok;

    c->gemm = g;
    if (cache_dir)
        snprintf(g->path, sizeof g->path, "%s/cublaslt-%d%d-%d-%s-%zu.txt", cache_dir, c->major, c->minor, c->sms,
                 dtype_word(c->base.act), b->get_version());
    ok = b->create(&g->handle) == 0 && b->matmul_desc_create(&g->desc, CUBLAS_COMPUTE_32F, CUDA_R_32F) == 0 &&
         b->matmul_desc_set_attribute(g->desc, CUBLASLT_MATMUL_DESC_TRANSA, &turned, sizeof turned) == 0 &&
         b->matrix_layout_create(&g->w, t, 1, 1, 1) == 0 && b->matrix_layout_create(&g->in, t, 1, 1, 1) == 0 &&
         b->matrix_layout_create(&g->out, t, 1, 1, 1) == 0 && b->matmul_preference_create(&g->preference) == 0 &&
         b->matmul_preference_set_attribute(g->preference, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, &workspace,
                                            sizeof workspace) == 0 &&
         b->matmul_preference_set_attribute(g->preference, CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK, &reductions,
                                            sizeof reductions) == 0;
    if (!ok)
        return err_set(err, ST_EUNAVAILABLE, "cuBLASLt cannot be started on cuda:%d", c->device);
    tune_load(c);
    return cuda_alloc(&c->base, GEMM_WORKSPACE, "other", &g->workspace, err);
}

void gemm_close(struct cuda *c)
{
    struct blas_library *b = &c->blas;
    struct gemm *g = c->gemm;

    if (!g)
        return;
    cuda_free(&c->base, g->workspace);
    if (g->preference)
        b->matmul_preference_destroy(g->preference);
    if (g->out)
        b->matrix_layout_destroy(g->out);
    if (g->in)
        b->matrix_layout_destroy(g->in);
    if (g->w)
        b->matrix_layout_destroy(g->w);
    if (g->desc)
        b->matmul_desc_destroy(g->desc);
    if (g->handle)
        b->destroy(g->handle);
    free(g);
    c->gemm = NULL;
}
