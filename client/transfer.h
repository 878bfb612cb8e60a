/* SPDX-License-Identifier: Apache-2.0 */
/*
 * transfer.h - blocks of test bytes from one process to another on loopback, as an order would move its own: the
 * sender's side of Prefill.Run with the shipper of the prefill node, the receiver's with the receiver of the decode node.
 *
 *   child: rpc server ─ shipper ══ Block, Chunk, Chunk, ... Commit ══▶ receiver ─ rpc client: parent
 */
#ifndef PLATEN_CLIENT_TRANSFER_H
#define PLATEN_CLIENT_TRANSFER_H

#include "common/base/status.h"
#include "common/kv/block.h"

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* The blocks are those of a model with 8 KV heads of 128 in bf16. */
struct kv_shape transfer_shape(void);

/* The child: listens on a port of 127.0.0.1 that it writes to `port_fd` (int32), serves one transfer after the other until
 * it is killed. Returns only when it cannot start. */
enum status transfer_serve(int port_fd, struct err *err);

struct transfer_result {
    uint64_t bytes;
    double seconds; /* from the first block's announcement to the commit */
};

/* The parent: asks 127.0.0.1:port for `bytes` bytes over `transport`. ST_OK: every byte came and its checksum was right. */
enum status transfer_receive(int32_t port, const char *transport, uint64_t bytes, struct transfer_result *out,
                             struct err *err);

#ifdef __cplusplus
}
#endif
#endif
