/* SPDX-License-Identifier: Apache-2.0 */
/*
 * layout.h - the two shapes a layer's KV cache has on its way: dense and packed.
 *
 *   kv_layer   K, V dense [G][T][D], as the forward pass made them (rotation applied to K)
 *   kv_block   exactly the rows that stay, packed; the unit on the wire and in the cache
 *
 * Read by host C, C++ and CUDA. Everything after the press is ragged: head g of a block owns rows
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

/* How rows are coded in a block; codec.h says what the numbers mean. Numbers travel: never renumber. */
enum kv_codec {
    KV_PLAIN = 0, /* rows in the cache's own dtype */
    KV_INT8 = 1,  /* int8, one f32 scale per row of K and of V */
    KV_FP8 = 2,   /* fp8 e4m3, one f32 scale per row of K and of V */
    KV_INT4 = 3,  /* 4 bits: K per channel in groups of rows, V per row; the last rows of each head whole */
};
enum { KV_CODECS = 4 };

/* int4: so many neighbouring rows of a head share a scale of each K channel; at least the last so many rows of a head, and
 * fewer than twice as many, stay whole. */
enum { KV_GROUP_ROWS = 32 };

/*
 * One packed layer. `data` holds the parts of enum kv_part one after another, each beginning on a 64-byte boundary; a part
 * without items takes no bytes. In each part what belongs to head 0 comes first, then head 1, ..., without gaps.
 * The bytes are the same on the wire and in the cache; a block is never changed after commit.
 * Place: host or device memory, as its owner says. Little-endian.
 */
struct kv_block {
    int32_t layer;
    int32_t heads;    /* G */
    int32_t dim;      /* D of V, and of K unless channels were dropped */
    int32_t k_dim;    /* channels kept in K rows: dim, or fewer after `think` */
    enum dtype dtype; /* what plain and whole rows are: DT_F32 or DT_BF16 */
    enum kv_codec codec;
    int64_t scored; /* of so many last rows of each head the press's verdicts travel too; 0: of none */
    int64_t first[KV_HEADS_MAX + 1];
    uint64_t k_offset, v_offset, extra_offset; /* into data: parts K, V, and what follows V */
    uint64_t extra_bytes;                      /* of what follows V, without the last part's padding */
    uint64_t bytes;                            /* all of data, padding included */
    void *data;
};

enum kv_part {
    KV_PART_K, /* coded rows; plain: all rows, of dtype */
    KV_PART_V,
    KV_PART_K_SCALE, /* int8, fp8: f32 per row; int4: [group][k_dim] pairs of 4 bytes, group after group of a head */
    KV_PART_V_SCALE, /* int8, fp8: f32 per row; int4: a pair per coded row */
    KV_PART_K_WHOLE, /* int4: the rows of each head behind the coded ones, of dtype */
    KV_PART_V_WHOLE,
    KV_PART_MASKS, /* where k_dim < dim: channels that K rows have, [heads][ceil(dim / 8)] bytes; bit c % 8 of byte c / 8
                      stands for channel c, k_dim bits set per head */
    KV_PART_VERDICTS, /* for a press that goes on while tokens are generated: whether the last rows of each head that are
                         scored go when they have left its window, [heads][ceil(rows / 8)] bytes, bit r % 8 of byte r / 8
                         stands for the r-th of them; attention does not look at them */
    KV_PARTS
};

static inline int64_t kv_block_rows(const struct kv_block *b)
{
    return b->first[b->heads];
}

/* How many of a head's `rows` rows are coded, from the first on; the others are whole. All of them unless int4. */
static inline int64_t kv_coded_rows(enum kv_codec codec, int64_t rows)
{
    if (codec != KV_INT4)
        return rows;
    return rows < 2 * KV_GROUP_ROWS ? 0 : (rows / KV_GROUP_ROWS - 1) * KV_GROUP_ROWS;
}

/* Coded rows of the heads before `head`: where head's coded rows begin in K, V, and (divided) in the scales. Its whole
 * rows begin at first[head] less that. */
static inline int64_t kv_coded_first(const struct kv_block *b, int32_t head)
{
    int64_t rows = 0;

    for (int32_t g = 0; g < head; g++)
        rows += kv_coded_rows(b->codec, b->first[g + 1] - b->first[g]);
    return rows;
}

