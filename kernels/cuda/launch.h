/* SPDX-License-Identifier: Apache-2.0 */
/*
 * launch.h - every kernel launcher of the CUDA back end, one family per .cu file.
 *
 * All launchers queue on `q.stream`, return at once, allocate nothing and report only what the launch itself can fail
 * with. Pointers are device memory unless they say host. T in shape comments is the activation or cache dtype `t`
 * (DT_F32 or DT_BF16). Structs travel to the device by value.
 */
#ifndef PLATEN_KERNELS_CUDA_LAUNCH_H
#define PLATEN_KERNELS_CUDA_LAUNCH_H

#include "kernels/backend.h"

#include <cuda_runtime_api.h>
#include <stdbool.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Where and how to launch. */
struct cuda_queue {
    cudaStream_t stream;
    int32_t sms;          /* multiprocessors of the card */
    int32_t shared_bytes; /* shared memory that a thread block can have */
    int32_t chained;      /* 1: kernels may start while the one before ends (sm_90 and newer); they order themselves */
    int32_t cluster;      /* 1: thread blocks may form clusters (sm_90 and newer) */
    int32_t warpgroups;   /* 1: matrix instructions of a warpgroup (compute capability 9.0 alone) */
};

/* Rows of the products that skinny.cu, thin.cu and wide_wgmma.cu take, where each is the fastest: more go to cuBLASLt. */
enum { SKINNY_ROWS_MAX = 32, THIN_ROWS_MAX = 16, WIDE_ROWS_MAX = 96 };
/* thin.cu: outputs of a tile; the widest normed rows that there is room for; the least outputs and depth. */
enum { THIN_TILE = 128, THIN_WIDTH_MAX = 16384, THIN_LEAST = 2048 };
/* A word of a piece (of a product's tile, of an item of attention) that is not there yet: no number is written so (hole.cuh). */
#define CUDA_HOLE 0xffffffffu

/* What a product of normed rows reads (thin.cu, wide_wgmma.cu), left by whoever wrote x. */
struct normed_rows {
    const float *norm; /* [dim]: the norm's weight; NULL: nobody asks */
    void *row;         /* bf16 [rows][dim]: x * norm */
    float *square; /* [parts][WIDE_ROWS_MAX]: sums of squares of x, of THIN_TILE numbers where a product left them */
};

/* ---- rows.cu: one row of activations at a time ------------------------------------------------------------------ */
/* x[i] = table[id] * scale, id = ids[i], or slot_token[-1 - ids[i]] where ids[i] < 0 (slot_token may be NULL then none
 * may be). table T. */
cudaError_t launch_embed(struct cuda_queue q, enum dtype t, const void *table, int32_t vocab, const int32_t *ids,
                         const int32_t *slot_token, int64_t rows, int32_t dim, float scale, float *x);
/* out T [rows][dim] */
cudaError_t launch_rms_norm(struct cuda_queue q, enum dtype t, const float *x, const float *w, float eps, int64_t rows,
                            int32_t dim, void *out);
/* x += norm of y T [rows][dim] */
cudaError_t launch_add_normed(struct cuda_queue q, enum dtype t, const void *y, const float *w, float eps, int64_t rows,
                              int32_t dim, float *x);
cudaError_t launch_gated(struct cuda_queue q, enum dtype t, enum activation kind, const void *gate_up, int64_t rows,
                         int32_t ff, void *out);
cudaError_t launch_gather_rows(struct cuda_queue q, enum dtype t, const void *x, const int32_t *index, int64_t count,
                               int32_t dim, void *out);
/* As mix_rows of backend.h. */
cudaError_t launch_mix_rows(struct cuda_queue q, enum dtype t, const void *x, const int32_t *index, int32_t slices,
                            int64_t rows, int32_t cols, void *out);

