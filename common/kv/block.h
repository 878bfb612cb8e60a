/* SPDX-License-Identifier: Apache-2.0 */
/*
 * block.h - planning a block's bytes, and proving a block's header from outside before anything believes it.
 *
 *   rows per head, dims, dtype, codec ──plan──▶ offsets of K, V, extras; bytes in all
 *
 * Both sides plan for themselves; the sender's number of bytes is only compared. So nothing that comes over the wire is
 * ever used as an offset.
 */
#ifndef PLATEN_KV_BLOCK_H
#define PLATEN_KV_BLOCK_H

#include "common/base/status.h"
#include "common/kv/layout.h"

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* What a node knows of every block of its model. */
struct kv_shape {
    int32_t layers, heads, dim; /* L, G, D */
    enum dtype dtype;           /* of plain rows */
    int64_t scored; /* last rows of each head on which verdicts may travel with a block: as the order's press asks */
};

/* Fills first[] from the rows of each of `heads` heads. ST_EINVAL when heads is not in [1, KV_HEADS_MAX]. */
enum status kv_block_set_rows(struct kv_block *b, const uint32_t *rows, int32_t heads, struct err *err);

/* Fills the three offsets, extra_bytes and bytes from dim, k_dim, dtype, codec, scored and first. ST_EINVAL when those make no
 * sense (each named), ST_ERANGE when the bytes do not fit. Leaves `data` alone. Allocates nothing. */
enum status kv_block_plan(struct kv_block *b, struct err *err);

/* Whether a planned block belongs to this model, with at most `rows_max` rows in a head. ST_EDATALOSS names the field:
 * a peer that was accepted and sends this is broken. */
enum status kv_block_check(const struct kv_block *b, const struct kv_shape *shape, int64_t rows_max, struct err *err);

/* Bytes of rows with the scales that their codec needs, without padding, masks and verdicts: what `kept_bytes` counts. */
uint64_t kv_block_row_bytes(const struct kv_block *b);

/* Bytes that a block of at most `rows` rows in all heads together can take at most, however they are spread over heads and
 * whatever channels are dropped; 0 when that does not fit in 64 bits. */
uint64_t kv_block_bytes_most(const struct kv_shape *shape, enum kv_codec codec, int64_t rows);

/* The same for at most `rows` rows in each head. */
uint64_t kv_block_bytes_max(const struct kv_shape *shape, enum kv_codec codec, int64_t rows);

#ifdef __cplusplus
}
#endif
#endif
