/* SPDX-License-Identifier: Apache-2.0 */
/* selftest.h - Control.SelfTest of a decode node: does it generate, and do bytes come whole from a prefill node? */
#ifndef PLATEN_DECODE_SELFTEST_H
#define PLATEN_DECODE_SELFTEST_H

#include "common/rpc/rpc_call.h"

#include <protobuf-c/protobuf-c.h>

#ifdef __cplusplus
extern "C" {
#endif

struct node;

/* rpc_events.message of that method; the owner is a struct node. Starts a thread that answers the call; one test at a time. */
void selftest_message(struct rpc_call *call, void *owner, const ProtobufCMessage *msg);

/* Ends the test that may be running: it stops within a second. */
void selftest_close(struct node *n);

#ifdef __cplusplus
}
#endif
#endif
