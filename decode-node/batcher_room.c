/* SPDX-License-Identifier: Apache-2.0 */
/*
 * batcher_room.c - room for an answer with a decode part: asked for at the door, made by the engine between two steps.
 *
 *   front thread   batcher_repress ── room ──▶ [arrivals] ── waits 10 s at most ──────────┐
 *   engine thread                      make_room: blocks of its own, buffers of queries ──┘ the word
 *
 * The asker may give up while the engine is at it: both count as owners of the struct that lies between them, and the last
 * one gives back what nobody took.
 */
#include "decode-node/batcher_inside.h"

#include "common/base/arena.h"

#include <errno.h>
#include <semaphore.h>
#include <stdlib.h>
#include <time.h>

enum { WAIT_S = 10 };

/* Owned by both sides until both are done with it. */
struct room {
    struct batcher *batcher;
    struct repress_ask ask;
    struct repressed *made; /* NULL once the asker has it */
    enum status status;
    struct err err;
    sem_t done;
    int32_t owners; /* atomic */
};

void batcher_repressed_close(struct batcher *b, struct repressed *a)
{
    if (!a)
        return;
    metric_add(b->m_own, -1);
    metric_add(b->m_own_bytes, -(double)repressed_bytes(a));
    repressed_close(a);
}

static void room_leave(struct room *r)
{
    /* acq_rel: the last one frees what the other wrote */
    if (__atomic_sub_fetch(&r->owners, 1, __ATOMIC_ACQ_REL) > 0)
        return;
    batcher_repressed_close(r->batcher, r->made);
    context_unref(r->ask.context);
    sem_destroy(&r->done);
    free(r);
}

static void compact(void *ctx, struct blocks *blocks)
{
    batcher_compact(ctx, blocks);
}

static void make_room(struct batcher *b, void *arg)
{
    struct room *r = arg;

    r->status = repressed_open(&r->made, &b->repress, &r->ask, compact, b, &r->err);
    if (r->status == ST_OK) {
        metric_add(b->m_own, 1);
        metric_add(b->m_own_bytes, (double)repressed_bytes(r->made));
    }
    context_unref(r->ask.context);
    r->ask.context = NULL;
    sem_post(&r->done);
    room_leave(r);
}

/* False: the engine did not come by in time. */
static bool await_room(struct room *r)
{
    struct timespec until;

    clock_gettime(CLOCK_REALTIME, &until);
    until.tv_sec += WAIT_S;
    while (sem_timedwait(&r->done, &until) != 0)
        if (errno != EINTR)
            return false;
    return true;
}

enum status batcher_repress(struct batcher *b, const struct repress_ask *ask, struct repressed **out, struct err *err)
{
    struct room *r = mem_zero(1, sizeof *r);
    enum status st;

    r->batcher = b;
    r->ask = *ask;
    context_ref(ask->context);
    r->owners = 2;
    sem_init(&r->done, 0, 0);
    st = batcher_call(b, make_room, r);
    if (st != ST_OK) {
        r->owners = 1;
        st = err_set(err, ST_EEXHAUSTED, "decode part: too many answers wait for room");
    } else if (!await_room(r)) {
        st = err_set(err, ST_EEXHAUSTED, "decode part: the engine made no room within %d s", WAIT_S);
    } else {
        st = r->status;
        *out = r->made;
        r->made = NULL;
        if (st != ST_OK && err)
            *err = r->err;
    }
    room_leave(r);
    return st;
}
