/* SPDX-License-Identifier: Apache-2.0 */
/*
 * backend.h - arithmetic and memory of one device, as one table of operations.
 *
 * The CPU back end defines what each operation means; the CUDA back end must agree with it. tests/ops judges both with
 * a plain double-precision reference. Nothing here knows of requests, sockets or presses' words.
 *
 *   pointers     "device" pointers come from ops->alloc; on the CPU they are ordinary memory
 *   activations  dtype be->act: f32 on the CPU, the compute dtype on CUDA
 *   x, qkv       the running sum of a pass, and q, k and v before they are turned: f32 everywhere, so that what is added to
 *                the one, and turned to become the other, is not rounded to less in between
 *   cache rows   dtype be->kv: the compute dtype (f32 or bf16)
 *   scores       f32 always
 *   order        operations of one lane run in the order they were called; they may still run when the call returns.
 *                ops->wait ends that. Lanes are ordered against each other with fences only.
 *   thread       one engine thread owns a back end, except where a function says otherwise
 *   failure      an operation that cannot be queued or fails on the device makes the back end broken: ops->health says
 *                so with a sentence, results are void, and the node reports NOT_SERVING
 *   memory       everything is sized at open; operations allocate nothing
 *
 * Letters: B rows in a batch, T tokens, H query heads, G KV heads, D head size, F MLP width, V vocabulary.
 */
#ifndef PLATEN_KERNELS_BACKEND_H
#define PLATEN_KERNELS_BACKEND_H

#include "common/base/status.h"
#include "common/kv/layout.h"
#include "common/model/hparams.h"
#include "common/tensor/dtype.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

struct backend;
struct weight;
struct fence;

/* Work that may overlap. The CPU back end runs every lane at once, in the caller. */
enum lane { LANE_COMPUTE, LANE_PRESS, LANE_COPY, LANE_COUNT };

/* What a back end needs to know at open. */
struct backend_config {
    enum dtype dtype;       /* DT_F32 or DT_BF16: products and cache */
    int32_t threads;        /* CPU; 0: all cores this process may use */
    int32_t device;         /* CUDA ordinal */
    double memory_fraction; /* of the device's memory, for weights, activations, blocks and tails together */
    int64_t rows_max;       /* most rows that one matmul, norm, ... will be given */
    const char *cache_dir;  /* where tuned choices are kept between runs; NULL: nowhere */
    const char *variant;    /* CPU: the instruction set to use ("avx2"), for comparisons; NULL: the best there is */
};

/* Where a weight's numbers come from: `read` gives rows [row, row + rows) as f32 [rows][cols]. */
struct weight_source {
    int64_t rows, cols; /* N outputs, K inputs; a vector is 1 x cols */
    enum status (*read)(void *ctx, int64_t row, int64_t rows, float *out, struct err *err);
    void *ctx;
    uint64_t random_seed; /* not 0: normal(0, scale) numbers made by the back end instead of `read`; benchmarks only */
    float random_scale;
};

enum weight_use {
    WEIGHT_MATRIX, /* for matmul */
    WEIGHT_ADDS,   /* for matmul that adds to x: the same numbers, tuned for that */
    WEIGHT_QKV,    /* for matmul whose output is qkv: f32 */
    WEIGHT_TABLE,  /* for embed */
    WEIGHT_BOTH,   /* for both: a tied head */
    WEIGHT_VECTOR  /* f32 [cols]: norms, biases */
};

/* Queries of a prefill pass: `rows` rows beginning at `row` of q belong to a context whose K, V are kv; query i of the
 * span stands at token `token + i` and sees tokens [0, token + i] of it (of the last `window` when window > 0). */
struct attn_span {
    int64_t row, rows;
    int64_t token;
    struct kv_layer kv;
};

/* norm(x) . w^T (+ bias): what the half-layers and the head begin with. */
struct normed_product {
    const struct weight *norm, *w, *bias; /* bias may be NULL */
    float eps;
};

