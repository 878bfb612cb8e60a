/* SPDX-License-Identifier: Apache-2.0 */
/* mover_inside.h - the struct of the mover, shared by mover.c (its jobs from accept to end) and ship.c (how a job's blocks leave). */
#ifndef PLATEN_PREFILL_MOVER_INSIDE_H
#define PLATEN_PREFILL_MOVER_INSIDE_H

#include "prefill-node/mover.h"

#include <pthread.h>
#include <stdbool.h>

#ifdef __cplusplus
extern "C" {
#endif

struct mover {
    struct scheduler *scheduler;
    struct stats *stats;
    struct backend *be;
    pthread_t thread;
    struct job *jobs; /* the thread's own */
    int32_t count;    /* of all; relaxed */

    pthread_mutex_t lock; /* of what follows */
    pthread_cond_t news_came;
    struct job *incoming;
    bool news, stopped;
};

/* ship.c: gives the shipper what is packed, as far as it takes it. ST_OK or ST_AGAIN: as far as it goes now; an error when
 * the transport fails, or took nothing for MOVER_STALL_MS. */
enum status ship(struct mover *m, struct job *j, struct err *err);

/* ship.c: tells the shipper which layer the peer is ready for. */
void ship_tell_ready(struct job *j);

#ifdef __cplusplus
}
#endif
#endif
