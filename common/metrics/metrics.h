/* SPDX-License-Identifier: Apache-2.0 */
/*
 * metrics.h - what the program counts, and the page it shows them on.
 *
 * Metrics are registered at open into a fixed table and live as long as it. Changing one is an atomic operation: no
 * lock, no allocation, any thread. Names end in their unit: _total for counts, _bytes, _seconds; gauges of work in hand
 * are named for what they count (queued, running, sequences). Labels are fixed text (`stage="press"`).
 */
#ifndef PLATEN_METRICS_METRICS_H
#define PLATEN_METRICS_METRICS_H

#include "common/base/status.h"
#include "common/base/text.h"

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

struct metrics;
struct metric;

/* A table for at most `capacity` metrics. Never fails. */
struct metrics *metrics_open(size_t capacity);
void metrics_close(struct metrics *m); /* NULL is fine */

/* Registration, before threads start. name, help and labels (NULL: none) are borrowed until close. Rows of one name must
 * follow each other and share the help text. A full table or a name twice is a mistake of ours (assert). */
struct metric *metrics_counter(struct metrics *m, const char *name, const char *labels, const char *help);
struct metric *metrics_gauge(struct metrics *m, const char *name, const char *labels, const char *help);

/* A gauge that is read when somebody looks; `read(arg)` runs on the page's thread. */
struct metric *metrics_gauge_read(struct metrics *m, const char *name, const char *labels, const char *help,
                                  double (*read)(void *arg), void *arg);

/* `bounds` are `count` (<= METRIC_BOUNDS_MAX) ascending upper bounds, borrowed; +Inf is added. */
enum { METRIC_BOUNDS_MAX = 24 };
struct metric *metrics_histogram(struct metrics *m, const char *name, const char *labels, const char *help,
                                 const double *bounds, size_t count);

/* Bounds from 1 ms to 60 s, for times in seconds. */
extern const double metric_seconds[14];

/* Counters (by >= 0) and gauges. hot. NULL is fine and does nothing. */
void metric_add(struct metric *x, double by);
void metric_set(struct metric *x, double to);
void metric_observe(struct metric *x, double value);
double metric_value(const struct metric *x); /* histogram: the sum */

/* The whole table as Prometheus text (version 0.0.4), and process_* rows (memory, threads, descriptors, CPU time). */
void metrics_print(const struct metrics *m, struct text *out);

#ifdef __cplusplus
}
#endif
#endif