/* How q, k and v leave the fused projection. */
struct rope_table {
    const float *inv_freq; /* device [tables][dims / 2]; NULL: no rotation in this layer */
    int32_t dims;          /* rotated channels, even, <= D */
    float scale;           /* cos and sin are multiplied by it (yarn, longrope); 1 otherwise */
    /* Frequencies that change with the length (dynamic, longrope): qkv_to_layer and qkv_to_tail turn a row of a sequence
     * of n positions (its own position + 1, or step_seq.length) by table n - from, at least 0 and at most tables - 1. All other operations take the first: give them
     * rope_table_at(). tables 0 is 1. */
    int32_t tables;
    int64_t from;
};

/* The one table that all rows of a sequence of `length` positions turn by, when it is computed at once. */
static inline struct rope_table rope_table_at(struct rope_table rope, int64_t length)
{
    int64_t table = length - rope.from < rope.tables ? length - rope.from : rope.tables - 1;

    if (rope.inv_freq && table > 0)
        rope.inv_freq += table * (rope.dims / 2);
    rope.tables = 1;
    return rope;
}

struct qkv_shape {
    int32_t q_heads, kv_heads, dim;
    const struct weight *q_norm, *k_norm; /* vectors [D], or NULL */
    float norm_eps;
};

/*
 * A view of K, V rows that a press scores: dense before the first keep, ragged after it. Row r of head g is element
 * (first[g] + r) * dim of k and v, and its score stands at score[at[g] + r].
 * token: the original token of every score index (device int32 [at[G]]); NULL: row r is token r.
 */
struct kv_rows {
    const void *k, *v;
    enum dtype dtype;
    int32_t heads, dim;
    int64_t first[KV_HEADS_MAX];
    int64_t rows[KV_HEADS_MAX];
    int64_t at[KV_HEADS_MAX + 1];
    const int32_t *token;
};

/* A choice of rows. keep[g] rows of head g when total < 0; else `total` rows over all heads together, of which the best
 * safe[g] of each head are kept in any case. Equal scores: the smaller row wins; but of rows with protected_score or
 * more, the larger row wins (a protected tail that does not fit keeps its newest). Equal scores in equal rows of several
 * heads that compete: the smaller head wins. NaN counts as the largest score, -0 equals 0. */
struct select_args {
    const float *score; /* device [at[G]] */
    int64_t total;
    int64_t keep[KV_HEADS_MAX];
    int64_t safe[KV_HEADS_MAX];
    float protected_score; /* INFINITY: nothing is protected */
};

/* Packing: the chosen rows of `rows` become the bytes of a block (layout.h). */
struct pack_args {
    const struct kv_rows *rows;
    const int32_t *index;            /* device: chosen row numbers per head, ascending, as select left them */
    int64_t first[KV_HEADS_MAX + 1]; /* into index, and of the block */
    /* Re-rotation (PRESSES 2.6): slot i of a head, from token p, is rotated by i - p. NULL: none */
    const struct rope_table *rerotate;
    const int32_t *token; /* device: original token of each row as in kv_rows.token; NULL: row number */
    /* Channels that K rows keep where block->k_dim < D: host [G][k_dim], ascending; the block's masks are written too. */
    const int32_t *channel;
};

/* Attention of some queries as columns (score_columns): what every row of a view got from them.
 *
 *   p[i][a][r] = exp(scale * q[i][a] . k[r] - lse[a][i])      0 where query i, at position + i, does not see r's token
 *   column     = sum or largest over i of weight[i] * p, times column_weight
 *   score[r]   = mean or largest over the group's heads a
 */
struct column_args {
    const void *q; /* act [rows][H][D], rotated */
    int64_t rows;
    int32_t q_heads;
    float scale;
    const float *lse; /* device [H][lse_stride] */
    int64_t lse_stride;
    int64_t position;    /* of the first query; INT64_MAX: queries see every row */
    const float *weight; /* device [rows], positive; NULL: 1 */
    const float
        *column_weight; /* device [H / G][at[G]], positive: entry [i][at[g] + r] of head i of g's group; NULL: 1 */
    bool largest;       /* over queries: the largest, else the sum */
    bool group_largest; /* over the group's heads: the largest, else the mean */
    bool update;        /* score = the larger of what is there and this */
};

