/* SPDX-License-Identifier: Apache-2.0 */
/* node.h - a prefill node: its parts, opened in this order and closed in the reverse one. */
#ifndef PLATEN_PREFILL_NODE_H
#define PLATEN_PREFILL_NODE_H

#include "common/base/status.h"
#include "common/node/parts.h"
#include "prefill-node/engine.h"
#include "prefill-node/mover.h"
#include "prefill-node/options.h"
#include "prefill-node/prompt.h"
#include "prefill-node/scheduler.h"
#include "prefill-node/stats.h"

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

struct prefill_node {
    struct node_parts parts;
    struct prefill_options opt;
    int64_t tokens_max;   /* longest context */
    int64_t queue_tokens; /* that may wait */
    struct stats stats;
    struct prompt_texts texts; /* what presses with a second pass ask */
    void *transfer_device;     /* a test block where transports want it on the device; NULL: none does */
    struct scheduler *scheduler;
    struct mover *mover;
    struct engine *engine;
    uint64_t room;     /* device bytes that orders share: what is left when everything is open */
    int32_t transfers; /* under way; __atomic, relaxed */
};

/* Opens everything, serves. On failure nothing is left open. */
enum status prefill_node_open(struct prefill_node *n, const struct prefill_options *opt, struct signals *signals,
                              struct err *err);

/* Refuses new calls, lets running ones finish until deadline_ns, closes everything. True: nothing had to be cancelled. */
bool prefill_node_close(struct prefill_node *n, int64_t deadline_ns);

#ifdef __cplusplus
}
#endif
#endif
