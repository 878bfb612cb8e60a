/* SPDX-License-Identifier: Apache-2.0 */
/* The CUDA back end's host side where no card is: its libraries, and those calls of the runtime that are wrapped (kernels.cmake),
 * answer as the promise says. */
#include "common/base/clock.h"
#include "kernels/cuda/cache.h"
#include "kernels/cuda/cuda.h"
#include "kernels/cuda/gemm.h"
#include "tests/support/cmocka_main.h"

static cublasStatus_t heuristics_say, launch_says;

static cublasStatus_t set_layout(cublasLtMatrixLayout_t layout, cublasLtMatrixLayoutAttribute_t what, const void *value,
                                 size_t bytes)
{
    (void)layout, (void)what, (void)value, (void)bytes;
    return CUBLAS_STATUS_SUCCESS;
}

static cublasStatus_t set_desc(cublasLtMatmulDesc_t desc, cublasLtMatmulDescAttributes_t what, const void *value,
                               size_t bytes)
{
    (void)desc, (void)what, (void)value, (void)bytes;
    return CUBLAS_STATUS_SUCCESS;
}

static cublasStatus_t heuristics(cublasLtHandle_t handle, cublasLtMatmulDesc_t desc, cublasLtMatrixLayout_t a,
                                 cublasLtMatrixLayout_t b, cublasLtMatrixLayout_t c, cublasLtMatrixLayout_t d,
                                 cublasLtMatmulPreference_t preference, int most, cublasLtMatmulHeuristicResult_t *out,
                                 int *found)
{
    (void)handle, (void)desc, (void)a, (void)b, (void)c, (void)d, (void)preference, (void)most;
    *found = heuristics_say == CUBLAS_STATUS_SUCCESS;
    memset(out, 0, sizeof *out);
    return heuristics_say;
}

static cublasStatus_t matmul(cublasLtHandle_t handle, cublasLtMatmulDesc_t desc, const void *alpha, const void *a,
                             cublasLtMatrixLayout_t a_layout, const void *b, cublasLtMatrixLayout_t b_layout,
                             const void *beta, const void *c, cublasLtMatrixLayout_t c_layout, void *d,
                             cublasLtMatrixLayout_t d_layout, const cublasLtMatmulAlgo_t *algo, void *workspace,
                             size_t workspace_bytes, cudaStream_t stream)
{
    (void)handle, (void)desc, (void)alpha, (void)a, (void)a_layout, (void)b, (void)b_layout, (void)beta, (void)c;
    (void)c_layout, (void)d, (void)d_layout, (void)algo, (void)workspace, (void)workspace_bytes, (void)stream;
    return launch_says;
}

/* The runtime's. */
static cudaError_t event_says;
cudaError_t __wrap_cudaMemcpyAsync(void *to, const void *from, size_t bytes, enum cudaMemcpyKind kind,
                                   cudaStream_t stream);
static int frees;

cudaError_t __wrap_cudaSetDevice(int device);
cudaError_t __wrap_cudaEventQuery(cudaEvent_t event);
cudaError_t __wrap_cudaEventRecord(cudaEvent_t event, cudaStream_t stream);
cudaError_t __wrap_cudaFree(void *device);
cudaError_t __wrap_cudaFreeHost(void *host);

cudaError_t __wrap_cudaMemcpyAsync(void *to, const void *from, size_t bytes, enum cudaMemcpyKind kind,
                                   cudaStream_t stream)
{
    (void)to, (void)from, (void)bytes, (void)kind, (void)stream;
    return cudaSuccess;
}

cudaError_t __wrap_cudaSetDevice(int device)
{
    (void)device;
    return cudaSuccess;
}

cudaError_t __wrap_cudaEventQuery(cudaEvent_t event)
{
    (void)event;
    return event_says;
}

cudaError_t __wrap_cudaEventRecord(cudaEvent_t event, cudaStream_t stream)
{
    (void)event, (void)stream;
    return cudaSuccess;
}

cudaError_t __wrap_cudaFree(void *device)
{
    (void)device;
    frees++;
    return cudaSuccess;
}