/* Where a chosen token goes. */
struct chosen {
    int32_t *ids;              /* [rows], or [seqs] where seq is given */
    const int32_t *seq, *slot; /* [rows] or both NULL: entry of ids, entry of slot_token; -1: nowhere */
    int32_t *slot_token;
};
/* partial: room for rows * CUDA_ARGMAX_PARTS; count: [rows] zeros, left as zeros. */
enum { CUDA_ARGMAX_PARTS = 16 };
cudaError_t launch_argmax(struct cuda_queue q, enum dtype t, const void *logits, int64_t rows, int32_t vocab,
                          uint64_t *partial, uint32_t *count, struct chosen to);

/* f32 -> T */
cudaError_t launch_convert(struct cuda_queue q, enum dtype t, const float *in, int64_t count, void *out);
/* out[i] = scale * normal number i of the stream `seed` */
cudaError_t launch_random(struct cuda_queue q, enum dtype t, uint64_t seed, float scale, int64_t count, void *out);

/* ---- skinny.cu, thin.cu, wide_wgmma.cu: products of few rows ---------------------------------------------------- */
struct skinny_args {
    const void *w;        /* bf16 [n][k]; k a multiple of 32 (thin.cu: of 8) */
    const void *in;       /* [rows][k]: bf16, or f32 where they are normed */
    const int32_t *index; /* [rows]: which rows of `in`; NULL: in order */
    const float *norm;    /* [k]: rows are normed first; NULL: as they are */
    const float *bias;    /* [n] or NULL */
    void *out;            /* [rows][n]: bf16, or f32 where it accumulates */
    int32_t rows, n, k;
    int32_t in_rows; /* of `in`, where `index` says which (wide_wgmma.cu) */
    int32_t accumulate;
    int32_t kind;  /* launch_skinny_gated: enum activation */
    int32_t ahead; /* bytes of each weight row, of 16, to call into the L2 while the kernel before ends */
    float eps;
    /* thin.cu, wide_wgmma.cu */
    const float *square; /* `in` is normed_rows.row and this its square; NULL: `in` as it is */
    int32_t square_parts;
    struct normed_rows next; /* of what it accumulates */
    float *pieces;           /* [sms][rows at most][THIN_TILE], every word CUDA_HOLE between launches */
};
/* out = in . w^T (+ bias) (+ out); rows <= SKINNY_ROWS_MAX. */
cudaError_t launch_skinny(struct cuda_queue q, const struct skinny_args *args);
/* out [rows][n / 2] = act(gate) * up of norm(in) . w^T; n / 2 a multiple of 8. */
cudaError_t launch_skinny_gated(struct cuda_queue q, const struct skinny_args *args);
/* The same for any shape and dtype, slowly: what no library takes. w and in T, out of dtype `out`, f32 where it adds. */
cudaError_t launch_product(struct cuda_queue q, enum dtype t, enum dtype out, const struct skinny_args *args,
                           int64_t rows);

/* ---- rotate.cu: q, k, v out of the projection ------------------------------------------------------------------- */
struct rotate_args {
    int32_t q_heads, kv_heads, dim, rope_dims;
    int32_t
        rope_tables; /* row of a sequence of n positions: table n - rope_from, at least 0, at most rope_tables - 1 */
    int64_t rope_from;
    const float *inv_freq; /* [rope_tables][rope_dims / 2]; NULL: no rotation */
    float rope_scale, norm_eps;
    const float *q_norm, *k_norm; /* [dim] or NULL */
    const float *qkv;             /* [rows][(H + 2 G) D] */
    const int32_t *position;      /* [rows] */
    const int32_t *length;        /* [rows]: n above; NULL: position + 1 */
    void *q, *q_plain;            /* T [rows][H][D]; q_plain may be NULL */
    /* to a dense layer */
    void *k, *v; /* T; row r of head g at (g * stride + token + r) * dim */
    int64_t stride, token;
    /* to tails (slot != NULL) */
    const int32_t *slot, *tail; /* [rows]: slot (-1: none) and tail row */
    const int32_t *pages;       /* [slots][pages_per_slot] */
    int32_t pages_per_slot;
    void *pool;          /* T; this layer's page 0 */
    int64_t page_stride; /* numbers from a page of this layer to the next */
};
cudaError_t launch_rotate(struct cuda_queue q, enum dtype t, const struct rotate_args *args, int64_t rows);
/* The same out of norm(in) . w^T in one launch, to tails (skinny.cu); args->out and t->qkv are not used. Only for what
 * skinny_takes_heads says: no norms of q and k, channels of heads and of rotations in runs of 16. */
