/* SPDX-License-Identifier: Apache-2.0 */
/*
 * mover.h - stop 8 of 12: the thread that ships packed blocks, and the only one that ends jobs.
 *
 * For every job from accept to end it says that this node lives (Beat, once a second), ships what is packed, commits
 * when all has left, waits for Adopted, and sees when nobody waits for it any more.
 */
#ifndef PLATEN_PREFILL_MOVER_H
#define PLATEN_PREFILL_MOVER_H

#include "common/base/status.h"
#include "prefill-node/job.h"
#include "prefill-node/scheduler.h"
#include "prefill-node/stats.h"

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

enum { MOVER_BEAT_MS = 1000, MOVER_STALL_MS = 30000, MOVER_ADOPT_MS = 30000 };

struct backend;
struct mover;

/* Starts the thread. scheduler, stats and the back end (whose copy lane is the mover's) are borrowed until close. */
enum status mover_open(struct mover **out, struct scheduler *scheduler, struct stats *stats, struct backend *be,
                       struct err *err);

/* Ends the thread; every job must have ended. NULL is fine. */
void mover_close(struct mover *m);

/* Takes one count of the job. Any thread. */
void mover_take(struct mover *m, struct job *job);

/* Something about some job may have changed. Any thread; short; takes a lock that is never held while calling out. */
void mover_wake(void *mover);

/* Jobs that have not ended. Any thread. */
int32_t mover_jobs(struct mover *m);

#ifdef __cplusplus
}
#endif
#endif
