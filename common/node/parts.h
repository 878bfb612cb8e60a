/* SPDX-License-Identifier: Apache-2.0 */
/*
 * parts.h - what both kinds of nodes are put together from, in the order in which they open it.
 *
 *   init ─▶ trace ─▶ bind ─▶ model ─▶ device ─▶ stations ─▶ (the node's own) ─▶ service_start
 *
 * Ports are bound before anything is read, so that one in use is said at once. A node closes its own parts between
 * service_close and parts_close; all of it may be closed however far the opening came.
 */
#ifndef PLATEN_NODE_PARTS_H
#define PLATEN_NODE_PARTS_H

#include "common/base/status.h"
#include "common/base/trace.h"
#include "common/kv/block.h"
#include "common/metrics/metrics.h"
#include "common/model/checkpoint.h"
#include "common/model/tokenizer.h"
#include "common/node/options.h"
#include "common/service/service.h"
#include "common/service/signals.h"
#include "common/transport/stations.h"
#include "kernels/weights.h"
#include "presses/config.h"

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* owned by: main, but for what the node hands to its engine thread: be, weights */
struct node_parts {
    const struct node_options *opt; /* borrowed from the node */
    const char *name;               /* HOST:PORT, unique; valid once the port is bound */
    struct signals *signals;        /* borrowed from main */
    struct metrics *metrics;
    struct trace *trace; /* NULL: off */
    char *token;         /* that callers must show; NULL: none */
    struct service *service;
    struct checkpoint *checkpoint;
    struct checkpoint_identity identity;
    struct press_files *files; /* that presses may name */
    struct tokenizer *tokenizer;
    uint64_t tokenizer_hash;
    struct backend *be;
    struct weights *weights;
    bool device_failed; /* atomic */
    /* Since when the node's engine has been in its turn; 0: it waits. NULL: there is none yet. */
    const int64_t *turn_ns;
    int32_t fallbacks_told; /* main, once the node is open */
    struct metric *m_fallbacks;
    struct kv_shape shape;
    int32_t threads; /* of the back end */
    struct stations *stations;
};

/* Zeroed but for options, signals and metrics. */
void parts_init(struct node_parts *p, const struct node_options *opt, struct signals *signals);

/* --trace; written on SIGUSR1 from here on, and by parts_close_trace. */
enum status parts_open_trace(struct node_parts *p, struct err *err);

/* The token callers must show, then the ports of calls and of metrics; `names` are health names (service.h), borrowed. */
enum status parts_bind(struct node_parts *p, const char *program, const char *const *names, size_t count,
                       struct err *err);

/* Plug-ins, checkpoint, press files, tokenizer. */
enum status parts_open_model(struct node_parts *p, struct err *err);

/* Back end for steps of `rows_max` rows, and the weights on it. Reads the whole checkpoint. */
enum status parts_open_device(struct node_parts *p, int64_t rows_max, struct err *err);

/* The transports that may be used; a named one that is not to be had is logged. */
enum status parts_open_stations(struct node_parts *p, struct err *err);

/* event=sizes: what the device's memory goes to, and `more`, which a node says of its own room. */
void parts_log_sizes(const struct node_parts *p, const char *more);

/* Tells in log and metrics what the device does otherwise than it was meant to since the last call: event=fallback. An engine
 * whose turn on a device has taken 5 minutes, longer than all its waits may, does not come back from the driver: the device has
 * failed. main's thread calls it now and then while the node is open. */
void parts_watch(struct node_parts *p);

/* The device failed for good: event=device with the reason, NOT_SERVING, and the node begins to end, once. A process that
 * starts anew gets a device that works, or says why it does not. Any thread, while the service is there. */
void parts_device_failed(struct node_parts *p, const struct err *why);

/* Writes the trace; after everybody who adds to it. */
void parts_close_trace(struct node_parts *p);

/* Everything but service, trace and stations, which the node closes where they stop being used. */
void parts_close(struct node_parts *p);

#ifdef __cplusplus
}
#endif
#endif
