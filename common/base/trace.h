/* SPDX-License-Identifier: Apache-2.0 */
/*
 * trace.h - what a node did when, for people who look at overlap: `--trace FILE`.
 *
 *   any thread ── trace_add ──▶ [ring of TRACE_SPANS spans] ── trace_write ──▶ FILE (Chrome's trace JSON; Perfetto opens it)
 *
 * The ring is made when the node starts, and adding to it is a handful of stores: no allocation, no lock, no text. When it is
 * full the oldest spans are written over, so a trace shows the end of a run. Times are clock_now_ns, which all processes of
 * one machine share: traces of several nodes can be laid over each other.
 */
#ifndef PLATEN_BASE_TRACE_H
#define PLATEN_BASE_TRACE_H

#include "common/base/status.h"

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

enum { TRACE_SPANS = 1 << 16, TRACE_NO_LAYER = -1 };

enum trace_what {
#define TRACE(name, word, unit) TRACE_##name,
#include "common/base/trace.def"
#undef TRACE
};

struct trace;

/* Makes the ring, and the file, so that a path that cannot be written is said at once. path NULL: *out is NULL, which every
 * function here takes and does nothing with. The path is borrowed. ST_EINVAL with the system's sentence. */
enum status trace_open(struct trace **out, const char *path, struct err *err);
void trace_close(struct trace *t); /* does not write */

/* The process as the trace names it ("prefill-node 127.0.0.1:7001"). Before any other thread adds. */
void trace_name(struct trace *t, const char *program, const char *address);

/* The number under which the spans of one order stand, the same on both nodes: a hash of its request id. */
uint64_t trace_order(const char *request_id);

/* Adds a span. order 0: of none; layer TRACE_NO_LAYER: of none; amount: in the unit of trace.def. Any thread. hot */
void trace_add(struct trace *t, enum trace_what what, uint64_t order, int32_t layer, int64_t begin_ns, int64_t end_ns,
               uint64_t amount);

/* Writes what the ring holds to the file, over what was there: whole or not at all. Spans that are being added meanwhile may
 * be left out. Any thread, one at a time; allocates and waits for the disk. ST_EINTERNAL with the system's sentence. */
enum status trace_write(struct trace *t, struct err *err);

#ifdef __cplusplus
}
#endif
#endif
