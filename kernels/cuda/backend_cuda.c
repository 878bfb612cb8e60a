/* SPDX-License-Identifier: Apache-2.0 */
/*
 * backend_cuda.c - opening a card, and the table that the rest of the program knows it by.
 *
 * The CUDA runtime is linked in and finds the driver by itself; cuBLASLt and cuDNN are opened here at run time. Without
 * a driver, a card or cuBLASLt, open says so in one sentence. Without cuDNN our own attention kernels take over, which is
 * the first fall-back then.
 */
#include "kernels/cuda/cuda.h"

#include "common/base/arena.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct cuda *cuda_of(struct backend *be)
{
    struct cuda *c = (struct cuda *)be;

    (void)cudaSetDevice(c->device); /* the current device is the thread's, and threads come and go */
    return c;
}

void cuda_broken(struct cuda *c, const char *what, const char *why)
{
    pthread_mutex_lock(&c->lock);
    if (!c->is_broken)
        err_set(&c->broken, ST_EINTERNAL, "cuda:%d: %s: %s", c->device, what, why);
    __atomic_store_n(&c->is_broken, true, __ATOMIC_RELEASE);
    pthread_mutex_unlock(&c->lock);
}

bool cuda_failed(struct cuda *c, cudaError_t e, const char *what)
{
    if (e == cudaSuccess)
        return false;
    (void)cudaGetLastError();
    cuda_broken(c, what, cudaGetErrorString(e));
    return true;
}

/* hot: asked after every step, and takes no lock while all is well */
static enum status cuda_health(struct backend *be, struct err *err)
{
    struct cuda *c = (struct cuda *)be;
    enum status st = ST_OK;

    if (!__atomic_load_n(&c->is_broken, __ATOMIC_ACQUIRE) && !__atomic_load_n(&c->is_starved, __ATOMIC_RELAXED))
        return ST_OK;
    pthread_mutex_lock(&c->lock);
    if (c->is_broken)
        st = err_set(err, ST_EINTERNAL, "%s", c->broken.text);
    else if (c->starved.code != ST_OK) /* nobody asked, and its results are void */
        st = err_set(err, ST_EINTERNAL, "%s", c->starved.text);
    pthread_mutex_unlock(&c->lock);
    return st;
}

static const char *cuda_describe(struct backend *be)
{
    return ((struct cuda *)be)->describe;
}

/* The card, its numbers and its share of memory. */
static enum status card_open(struct cuda *c, const struct backend_config *config, char *name, size_t name_bytes,
                             struct err *err)
{
    struct cudaDeviceProp *card;
    size_t free_bytes = 0, total_bytes = 0;
    int count = 0;
    cudaError_t e = cudaGetDeviceCount(&count);

    if (e != cudaSuccess || count == 0)
        return err_set(err, ST_EUNAVAILABLE, "no CUDA device on this machine: %s",
                       e != cudaSuccess ? cudaGetErrorString(e) : "the driver lists none");
    if (config->device < 0 || config->device >= count)
        return err_set(err, ST_EUNAVAILABLE, "cuda:%d is not there: this machine has %d CUDA device%s", config->device,
                       count, count == 1 ? "" : "s");
    card = mem_zero(1, sizeof *card);
    e = cudaSetDevice(config->device);
    if (e == cudaSuccess)
        e = cudaGetDeviceProperties(card, config->device);
    if (e == cudaSuccess)
        e = cudaMemGetInfo(&free_bytes, &total_bytes);
    c->device = config->device;
    c->major = card->major;
    c->minor = card->minor;
    c->sms = card->multiProcessorCount;
    snprintf(name, name_bytes, "%s", card->name);
    for (int i = 0; i < LANE_COUNT; i++)
        c->queue[i] = (struct cuda_queue){ .sms = c->sms,
                                           .shared_bytes = (int32_t)card->sharedMemPerBlockOptin,
                                           .chained = card->major >= 9,
                                           .cluster = card->major >= 9,
                                           .warpgroups = card->major == 9 && card->minor == 0 };
    free(card);
    if (e != cudaSuccess)
        return err_set(err, ST_EUNAVAILABLE, "cuda:%d cannot be used: %s", config->device, cudaGetErrorString(e));
    if (c->major < 8)
        return err_set(err, ST_EUNAVAILABLE, "cuda:%d (%s) has compute capability %d.%d; 8.0 is the least", c->device,
                       name, c->major, c->minor);
    c->capacity = (uint64_t)((double)total_bytes * config->memory_fraction);
    if (c->capacity > free_bytes)
        c->capacity = free_bytes;
    return ST_OK;
}