bool skinny_takes_heads(const struct rotate_args *t);
cudaError_t launch_skinny_qkv(struct cuda_queue q, const struct skinny_args *args, const struct rotate_args *t);

/* ---- thin.cu: the same where w is large ------------------------------------------------------------------------- */
bool thin_takes(int64_t rows, int64_t n, int64_t k);
/* As launch_skinny and those like it, of rows that are normed already: args->norm is not used. q and k may have norms. */
cudaError_t launch_thin(struct cuda_queue q, const struct skinny_args *args);
cudaError_t launch_thin_gated(struct cuda_queue q, const struct skinny_args *args);
bool thin_takes_heads(const struct rotate_args *t);
cudaError_t launch_thin_qkv(struct cuda_queue q, const struct skinny_args *args, const struct rotate_args *t);

/* ---- wide_wgmma.cu: the same for more rows and any w, on cards with warpgroups ---------------------------------- */
/* in_rows: of `in`, wanted or not. */
bool wide_takes(struct cuda_queue q, int64_t in_rows, int64_t n, int64_t k);
/* As launch_thin and those like it; `w` and `in` begin at multiples of 16 bytes. */
cudaError_t launch_wide(struct cuda_queue q, const struct skinny_args *args);
cudaError_t launch_wide_gated(struct cuda_queue q, const struct skinny_args *args);
bool wide_takes_heads(const struct rotate_args *t); /* besides: channels of a tile's heads in runs of 8 */
cudaError_t launch_wide_qkv(struct cuda_queue q, const struct skinny_args *args, const struct rotate_args *t);

struct rotate_rows_args {
    const void *in; /* T [rows][heads][dim] */
    int32_t heads, dim, rope_dims;
    const float *inv_freq; /* NULL: copied as they are */
    float rope_scale;
    int64_t position, step; /* row i turns as position + i * step */
    void *out;
};
cudaError_t launch_rotate_rows(struct cuda_queue q, enum dtype t, const struct rotate_rows_args *args, int64_t rows);

/* ---- attend.cu: prefill attention without cuDNN ----------------------------------------------------------------- */
struct attend_args {
    const void *q;     /* T [rows][H][D], the span's first row */
    const void *k, *v; /* T, (g * stride + token) * dim */
    void *out;         /* T [rows][H][D] */
    float *lse;        /* [H][lse_stride] or NULL */
    int64_t rows, token, stride, lse_stride;
    int32_t q_heads, kv_heads, dim, window;
    float scale;
};
cudaError_t launch_attend(struct cuda_queue q, enum dtype t, const struct attend_args *args);

/* Lengths and offsets of ragged spans for cuDNN, written to the device in stream order. */
enum { CUDA_SPANS_MAX = 32 };
struct span_lengths {
    int32_t count; /* slots from count to CUDA_SPANS_MAX become empty */
    int32_t rows[CUDA_SPANS_MAX], tokens[CUDA_SPANS_MAX];
    int64_t q[CUDA_SPANS_MAX], k[CUDA_SPANS_MAX], v[CUDA_SPANS_MAX], o[CUDA_SPANS_MAX], lse[CUDA_SPANS_MAX];
};
/* What cuDNN reads: seq_q, seq_kv [CUDA_SPANS_MAX], five offset arrays [CUDA_SPANS_MAX + 1]. */
struct span_arrays {
    int32_t rows[CUDA_SPANS_MAX], tokens[CUDA_SPANS_MAX];
    int64_t q[CUDA_SPANS_MAX + 1], k[CUDA_SPANS_MAX + 1], v[CUDA_SPANS_MAX + 1], o[CUDA_SPANS_MAX + 1],
        lse[CUDA_SPANS_MAX + 1];
};
cudaError_t launch_span_lengths(struct cuda_queue q, const struct span_lengths *lengths, struct span_arrays *out);