/* One step of the decode node: B rows of up to B sequences; rows of one sequence stand together, in token order. Host
 * arrays, read before step_begin returns. */
struct step_seq {
    int32_t slot;      /* sequence slot whose blocks and pages are read and written */
    int32_t row, rows; /* its rows of this step */
    int32_t tail;   /* tail rows before this step: row i of the sequence is written at tail + i and sees tail + i + 1 */
    int32_t length; /* where frequencies change with the length: rows turn as in a sequence of so many positions, or of
                     * their own position + 1 where that is more */
};

struct step {
    int32_t rows, seqs;
    const struct step_seq *seq; /* [seqs] */
    const int32_t *token;       /* [rows]: the id, or -1 - slot: what that slot chose in the step before */
    const int32_t *position;    /* [rows] */
    const int32_t *output;      /* [seqs]: row whose logits choose the sequence's next token; -1: none wanted */
    bool apart; /* more is called between its operations than in other steps: never recorded or replayed */
};

/* What the decode side of a back end holds besides weights. */
struct cache_config {
    int32_t slots; /* sequences at once */
    int32_t pages; /* tail pages in all; each holds KV_PAGE_TOKENS tokens of all layers but those with a ring */
    int32_t pages_per_slot; /* longest tail */
    int32_t rows_max;       /* rows of one step */
    int32_t layers, q_heads, kv_heads, dim;
    /* Steps may be recorded and replayed: between step_begin and step_end the caller hands over the same buffers in every
     * step, with room for rows_max rows (outputs: slots), and nothing is copied or waited for. false: every step runs as
     * it is called, over exactly its rows. */
    bool replay;
    /* [layers]: how many rows a token of the layer sees, itself counted, which attn_decode is then asked for; 0: as it is
     * asked (read in cache_open; NULL: all 0). Tails of layers that see a window lie in a pool of their own, of ring_pages
     * pages, and a slot's pages come round in a ring (slot_ring). */
    const int32_t *window;
    int32_t ring_pages;
};

/* Bytes in use on the device by purpose, for GetInfo and metrics. */
struct device_bytes {
    uint64_t capacity, weights, activations, blocks, tails, other;
};

/* Work that a library of the device did not take, so that a kernel of ours does it, more slowly. Words live as long as the
 * back end. */
struct fallback {
    const char *instead; /* what runs: "own product", "ragged attention" */
    const char *library; /* "cublaslt", "cudnn" */
    const char *why;     /* where it was refused */
    int32_t status;      /* the library's; 0 where it was not asked */
    int64_t shape[3]; /* product: rows (the bucket they fall into), n, k; attention: query heads, KV heads, head size;
                          * zeros: every shape, the library is not there */
};

struct backend_ops {
    const char *name; /* "cpu", "cuda" */

    /* Opens the back end. ST_EUNAVAILABLE: no such device or library here, with the sentence. */
    enum status (*open)(struct backend **out, const struct backend_config *config, struct err *err);
    void (*close)(struct backend *be); /* waits for what runs */

    /* What was dispatched ("avx512_bf16 amx", "H100 sm_90"), for people and `bench`. Static or owned by be. */
    const char *(*describe)(struct backend *be);
    enum status (*health)(struct backend *be, struct err *err); /* any thread */
    void (*device_bytes)(struct backend *be, struct device_bytes *out);

    /* ---- memory -------------------------------------------------------------------------------------------- */
    /* Device memory, 256-byte aligned, contents undefined. `what` says for which purpose ("weights", "activations",
     * "blocks", "tails"). ST_EEXHAUSTED names the purpose, what was asked and what is left. */
    enum status (*alloc)(struct backend *be, uint64_t bytes, const char *what, void **out, struct err *err);
    void (*free)(struct backend *be, void *device);
    /* Host memory that the device copies from and to at full speed (pinned on CUDA). Any thread. */
    enum status (*host_alloc)(struct backend *be, uint64_t bytes, void **out, struct err *err);
    void (*host_free)(struct backend *be, void *host);
    /* Codecs of blocks that `pack` writes and `attn_decode` reads: bit 1 << KV_... for each; KV_PLAIN always. */
    uint32_t codecs;
    bool host_is_device; /* device pointers can be read and written by the host as they are (CPU) */

