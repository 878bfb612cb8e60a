/* SPDX-License-Identifier: Apache-2.0 */
/* stats.c - the counters' names, labels and help, and what a job adds to them when it ends. */
#include "prefill-node/stats.h"

#include "common/base/bytes.h"
#include "common/base/clock.h"
#include "prefill-node/job.h"

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

static void count_times(struct stats *s, const struct job *j, int64_t now)
{
    const double second = (double)NS_PER_S;

    metric_add(s->tokens, (double)j->tokens);
    metric_add(s->rows_kept, (double)j->rows);
    metric_add(s->stall_seconds, (double)j->turn.stall_ns / second);
    metric_observe(s->stage_seconds[STAGE_QUEUE], (double)(j->times.begun - j->times.arrived) / second);
    metric_observe(s->stage_seconds[STAGE_FORWARD], (double)j->times.forward / second);
    metric_observe(s->stage_seconds[STAGE_PRESS], (double)j->times.press / second);
    metric_observe(s->stage_seconds[STAGE_PACK], (double)j->times.pack / second);
    metric_observe(s->stage_seconds[STAGE_SHIP], (double)j->times.ship / second);
    metric_observe(s->stage_seconds[STAGE_ADOPT], (double)(now - j->times.committed) / second);
}

void stats_count_end(struct stats *s, const struct job *j, enum status st, uint64_t wire_bytes, int64_t now)
{
    metric_add(stats_wire_bytes(s, j->transport->name), (double)wire_bytes);
    if (st == ST_OK && !j->transfer)
        count_times(s, j, now);
    metric_add(st == ST_OK ? s->orders_ok : st == ST_ECANCELLED ? s->orders_cancelled : s->orders_failed, 1);
}
