/* SPDX-License-Identifier: Apache-2.0 */
/* pull.h - test blocks from a prefill node over one transport, as an order would bring its own. */
#ifndef PLATEN_DECODE_PULL_H
#define PLATEN_DECODE_PULL_H

#include "common/base/status.h"

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

struct node;
struct peer;

/* Moves at least `bytes` bytes; every block's checksum is proven. *seconds is from the first block's announcement to the
 * commit. Waits, a minute at most; not on an rpc thread. ST_EPRECONDITION: the two cannot use this transport. */
enum status pull_bytes(struct node *n, struct peer *peer, const char *transport, uint64_t bytes, double *seconds,
                       struct err *err);

#ifdef __cplusplus
}
#endif
#endif
