/* SPDX-License-Identifier: Apache-2.0 */
/* run.h - platen.internal.v1.Prefill.Run: the stream that is an order's lease, at its prefill end. */
#ifndef PLATEN_PREFILL_RUN_H
#define PLATEN_PREFILL_RUN_H

#include "common/rpc/rpc_server.h"
#include "prefill-node/node.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Before the server starts. */
void run_add(struct prefill_node *n, struct rpc_server *server);

#ifdef __cplusplus
}
#endif
#endif
