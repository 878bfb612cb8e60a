/* SPDX-License-Identifier: Apache-2.0 */
/* node_metrics.c - what a decode node counts and shows: requests, orders, transports, room. The engine's are in batcher.c. */
#include "decode-node/node.h"

#include <string.h>

static double read_blocks(void *arg)
{
    return (double)blocks_used(((struct node *)arg)->blocks);
}

static double read_block_capacity(void *arg)
{
    return (double)blocks_capacity(((struct node *)arg)->blocks);
}

static double read_contexts(void *arg)
{
    return contexts_count(((struct node *)arg)->contexts);
}

static double read_tails(void *arg)
{
    return (double)batcher_tail_tokens(((struct node *)arg)->batcher);
}

static double read_peers(void *arg)
{
    return peers_alive(((struct node *)arg)->peers);
}

static const struct {
    const char *name, *label;
} transports[NODE_TRANSPORTS] = {
#define TRANSPORT(name) { #name, "transport=\"" #name "\"" },
#include "common/transport/transport.def"
#undef TRANSPORT
};

static void count_transports(struct metrics *m, struct metric *rows[NODE_TRANSPORTS], const char *name,
                             const char *help)
{
    for (int i = 0; i < NODE_TRANSPORTS; i++)
        rows[i] = metrics_counter(m, name, transports[i].label, help);
}

struct metric *node_transport_metric(struct metric *const rows[NODE_TRANSPORTS], const char *transport)
{
    for (int i = 0; i < NODE_TRANSPORTS; i++) {
        if (strcmp(transports[i].name, transport) == 0)
            return rows[i];
    }
    return NULL;
}

void node_register_metrics(struct node *n)
{
    struct metrics *m = n->parts.metrics;

    n->m_requests_running = metrics_gauge(m, "platen_decode_requests_running", NULL, "calls of clients under way");
    n->m_requests_ok =
        metrics_counter(m, "platen_decode_requests_total", "result=\"ok\"", "calls of clients that ended");
    n->m_requests_failed =
        metrics_counter(m, "platen_decode_requests_total", "result=\"failed\"", "calls of clients that ended");
    n->m_orders_running = metrics_gauge(m, "platen_decode_orders_running", NULL, "contexts that prefill nodes work on");
    n->m_retries = metrics_counter(m, "platen_decode_order_retries_total", NULL, "orders sent again after a loss");
    count_transports(m, n->m_wire_bytes, "platen_decode_wire_bytes_total", "bytes of adopted contexts as they came");
    count_transports(m, n->m_transport_losses, "platen_decode_transport_losses_total",
                     "orders that lost their blocks in a transport");
    count_transports(m, n->m_transport_fallbacks, "platen_decode_transport_fallbacks_total",
                     "orders over this transport although another one is preferred");
    metrics_gauge_read(m, "platen_decode_blocks_bytes", NULL, "bytes of blocks in use", read_blocks, n);
    metrics_gauge_read(m, "platen_decode_blocks_capacity_bytes", NULL, "room for blocks", read_block_capacity, n);
    metrics_gauge_read(m, "platen_decode_tails_promised_tokens", NULL, "tail rows promised to answers", read_tails, n);
    metrics_gauge_read(m, "platen_decode_contexts_cached", NULL, "contexts kept to be asked again", read_contexts, n);
    metrics_gauge_read(m, "platen_decode_prefill_nodes_cached", NULL, "prefill nodes that answer", read_peers, n);
}