    /* Queued copies on a lane; host memory must stay as it is until the lane was waited for. */
    void (*upload)(struct backend *be, enum lane lane, void *device, const void *host, uint64_t bytes);
    void (*download)(struct backend *be, enum lane lane, void *host, const void *device, uint64_t bytes);
    void (*copy)(struct backend *be, enum lane lane, void *to, const void *from, uint64_t bytes);
    /* Waits until everything queued on the lane so far is done. */
    void (*wait)(struct backend *be, enum lane lane);

    /* Fences: record marks a point of a lane; `after` makes another lane wait for it; passed asks (any thread);
     * fence_wait waits until deadline_ns: ST_OK or ST_EDEADLINE, and then the back end is broken (any thread). */
    enum status (*fence_open)(struct backend *be, struct fence **out, struct err *err);
    void (*fence_close)(struct backend *be, struct fence *f);
    void (*fence_record)(struct backend *be, struct fence *f, enum lane lane);
    void (*fence_after)(struct backend *be, enum lane lane, struct fence *f);
    enum status (*fence_wait)(struct backend *be, struct fence *f, int64_t deadline_ns);

    /* ---- weights ------------------------------------------------------------------------------------------- */
    /* Reads, converts and packs a weight for its use. Waits. The weight is the caller's; close before the back end. */
    enum status (*weight_open)(struct backend *be, const struct weight_source *src, enum weight_use use,
                               struct weight **out, struct err *err);
    void (*weight_close)(struct backend *be, struct weight *w);

    /* ---- the half-layers (LANE_COMPUTE) -------------------------------------------------------------------- */
    /* x[i] = table[ids[i]] * scale; ids device int32 [rows], x f32 [rows][cols]. */
    void (*embed)(struct backend *be, const struct weight *table, const int32_t *ids, int64_t rows, float scale,
                  void *x);
    /* out = x / sqrt(mean(x^2) + eps) * w over `dim`; x f32 [rows][dim], out act [rows][dim], not x. */
    void (*rms_norm)(struct backend *be, const void *x, const struct weight *w, float eps, int64_t rows, int32_t dim,
                     void *out);
    /* x += rms_norm of y; x f32 [rows][dim], y act [rows][dim], which is used up. */
    void (*add_normed)(struct backend *be, void *y, const struct weight *w, float eps, int64_t rows, int32_t dim,
                       void *x);
    /* out [rows][N] = in [rows][K] . w^T (+ bias [N] where not NULL) (+ out, where accumulate). in act; out act, but
     * f32 where it is x (accumulate) or qkv (w is a WEIGHT_QKV). */
    void (*matmul)(struct backend *be, const struct weight *w, const struct weight *bias, const void *in, int64_t rows,
                   void *out, bool accumulate);
    /* out [rows][F] = act(gate) * up from gate_up [rows][2 F] (gate first). */
    void (*gated)(struct backend *be, enum activation kind, const void *gate_up, int64_t rows, int32_t ff, void *out);
    /* Rows [row, row + rows) of x copied to out, one per entry of index (device int32 [count]). act [.][dim] */
    void (*gather_rows)(struct backend *be, const void *x, const int32_t *index, int64_t count, int32_t dim, void *out);
    /* ids[i] = the smallest column with the largest logit; logits act [rows][vocab]; ids device int32 [rows]. */
    void (*argmax)(struct backend *be, const void *logits, int64_t rows, int32_t vocab, int32_t *ids);

