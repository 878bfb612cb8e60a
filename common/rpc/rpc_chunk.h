/* SPDX-License-Identifier: Apache-2.0 */
/*
 * rpc_chunk.h - bulk inside a plain protobuf message, without protobuf's copies.
 *
 *   message Chunk { small fields ...;  bytes data = 15; }      and perhaps, around it,  message From { Chunk chunk = 15; }
 *
 *   send      [small fields, packed | tag, length][caller's bytes ...]       the caller's bytes are borrowed slices
 *   receive   [slice][slice][slice]...  ->  small fields unpacked, `data` read span by span straight to its place
 *
 * On the wire it is an ordinary message: any protobuf library reads and writes it. The receiver takes fields in any
 * order, unknown ones too; where a field comes more than once the last one counts, as protobuf says.
 * Sending is rpc_call_send_bulk (rpc_call.h).
 */
#ifndef PLATEN_RPC_RPC_CHUNK_H
#define PLATEN_RPC_RPC_CHUNK_H

#include "common/base/status.h"

#include <protobuf-c/protobuf-c.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* A run of bytes somewhere else; never owns. */
struct rpc_span {
    const void *data;
    size_t bytes;
};

/* A received message as the wire gave it: some slices. Owned by whoever got it; may go to another thread. */
struct rpc_buffer;

size_t rpc_buffer_bytes(const struct rpc_buffer *b);
size_t rpc_buffer_spans(const struct rpc_buffer *b);
struct rpc_span rpc_buffer_span(const struct rpc_buffer *b, size_t i);
void rpc_buffer_free(struct rpc_buffer *b); /* NULL is fine */

/* A buffer with a copy of these bytes, for tests and for what is made here. */
struct rpc_buffer *rpc_buffer_copy(const void *data, size_t bytes);

/* Where bulk lies in a message: in field `bulk` of a message of type `head`, which is the whole message (outer 0) or its
 * field `outer`. Const tables. */
struct rpc_chunk {
    const ProtobufCMessageDescriptor *head;
    uint32_t bulk;
    uint32_t outer;
};

/* A cursor over bulk bytes. Borrows the buffer. */
struct rpc_bulk {
    const struct rpc_buffer *buffer;
    size_t span;   /* the slice that holds the next byte */
    size_t offset; /* where in it */
    size_t bytes;  /* how many are left */
};

enum { RPC_CHUNK_HEAD_MAX = 4096 }; /* bytes of everything but the bulk */

/* Takes a buffer apart: unpacks (and checks) all of the chunk's fields but the bulk into *head (the caller's, given back
 * with rpc_message_free) and points *bulk at the bulk bytes (bytes 0 where it is absent). With `outer`: *head is NULL
 * when the message has no such field, and other fields beside it are passed over. ST_EINVAL when it is no such message
 * or the head is larger than RPC_CHUNK_HEAD_MAX. Copies only the head. */
enum status rpc_chunk_split(const struct rpc_buffer *buffer, const struct rpc_chunk *chunk, ProtobufCMessage **head,
                            struct rpc_bulk *bulk, struct err *err);

/* The whole buffer as a message: checked and unpacked as rpc_message_unpack does. Copies it first when it came in
 * several slices. */
enum status rpc_buffer_unpack(const struct rpc_buffer *b, const ProtobufCMessageDescriptor *type, bool bytes_are_text,
                              ProtobufCMessage **out, struct err *err);

/* The next run of bulk bytes, stepping over it; false at the end. */
bool rpc_bulk_next(struct rpc_bulk *bulk, struct rpc_span *out);

/* Copies the next `bytes` (at most what is left) to `to`; returns how many. */
size_t rpc_bulk_read(struct rpc_bulk *bulk, void *to, size_t bytes);

#ifdef __cplusplus
}
#endif
#endif
