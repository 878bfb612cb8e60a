/* SPDX-License-Identifier: Apache-2.0 */
/*
 * cpu.h - what the files of the CPU back end share; nobody outside this folder includes it.
 *
 *   memory.c    alloc, copies, fences (all done at once)      cache.c    slots, pages, the step of a decode node
 *   weight.c    reading and packing weights                   decode.c   attention over blocks and tails
 *   matmul.c    out = in . w^T                                score*.c   presses' scores
 *   rows.c      norms, activations, argmax                    select.c   which rows stay
 *   rotate.c    q, k, v out of the projection                 pack.c     chosen rows become a block
 *   attend.c    blocked attention; prefill                    pack_coded.c   ... a coded block; coded.c reads it
 *   isa.c, tile*.c, direct.c, loops.c, codes.c   instruction sets
 */
#ifndef PLATEN_KERNELS_CPU_CPU_H
#define PLATEN_KERNELS_CPU_CPU_H

#include "common/base/thread.h"
#include "kernels/backend.h"
#include "kernels/cpu/isa.h"

#ifdef __cplusplus
extern "C" {
#endif

enum {
    ATTEND_TOKENS = 64,  /* cache rows taken at once; a page of the tail */
    DIRECT_TOKENS = 256, /* ... of those that are attended to where they stand */
    ATTEND_ROWS = 256,   /* query rows that a worker keeps at once */
    PANEL_MAX = 32,
    STRIP_MAX = 32,
    FEW_PANELS = 4 /* panels that a few rows take at once */
};

/* What one worker works in. owned by: the back end; used by: that worker alone. */
struct cpu_room {
    float *tile;      /* [rows of a block][panel], or [strip][FEW_PANELS * panel] */
    void *q;          /* [ATTEND_ROWS][D] as operands */
    void *k_panels;   /* ATTEND_TOKENS rows of K as panels */
    void *v_rows;     /* ATTEND_TOKENS rows of V as units */
    float *scores;    /* [STRIP_MAX][ATTEND_TOKENS or DIRECT_TOKENS] */
    void *weights;    /* the same as operands */
    float *max, *sum; /* [ATTEND_ROWS] */
    float *out;       /* [ATTEND_ROWS][D] */
    float *merged;    /* [ATTEND_ROWS][2 + D] */
    float *row;       /* [D] */
    void *wide;       /* ATTEND_TOKENS rows of K, of which a block holds some channels */
    void *k_read;     /* ATTEND_TOKENS rows of K, read from codes */
    void *v_read;
};

enum purpose { FOR_WEIGHTS, FOR_ACTIVATIONS, FOR_BLOCKS, FOR_TAILS, FOR_OTHER, PURPOSE_COUNT };

struct cache;

/* owned by: the engine thread. */
struct cpu {
    struct backend base;
    const struct cpu_isa *isa;
    const struct cpu_math *math; /* of base.kv */
    const struct cpu_loops *loops;
    struct pool *pool;
    int threads;
    struct cpu_room *room; /* [threads] */
    int64_t rows_max;
    void *operand; /* [rows_max][depth of the deepest weight], as operands */
    int64_t operand_units;
    int64_t block_rows; /* rows of a matmul that share one reading of the weights from the first cache */
    float *press;       /* grows to what the largest press asked for */
    int64_t press_floats;
    uint64_t capacity;
    uint64_t used[PURPOSE_COUNT]; /* atomic */
    struct slab *slab;            /* the one that is filled; memory.c */
    struct cache *cache;
    char describe[64];
    bool is_broken; /* atomic: set by the engine thread after `broken` is written, read by any */
    struct err broken;
};

struct weight {
    enum weight_use use;
    int64_t rows, cols;
    int32_t units; /* depth, padded to whole units_align */
    int64_t panels;
    int64_t panel_bytes;
    void *packed; /* [panels][units][panel]; NULL for tables and vectors */
    void *table;  /* [rows][cols] in base.kv; only WEIGHT_TABLE */
    float *vector;
};

static inline struct cpu *cpu_of(struct backend *be)
{
    return (struct cpu *)be;
}

/* Numbers in a unit of this back end's products: 1 for f32, 2 for bf16. */
static inline int32_t cpu_unit_numbers(const struct cpu *c)
{
    return c->base.kv == DT_BF16 ? 2 : 1;
}

static inline int64_t cpu_kv_bytes(const struct cpu *c)
{
    return c->base.kv == DT_BF16 ? 2 : 4;
}

/* From now on ops->health gives this sentence. The first one stays. Engine thread. */
void cpu_break(struct cpu *c, const struct err *err);

/* memory.c */
enum status cpu_alloc(struct backend *be, uint64_t bytes, const char *what, void **out, struct err *err);
void cpu_free(struct backend *be, void *device);
enum status cpu_host_alloc(struct backend *be, uint64_t bytes, void **out, struct err *err);
void cpu_host_free(struct backend *be, void *host);
void cpu_upload(struct backend *be, enum lane lane, void *device, const void *host, uint64_t bytes);
void cpu_download(struct backend *be, enum lane lane, void *host, const void *device, uint64_t bytes);
void cpu_copy(struct backend *be, enum lane lane, void *to, const void *from, uint64_t bytes);
void cpu_wait(struct backend *be, enum lane lane);
enum status cpu_fence_open(struct backend *be, struct fence **out, struct err *err);
void cpu_fence_close(struct backend *be, struct fence *f);
void cpu_fence_record(struct backend *be, struct fence *f, enum lane lane);
void cpu_fence_after(struct backend *be, enum lane lane, struct fence *f);
enum status cpu_fence_wait(struct backend *be, struct fence *f, int64_t deadline_ns);
void cpu_device_bytes(struct backend *be, struct device_bytes *out);
uint64_t cpu_memory_limit(double fraction);
/* Gives back the slab that is filled, once its pieces are gone. */
void cpu_slab_close(struct cpu *c);

/* weight.c */
enum status cpu_weight_open(struct backend *be, const struct weight_source *src, enum weight_use use,
                            struct weight **out, struct err *err);
void cpu_weight_close(struct backend *be, struct weight *w);
/* Row `row` of a table or a packed matrix as f32 [cols]. */
void weight_row(const struct cpu *c, const struct weight *w, int64_t row, float *out);

/* matmul.c */
void cpu_matmul(struct backend *be, const struct weight *w, const struct weight *bias, const void *in, int64_t rows,
                void *out, bool accumulate);

/* rows.c */
void cpu_embed(struct backend *be, const struct weight *table, const int32_t *ids, int64_t rows, float scale, void *x);
void cpu_rms_norm(struct backend *be, const void *x, const struct weight *w, float eps, int64_t rows, int32_t dim,
                  void *out);
void cpu_add_normed(struct backend *be, void *y, const struct weight *w, float eps, int64_t rows, int32_t dim, void *x);
void cpu_gated(struct backend *be, enum activation kind, const void *gate_up, int64_t rows, int32_t ff, void *out);
void cpu_gather_rows(struct backend *be, const void *x, const int32_t *index, int64_t count, int32_t dim, void *out);
void cpu_mix_rows(struct backend *be, const void *x, const int32_t *index, int32_t slices, int64_t rows, int32_t cols,
                  void *out);
void cpu_argmax(struct backend *be, const void *logits, int64_t rows, int32_t vocab, int32_t *ids);

/* rotate.c */
void cpu_qkv_to_layer(struct backend *be, const struct qkv_shape *shape, const struct rope_table *rope, const void *qkv,
                      const int32_t *position, int64_t rows, void *q, void *q_plain, const struct kv_layer *kv,
                      int64_t token);
void cpu_qkv_to_tail(struct backend *be, const struct qkv_shape *shape, const struct rope_table *rope, int32_t layer,
                     const void *qkv, void *q);

void cpu_rotate_rows(struct backend *be, const void *in, int32_t heads, int32_t dim, const struct rope_table *rope,
                     int64_t position, int64_t step, int64_t rows, void *out);

/* attend.c */
void cpu_attn_prefill(struct backend *be, const struct attn_span *span, int32_t count, const void *q, int32_t q_heads,
                      float scale, int32_t window, void *out, float *lse, int64_t lse_stride);

/* cache.c, decode.c */
enum status cpu_cache_open(struct backend *be, const struct cache_config *config, struct err *err);
void cpu_cache_close(struct backend *be);
void cpu_slot_blocks(struct backend *be, int32_t slot, const struct kv_block *blocks);
void cpu_slot_page(struct backend *be, int32_t slot, int32_t index, int32_t page);
void cpu_slot_ring(struct backend *be, int32_t slot, int32_t index, int32_t page);
bool cpu_step_begin(struct backend *be, const struct step *step);
void cpu_step_embed(struct backend *be, const struct weight *table, float scale, void *x);
void cpu_attn_decode(struct backend *be, int32_t layer, const void *q, int32_t q_heads, float scale, int32_t window,
                     void *out);
void cpu_step_outputs(struct backend *be, const void *x, int32_t dim, void *out);
void cpu_step_choose(struct backend *be, const void *logits, int32_t vocab);
void cpu_step_end(struct backend *be);
void cpu_step_result(struct backend *be, int32_t behind, int32_t *ids);
void cpu_slot_gather(struct backend *be, int32_t slot, int32_t layer, int32_t tail, const struct kv_block *out);
void cpu_queries_plain(struct backend *be, const struct qkv_shape *shape, const void *qkv, int64_t rows, void *out);

/* score_window.c */
void cpu_score_window(struct backend *be, const struct kv_rows *in, const void *q, int32_t q_heads, int32_t window,
                      int64_t tokens, const float *row_weight, int32_t kernel, float pad, float *score);

/* score.c, select.c, pack.c */
void cpu_score_ranges(struct backend *be, const struct kv_rows *in, const int64_t *begin, const float *value,
                      int32_t count, float *score);
void cpu_score_random(struct backend *be, const struct kv_rows *in, uint64_t seed, int32_t layer, float *score);
void cpu_select(struct backend *be, const struct kv_rows *in, const struct select_args *args, int32_t *index,
                int64_t *first);
void cpu_pack(struct backend *be, const struct pack_args *args, const struct kv_block *block);
/* Room of this many floats at c->press; what was there is gone when it grows. */
void cpu_press_reserve(struct cpu *c, int64_t floats);
uint64_t cpu_checksum(struct backend *be, enum lane lane, const void *device, uint64_t bytes);

/* score_keys.c */
void cpu_score_key_norm(struct backend *be, const struct kv_rows *in, float factor, float *score);
void cpu_row_squares(struct backend *be, const struct kv_rows *in, const float *sketch, int32_t sketch_dim, float *k2,
                     float *v2);
void cpu_score_key_diff(struct backend *be, const struct kv_rows *in, float *score);
void cpu_score_key_dot(struct backend *be, const struct kv_rows *in, const float *filter, float factor, float *score);
void cpu_score_lag(struct backend *be, const struct kv_rows *in, int64_t from, int64_t lag, float *score);
void cpu_channel_squares(struct backend *be, const struct kv_rows *in, const int32_t *index, const int64_t *first,
                         float *out);
void cpu_keep_channels(struct backend *be, const struct kv_rows *in, const int32_t *index, const int64_t *first,
                       const int32_t *channel, int32_t k_dim);

/* score_stats.c */
void cpu_rotate_stats(struct backend *be, const struct rope_table *rope, int64_t from, int64_t count, int32_t q_heads,
                      int32_t dim, float *mean, float *cov);
void cpu_score_share(struct backend *be, const struct kv_rows *in, int64_t tail, float *score);
void cpu_score_weigh(struct backend *be, const struct kv_rows *in, int64_t from, const float *v2, float eps,
                     float *score);
void cpu_query_stats(struct backend *be, const void *q, int32_t q_heads, int32_t dim, int64_t rows, float *mean,
                     float *cov);
void cpu_score_expected(struct backend *be, const struct kv_rows *in, int64_t from, const float *mean, const float *cov,
                        int32_t q_heads, float *score);
void cpu_score_cap(struct backend *be, const struct kv_rows *in, int64_t from, const float *mean, int32_t q_heads,
                   float tau, float eps, float *score);

/* score_leverage.c */
void cpu_score_leverage(struct backend *be, const struct kv_rows *in, const struct rope_table *rope, int64_t position,
                        const float *sketch, int32_t sketch_dim, float *score);

/* score_columns.c */
void cpu_score_noncausal(struct backend *be, const struct kv_rows *in, const void *q, int32_t q_heads, int64_t chunk,
                         float *score);
void cpu_score_columns(struct backend *be, const struct kv_rows *in, const struct column_args *args, float *score);

/* score_values.c */
void cpu_value_out_norms(struct backend *be, const struct kv_rows *in, const int32_t *index, const int64_t *first,
                         const struct weight *o, int32_t q_heads, int32_t power, float *out);
void cpu_linear(struct backend *be, const void *x, int64_t rows, int64_t cols, const float *w, const float *bias,
                int32_t outs, float *out);
void cpu_merge_values(struct backend *be, const struct kv_rows *in, const int32_t *index, const int64_t *first,
                      float threshold, double fraction);

#ifdef __cplusplus
}
#endif
#endif
