/* SPDX-License-Identifier: Apache-2.0 */
/* stats.c - the counters' names, labels and help. */
#include "prefill-node/stats.h"

#include "common/base/bytes.h"

static const struct {
    const char *name, *label;
} transports[STATS_TRANSPORTS] = {
#define TRANSPORT(name) { #name, "transport=\"" #name "\"" },
#include "common/transport/transport.def"
#undef TRANSPORT
};

struct metric *stats_wire_bytes(const struct stats *s, const char *transport)
{
    for (int i = 0; i < STATS_TRANSPORTS; i++) {
        if (strcmp(transports[i].name, transport) == 0)
            return s->wire_bytes[i];
    }
    return NULL;
}

void stats_open(struct stats *s, struct metrics *m)
{
    static const char orders[] = "platen_prefill_orders_total", orders_help[] = "orders that ended, by how";
    static const char *const stages[STAGE_COUNT] = { "stage=\"queue\"", "stage=\"forward\"", "stage=\"press\"",
                                                     "stage=\"pack\"",  "stage=\"ship\"",    "stage=\"adopt\"" };

    s->orders_ok = metrics_counter(m, orders, "outcome=\"ok\"", orders_help);
    s->orders_cancelled = metrics_counter(m, orders, "outcome=\"cancelled\"", orders_help);
    s->orders_failed = metrics_counter(m, orders, "outcome=\"failed\"", orders_help);
    s->orders_refused = metrics_counter(m, orders, "outcome=\"refused\"", orders_help);
    s->tokens = metrics_counter(m, "platen_prefill_tokens_total", NULL, "context tokens of orders that went well");
    s->rows_kept =
        metrics_counter(m, "platen_prefill_rows_kept_total", NULL, "rows kept of those, all layers and heads");
    for (int i = 0; i < STATS_TRANSPORTS; i++)
        s->wire_bytes[i] =
            metrics_counter(m, "platen_prefill_wire_bytes_total", transports[i].label, "bytes of blocks shipped");
    s->stall_seconds =
        metrics_counter(m, "platen_prefill_stall_seconds_total", NULL, "time in which orders waited for the wire");
    for (int i = 0; i < STAGE_COUNT; i++)
        s->stage_seconds[i] =
            metrics_histogram(m, "platen_prefill_stage_seconds", stages[i], "time of an order in each stage",
                              metric_seconds, ARRAY_LEN(metric_seconds));
}
