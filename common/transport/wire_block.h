/* SPDX-License-Identifier: Apache-2.0 */
/* wire_block.h - a block's header as message, both ways; and a chunk's small fields. */
#ifndef PLATEN_TRANSPORT_WIRE_BLOCK_H
#define PLATEN_TRANSPORT_WIRE_BLOCK_H

#include "common/base/status.h"
#include "common/kv/block.h"
#include "common/rpc/rpc_chunk.h"

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

struct Platen__Internal__V1__Block;

enum { CHUNK_HEAD_MAX = 32, CHUNK_FIELD = 15, CHUNK_BYTES = 1 << 20 };

/* Fills `msg` from a planned block. rows[KV_HEADS_MAX] is the caller's and must live as long as msg is used. */
void wire_block_write(struct Platen__Internal__V1__Block *msg, uint32_t *rows, const struct kv_block *b,
                      uint64_t checksum);

/* Plans a block from a header of the peer and proves it against `shape`, `codec` and `rows_max`. ST_EDATALOSS names what
 * is wrong; *out is written only on success, its data NULL. */
enum status wire_block_read(struct kv_block *out, uint64_t *checksum, const struct Platen__Internal__V1__Block *msg,
                            const struct kv_shape *shape, enum kv_codec codec, int64_t rows_max, struct err *err);

/* The bytes that stand before the `bytes` payload bytes of a Chunk message. Returns their number. */
size_t wire_chunk_head(uint8_t head[CHUNK_HEAD_MAX], int32_t layer, uint64_t offset, uint64_t bytes);

/* Reads a Chunk from the bulk of a FromPrefill: its small fields, and *data set on its payload. Any order of fields,
 * unknown ones passed over. ST_EINVAL when it is no Chunk. Allocates nothing. */
enum status wire_chunk_read(const struct rpc_bulk *chunk, int32_t *layer, uint64_t *offset, struct rpc_bulk *data,
                            struct err *err);

#ifdef __cplusplus
}
#endif
#endif