/* ---- decode.cu, decode_plan.cu, decode_plain.cu: ragged attention of a step ------------------------------------- */
enum { CUDA_UNIT_QUERIES = 16 };
/* A slot's block of one layer as the kernels see it. In an array they stand slot_block_bytes(kv_heads) apart. */
struct slot_block {
    const void *k, *v;              /* rows of all heads; KV_INT4: the coded ones */
    const float *k_scale, *v_scale; /* KV_INT8, KV_FP8: one per row; KV_INT4: pairs instead, as layout.h says */
    const void *k_whole, *v_whole;  /* KV_INT4: the rows of all heads that are not coded */
    const uint8_t *mask;            /* [kv_heads][ceil(dim / 8)]: the channels that K rows have; NULL: all */
    int32_t codec;                  /* enum kv_codec */
    int32_t k_dim;                  /* numbers of a K row */
    /* only kv_heads + 1 of them are there; behind them as many that count coded rows alone (KV_INT4) */
    int32_t first[KV_HEADS_MAX + 1];
};
static inline int64_t slot_block_bytes(int32_t kv_heads)
{
    return (int64_t)((7 * sizeof(void *) + 4 * (size_t)(2 * kv_heads + 4) + 15) / 16 * 16);
}
/* The rows of a step on the device. A unit is a run of rows of one sequence with at most CUDA_UNIT_QUERIES queries of a
 * KV head, which share one reading of the cache. */
struct step_rows {
    const int32_t *token, *position, *length, *slot, *tail;      /* [rows_pad]; slot -1: nobody */
    const int32_t *unit_slot, *unit_row, *unit_rows, *unit_tail; /* [rows_pad]; unit_rows 0: nobody */
    const int32_t *output_row, *output_seq, *output_slot;        /* [outputs_pad]; output_seq -1: nobody */
};
/* Numbers of a piece of an item: sums of values [CUDA_UNIT_QUERIES][dim], then (top, sum) for each 4 of them. */
#define DECODE_PIECE_FLOATS(dim) ((int64_t)CUDA_UNIT_QUERIES * ((dim) + (dim) / 2))
/* All that a thread block needs to read an item. */
struct decode_item {
    const void *k, *v; /* of the item's head in the block */
    const float *k_scale, *v_scale;
    const void *k_whole, *v_whole;
    const uint8_t *mask;
    const int32_t *pages; /* of the slot */
    int32_t base, whole;  /* the item's first tile in the layer, its tiles */
    int32_t unit_row, unit_rows, unit_tail, head, block_rows, codec, k_dim;
    int32_t coded; /* of the block_rows; the others, behind them, are whole */
};
/* Where a thread block begins in a layer's flattened tiles of 64 rows. */
struct decode_start {
    struct decode_item first;
    int32_t item, tile, left; /* tile counts from the item's own first; left: the thread block's tiles */
    int32_t from, second;     /* the thread block that holds the item's first tile; 1: behind the end of another item */
};
struct decode_shape {
    int32_t units; /* padded; an item is a (unit, KV head) */
    int32_t layers, q_heads, kv_heads, dim;
    int32_t ctas, sms;    /* thread blocks per layer; multiprocessors */
    int32_t shared_bytes; /* of each */
    int32_t mixed;        /* some block is coded or lacks channels */
    const char *blocks;   /* [slots][layers] of struct slot_block */
    int64_t block_bytes;
    struct step_rows rows;
    const int32_t *pages;               /* [slots][pages_per_slot], and the same again for the layers with a ring */
    int32_t pages_per_slot, ring_table; /* numbers from one table to the other */
    uint32_t ringed[HPARAMS_LAYERS_MAX / 32]; /* bit l % 32 of word l / 32: layer l has a ring */
    const int32_t *window;                    /* [layers]: rows that a token sees; 0: the launch says it */
    const void *pool;                         /* T: tail pages of the layer that is launched */
    int64_t page_stride;                      /* numbers */
    int32_t *item_first;                      /* [layers][items + 1]: tiles before each item */
    struct decode_item *item;                 /* [layers][items] */
    struct decode_start *start;               /* [layers][ctas] */
    float *partial; /* [ctas][2] of DECODE_PIECE_FLOATS(dim), every word CUDA_HOLE between calls */
};
/* The rows that a step begins with: x[i] as launch_embed makes it. */
struct embed_args {
    const void *table; /* T [vocab][dim] */
    int32_t vocab, dim;
    const int32_t *ids, *slot_token; /* as launch_embed's */
    float scale;
    float *x;
    int32_t rows;            /* 0: none wanted */
    struct normed_rows next; /* one part; T bf16 */
};
/* Once a step: tiles of every item of every layer and where each thread block begins (where s->ctas > 0), and the first
 * rows. One launch. */
