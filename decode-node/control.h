/* SPDX-License-Identifier: Apache-2.0 */
/* control.h - the Control service of a decode node. */
#ifndef PLATEN_DECODE_CONTROL_H
#define PLATEN_DECODE_CONTROL_H

#include "common/rpc/rpc_server.h"

#ifdef __cplusplus
extern "C" {
#endif

struct node;

/* Before the server starts. */
void decode_control_add(struct node *n, struct rpc_server *server);

#ifdef __cplusplus
}
#endif
#endif
