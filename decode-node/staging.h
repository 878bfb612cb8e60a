/* SPDX-License-Identifier: Apache-2.0 */
/*
 * staging.h - host memory where a block's bytes land before they go to the device.
 *
 * Only on back ends whose memory the host cannot write: there gRPC's bytes need one stop. Buffers are pinned, as large as
 * the largest block so far, and kept to be used again; as many as orders run at once.
 */
#ifndef PLATEN_DECODE_STAGING_H
#define PLATEN_DECODE_STAGING_H

#include "common/base/status.h"
#include "kernels/backend.h"

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

struct staging;

/* A buffer of at least the bytes that were asked for; owned by whoever took it until it is given back. */
struct stage_buffer {
    void *host;
    uint64_t bytes;
    struct stage_buffer *next;
};

/* At most `limit_bytes` bytes in all. Never fails. */
struct staging *staging_open(struct backend *be, uint64_t limit_bytes);
void staging_close(struct staging *s); /* every buffer must be back; NULL is fine */

/* Any thread. ST_EEXHAUSTED when the limit is reached. */
enum status staging_take(struct staging *s, uint64_t bytes, struct stage_buffer **out, struct err *err);
void staging_give(struct staging *s, struct stage_buffer *buffer); /* NULL is fine */

/* Brings `bytes` bytes of a buffer to the device; waits until they are there. Any thread; one at a time. */
void staging_upload(struct staging *s, void *device, const struct stage_buffer *buffer, uint64_t bytes);

/* The checksum of device memory, by the same lane. Any thread; one at a time; waits. */
uint64_t staging_checksum(struct staging *s, const void *device, uint64_t bytes);

#ifdef __cplusplus
}
#endif
#endif