cudaError_t launch_step_begin(struct cuda_queue q, enum dtype t, const struct decode_shape *s,
                              const struct embed_args *e);
/* One layer over `rows` (padded) rows. in, out T [rows][H][D]. */
cudaError_t launch_decode(struct cuda_queue q, enum dtype t, const struct decode_shape *s, int32_t rows, int32_t layer,
                          const void *in, float scale, int32_t window, void *out);
/* Thread blocks per layer that fill the card, and the shared memory of each; 0 where this dtype and head size take the
 * plain kernel, without a plan. */
int32_t decode_ctas(struct cuda_queue q, enum dtype t, int32_t dim, int32_t *shared_bytes);

/* ---- score.cu --------------------------------------------------------------------------------------------------- */
/* struct kv_rows as the device sees it. */
struct rows_view {
    const void *k, *v;
    const int32_t *token;
    int32_t heads, dim;
    int64_t rows_longest;
    int64_t first[KV_HEADS_MAX], at[KV_HEADS_MAX + 1];
    int32_t rows[KV_HEADS_MAX];
};
cudaError_t launch_key_norm(struct cuda_queue q, enum dtype t, const struct rows_view *in, float factor, float *score);
/* out = |k|^2 of each row, or |v|^2 */
cudaError_t launch_squares(struct cuda_queue q, enum dtype t, const struct rows_view *in, bool values, float *out);
enum { CUDA_RANGES_MAX = 64 };
struct score_ranges {
    int32_t count;
    int64_t begin[CUDA_RANGES_MAX + 1];
    float value[CUDA_RANGES_MAX];
};
cudaError_t launch_score_ranges(struct cuda_queue q, const struct rows_view *in, const struct score_ranges *r,
                                float *score);
cudaError_t launch_score_random(struct cuda_queue q, const struct rows_view *in, uint64_t seed, int32_t layer,
                                float *score);

/* ---- window.cu: SnapKV's scores --------------------------------------------------------------------------------- */
enum { CUDA_WINDOW_CHUNK = 256 };
struct window_args {
    const void *q;           /* T [window][H][D] */
    const float *row_weight; /* [window] or NULL */
    int32_t q_heads, window, kernel;
    int32_t slices; /* set by the launcher */
    int64_t tokens;
    float scale, pad;
    float *partial;    /* [G][chunks * slices][window * group][2]: max and sum */
    float *kept;       /* [H * window][rows_longest, up to a chunk]: room for scores in exponents of 2; NULL: none */
    float *lse;        /* [G][window * group] */
    float *raw;        /* [at[G]] column means before the pooling */
    uint32_t *largest; /* one number */
};
/* Numbers of `partial` that a call needs. */
int64_t window_partial_floats(int64_t rows_longest, int32_t heads, int32_t q_heads, int32_t window);
/* Numbers of `kept`; 0: so many query rows are not kept. */
int64_t window_kept_floats(int64_t rows_longest, int32_t heads, int32_t q_heads, int32_t window);
cudaError_t launch_score_window(struct cuda_queue q, enum dtype t, const struct rows_view *in,
                                const struct window_args *args, float *score);