cudaError_t __wrap_cudaFreeHost(void *host)
{
    (void)host;
    frees++;
    return cudaSuccess;
}

static int setup(void **state)
{
    static struct gemm gemm;
    static struct cuda c;

    memset(&gemm, 0, sizeof gemm);
    memset(&c, 0, sizeof c);
    c.base = (struct backend){ &backend_cuda_ops, DT_BF16, DT_BF16 };
    c.gemm = &gemm;
    c.blas = (struct blas_library){ .matrix_layout_set_attribute = set_layout,
                                    .matmul_desc_set_attribute = set_desc,
                                    .matmul_algo_get_heuristic = heuristics,
                                    .matmul = matmul };
    pthread_mutex_init(&c.lock, NULL);
    heuristics_say = launch_says = CUBLAS_STATUS_SUCCESS;
    event_says = cudaSuccess;
    frees = 0;
    *state = &c;
    return 0;
}

static bool product(struct cuda *c, int64_t rows, int64_t n, int64_t k, bool bias)
{
    const struct gemm_shape shape = { rows, n, k, bias, GEMM_ACT };

    return gemm_run(c, &shape, NULL, NULL, NULL, NULL);
}

static const struct fallback *told(struct cuda *c, int32_t index)
{
    return backend_cuda_ops.fallback_at(&c->base, index);
}

static void products_that_the_library_takes_are_no_fall_backs(void **state)
{
    struct cuda *c = *state;

    assert_true(product(c, 100, 1024, 1024, true));
    assert_true(product(c, 100, 1024, 1024, false));
    assert_null(told(c, 0));
}

static void a_product_that_the_library_refuses_is_told_once_a_shape(void **state)
{
    struct cuda *c = *state;

    heuristics_say = CUBLAS_STATUS_NOT_SUPPORTED;
    for (int64_t rows = 65; rows <= 96; rows++) /* one bucket of the ladder */
        assert_false(product(c, rows, 1000, 77, false));
    assert_non_null(told(c, 0));
    assert_string_equal(told(c, 0)->instead, "own product");
    assert_string_equal(told(c, 0)->why, "heuristics");
    assert_int_equal(told(c, 0)->status, CUBLAS_STATUS_NOT_SUPPORTED);
    assert_int_equal(told(c, 0)->shape[0], 96);
    assert_int_equal(told(c, 0)->shape[1], 1000);
    assert_int_equal(told(c, 0)->shape[2], 77);
    assert_null(told(c, 1));
    assert_false(product(c, 97, 1000, 77, false));
    assert_int_equal(told(c, 1)->shape[0], 128);
    assert_null(told(c, 2));
}

static void a_launch_that_the_library_refuses_is_told(void **state)
{
    struct cuda *c = *state;

    launch_says = CUBLAS_STATUS_EXECUTION_FAILED;
    assert_false(product(c, 64, 1024, 1024, false));
    assert_string_equal(told(c, 0)->why, "launch");
    assert_int_equal(told(c, 0)->status, CUBLAS_STATUS_EXECUTION_FAILED);
}

static void a_bias_that_the_library_is_not_asked_for_is_told(void **state)
{
    struct cuda *c = *state;

    assert_true(product(c, 64, 1001, 1024, false));
    assert_false(product(c, 64, 1001, 1024, true));
    assert_string_equal(told(c, 0)->why, "bias");
    assert_int_equal(told(c, 0)->status, 0);
}

static void more_fall_backs_than_there_is_room_for_are_left_out(void **state)
{
    struct cuda *c = *state;

    heuristics_say = CUBLAS_STATUS_NOT_SUPPORTED;
    for (int64_t n = 1; n <= FALLBACKS_MAX + 1; n++)
        assert_false(product(c, 64, n, 64, false));
    assert_int_equal(told(c, FALLBACKS_MAX - 1)->shape[1], FALLBACKS_MAX);
    assert_null(told(c, FALLBACKS_MAX));
}

static bool timed(const struct cuda *c, int64_t rows, int64_t width, enum gemm_out out)
{
    const struct gemm_shape shape = { rows, width, width, false, out };

    return tune_wants(c, &shape);
}

