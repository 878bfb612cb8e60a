/* SPDX-License-Identifier: Apache-2.0 */
/* control.h - platen.v1.Control on a prefill node: what it is, what it is doing, which presses it has, whether it works. */
#ifndef PLATEN_PREFILL_CONTROL_H
#define PLATEN_PREFILL_CONTROL_H

#include "common/rpc/rpc_server.h"
#include "prefill-node/node.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Before the server starts. */
void prefill_control_add(struct prefill_node *n, struct rpc_server *server);

#ifdef __cplusplus
}
#endif
#endif