static enum status streams_open(struct cuda *c, struct err *err)
{
    int least = 0, greatest = 0;
    cudaError_t e = cudaDeviceGetStreamPriorityRange(&least, &greatest);

    /* the press and its copies give way to the layer that is computed meanwhile */
    for (int i = 0; i < LANE_COUNT && e == cudaSuccess; i++) {
        e = cudaStreamCreateWithPriority(&c->stream[i], cudaStreamNonBlocking, i == LANE_COMPUTE ? greatest : least);
        c->queue[i].stream = c->stream[i];
        if (e == cudaSuccess)
            e = cudaEventCreateWithFlags(&c->waited[i], cudaEventDisableTiming);
    }
    return e == cudaSuccess ? ST_OK : err_set(err, ST_EUNAVAILABLE, "streams: %s", cudaGetErrorString(e));
}

static enum status rooms_open(struct cuda *c, struct err *err)
{
    struct backend *be = &c->base;
    void *at;
    enum status st = cuda_alloc(be, (uint64_t)CUDA_ARGMAX_ROWS * CUDA_ARGMAX_PARTS * 8, "other", &at, err);

    if (st == ST_OK)
        c->argmax_partial = at, st = cuda_alloc(be, CUDA_ARGMAX_ROWS * 4, "other", &at, err);
    if (st == ST_OK)
        c->argmax_count = at, st = cuda_alloc(be, (KV_HEADS_MAX + 1) * 8, "other", &at, err);
    if (st == ST_OK)
        c->first_device = at, st = cuda_alloc(be, KV_HEADS_MAX * 8, "other", &at, err);
    if (st == ST_OK)
        c->select_room = at, st = cuda_host_alloc(be, (KV_HEADS_MAX + 1) * 8, &at, err);
    if (st == ST_OK)
        c->first_host = at, st = cuda_host_alloc(be, CHECKSUM_BYTES, &at, err);
    if (st == ST_OK)
        c->bounce = at;
    if (st == ST_OK && cuda_fill(c, c->argmax_count, 0, CUDA_ARGMAX_ROWS * 4) != cudaSuccess)
        st = err_set(err, ST_EUNAVAILABLE, "cuda:%d does not take a memset", c->device);
    return st;
}

static void cuda_close(struct backend *be)
{
    struct cuda *c = cuda_of(be);

    for (int i = 0; i < LANE_COUNT; i++)
        if (c->waited[i])
            (void)cuda_lane_wait(c, (enum lane)i, "the end");
    if (cuda_hung(c)) /* all of it is the process's to the end: giving back waits for the card */
        return;
    cuda_cache_close(be);
    sdpa_close(c);
    gemm_close(c);
    few_close(c);
    cuda_free(be, c->press);
    cuda_free(be, c->argmax_partial);
    cuda_free(be, c->argmax_count);
    cuda_free(be, c->first_device);
    cuda_free(be, c->select_room);
    cuda_host_free(be, c->first_host);
    cuda_host_free(be, c->bounce);
    for (int i = 0; i < LANE_COUNT; i++) {
        if (c->waited[i])
            (void)cudaEventDestroy(c->waited[i]);
        if (c->stream[i])
            (void)cudaStreamDestroy(c->stream[i]);
    }
    dnn_library_close(&c->dnn);
    blas_library_close(&c->blas);
    pthread_mutex_destroy(&c->lock);
    free(c->allotted);
    free(c);
}

static void describe(struct cuda *c, const char *name)
{
    int at = snprintf(c->describe, sizeof c->describe, "%.100s sm_%d%d cublaslt %zu", name, c->major, c->minor,
                      c->blas.get_version());

    if (c->sdpa)
        snprintf(c->describe + at, sizeof c->describe - (size_t)at, " cudnn %zu", c->dnn.get_version());
}

/* cuDNN has no attention in f32 and is not asked for any. */
static void attention_open(struct cuda *c)
{
    if (c->base.act == DT_F32)
        return;
    if (dnn_library_open(&c->dnn, &c->no_dnn) != ST_OK || sdpa_open(c, &c->no_dnn) != ST_OK)
        cuda_fell_back(c, &(struct fallback){ .instead = "own attention", .library = "cudnn", .why = c->no_dnn.text });
}

static enum status cuda_open(struct backend **out, const struct backend_config *config, struct err *err)
{
    struct cuda *c = mem_zero(1, sizeof *c);
    char name[256] = "";
    enum status st;

