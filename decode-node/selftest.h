/* SPDX-License-Identifier: Apache-2.0 */
/* selftest.h - Control.SelfTest of a decode node: does it generate, and do bytes come whole from a prefill node? */
#ifndef PLATEN_DECODE_SELFTEST_H
#define PLATEN_DECODE_SELFTEST_H

#include "common/rpc/rpc_server.h"

#ifdef __cplusplus
extern "C" {
#endif

struct node;

void selftest_add(struct node *n, struct rpc_server *server);

/* Ends the test that may be running: it stops within a second. */
void selftest_close(struct node *n);

#ifdef __cplusplus
}
#endif
#endif