    /* ---- prefill ------------------------------------------------------------------------------------------- */
    /* qkv f32 [rows][(H + 2G) D] -> norms, rotation at position[i] (device int32 [rows]) -> q act [rows][H][D], and
     * rows [token, token + rows) of kv. q_plain (act [rows][H][D], or NULL) gets q before the rotation. */
    void (*qkv_to_layer)(struct backend *be, const struct qkv_shape *shape, const struct rope_table *rope,
                         const void *qkv, const int32_t *position, int64_t rows, void *q, void *q_plain,
                         const struct kv_layer *kv, int64_t token);
    /* Makes ready what attn_prefill needs for contexts of up to kv->stride tokens in layers shaped like kv (its data is not
     * looked at), which the first calls would make otherwise. Optional; once, after the weights; a second or more. */
    void (*attn_prepare)(struct backend *be, int32_t q_heads, const struct kv_layer *kv);
    /* out act [.][H][D]: causal attention of every span (count of them) with GQA; scores * scale; window 0: all.
     * lse: f32 [H][lse_stride], natural log of the sum of exp of each query's visible scores, at index `token + i`
     * (NULL: not wanted). */
    void (*attn_prefill)(struct backend *be, const struct attn_span *span, int32_t count, const void *q,
                         int32_t q_heads, float scale, int32_t window, void *out, float *lse, int64_t lse_stride);

    /* ---- decode -------------------------------------------------------------------------------------------- */
    /* Allocates slots, page pool, step buffers. Once, after the weights. */
    enum status (*cache_open)(struct backend *be, const struct cache_config *config, struct err *err);
    void (*cache_close)(struct backend *be);
    /* Ties a slot to its context's blocks (one per layer, host structs whose data are device memory; copied). Pages are
     * given one at a time as the tail grows: page number `page` becomes the slot's page `index`. */
    /* A slot keeps room for the longest blocks it was ever tied to: tying it to shorter ones allocates nothing. */
    void (*slot_blocks)(struct backend *be, int32_t slot, const struct kv_block *blocks);
    void (*slot_page)(struct backend *be, int32_t slot, int32_t index, int32_t page);
    /* The same for the layers with a ring and their pool. A page may come again under a later index as soon as no row of
     * the steps to come sees a row that it holds. */
    void (*slot_ring)(struct backend *be, int32_t slot, int32_t index, int32_t page);
    /* hot: takes the rows of a step; what follows up to step_end works on them. Returns true when a recorded graph of
     * the same shape was replayed and the operations need not be called at all. `plan` names the forward pass. */
    bool (*step_begin)(struct backend *be, const struct step *step);
    /* hot: embed of the step's tokens. x f32 [rows][cols] */
    void (*step_embed)(struct backend *be, const struct weight *table, float scale, void *x);
    /* hot: as qkv_to_layer; k and v go to the slots' tails of `layer`. */
    void (*qkv_to_tail)(struct backend *be, const struct qkv_shape *shape, const struct rope_table *rope, int32_t layer,
                        const void *qkv, void *q);
    /* hot: every row attends to its slot's block of `layer` and its tail up to itself; window 0: all. Head g reads
     * block rows [first[g], first[g+1]), whatever their codec, and the tail. act q, out [rows][H][D]. */
    void (*attn_decode)(struct backend *be, int32_t layer, const void *q, int32_t q_heads, float scale, int32_t window,
                        void *out);
    /* hot: rows named in step.output, gathered from x f32 [rows][dim] to out f32 [count][dim] (count known at step_begin). */
    void (*step_outputs)(struct backend *be, const void *x, int32_t dim, void *out);
    /* hot: argmax of logits act [count][vocab], remembered as each slot's token. */
    void (*step_choose)(struct backend *be, const void *logits, int32_t vocab);
    void (*step_end)(struct backend *be); /* hot */
    /* Kernels and copies that the largest recorded step launches; 0: none was recorded. NULL where nothing is launched. */
    int32_t (*step_launches)(struct backend *be);
    /* Waits for the step begun `behind` steps ago (0: the last one) and gives the chosen id of each wanted sequence, in
     * the order of step.output. ids host [seqs]; -1 where none was wanted. */
    void (*step_result)(struct backend *be, int32_t behind, int32_t *ids);