/* ---- select.cu -------------------------------------------------------------------------------------------------- */
struct select_plan {
    const float *score;
    int32_t heads, joint;
    float protected_score;
    int64_t total; /* joint */
    int64_t at[KV_HEADS_MAX + 1];
    int32_t rows[KV_HEADS_MAX];
    int32_t keep[KV_HEADS_MAX];      /* per head; the safe rows where joint */
    int64_t first[KV_HEADS_MAX + 1]; /* per head: where its rows go */
    int64_t rows_longest;
};
/* index: chosen rows; first_out int64 [heads + 1] (joint: counted by the kernel); room: uint64 [heads]. */
cudaError_t launch_select(struct cuda_queue q, const struct select_plan *p, int32_t *index, int64_t *first_out,
                          uint64_t *room);

/* ---- meet.cu, meet_scores.cu: every row meets a list of vectors -------------------------------------------------- */
enum { MEET_TILE = 128 }; /* what room for offsets is a multiple of */
enum meet_kind { MEET_SUM, MEET_LARGEST, MEET_NORM1, MEET_NORM2, MEET_FORM };
struct meet_args {
    const void *vectors; /* T; vector j of query head h at h * head_stride + j * row_stride */
    int64_t head_stride, row_stride, count;
    int32_t q_heads;
    int32_t values;   /* 1: rows of V, else of K */
    int32_t by_group; /* 1: out [group][out_stride], else [H][out_stride] */
    int64_t out_stride;
    float scale;
    /* MEET_SUM, MEET_LARGEST */
    const float *lse, *weight;    /* [H][lse_stride] natural logarithms, [count] or NULL */
    int64_t lse_stride, position; /* query j sees tokens up to position + j; INT64_MAX: all */
    float *offset;                /* room: [H][offset_stride], a multiple of MEET_TILE that is at least count */
    int64_t offset_stride;
    /* MEET_FORM: out = scale * k . mean + factor * k' cov k, rows from `from` on */
    const float *mean, *cov; /* [H][D], [H][D][D] or NULL */
    void *split;             /* room for as many numbers as cov has: what launch_form_split leaves */
    float factor;
    int32_t from, form_rows; /* form_rows: set by the launcher */
};
/* out: entry at[g] + r of the head's or group member's line */
cudaError_t launch_meet(struct cuda_queue q, enum dtype t, enum meet_kind kind, const struct rows_view *in,
                        const struct meet_args *a, float *out);
/* The same on warpgroups (meet_wgmma.cu): bf16, head sizes 64, 96 and 128, not MEET_FORM; launch_meet asks, and has
 * filled `offset`. */
cudaError_t launch_meet_wgmma(struct cuda_queue q, enum meet_kind kind, const struct rows_view *in,
                              const struct meet_args *a, float *out);
/* split = cov of each head as the sum of two bf16 matrices, C and its transpose added up in blocks of 16 x 16 before the
 * diagonal, C in those on it, zeros behind. Head sizes 64, 96 and 128. */
cudaError_t launch_form_split(struct cuda_queue q, int32_t dim, const struct meet_args *a);
/* score_expected out of what MEET_FORM wants, `split` filled, cov not NULL (form_wgmma.cu): bf16, head sizes 64, 96 and
 * 128. exponent: room for [H][out_stride]; partial: for expected_partial_floats. */
int64_t expected_partial_floats(struct cuda_queue q, int32_t q_heads);
cudaError_t launch_expected_wgmma(struct cuda_queue q, const struct rows_view *in, const struct meet_args *a,
                                  float *exponent, float *partial, float *score);
/* Softmax over rows [from, rows) of each of the q_heads lines of column, in place. */
cudaError_t launch_softmax(struct cuda_queue q, const struct rows_view *in, int32_t q_heads, int32_t from,
                           int64_t stride, float *column);
struct group_args {
    const float *column, *column_weight; /* [H][stride]; [group][stride] or NULL */
    int64_t stride;
    int32_t group, from, largest, update;
};
/* score = mean (or largest) over the group's columns, or the larger of that and what is there. */
cudaError_t launch_group(struct cuda_queue q, const struct rows_view *in, const struct group_args *a, float *score);

