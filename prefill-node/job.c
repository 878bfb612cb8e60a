/* SPDX-License-Identifier: Apache-2.0 */
/* job.c - the life of an order's state. */
#include "prefill-node/job.h"

#include "common/base/arena.h"
#include "common/base/clock.h"

#include <stdlib.h>

struct job *job_open(const struct job_peer *peer, void *peer_ctx)
{
    struct job *j = mem_zero(1, sizeof *j);

    j->peer = peer;
    j->peer_ctx = peer_ctx;
    j->refs = 1;
    j->turn.state = TURN_LEFT;
    j->turn.track = -1;
    j->times.arrived = clock_now_ns();
    pthread_mutex_init(&j->lock, NULL);
    return j;
}

void job_ref(struct job *j)
{
    __atomic_fetch_add(&j->refs, 1, __ATOMIC_RELAXED);
}

void job_unref(struct job *j)
{
    if (__atomic_sub_fetch(&j->refs, 1, __ATOMIC_ACQ_REL) > 0)
        return;
    if (j->made) { /* the order ended before anything was shipped */
        if (j->transport->doubt)
            j->transport->doubt(j->made);
        j->transport->close(j->made);
    }
    chain_close(j->chain);
    transfer_close(j->transfer);
    free(j->token);
    free(j->suffix);
    pthread_mutex_destroy(&j->lock);
    free(j);
}

void job_fail(struct job *j, const struct err *why)
{
    pthread_mutex_lock(&j->lock);
    if (!j->failed)
        j->why = *why;
    __atomic_store_n(&j->failed, true, __ATOMIC_RELAXED);
    pthread_mutex_unlock(&j->lock);
}

bool job_failed(const struct job *j)
{
    return __atomic_load_n(&j->failed, __ATOMIC_RELAXED);
}

const char *job_stage(const struct job *j)
{
    if (j->committed)
        return "adopt";
    if (j->shipped == j->layers)
        return "commit";
    if (__atomic_load_n(&j->packed, __ATOMIC_ACQUIRE) == j->layers || j->transfer)
        return "ship";
    return __atomic_load_n(&j->times.begun, __ATOMIC_RELAXED) > 0 ? "forward" : "queue";
}