    /* ---- parts of a step in one (may be NULL) ----
     * The same as the operations above one after the other, but for rounding in between. false: not for this shape;
     * nothing was queued, and the caller takes those operations. hot */
    /* rms_norm, matmul, qkv_to_tail of x f32 [rows][dim] */
    bool (*normed_qkv_to_tail)(struct backend *be, const struct normed_product *p, const struct qkv_shape *shape,
                               const struct rope_table *rope, int32_t layer, const void *x, void *q);
    /* rms_norm, matmul, gated of x f32 [rows][dim]: out act [rows][F] */
    bool (*normed_gated)(struct backend *be, const struct normed_product *p, enum activation kind, const void *x,
                         int64_t rows, void *out);
    /* step_outputs, rms_norm, matmul of x f32 [rows][dim]: logits act [count][vocab] of the rows named in step.output */
    bool (*normed_outputs)(struct backend *be, const struct normed_product *p, const void *x, void *logits);

    /* ---- pressing while decoding (NULL: contexts whose press has a decode part that wants it are refused) ---- */
    /* LANE_PRESS: the newest rows of a slot's layer as a plain block with all channels: of head g the last first[g+1] -
     * first[g] rows of its block and the first `tail` rows of its tail, in order; dropped channels come as zeros. `out`
     * is planned (kv_block_plan); its data is device memory, none of which the slot reads. No step is under way. */
    void (*slot_gather)(struct backend *be, int32_t slot, int32_t layer, int32_t tail, const struct kv_block *out);
    /* hot, LANE_COMPUTE: out act [rows][H][D] = the queries of qkv f32 [rows][(H + 2G) D] with their norms, before the
     * rotation. */
    void (*queries_plain)(struct backend *be, const struct qkv_shape *shape, const void *qkv, int64_t rows, void *out);

    /* ---- presses (LANE_PRESS) ------------------------------------------------------------------------------ */
    /* score = factor * ||k||_2 */
    void (*score_key_norm)(struct backend *be, const struct kv_rows *in, float factor, float *score);
    /* Window attention (PRESSES 2.2): the last `window` queries q act [window][H][D] (rotated) against all rows of
     * `in`, where query i sees tokens [0, T - window + i], T = tokens. Per query head the mean over the window of the
     * softmax of q.k / sqrt(D) (each query's row weighted by row_weight[i], host f32 [window]; NULL: 1), average pooling
     * over `kernel` rows (zero padding, divisor kernel) of the rows that are not the last `window` tokens, then the mean
     * over the group. Rows of the last `window` tokens get `pad`; INFINITY means 1 + the largest score of any head.
     * tokens 0: rows are counted by their place in each head, T = rows[g] (in->token is NULL then); a head of no more
     * rows than the window is all pad. */
    void (*score_window)(struct backend *be, const struct kv_rows *in, const void *q, int32_t q_heads, int32_t window,
                         int64_t tokens, const float *row_weight, int32_t kernel, float pad, float *score);
    /* score of every row from its original token: value[r] for begin[r] <= token < begin[r+1] (ranges ascending,
     * host arrays; begin has count + 1 entries). */
    void (*score_ranges)(struct backend *be, const struct kv_rows *in, const int64_t *begin, const float *value,
                         int32_t count, float *score);
    /* score = random_unit(seed, layer, head, token) of random.h, the same everywhere. */
    void (*score_random)(struct backend *be, const struct kv_rows *in, uint64_t seed, int32_t layer, float *score);
    /* Chooses rows. index: device int32, room at[G]; head g's rows ascending at [first[g], first[g+1]). first: host
     * [G + 1]. Waits for its lane (the counts are needed on the host). */
    void (*select)(struct backend *be, const struct kv_rows *in, const struct select_args *args, int32_t *index,
                   int64_t *first);
    /* Writes the bytes of a block, coded as block->codec says (one of ops->codecs; common/kv/codec.h): `block` has layer,
     * heads, dims, codec, first and offsets set; data is device memory. Rows are turned before they are coded. */
    void (*pack)(struct backend *be, const struct pack_args *args, const struct kv_block *block);
    /* out [rows][heads][D] = in [rows][heads][D] (act) rotated as position + i * step for row i. out may be in. */
    void (*rotate_rows)(struct backend *be, const void *in, int32_t heads, int32_t dim, const struct rope_table *rope,
                        int64_t position, int64_t step, int64_t rows, void *out);
    /* out act [rows][cols], put together slice by slice: columns are cut into `slices` of cols / slices (the last takes
     * what is over), and slice g of row s is that of x's row index[g][s]. index device int32 [slices][rows]; x act
     * [.][cols]; out is not x. 1 <= slices <= cols. */
    void (*mix_rows)(struct backend *be, const void *x, const int32_t *index, int32_t slices, int64_t rows,
                     int32_t cols, void *out);