static void only_products_that_come_to_the_library_are_timed(void **state)
{
    struct cuda *c = *state;

    assert_false(timed(c, 16, 4096, GEMM_ACT));
    assert_false(timed(c, 16, 4096, GEMM_ADDS));
    assert_true(timed(c, 16, 4096, GEMM_F32)); /* qkv of a prefill's few rows */
    assert_false(timed(c, SKINNY_ROWS_MAX, 576, GEMM_ACT));
    assert_true(timed(c, 1024, 4096, GEMM_ACT));
    assert_true(timed(c, 1024, 576, GEMM_ACT));
    assert_true(product(c, 1024, 576, 576, false)); /* a guess is a choice */
    assert_false(timed(c, 1024, 576, GEMM_ACT));
    c->base.act = DT_F32;
    assert_true(timed(c, 16, 4096, GEMM_ACT));
}

/* No byte of the card is left. */
static void a_product_that_there_is_no_room_to_time_is_told(void **state)
{
    struct cuda *c = *state;
    struct err err = { 0 };

    c->rows_max = 1000;
    assert_int_equal(gemm_tune(c, 4096, 2048, GEMM_ACT, NULL, &err), ST_OK);
    assert_string_equal(told(c, 0)->instead, "untimed product");
    assert_int_equal(told(c, 0)->shape[0], 1024);
    assert_int_equal(told(c, 0)->shape[1], 4096);
    assert_int_equal(told(c, 0)->shape[2], 2048);
    c->base.act = DT_F32; /* nothing is timed, so nothing was to be had */
    assert_int_equal(gemm_tune(c, 4096, 4096, GEMM_ACT, NULL, &err), ST_OK);
    assert_null(told(c, 1));
}

/* One sequence's next row, with so many shapes of steps recorded already. */
static void step_with(struct cuda *c, int32_t recorded)
{
    static struct cuda_cache cache;
    static int32_t upload[STEPS_KEPT][STEP_ROW_ARRAYS * 8 + STEP_OUTPUT_ARRAYS * 4];
    static bool wanted[STEPS_KEPT][4];
    const struct step_seq seq = { .slot = 0, .row = 0, .rows = 1, .tail = 0, .length = 1 };
    const int32_t zero = 0;
    const struct step step = { 1, 1, &seq, &zero, &zero, &zero, false };

    memset(&cache, 0, sizeof cache);
    cache.config = (struct cache_config){
        .slots = 4, .rows_max = 8, .layers = 1, .q_heads = 8, .kv_heads = 8, .dim = 64, .replay = true
    };
    cache.graphs = recorded;
    for (int i = 0; i < STEPS_KEPT; i++) {
        cache.flight[i].upload = upload[i];
        cache.flight[i].wanted = wanted[i];
    }
    c->cache = &cache;
    (void)cuda_step_begin(&c->base, &step);
    c->cache = NULL;
}

static void a_step_that_cannot_be_recorded_is_told(void **state)
{
    struct cuda *c = *state;

    step_with(c, GRAPHS_MAX - 1);
    assert_null(told(c, 0));
    step_with(c, GRAPHS_MAX);
    assert_string_equal(told(c, 0)->instead, "unrecorded step");
    assert_int_equal(told(c, 0)->shape[0], 1);
    assert_int_equal(told(c, 0)->shape[1], 1);
}

/* A bucket's choice that does not fit one row count in it leaves the choices as they are. */
static void guesses_do_not_fill_the_table_of_choices(void **state)
{
    struct cuda *c = *state;

    assert_true(product(c, 64, 1024, 1024, false));
    assert_int_equal(c->gemm->choices, 1);
    launch_says = CUBLAS_STATUS_NOT_SUPPORTED;
    for (int i = 0; i < 10; i++)
        assert_false(product(c, 60, 1024, 1024, false));
    assert_int_equal(c->gemm->choices, 1);
}

static void a_wait_that_ends_in_time_leaves_the_device_well(void **state)
{
    struct cuda *c = *state;

    assert_true(cuda_event_wait(c, NULL, 1, "a step"));
    cuda_wait(&c->base, LANE_COPY);
    assert_int_equal(backend_cuda_ops.health(&c->base, NULL), ST_OK);
    assert_false(cuda_hung(c));
}

