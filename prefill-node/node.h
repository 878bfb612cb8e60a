/* SPDX-License-Identifier: Apache-2.0 */
/* node.h - a prefill node: its parts, opened in this order and closed in the reverse one. */
#ifndef PLATEN_PREFILL_NODE_H
#define PLATEN_PREFILL_NODE_H

#include "common/base/status.h"
#include "common/base/trace.h"
#include "common/kv/block.h"
#include "common/metrics/metrics.h"
#include "common/model/checkpoint.h"
#include "common/model/tokenizer.h"
#include "common/service/service.h"
#include "common/service/signals.h"
#include "common/transport/stations.h"
#include "kernels/weights.h"
#include "prefill-node/engine.h"
#include "prefill-node/mover.h"
#include "prefill-node/options.h"
#include "prefill-node/scheduler.h"
#include "prefill-node/stats.h"
#include "prefill-node/prompt.h"
#include "presses/config.h"

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

struct prefill_node {
    struct prefill_options opt;
    const char *name;     /* HOST:PORT, unique; valid once the port is bound */
    int64_t tokens_max;   /* longest context */
    int64_t queue_tokens; /* that may wait */
    int32_t threads;      /* of the back end */
    struct signals *signals;
    struct metrics *metrics;
    struct trace *trace; /* NULL: off */
    struct stats stats;
    struct checkpoint *checkpoint;
    struct checkpoint_identity identity;
    uint64_t tokenizer_hash;
    struct prompt_texts texts; /* what presses with a second pass ask */
    struct kv_shape shape;
    struct press_files *files;
    struct backend *be;
    struct weights *weights;
    struct stations *stations; /* ways of shipping */
    void *transfer_device;     /* a test block where transports want it on the device; NULL: none does */
    struct scheduler *scheduler;
    struct mover *mover;
    struct engine *engine;
    struct service *service;
    char *token;       /* of --token-file */
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
