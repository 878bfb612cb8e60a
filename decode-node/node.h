/* SPDX-License-Identifier: Apache-2.0 */
/* node.h - a decode node: its parts, opened in this order and closed in the reverse one. */
#ifndef PLATEN_DECODE_NODE_H
#define PLATEN_DECODE_NODE_H

#include "common/base/file.h"
#include "common/base/queue.h"
#include "common/base/status.h"
#include "common/base/trace.h"
#include "common/kv/block.h"
#include "common/metrics/metrics.h"
#include "common/model/chat.h"
#include "common/model/checkpoint.h"
#include "common/model/tokenizer.h"
#include "common/rpc/rpc_channel.h"
#include "common/service/service.h"
#include "common/service/signals.h"
#include "decode-node/batcher.h"
#include "decode-node/blocks.h"
#include "decode-node/context.h"
#include "decode-node/intake.h"
#include "decode-node/links.h"
#include "decode-node/options.h"
#include "decode-node/order.h"
#include "decode-node/peers.h"
#include "decode-node/staging.h"
#include "decode-node/stream.h"
#include "kernels/weights.h"
#include "presses/config.h"

#include <pthread.h>
#include <stdlib.h>

#ifdef __cplusplus
extern "C" {
#endif

enum { FRONT_QUEUE_MAX = 1024, NODE_TRANSPORTS = 4 };
enum { SELFTEST_NONE, SELFTEST_RUNNING, SELFTEST_ENDED };

struct node {
    struct options opt;
    const char *name; /* HOST:PORT, unique; valid once the port is bound */
    struct signals *signals;
    struct metrics *metrics;
    struct trace *trace; /* NULL: off */
    struct checkpoint *checkpoint;
    struct tokenizer *tokenizer;
    struct chat *chat;
    struct press_files *files; /* that presses may name */
    struct checkpoint_identity identity;
    uint64_t tokenizer_hash;
    struct kv_shape shape;
    struct backend *be;
    struct weights *weights;
    struct blocks *blocks;
    struct staging *staging; /* NULL where device memory is the host's */
    struct stations *stations;
    struct intake *intake;
    struct links *links;
    struct contexts *contexts;
    struct stream *stream;
    struct batcher *batcher;
    struct rpc_client *client;
    struct rpc_channel_options channel; /* to prefill nodes */
    char *token, *prefill_token;        /* NULL: none */
    struct service *service;
    struct peers *peers;
    struct orders *orders;
    struct queue *front; /* requests that wait for stops 1 to 3 */
    pthread_t front_thread;
    int32_t selftest; /* atomic: SELFTEST_* */
    pthread_t selftest_thread;

    struct metric *m_requests_running, *m_requests_ok, *m_requests_failed, *m_orders_running, *m_retries;
    struct metric *m_wire_bytes[NODE_TRANSPORTS]; /* in the order of transport.def */
    struct metric *m_transport_losses[NODE_TRANSPORTS], *m_transport_fallbacks[NODE_TRANSPORTS];
};

/* The row of a counter that is kept for each transport. */
struct metric *node_transport_metric(struct metric *const rows[NODE_TRANSPORTS], const char *transport);

/* Opens everything but the doors, then the doors. On failure nothing is left open. */
enum status node_open(struct node *n, const struct options *opt, struct signals *signals, struct err *err);

/* Refuses new calls, lets running ones finish until deadline_ns, closes everything. True: nothing had to be cancelled. */
bool node_close(struct node *n, int64_t deadline_ns);

#ifdef __cplusplus
}
#endif
#endif
