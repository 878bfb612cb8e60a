/* SPDX-License-Identifier: Apache-2.0 */
/* stats.h - what a prefill node counts. Names are a contract with dashboards: docs/OPERATIONS.md lists them. */
#ifndef PLATEN_PREFILL_STATS_H
#define PLATEN_PREFILL_STATS_H

#include "common/metrics/metrics.h"

#ifdef __cplusplus
extern "C" {
#endif

/* One row per stage that a job spends time in. */
enum stat_stage { STAGE_QUEUE, STAGE_FORWARD, STAGE_PRESS, STAGE_PACK, STAGE_SHIP, STAGE_ADOPT, STAGE_COUNT };

struct stats {
    struct metric *orders_ok, *orders_cancelled, *orders_failed, *orders_refused;
    struct metric *tokens, *rows_kept, *wire_bytes, *stall_seconds;
    struct metric *stage_seconds[STAGE_COUNT];
};

/* Registers the counters; gauges that are read from their owners are registered by node.c. */
void stats_open(struct stats *s, struct metrics *m);

#ifdef __cplusplus
}
#endif
#endif