/* score_weigh; largest: room for one number. */
cudaError_t launch_weigh(struct cuda_queue q, const struct rows_view *in, int32_t from, const float *v2, float eps,
                         uint32_t *largest, float *score);

/* score_share; largest: room for one number. */
cudaError_t launch_share(struct cuda_queue q, const struct rows_view *in, int64_t tail, uint32_t *largest,
                         float *score);

/* ---- stats.cu ---------------------------------------------------------------------------------------------------- */
enum { STATS_STRETCH = 512 };
uint64_t query_stats_bytes(struct cuda_queue q, int32_t heads, int32_t dim, int64_t rows);
/* x T [rows][heads][dim]; mean [heads][dim], cov [heads][dim][dim] or NULL; room: query_stats_bytes */
cudaError_t launch_query_stats(struct cuda_queue q, enum dtype t, const void *x, int32_t heads, int32_t dim,
                               int64_t rows, float *mean, float *cov, void *room);

/* The same on warpgroups (stats_wgmma.cu): bf16, cov not NULL, head sizes 64, 96 and 128; launch_query_stats asks. */
cudaError_t launch_query_stats_wgmma(struct cuda_queue q, const void *x, int32_t heads, int32_t dim, int64_t rows,
                                     float *mean, float *cov, void *room);

/* Means of rotations, and statistics turned by them. */
struct turn_args {
    const float *inv_freq; /* [rope_dims / 2] */
    int32_t rope_dims, dim;
    int64_t from, count; /* positions */
    float scale;
    double *turn;      /* room [rope_dims]: means of cos, then of sin */
    float *mean, *cov; /* [heads][dim]; [heads][dim][dim] or NULL */
};
cudaError_t launch_turn_stats(struct cuda_queue q, const struct turn_args *a, int32_t heads);

/* ---- keys.cu ----------------------------------------------------------------------------------------------------- */
enum { KEYS_STRETCH = 256 };
struct head_firsts {
    int64_t at[KV_HEADS_MAX + 1];
};
cudaError_t launch_row_squares(struct cuda_queue q, enum dtype t, const struct rows_view *in, const float *sketch,
                               int32_t columns, float *k2, float *v2);
/* room: (stretches + 1) * heads * dim numbers */
cudaError_t launch_key_diff(struct cuda_queue q, enum dtype t, const struct rows_view *in, float *room, float *score);
cudaError_t launch_key_dot(struct cuda_queue q, enum dtype t, const struct rows_view *in, const float *filter,
                           float factor, float *score);
/* room: at[heads] numbers */
cudaError_t launch_lag(struct cuda_queue q, enum dtype t, const struct rows_view *in, int32_t from, int32_t lag,
                       float *room, float *score);
cudaError_t launch_channel_squares(struct cuda_queue q, enum dtype t, const struct rows_view *in, const int32_t *index,
                                   const struct head_firsts *first, float *out);
/* mask [heads][ceil(dim / 8)]: bit c % 8 of byte c / 8 for each channel c that stays */
cudaError_t launch_keep_channels(struct cuda_queue q, enum dtype t, const struct rows_view *in, const int32_t *index,
                                 const struct head_firsts *first, const uint8_t *mask);
cudaError_t launch_linear(struct cuda_queue q, enum dtype t, const void *x, int64_t rows, int64_t cols, const float *w,
                          const float *bias, int32_t outs, float *out);

/* ---- solve.cu ---------------------------------------------------------------------------------------------------- */
enum { SOLVE_STRETCH = 256 };
/* What the kernels of both scores read; the launchers fill it. A form is a matrix [dim][dim]. */
struct solve_args {
    int32_t forms, from, split_rows; /* forms: query heads (cap) or KV heads (leverage) */
    int64_t stride;                  /* from one form's line of numbers to the next */
    const float *weight;             /* [forms][stride] */
    float eps;
    const float *inv_freq; /* keys are turned back by it; NULL: they are plain */
    int32_t rope_dims;
    float rope_scale;
    int64_t position;    /* of row 0, where the view has no tokens */
    const float *centre; /* [G][dim] */
};
/* How much room a call needs: `doubles` f64, then `floats` f32. sketch_dim 0: cap, forms is H; else leverage, G. */
struct solve_room {
    int64_t doubles, floats;
    int32_t splits, stretches;
};
struct solve_room solve_room_for(struct cuda_queue q, const struct rows_view *in, int32_t forms, int32_t from,
                                 int32_t sketch_dim);