/* How many of a head's `rows` rows are scored: its last ones. */
static inline int64_t kv_scored_rows(const struct kv_block *b, int64_t rows)
{
    return rows < b->scored ? rows : b->scored;
}

/* Bytes of the verdicts on a head with `rows` rows. */
static inline int64_t kv_verdict_bytes(const struct kv_block *b, int64_t rows)
{
    return (kv_scored_rows(b, rows) + 7) / 8;
}

/* Bytes of the verdicts on the heads before `head`: where head's begin. */
static inline int64_t kv_verdict_first(const struct kv_block *b, int32_t head)
{
    int64_t bytes = 0;

    for (int32_t g = 0; g < head && b->scored > 0; g++)
        bytes += kv_verdict_bytes(b, b->first[g + 1] - b->first[g]);
    return bytes;
}

/* Bytes of one row of `channels` channels in the parts K and V. */
static inline uint64_t kv_row_bytes(enum kv_codec codec, enum dtype dtype, int32_t channels)
{
    if (codec == KV_INT4)
        return ((uint64_t)channels + 1) / 2;
    return (uint64_t)channels * (codec != KV_PLAIN ? 1u : dtype == DT_F32 ? 4u : 2u);
}

/* How many items a part has, and the bytes of one; `coded`: coded rows of all heads. */
static inline uint64_t kv_part_items(const struct kv_block *b, enum kv_part part, int64_t coded)
{
    const uint64_t rows = (uint64_t)kv_block_rows(b), whole = rows - (uint64_t)coded;

    switch (part) {
    case KV_PART_K:
    case KV_PART_V:
        return (uint64_t)coded;
    case KV_PART_K_SCALE:
        return b->codec == KV_PLAIN ? 0 : b->codec == KV_INT4 ? (uint64_t)coded / KV_GROUP_ROWS : rows;
    case KV_PART_V_SCALE:
        return b->codec == KV_PLAIN ? 0 : (uint64_t)coded;
    case KV_PART_K_WHOLE:
    case KV_PART_V_WHOLE:
        return whole;
    case KV_PART_MASKS:
        return b->k_dim < b->dim ? (uint64_t)b->heads : 0;
    case KV_PART_VERDICTS:
        return (uint64_t)kv_verdict_first(b, b->heads);
    default:
        return 0;
    }
}

static inline uint64_t kv_part_item_bytes(const struct kv_block *b, enum kv_part part)
{
    switch (part) {
    case KV_PART_K:
        return kv_row_bytes(b->codec, b->dtype, b->k_dim);
    case KV_PART_V:
        return kv_row_bytes(b->codec, b->dtype, b->dim);
    case KV_PART_K_SCALE:
        return b->codec == KV_INT4 ? 4 * (uint64_t)b->k_dim : 4;
    case KV_PART_V_SCALE:
        return 4;
    case KV_PART_VERDICTS:
        return 1;
    case KV_PART_K_WHOLE:
        return kv_row_bytes(KV_PLAIN, b->dtype, b->k_dim);
    case KV_PART_V_WHOLE:
        return kv_row_bytes(KV_PLAIN, b->dtype, b->dim);
    default:
        return ((uint64_t)b->dim + 7) / 8;
    }
}

/* Rounds up to the alignment of a block's parts. */
static inline uint64_t kv_align(uint64_t bytes)
{
    return (bytes + 63u) & ~(uint64_t)63u;
}

/* Where each part of a planned block begins, and how many bytes it has without padding. */
struct kv_parts {
    uint64_t offset[KV_PARTS], bytes[KV_PARTS];
};

static inline void kv_block_parts(const struct kv_block *b, struct kv_parts *out)
{
    const int64_t coded = kv_coded_first(b, b->heads);
    uint64_t at = 0;

    for (int32_t p = 0; p < KV_PARTS; p++) {
        out->offset[p] = at;
        out->bytes[p] = kv_part_items(b, (enum kv_part)p, coded) * kv_part_item_bytes(b, (enum kv_part)p);
        at += kv_align(out->bytes[p]);
    }
}

/* Rows of question and answer live in pages of this many tokens, all G heads together: K [G][64][D] then V [G][64][D]. */
enum { KV_PAGE_TOKENS = 64 };

#ifdef __cplusplus
}
#endif
#endif
