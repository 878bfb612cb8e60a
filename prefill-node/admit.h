/* SPDX-License-Identifier: Apache-2.0 */
/*
 * admit.h - an order from outside is proven, field by field, before anything is reserved for it.
 *
 * rpc threads; nothing waits. Each refusal says what is wrong, what is here, and what is allowed.
 */
#ifndef PLATEN_PREFILL_ADMIT_H
#define PLATEN_PREFILL_ADMIT_H

#include "common/base/status.h"
#include "common/base/text.h"
#include "prefill-node/job.h"
#include "prefill-node/node.h"

#ifdef __cplusplus
extern "C" {
#endif

struct Platen__Internal__V1__Order;
struct Platen__Internal__V1__Transfer;

/* Fills a new job from an order. *note: why the transport is not the first that was offered. ST_EPRECONDITION: another
 * model, dtype, wire version, or no transport in common. ST_EINVAL, ST_EUNIMPLEMENTED: press, kv, tokens. ST_ERANGE: too
 * long. Sentences begin with the stage: "order: " or "press: ". */
enum status admit_order(struct prefill_node *n, const struct Platen__Internal__V1__Order *order, struct job *job,
                        struct text *note, struct err *err);

/* The same for a transfer of test bytes; ST_EEXHAUSTED when too many run. The job counts in n->transfers from ST_OK on. */
enum status admit_transfer(struct prefill_node *n, const struct Platen__Internal__V1__Transfer *transfer,
                           struct job *job, struct err *err);

#ifdef __cplusplus
}
#endif
#endif
