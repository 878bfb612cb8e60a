/* SPDX-License-Identifier: Apache-2.0 */
/* stats.h - what a prefill node counts. Names are a contract with dashboards: docs/OPERATIONS.md lists them. */
#ifndef PLATEN_PREFILL_STATS_H
#define PLATEN_PREFILL_STATS_H

#include "common/base/status.h"
#include "common/metrics/metrics.h"

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

struct job;

/* One row per stage that a job spends time in. */
enum stat_stage { STAGE_QUEUE, STAGE_FORWARD, STAGE_PRESS, STAGE_PACK, STAGE_SHIP, STAGE_ADOPT, STAGE_COUNT };

enum { STATS_TRANSPORTS = 4 };

struct stats {
    struct metric *orders_ok, *orders_cancelled, *orders_failed, *orders_refused;
    struct metric *tokens, *rows_kept, *stall_seconds;
    struct metric *wire_bytes[STATS_TRANSPORTS]; /* in the order of transport.def */
    struct metric *stage_seconds[STAGE_COUNT];
};

/* Registers the counters; gauges that are read from their owners are registered by node.c. */
void stats_open(struct stats *s, struct metrics *m);

/* The counter of one transport's bytes. */
struct metric *stats_wire_bytes(const struct stats *s, const char *transport);

/* A job ended so, `now` of clock_now_ns, with so many bytes on the wire. Mover thread. */
void stats_count_end(struct stats *s, const struct job *j, enum status st, uint64_t wire_bytes, int64_t now);

#ifdef __cplusplus
}
#endif
#endif