    /* What single presses need; a back end may leave any of these NULL, and chains that want it are refused. `rows of
     * in` are counted by their place r in each head; scores of other rows are left alone. */

    /* k2 = |K row|^2, v2 = |V row|^2 (either may be NULL); with a sketch (device f32 [D][sketch_dim]) of row . sketch. */
    void (*row_squares)(struct backend *be, const struct kv_rows *in, const float *sketch, int32_t sketch_dim,
                        float *k2, float *v2);
    /* score = -cos(k, mean of the head's keys made unit length) */
    void (*score_key_diff)(struct backend *be, const struct kv_rows *in, float *score);
    /* score = factor * k . filter[g]; filter device f32 [G][D] */
    void (*score_key_dot)(struct backend *be, const struct kv_rows *in, const float *filter, float factor,
                          float *score);
    /* Rows from `from` on in partitions of `lag`, all but the last whole one (PRESSES 2.1, LagKV): z = (x - min) / (max -
     * min) with the next partition's extremes per channel (0 where they are equal), softmax over the partition of the
     * standard deviation of z; the mean of that of K and of V. */
    void (*score_lag)(struct backend *be, const struct kv_rows *in, int64_t from, int64_t lag, float *score);
    /* out [G][D] = mean of k^2 over the chosen rows (index, first as select leaves them) */
    void (*channel_squares)(struct backend *be, const struct kv_rows *in, const int32_t *index, const int64_t *first,
                            float *out);
    /* The chosen rows' keys become 0 in place, but for the channels that stay: channel host [G][k_dim], ascending. Writes
     * into the rows of `in`. */
    void (*keep_channels)(struct backend *be, const struct kv_rows *in, const int32_t *index, const int64_t *first,
                          const int32_t *channel, int32_t k_dim);
    /* mean [H][D] and covariance [H][D][D] (divisor rows; NULL: not wanted), f32, of q act [rows][H][D] */
    void (*query_stats)(struct backend *be, const void *q, int32_t q_heads, int32_t dim, int64_t rows, float *mean,
                        float *cov);
    /* mean [H][D] and cov [H][D][D] (NULL: there is none) become R mean, R cov R', in place: R is the mean of the rotations
     * of positions [from, from + count), scale included; channels that do not rotate stay. */
    void (*rotate_stats)(struct backend *be, const struct rope_table *rope, int64_t from, int64_t count,
                         int32_t q_heads, int32_t dim, float *mean, float *cov);
    /* Rows from `from` on: score = (score + eps) * sqrt(v2) (v2 [at[G]]; NULL: as it is). The rows before them, which stay,
     * get 1 + the largest score of all heads' other rows; 1 where there are none or it is infinite. */
    void (*score_weigh)(struct backend *be, const struct kv_rows *in, int64_t from, const float *v2, float eps,
                        float *score);
    /* Every head gets the mean of all heads' scores, row by row (heads are equally long); then the last `tail` rows, which
     * stay, get 1 + the largest of the others; 1 where there are none or it is infinite. */
    void (*score_share)(struct backend *be, const struct kv_rows *in, int64_t tail, float *score);
    /* Rows from `from` on: e = k . mean[a] / sqrt(D) + k' cov[a] k / (2 D) (cov NULL: without), softmax over those rows,
     * mean over the group. */
    void (*score_expected)(struct backend *be, const struct kv_rows *in, int64_t from, const float *mean,
                           const float *cov, int32_t q_heads, float *score);
    /* Rows from `from` on (PRESSES 2.3, Cap): s = cos(k, mean[a]), w = exp(tau s - max tau s), A = I + sum (w + eps) v v',
     * mean over the group of w v' A^-1 v. */
    void (*score_cap)(struct backend *be, const struct kv_rows *in, int64_t from, const float *mean, int32_t q_heads,
                      float tau, float eps, float *score);
    /* Keys turned back by their position (token, or `position` + r), centred per head, times sketch (device f32
     * [G][D][sketch_dim]); y' (Y'Y + 0.01 I)^-1 y, at least 0. */
    void (*score_leverage)(struct backend *be, const struct kv_rows *in, const struct rope_table *rope,
                           int64_t position, const float *sketch, int32_t sketch_dim, float *score);
    /* Chunks of rows attend to themselves without mask or scale (PRESSES 2.3, NonCausalAttn): column sums, mean over the
     * group. Row r's query is row token (NULL: r) of q act [.][H][D]. A last chunk that is not full is filled with zero
     * queries and keys. */
    void (*score_noncausal)(struct backend *be, const struct kv_rows *in, const void *q, int32_t q_heads, int64_t chunk,
                            float *score);
    void (*score_columns)(struct backend *be, const struct kv_rows *in, const struct column_args *args, float *score);
    /* out [H / G][at[G]]: entry [i][at[g] + r] = norm of v . Wo_a, a = head i of g's group; power 1: sum of absolute
     * values, 2: L2. o is the output projection [dim][H D]. index, first: the rows of each head that are wanted, as select
     * gives them; other entries may hold anything. NULL: all. */
    void (*value_out_norms)(struct backend *be, const struct kv_rows *in, const int32_t *index, const int64_t *first,
                            const struct weight *o, int32_t q_heads, int32_t power, float *out);
    /* out f32 [rows][outs] = x act [rows][cols] . w^T + bias; w f32 [outs][cols], bias f32 [outs] or NULL, device */
    void (*linear)(struct backend *be, const void *x, int64_t rows, int64_t cols, const float *w, const float *bias,
                   int32_t outs, float *out);
    /* V rows that were not chosen are merged, in place, into the chosen one whose key is nearest (PRESSES 2.4, Merging).
     * Writes into the rows of `in`. */
    void (*merge_values)(struct backend *be, const struct kv_rows *in, const int32_t *index, const int64_t *first,
                         float threshold, double fraction);

