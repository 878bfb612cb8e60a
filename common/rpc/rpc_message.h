/* SPDX-License-Identifier: Apache-2.0 */
/*
 * rpc_message.h - a message from outside is checked before anybody reads it.
 *
 * protobuf-c neither checks that strings are UTF-8 nor keeps their length: a NUL would cut them. So:
 *   - a `string` field of the generated code must be UTF-8 without NUL, else the message is refused;
 *   - text that may hold NUL is `bytes` in the generated code. Write it as `string name = 1; // NUL-safe` in the .proto
 *     file: callers in other languages see a string, proto/CMakeLists.txt generates `bytes` for us (the same on the
 *     wire), and with `bytes_are_text` its UTF-8 is checked too.
 */
#ifndef PLATEN_RPC_RPC_MESSAGE_H
#define PLATEN_RPC_RPC_MESSAGE_H

#include "common/base/bytes.h"
#include "common/base/status.h"

#include <protobuf-c/protobuf-c.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

enum { RPC_DEPTH_MAX = 64 }; /* messages inside messages */

/* One field as it lies on the wire. */
struct rpc_field {
    uint32_t number;
    uint32_t wire_type;  /* 0 varint, 1 64 bit, 2 length-delimited, 5 32 bit */
    uint64_t value;      /* of types 0, 1, 5 */
    const uint8_t *data; /* of type 2: `bytes` bytes inside the message */
    size_t bytes;
};

/* Steps over one field. False at the end, and (with c->bad set) where the bytes are no field. */
bool rpc_field_next(struct cursor *c, struct rpc_field *out);

/* Walks the raw bytes of a message of type `type`: well-formed, no deeper than RPC_DEPTH_MAX, text is UTF-8. ST_OK, or
 * ST_EINVAL with the field's name. Allocates nothing. */
enum status rpc_message_check(const ProtobufCMessageDescriptor *type, bool bytes_are_text, const uint8_t *data,
                              size_t bytes, struct err *err);

/* Checks and unpacks. *out is the caller's, given back with rpc_message_free. ST_OK or ST_EINVAL. */
enum status rpc_message_unpack(ProtobufCMessage **out, const ProtobufCMessageDescriptor *type, bool bytes_are_text,
                               const uint8_t *data, size_t bytes, struct err *err);

/* NULL is fine. */
void rpc_message_free(ProtobufCMessage *msg);

#ifdef __cplusplus
}
#endif
#endif
