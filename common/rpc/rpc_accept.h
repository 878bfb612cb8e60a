/* SPDX-License-Identifier: Apache-2.0 */
/* rpc_accept.h - what happens to new connections when the process has no descriptor left. Only rpc_server.c needs it. */
#ifndef PLATEN_RPC_RPC_ACCEPT_H
#define PLATEN_RPC_RPC_ACCEPT_H

#ifdef __cplusplus
extern "C" {
#endif

/* Holds a descriptor back, so that connections can be turned away later. Never fails: without one they wait. Any thread, any
 * number of times. */
void rpc_accept_hold(void);

#ifdef __cplusplus
}
#endif
#endif
