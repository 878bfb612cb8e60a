/* SPDX-License-Identifier: Apache-2.0 */
/* node.h - a decode node: its parts, opened in this order and closed in the reverse one. */
#ifndef PLATEN_DECODE_NODE_H
#define PLATEN_DECODE_NODE_H

#include "common/base/queue.h"
#include "common/base/status.h"
#include "common/metrics/metrics.h"
#include "common/model/chat.h"
#include "common/node/parts.h"
#include "common/rpc/rpc_channel.h"
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

#include <pthread.h>
#include <stdlib.h>

#ifdef __cplusplus
extern "C" {
#endif

enum { FRONT_QUEUE_MAX = 1024, NODE_TRANSPORTS = 4 };
enum { SELFTEST_NONE, SELFTEST_RUNNING, SELFTEST_ENDED };

struct node {
    struct node_parts parts;
    struct options opt;
    struct chat *chat;
    struct blocks *blocks;
    struct staging *staging; /* NULL where device memory is the host's */
    struct intake *intake;
    struct links *links;
    struct contexts *contexts;
    struct stream *stream;
    struct batcher *batcher;
    struct rpc_client *client;
    struct rpc_channel_options channel; /* to prefill nodes */
    char *prefill_token;                /* NULL: none */
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

/* Before anything else is open; gauges are read from what is there by the time somebody asks. */
void node_register_metrics(struct node *n);

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
