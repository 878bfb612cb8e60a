/* SPDX-License-Identifier: Apache-2.0 */
/* wire_block.h - a block's header as message, both ways; and where a chunk's bytes lie in its message. */
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

/* Payload of one Chunk message; the last of a block is shorter. */
enum { CHUNK_BYTES = 1 << 20 };

/* FromPrefill { Chunk chunk = 15 { ...; bytes data = 15; } } */
extern const struct rpc_chunk wire_chunk;

/* Fills `msg` from a planned block. rows[KV_HEADS_MAX] is the caller's and must live as long as msg is used. */
void wire_block_write(struct Platen__Internal__V1__Block *msg, uint32_t *rows, const struct kv_block *b,
                      uint64_t checksum);

/* Plans a block from a header of the peer and proves it against `shape`, `codec` and `rows_max`. ST_EDATALOSS names what
 * is wrong; *out is written only on success, its data NULL. */
enum status wire_block_read(struct kv_block *out, uint64_t *checksum, const struct Platen__Internal__V1__Block *msg,
                            const struct kv_shape *shape, enum kv_codec codec, int64_t rows_max, struct err *err);

#ifdef __cplusplus
}
#endif
#endif
