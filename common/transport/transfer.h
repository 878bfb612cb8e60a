/* SPDX-License-Identifier: Apache-2.0 */
/*
 * transfer.h - blocks of test bytes, to be moved as an order would move its own: self tests and measurements.
 *
 * Every block is one of the model's shape with as many rows as fit in TRANSFER_BLOCK_BYTES; all share one buffer of
 * pseudo-random bytes, so a transfer of any size costs one block of memory.
 */
#ifndef PLATEN_TRANSPORT_TRANSFER_H
#define PLATEN_TRANSPORT_TRANSFER_H

#include "common/base/status.h"
#include "common/kv/block.h"
#include "common/kv/layout.h"

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define TRANSFER_BLOCK_BYTES (UINT64_C(16) << 20)
#define TRANSFER_BYTES_MAX (UINT64_C(4) << 30)

struct transfer;

/* At least `bytes` bytes (1 to TRANSFER_BYTES_MAX) in blocks of this shape; shape->layers is not looked at. ST_ERANGE. */
enum status transfer_open(struct transfer **out, const struct kv_shape *shape, uint64_t bytes, struct err *err);
void transfer_close(struct transfer *t); /* NULL is fine */

/* How many blocks there are: what Accepted says as `layers`; and the rows of each head of a block, for the receiver. */
int32_t transfer_blocks(const struct transfer *t);
int64_t transfer_rows(const struct transfer *t);

/* Makes the shared block the `layer`-th one and gives it with its checksum; the one before must have left. */
const struct kv_block *transfer_block(struct transfer *t, int32_t layer, uint64_t *checksum);

#ifdef __cplusplus
}
#endif
#endif