    c->base.ops = &backend_cuda_ops;
    c->base.act = c->base.kv = config->dtype;
    c->rows_max = config->rows_max;
    pthread_mutex_init(&c->lock, NULL);
    if (config->dtype != DT_F32 && config->dtype != DT_BF16)
        st = err_set(err, ST_EINVAL, "the CUDA back end computes in f32 or bf16");
    else
        st = card_open(c, config, name, sizeof name, err);
    if (st == ST_OK)
        st = blas_library_open(&c->blas, err);
    if (st == ST_OK)
        st = streams_open(c, err);
    if (st == ST_OK)
        st = rooms_open(c, err);
    if (st == ST_OK)
        st = few_open(c, err);
    if (st == ST_OK)
        st = gemm_open(c, config->cache_dir, err);
    if (st != ST_OK) {
        cuda_close(&c->base);
        return st;
    }
    attention_open(c);
    describe(c, name);
    *out = &c->base;
    return ST_OK;
}

const struct backend_ops backend_cuda_ops = {
    .name = "cuda",
    .open = cuda_open,
    .close = cuda_close,
    .describe = cuda_describe,
    .health = cuda_health,
    .device_bytes = cuda_device_bytes,
    .alloc = cuda_alloc,
    .free = cuda_free,
    .host_alloc = cuda_host_alloc,
    .host_free = cuda_host_free,
    .codecs = (1u << KV_CODECS) - 1,
    .host_is_device = false,
    .upload = cuda_upload,
    .download = cuda_download,
    .copy = cuda_copy,
    .wait = cuda_wait,
    .fence_open = cuda_fence_open,
    .fence_close = cuda_fence_close,
    .fence_record = cuda_fence_record,
    .fence_after = cuda_fence_after,
    .fence_wait = cuda_fence_wait,
    .weight_open = cuda_weight_open,
    .weight_close = cuda_weight_close,
    .embed = cuda_embed,
    .rms_norm = cuda_rms_norm,
    .add_normed = cuda_add_normed,
    .matmul = cuda_matmul,
    .gated = cuda_gated,
    .gather_rows = cuda_gather_rows,
    .argmax = cuda_argmax,
    .qkv_to_layer = cuda_qkv_to_layer,
    .attn_prepare = cuda_attn_prepare,
    .attn_prefill = cuda_attn_prefill,
    .cache_open = cuda_cache_open,
    .cache_close = cuda_cache_close,
    .slot_blocks = cuda_slot_blocks,
    .slot_page = cuda_slot_page,
    .slot_ring = cuda_slot_ring,
    .step_begin = cuda_step_begin,
    .step_embed = cuda_step_embed,
    .qkv_to_tail = cuda_qkv_to_tail,
    .attn_decode = cuda_attn_decode,
    .step_outputs = cuda_step_outputs,
    .step_choose = cuda_step_choose,
    .step_end = cuda_step_end,
    .step_launches = cuda_step_launches,
    .step_result = cuda_step_result,
    .slot_gather = cuda_slot_gather,
    .queries_plain = cuda_queries_plain,
    .normed_qkv_to_tail = cuda_normed_qkv_to_tail,
    .normed_gated = cuda_normed_gated,
    .normed_outputs = cuda_normed_outputs,
    .score_key_norm = cuda_score_key_norm,
    .score_window = cuda_score_window,
    .score_ranges = cuda_score_ranges,
    .score_random = cuda_score_random,
    .select = cuda_select,
    .pack = cuda_pack,
    .rotate_rows = cuda_rotate_rows,
    .mix_rows = cuda_mix_rows,
    .row_squares = cuda_row_squares,
    .score_key_diff = cuda_score_key_diff,
    .score_key_dot = cuda_score_key_dot,
    .score_lag = cuda_score_lag,
    .channel_squares = cuda_channel_squares,
    .keep_channels = cuda_keep_channels,
    .query_stats = cuda_query_stats,
    .rotate_stats = cuda_rotate_stats,
    .score_weigh = cuda_score_weigh,
    .score_share = cuda_score_share,
    .score_expected = cuda_score_expected,
    .score_cap = cuda_score_cap,
    .score_leverage = cuda_score_leverage,
    .score_noncausal = cuda_score_noncausal,
    .score_columns = cuda_score_columns,
    .value_out_norms = cuda_value_out_norms,
    .linear = cuda_linear,
    .merge_values = cuda_merge_values,
    .press_room = cuda_press_room,
    .checksum = cuda_checksum,
    .fallback_at = cuda_fallback_at,
};
