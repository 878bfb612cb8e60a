/* SPDX-License-Identifier: Apache-2.0 */
/*
 * links.h - learns what the link to each prefill node moves, when the two meet.
 *
 * A transfer of test blocks over the best transport that both have: it measures, and it makes NCCL's communicator before
 * any order needs it. Only where there is something to learn: a floor, or a transport between devices.
 */
#ifndef PLATEN_DECODE_LINKS_H
#define PLATEN_DECODE_LINKS_H

#include "common/base/status.h"

#ifdef __cplusplus
extern "C" {
#endif

struct links;
struct node;

/* Starts the thread, or sets *out to NULL where there is nothing to learn. The node's peers must be open. */
enum status links_open(struct links **out, struct node *n, struct err *err);
void links_close(struct links *l); /* NULL is fine; waits for a transfer under way, which is cancelled */

#ifdef __cplusplus
}
#endif
#endif
