/* SPDX-License-Identifier: Apache-2.0 */
/*
 * cuda.h - what the host files of the CUDA back end share; nobody outside this folder includes it.
 *
 *   backend_cuda.c  open, close, health, the table          cache.c     slots, pages, blocks
 *   memory.c        alloc, copies, fences, waits            step.c      one step: upload, replay, result
 *   weight.c        reading and converting weights          gather.c    a slot's rows, for a press while decoding
 *   layer.c         the half-layers, prefill                press.c     scores, select, pack, checksum
 *   gemm.c, tune.c  products by cuBLASLt, choice of how     score.c     scores that single presses need
 *   few.c           products of few rows                    library.c   libraries opened at run time
 *   sdpa.c          cuDNN's fused attention; its plans      fallback.c  what libraries refused
 *   sdpa_graph.c    are built here                          *.cu        kernels, declared in launch.h
 */
#ifndef PLATEN_KERNELS_CUDA_CUDA_H
#define PLATEN_KERNELS_CUDA_CUDA_H

#include "kernels/backend.h"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/library.h"

#include <pthread.h>
#include <stdbool.h>

#ifdef __cplusplus
extern "C" {
#endif

enum { CUDA_ARGMAX_ROWS = 4096, FALLBACKS_MAX = 256 };
enum purpose { FOR_WEIGHTS, FOR_ACTIVATIONS, FOR_BLOCKS, FOR_TAILS, FOR_OTHER, PURPOSE_COUNT };

/* A product of few rows. */
enum few_kind { FEW_PLAIN, FEW_GATED, FEW_QKV };
enum few_way { FEW_NOT, FEW_THIN, FEW_WIDE, FEW_SKINNY };
struct few_product {
    enum few_kind kind;
    enum few_way way; /* set by few_run */
    struct skinny_args args;
    struct rotate_args heads; /* FEW_QKV */
};

/* What waits for the next operation to say how it norms x. owned by: the engine thread. */
enum held { HELD_NOTHING, HELD_EMBED, HELD_PRODUCT };
struct few {
    void *row; /* as struct normed_rows says, THIN_WIDTH_MAX wide; square the same */
    float *square;
    float *pieces; /* as struct skinny_args says */
    enum held held;
    struct embed_args embed;
    struct few_product product;
};

struct cuda_cache;
struct gemm;
struct sdpa;

/* One allocation, so that free knows what to give back. */
struct allotted {
    void *at;
    uint64_t bytes;
    enum purpose purpose;
};

/* owned by: the engine thread, but for what `lock` guards. */
struct cuda {
    struct backend base;
    int32_t device, major, minor, sms;
    int64_t rows_max;
    cudaStream_t stream[LANE_COUNT];
    struct cuda_queue queue[LANE_COUNT];
    cudaEvent_t waited[LANE_COUNT]; /* ops->wait */
    struct blas_library blas;
    struct dnn_library dnn;
    struct gemm *gemm;
    struct sdpa *sdpa; /* NULL: own attention: f32, or no_dnn says why */
    struct err no_dnn;
    struct cuda_cache *cache;
    struct few few;
    bool memory_idles; /* the launch before waits more than it reads: the next may call its weights meanwhile */
    void *press;       /* grows to what the largest press asked for */
    uint64_t press_bytes;
    struct err starved;       /* under lock; ST_OK: every press found its room */
    bool is_starved;          /* atomic: that says something */
    uint64_t *argmax_partial; /* [CUDA_ARGMAX_ROWS][CUDA_ARGMAX_PARTS] */
    uint32_t *argmax_count;   /* [CUDA_ARGMAX_ROWS] zeros */
    int64_t *first_host;      /* pinned [KV_HEADS_MAX + 1] */
    int64_t *first_device;
    uint64_t *select_room;
    void *bounce; /* pinned, CHECKSUM_BYTES */
    uint64_t capacity;
    char describe[192];
    struct fallback fallback[FALLBACKS_MAX];
    int32_t fallbacks;    /* atomic: written by the engine thread */
    pthread_mutex_t lock; /* guards allotted and broken */
    struct allotted *allotted;
    size_t allotted_count, allotted_room;
    uint64_t used[PURPOSE_COUNT];
    struct err broken;
    bool is_broken; /* atomic, set after `broken` under lock */
    bool is_hung;   /* atomic: a wait's deadline passed, and nobody waits for the card again */
};

struct weight {
    enum weight_use use;
    int64_t rows, cols;
    void *data;    /* act [rows][cols]; NULL for vectors */
    float *vector; /* f32 [cols] */
    void *bias;    /* the same in act, as the products' epilogue wants it */
};

extern const struct backend_ops backend_cuda_ops;

/* The back end of `be`, its device made the calling thread's. */
struct cuda *cuda_of(struct backend *be);

/* Remembers the first failure; true when `e` is one. Any thread. */
bool cuda_failed(struct cuda *c, cudaError_t e, const char *what);
void cuda_broken(struct cuda *c, const char *what, const char *why);
/* Waits for an event, at most `ms`. Past that the back end is broken and hung: nothing else waits, and what would wait for
 * the card inside the driver (free) is left to the end of the process. Any thread. */
bool cuda_event_wait(struct cuda *c, cudaEvent_t event, int64_t ms, const char *what);
/* The same for all that was queued on a lane; `what` waits for it. */
bool cuda_lane_wait(struct cuda *c, enum lane lane, const char *what);
bool cuda_hung(const struct cuda *c);

/* fallback.c */
/* Remembers that a kernel of ours does this, or the library by its first guess, once for each `instead` and shape. Engine
 * thread; hot. */
void cuda_fell_back(struct cuda *c, const struct fallback *f);
const struct fallback *cuda_fallback_at(struct backend *be, int32_t index);

static inline uint64_t act_bytes(const struct cuda *c)
{
    return c->base.act == DT_F32 ? 4 : 2;
}

/* memory.c */
/* Every byte is `byte` when it returns. For what is opened, never between steps. */
cudaError_t cuda_fill(struct cuda *c, void *device, int byte, uint64_t bytes);
enum status cuda_alloc(struct backend *be, uint64_t bytes, const char *what, void **out, struct err *err);
void cuda_free(struct backend *be, void *device);
enum status cuda_host_alloc(struct backend *be, uint64_t bytes, void **out, struct err *err);
void cuda_host_free(struct backend *be, void *host);
void cuda_upload(struct backend *be, enum lane lane, void *device, const void *host, uint64_t bytes);
void cuda_download(struct backend *be, enum lane lane, void *host, const void *device, uint64_t bytes);
void cuda_copy(struct backend *be, enum lane lane, void *to, const void *from, uint64_t bytes);
void cuda_wait(struct backend *be, enum lane lane);
enum status cuda_fence_open(struct backend *be, struct fence **out, struct err *err);
void cuda_fence_close(struct backend *be, struct fence *f);
void cuda_fence_record(struct backend *be, struct fence *f, enum lane lane);
void cuda_fence_after(struct backend *be, enum lane lane, struct fence *f);
enum status cuda_fence_wait(struct backend *be, struct fence *f, int64_t deadline_ns);
void cuda_device_bytes(struct backend *be, struct device_bytes *out);

/* weight.c */
enum status cuda_weight_open(struct backend *be, const struct weight_source *src, enum weight_use use,
                             struct weight **out, struct err *err);
void cuda_weight_close(struct backend *be, struct weight *w);

/* gemm.c, tune.c */
/* What becomes of a product: in the activations' dtype; f32; added to the f32 that is there. */
enum gemm_out { GEMM_ACT, GEMM_F32, GEMM_ADDS };
struct gemm_shape {
    int64_t rows, n, k;
    bool bias;
    enum gemm_out out;
};
enum status gemm_open(struct cuda *c, const char *cache_dir, struct err *err);
void gemm_close(struct cuda *c);
/* Times the candidates for products with a weight of n x k, for the row counts that occur. Not hot. */
enum status gemm_tune(struct cuda *c, int64_t n, int64_t k, enum gemm_out kind, const void *w, struct err *err);
/* out [rows][n] = in [rows][k] . w^T (+ out) (+ bias [n], in out's dtype, where shape->bias). false: cuBLASLt does not
 * take it, nothing was queued, and the shape stands among the fall-backs. */
bool gemm_run(struct cuda *c, const struct gemm_shape *shape, const void *w, const void *bias, const void *in,
              void *out);

/* sdpa.c */
enum status sdpa_open(struct cuda *c, struct err *err);
void sdpa_close(struct cuda *c);
void cuda_attn_prepare(struct backend *be, int32_t q_heads, const struct kv_layer *kv);
/* As attn_prefill without a window; false: not a shape for cuDNN (nothing was queued). */
bool sdpa_run(struct cuda *c, const struct attn_span *span, int32_t count, const void *q, int32_t q_heads, float scale,
              void *out, float *lse, int64_t lse_stride);

/* few.c */
/* Bytes of each weight row that skinny.cu calls into the L2 while the kernel before ends, and where that one waits more
 * than it reads. */
enum { CUDA_AHEAD_BYTES = 2048, CUDA_AHEAD_IDLE_BYTES = 8192 };
enum status few_open(struct cuda *c, struct err *err);
void few_close(struct cuda *c);
/* The compute lane's queue, with nothing held back that was to come before. */
struct cuda_queue cuda_compute(struct cuda *c);
/* A step's first rows. */
void few_embed(struct cuda *c, const struct embed_args *rows);
/* The product of `rows` normed rows of x f32. */
struct few_product few_normed(const struct normed_product *p, const void *x, int64_t rows, void *out);
/* Whether few_run takes a plain product of this shape, bias or not; what it leaves is cuBLASLt's. */
bool few_takes(const struct cuda *c, const struct gemm_shape *shape);
/* Runs a product whose `in` has in_rows rows. False: it is not for few rows; nothing was queued. */
bool few_run(struct cuda *c, struct few_product *p, int64_t in_rows);

/* layer.c */
void cuda_embed(struct backend *be, const struct weight *table, const int32_t *ids, int64_t rows, float scale, void *x);
void cuda_rms_norm(struct backend *be, const void *x, const struct weight *w, float eps, int64_t rows, int32_t dim,
                   void *out);
void cuda_add_normed(struct backend *be, void *y, const struct weight *w, float eps, int64_t rows, int32_t dim,
                     void *x);
void cuda_matmul(struct backend *be, const struct weight *w, const struct weight *bias, const void *in, int64_t rows,
                 void *out, bool accumulate);
bool cuda_normed_gated(struct backend *be, const struct normed_product *p, enum activation kind, const void *x,
                       int64_t rows, void *out);
/* What a rotation takes from the shape and the table; where rows come from and go to is the caller's. */
struct rotate_args layer_rotation(const struct qkv_shape *shape, const struct rope_table *rope);
void cuda_gated(struct backend *be, enum activation kind, const void *gate_up, int64_t rows, int32_t ff, void *out);
void cuda_gather_rows(struct backend *be, const void *x, const int32_t *index, int64_t count, int32_t dim, void *out);
void cuda_mix_rows(struct backend *be, const void *x, const int32_t *index, int32_t slices, int64_t rows, int32_t cols,
                   void *out);
void cuda_argmax(struct backend *be, const void *logits, int64_t rows, int32_t vocab, int32_t *ids);
void cuda_qkv_to_layer(struct backend *be, const struct qkv_shape *shape, const struct rope_table *rope,
                       const void *qkv, const int32_t *position, int64_t rows, void *q, void *q_plain,
                       const struct kv_layer *kv, int64_t token);
void cuda_attn_prefill(struct backend *be, const struct attn_span *span, int32_t count, const void *q, int32_t q_heads,
                       float scale, int32_t window, void *out, float *lse, int64_t lse_stride);

void cuda_rotate_rows(struct backend *be, const void *in, int32_t heads, int32_t dim, const struct rope_table *rope,
                      int64_t position, int64_t step, int64_t rows, void *out);

/* cache.c, step.c */
enum status cuda_cache_open(struct backend *be, const struct cache_config *config, struct err *err);
void cuda_cache_close(struct backend *be);
void cuda_slot_blocks(struct backend *be, int32_t slot, const struct kv_block *blocks);
void cuda_slot_page(struct backend *be, int32_t slot, int32_t index, int32_t page);
void cuda_slot_ring(struct backend *be, int32_t slot, int32_t index, int32_t page);
bool cuda_step_begin(struct backend *be, const struct step *step);
void cuda_step_embed(struct backend *be, const struct weight *table, float scale, void *x);
void cuda_qkv_to_tail(struct backend *be, const struct qkv_shape *shape, const struct rope_table *rope, int32_t layer,
                      const void *qkv, void *q);
void cuda_attn_decode(struct backend *be, int32_t layer, const void *q, int32_t q_heads, float scale, int32_t window,
                      void *out);
bool cuda_normed_qkv_to_tail(struct backend *be, const struct normed_product *p, const struct qkv_shape *shape,
                             const struct rope_table *rope, int32_t layer, const void *x, void *q);
bool cuda_normed_outputs(struct backend *be, const struct normed_product *p, const void *x, void *logits);
void cuda_step_outputs(struct backend *be, const void *x, int32_t dim, void *out);
void cuda_step_choose(struct backend *be, const void *logits, int32_t vocab);
void cuda_step_end(struct backend *be);
int32_t cuda_step_launches(struct backend *be);
void cuda_step_result(struct backend *be, int32_t behind, int32_t *ids);
void cuda_slot_gather(struct backend *be, int32_t slot, int32_t layer, int32_t tail, const struct kv_block *out);
void cuda_queries_plain(struct backend *be, const struct qkv_shape *shape, const void *qkv, int64_t rows, void *out);
/* A step was begun and not ended. */
bool step_is_open(const struct cuda *c);
/* What a step's attention needs to know before the first layer, and its first rows where a table is given. */
void step_plan(struct cuda *c, const struct embed_args *rows);
/* Rows that an operation takes for `rows` asked: padded to the recorded shape inside a step, else as they are. */
int64_t step_rows_of(const struct cuda *c, int64_t rows);

/* press.c, score.c */
struct rows_view press_view(const struct kv_rows *in);
/* Room of at least `bytes` for one press at a time (c->press); growing waits for the device. false: there is none, and
 * cuda_press_room says so. */
bool press_reserve(struct cuda *c, uint64_t bytes);
enum status cuda_press_room(struct backend *be, struct err *err);
/* masks [heads][ceil(dim / 8)] = the channels that are kept, as in a block's masks: channel host [heads][k_dim]. */
void channel_masks(const int32_t *channel, int32_t heads, int32_t k_dim, int32_t dim,
                   uint8_t masks[KV_HEADS_MAX * (KV_HEAD_DIM_MAX / 8)]);
void cuda_row_squares(struct backend *be, const struct kv_rows *in, const float *sketch, int32_t sketch_dim, float *k2,
                      float *v2);
void cuda_score_key_diff(struct backend *be, const struct kv_rows *in, float *score);
void cuda_score_key_dot(struct backend *be, const struct kv_rows *in, const float *filter, float factor, float *score);
void cuda_score_lag(struct backend *be, const struct kv_rows *in, int64_t from, int64_t lag, float *score);
void cuda_channel_squares(struct backend *be, const struct kv_rows *in, const int32_t *index, const int64_t *first,
                          float *out);
void cuda_keep_channels(struct backend *be, const struct kv_rows *in, const int32_t *index, const int64_t *first,
                        const int32_t *channel, int32_t k_dim);
void cuda_query_stats(struct backend *be, const void *q, int32_t q_heads, int32_t dim, int64_t rows, float *mean,
                      float *cov);
void cuda_rotate_stats(struct backend *be, const struct rope_table *rope, int64_t from, int64_t count, int32_t q_heads,
                       int32_t dim, float *mean, float *cov);
void cuda_score_share(struct backend *be, const struct kv_rows *in, int64_t tail, float *score);
void cuda_score_weigh(struct backend *be, const struct kv_rows *in, int64_t from, const float *v2, float eps,
                      float *score);
void cuda_score_expected(struct backend *be, const struct kv_rows *in, int64_t from, const float *mean,
                         const float *cov, int32_t q_heads, float *score);
void cuda_score_cap(struct backend *be, const struct kv_rows *in, int64_t from, const float *mean, int32_t q_heads,
                    float tau, float eps, float *score);
void cuda_score_leverage(struct backend *be, const struct kv_rows *in, const struct rope_table *rope, int64_t position,
                         const float *sketch, int32_t sketch_dim, float *score);
void cuda_score_noncausal(struct backend *be, const struct kv_rows *in, const void *q, int32_t q_heads, int64_t chunk,
                          float *score);
void cuda_merge_values(struct backend *be, const struct kv_rows *in, const int32_t *index, const int64_t *first,
                       float threshold, double fraction);
void cuda_score_columns(struct backend *be, const struct kv_rows *in, const struct column_args *args, float *score);
void cuda_value_out_norms(struct backend *be, const struct kv_rows *in, const int32_t *index, const int64_t *first,
                          const struct weight *o, int32_t q_heads, int32_t power, float *out);
void cuda_linear(struct backend *be, const void *x, int64_t rows, int64_t cols, const float *w, const float *bias,
                 int32_t outs, float *out);
void cuda_score_key_norm(struct backend *be, const struct kv_rows *in, float factor, float *score);
void cuda_score_window(struct backend *be, const struct kv_rows *in, const void *q, int32_t q_heads, int32_t window,
                       int64_t tokens, const float *row_weight, int32_t kernel, float pad, float *score);
void cuda_score_ranges(struct backend *be, const struct kv_rows *in, const int64_t *begin, const float *value,
                       int32_t count, float *score);
void cuda_score_random(struct backend *be, const struct kv_rows *in, uint64_t seed, int32_t layer, float *score);
void cuda_select(struct backend *be, const struct kv_rows *in, const struct select_args *args, int32_t *index,
                 int64_t *first);
void cuda_pack(struct backend *be, const struct pack_args *args, const struct kv_block *block);
uint64_t cuda_checksum(struct backend *be, enum lane lane, const void *device, uint64_t bytes);
enum { CHECKSUM_BYTES = 4 << 20 };

#ifdef __cplusplus
}
#endif
#endif
