/* SPDX-License-Identifier: Apache-2.0 */
/*
 * coded.h - rows of a block as attention takes them: a page of one head at a time, whatever the codec.
 */
#ifndef PLATEN_KERNELS_CPU_CODED_H
#define PLATEN_KERNELS_CPU_CODED_H

#include "kernels/cpu/attend.h"
#include "kernels/cpu/cache.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Rows that coded_rows gives at once: those that go through the room are few. */
int32_t coded_rows_max(const struct slot_block *b);

/* Rows [at, at + rows->count) of a head's block, no more than that, with all channels. Where the block's own bytes
 * will not do, the rows stand in the room until the next call. hot. */
void coded_rows(const struct cpu *c, struct cpu_room *room, const struct slot_block *b, int32_t head, int64_t at,
                struct attend_rows *rows);

/* The same rows as values of the cache's dtype, [count][D] each. */
void coded_values(const struct cpu *c, struct cpu_room *room, const struct slot_block *b, int32_t head, int64_t at,
                  int32_t count, void *k, void *v);

#ifdef __cplusplus
}
#endif
#endif
