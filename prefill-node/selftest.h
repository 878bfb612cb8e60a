/* SPDX-License-Identifier: Apache-2.0 */
/*
 * selftest.h - a prefill node proves that it works: a short context through queue, forward, press, pack and ship, into a
 * receiver of its own.
 */
#ifndef PLATEN_PREFILL_SELFTEST_H
#define PLATEN_PREFILL_SELFTEST_H

#include "common/rpc/rpc_call.h"
#include "prefill-node/node.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Starts one; `call` (Control.SelfTest) is answered when it ends. Does not wait. */
void selftest_start(struct prefill_node *n, struct rpc_call *call);

/* rpc_events.done of that method. */
void selftest_done(struct rpc_call *call, void *owner, const struct rpc_end *end);

#ifdef __cplusplus
}
#endif
#endif