struct cap_args {
    const float *mean; /* [H][dim] */
    int32_t q_heads, from;
    float tau, eps;
};
cudaError_t launch_cap(struct cuda_queue q, enum dtype t, const struct rows_view *in, const struct cap_args *c,
                       void *room, float *score);
struct leverage_args {
    const float *inv_freq, *sketch; /* [rope_dims / 2] or NULL; [G][dim][sketch_dim] */
    int32_t rope_dims, sketch_dim;  /* sketch_dim <= KV_HEAD_DIM_MAX */
    float rope_scale;
    int64_t position;
};
cudaError_t launch_leverage(struct cuda_queue q, enum dtype t, const struct rows_view *in,
                            const struct leverage_args *l, void *room, float *score);

/* ---- pairs.cu ---------------------------------------------------------------------------------------------------- */
struct chunk_args {
    const void *q; /* T [.][H][D] */
    int32_t q_heads, chunk;
    int64_t stride; /* at[G] */
    float *lse;     /* room: [H][stride] */
};
cudaError_t launch_noncausal(struct cuda_queue q, enum dtype t, const struct rows_view *in, const struct chunk_args *a,
                             float *score);
struct merge_args {
    const int32_t *index;
    struct head_firsts first;
    float threshold;
    double fraction;
    /* room: [at[G]] each, gate [G] */
    float *k2, *v2, *cosine, *gate;
    int32_t *gone, *nearest;
};
cudaError_t launch_merge(struct cuda_queue q, enum dtype t, const struct rows_view *in, const struct merge_args *a);

/* ---- gather.cu -------------------------------------------------------------------------------------------------- */
/* The newest rows of a slot's block (plain) and tail, as kernels/backend.h says of slot_gather. */
struct gather_plan {
    const void *block;    /* the layer's struct slot_block */
    const int32_t *pages; /* of the slot */
    const void *pool;     /* T; the layer's page 0 */
    int64_t page_stride;  /* numbers */
    int64_t first[KV_HEADS_MAX + 1];
    int64_t longest;
    void *k, *v;
    int32_t heads, dim, tail;
};
cudaError_t launch_gather(struct cuda_queue q, enum dtype t, const struct gather_plan *p);

struct queries_args {
    const float *qkv;    /* [rows][(H + 2G) D] */
    const float *q_norm; /* or NULL */
    float norm_eps;
    int32_t q_heads, kv_heads, dim;
    void *out; /* T [rows][H][D] */
};
cudaError_t launch_queries(struct cuda_queue q, enum dtype t, const struct queries_args *a, int64_t rows);

/* ---- pack.cu ---------------------------------------------------------------------------------------------------- */
struct pack_plan {
    struct rows_view rows;
    const int32_t *index;
    int64_t first[KV_HEADS_MAX + 1];
    int64_t kept_longest;
    void *k, *v;                     /* of the block */
    float *k_scale, *v_scale;        /* KV_INT8, KV_FP8; KV_INT4: pairs */
    void *k_whole, *v_whole;         /* KV_INT4 */
    int64_t coded[KV_HEADS_MAX + 1]; /* as first, coded rows alone */
    int32_t codec;
    int32_t k_dim;          /* numbers of a K row of the block */
    const int32_t *channel; /* [heads][k_dim] where they are some of dim; else NULL */
    const float *inv_freq;  /* re-rotation, or NULL */
    int32_t rope_dims;
    const int32_t *token; /* NULL: row number */
};
cudaError_t launch_pack(struct cuda_queue q, enum dtype t, const struct pack_plan *p);

#ifdef __cplusplus
}
#endif
#endif