static void a_wait_past_its_deadline_breaks_the_device_by_name(void **state)
{
    struct cuda *c = *state;
    struct err err = { 0 };

    event_says = cudaErrorNotReady;
    assert_false(cuda_event_wait(c, NULL, 20, "a step"));
    assert_int_equal(backend_cuda_ops.health(&c->base, &err), ST_EINTERNAL);
    assert_string_equal(err.text, "cuda:0: a step: did not end in time");
}

static void a_fence_past_its_deadline_breaks_the_device(void **state)
{
    struct cuda *c = *state;
    void *fence = NULL; /* an event, which is not looked at */
    struct err err = { 0 };

    event_says = cudaErrorNotReady;
    assert_int_equal(cuda_fence_wait(&c->base, (struct fence *)&fence, clock_in_ms(20)), ST_EDEADLINE);
    assert_int_equal(backend_cuda_ops.health(&c->base, &err), ST_EINTERNAL);
    assert_string_equal(err.text, "cuda:0: a fence: did not end in time");
}

/* Waits of a minute and more, each of which would go to its own deadline. */
static void a_device_that_hangs_is_waited_for_once(void **state)
{
    const int64_t begin = clock_now_ns();
    struct cuda *c = *state;
    struct err err = { 0 };

    event_says = cudaErrorNotReady;
    assert_false(cuda_event_wait(c, NULL, 20, "a step"));
    assert_false(cuda_event_wait(c, NULL, 60000, "a step"));
    assert_false(cuda_lane_wait(c, LANE_COMPUTE, "the last step"));
    cuda_wait(&c->base, LANE_PRESS);
    assert_true(clock_now_ns() - begin < 10 * NS_PER_S);
    (void)backend_cuda_ops.health(&c->base, &err);
    assert_string_equal(err.text, "cuda:0: a step: did not end in time"); /* the first stays */
}

static void nothing_is_given_back_to_a_device_that_hangs(void **state)
{
    struct cuda *c = *state;
    char room;

    cuda_free(&c->base, &room);
    cuda_host_free(&c->base, &room);
    assert_int_equal(frees, 2);
    event_says = cudaErrorNotReady;
    assert_false(cuda_event_wait(c, NULL, 20, "a step"));
    cuda_free(&c->base, &room);
    cuda_host_free(&c->base, &room);
    backend_close(&c->base); /* would free `c` itself, which is no allocation */
    assert_int_equal(frees, 2);
}

int main(int argc, char **argv)
{
    static const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(products_that_the_library_takes_are_no_fall_backs, setup),
        cmocka_unit_test_setup(a_product_that_the_library_refuses_is_told_once_a_shape, setup),
        cmocka_unit_test_setup(a_launch_that_the_library_refuses_is_told, setup),
        cmocka_unit_test_setup(a_bias_that_the_library_is_not_asked_for_is_told, setup),
        cmocka_unit_test_setup(more_fall_backs_than_there_is_room_for_are_left_out, setup),
        cmocka_unit_test_setup(only_products_that_come_to_the_library_are_timed, setup),
        cmocka_unit_test_setup(a_product_that_there_is_no_room_to_time_is_told, setup),
        cmocka_unit_test_setup(a_step_that_cannot_be_recorded_is_told, setup),
        cmocka_unit_test_setup(guesses_do_not_fill_the_table_of_choices, setup),
        cmocka_unit_test_setup(a_wait_that_ends_in_time_leaves_the_device_well, setup),
        cmocka_unit_test_setup(a_wait_past_its_deadline_breaks_the_device_by_name, setup),
        cmocka_unit_test_setup(a_fence_past_its_deadline_breaks_the_device, setup),
        cmocka_unit_test_setup(a_device_that_hangs_is_waited_for_once, setup),
        cmocka_unit_test_setup(nothing_is_given_back_to_a_device_that_hangs, setup),
    };

    return cmocka_main(argc, argv, tests, ARRAY_LEN(tests), NULL, NULL);
}
