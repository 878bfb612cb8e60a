/* SPDX-License-Identifier: Apache-2.0 */
/*
 * layout.h - the three shapes a layer's KV cache has on its way: dense, chosen, packed.
 *
 *   kv_layer   K, V dense [G][T][D], as the forward pass made them (rotation applied to K)
 *   kv_choice  which rows stay: per KV head an ascending list of token numbers
 *   kv_block   exactly those rows, packed; the unit on the wire and in the cache
 *
 * Read by host C, C++ and CUDA. Everything after the choice is ragged: head g of a block owns rows
 * [first[g], first[g+1]), and no two heads need have the same number of them.
 */
#ifndef PLATEN_KV_LAYOUT_H
#define PLATEN_KV_LAYOUT_H

#include "common/tensor/dtype.h"

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

enum { KV_HEADS_MAX = 256, KV_HEAD_DIM_MAX = 256 };

/* Dense K, V of one layer, borrowed from the forward pass. Device memory of the backend that made it.
 * Row t of head g begins at element (g * stride + t) * dim; stride >= tokens. */
struct kv_layer {
    void *k, *v;
    enum dtype dtype; /* DT_F32 or DT_BF16 */
    int32_t heads;    /* G */
    int32_t dim;      /* D */
    int64_t tokens;   /* T */
    int64_t stride;   /* rows allotted to each head */
};

/* Which rows of a layer stay. Host memory; owned by whoever opened it (presses/choice.h).
 * Head g keeps token[first[g]] .. token[first[g+1]-1], ascending. */
struct kv_choice {
    int32_t heads;
    int64_t first[KV_HEADS_MAX + 1];
    int32_t *token;
    int64_t room; /* entries allotted behind token */
};

/* How rows are coded in a block. Numbers travel: never renumber. */
enum kv_codec {
    KV_PLAIN = 0, /* rows in the cache's own dtype */
    KV_INT8 = 1,  /* int8, one f32 scale per row of K and of V */
    KV_FP8 = 2,   /* fp8 e4m3, one f32 scale per row */
    KV_INT4 = 3   /* K per channel, V per token; the last rows of each head whole */
};

/*
 * One packed layer. `data` holds, one after another and each part beginning on a 64-byte boundary:
 *   K rows    rows * row_bytes(K)
 *   V rows    rows * row_bytes(V)
 *   extras    what the codec needs besides (scales; channel masks), described in common/kv/codec.h
 * The bytes are the same on the wire and in the cache; a block is never changed after commit.
 * Place: host or device memory, as its owner says. Little-endian.
 */
struct kv_block {
    int32_t layer;
    int32_t heads;    /* G */
    int32_t dim;      /* D of V, and of K unless channels were dropped */
    int32_t k_dim;    /* channels kept in K rows: dim, or fewer after `think` */
    enum dtype dtype; /* what plain rows are: DT_F32 or DT_BF16 */
    enum kv_codec codec;
    int64_t first[KV_HEADS_MAX + 1];
    uint64_t k_offset, v_offset, extra_offset; /* into data */
    /* where k_dim < dim the extras end in the channels that K rows have: [heads][ceil(dim / 8)] bytes, bit c % 8 of byte
     * c / 8 for channel c, k_dim bits set per head */
    uint64_t extra_bytes;
    uint64_t bytes; /* all of data, padding included */
    void *data;
};

/* Bytes of the masks above; 0 where K rows have all channels. */
static inline uint64_t kv_block_mask_bytes(const struct kv_block *b)
{
    return b->k_dim < b->dim ? (uint64_t)b->heads * (uint64_t)((b->dim + 7) / 8) : 0;
}

static inline int64_t kv_block_rows(const struct kv_block *b)
{
    return b->first[b->heads];
}

/* Rounds up to the alignment of a block's parts. */
static inline uint64_t kv_align(uint64_t bytes)
{
    return (bytes + 63u) & ~(uint64_t)63u;
}

/* Rows of question and answer live in pages of this many tokens, all G heads together: K [G][64][D] then V [G][64][D]. */
enum { KV_PAGE_TOKENS = 64 };

#ifdef __cplusplus
}
#endif
#endif