    /* Operations of LANE_PRESS may take scratch of the device as they need it. One that found none did nothing: this says
     * so, once (ST_EEXHAUSTED, with what was asked and what is left), and health does until it was asked. NULL: they take
     * none. */
    enum status (*press_room)(struct backend *be, struct err *err);

    /* checksum (XXH3-64) of device bytes as the wire states it; waits for the lane. */
    uint64_t (*checksum)(struct backend *be, enum lane lane, const void *device, uint64_t bytes);

    /* The fall-back of this number, counted from 0 in the order of first use, each shape once; NULL: there were not so many.
     * Lives as long as `be` and never changes. Any thread; no lock. NULL: no library is asked. */
    const struct fallback *(*fallback_at)(struct backend *be, int32_t index);
};

/* Every back end starts with this; the rest is its own. */
struct backend {
    const struct backend_ops *ops;
    enum dtype act; /* activations */
    enum dtype kv;  /* cache rows */
};

/* The back end called `name` ("cpu", "cuda"), or NULL. */
const struct backend_ops *backend_find(const char *name);

/* Splits "cuda:1" into name and device, "cpu:avx2" into name and variant; opens it. ST_EINVAL names the back ends there
 * are. */
enum status backend_open(struct backend **out, const char *spec, const struct backend_config *config, struct err *err);
void backend_close(struct backend *be); /* NULL is fine */

/* "16x4096x1000"; "every" without the use of `out`. */
enum { FALLBACK_SHAPE_BYTES = 64 };
const char *fallback_shape(const struct fallback *f, char out[FALLBACK_SHAPE_BYTES]);

/* As snprintf into `out`: what describe() says, and each fall-back after it. Any thread. */
void backend_describe(struct backend *be, char *out, size_t bytes);

#ifdef __cplusplus
}
#endif
#endif
