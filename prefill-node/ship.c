/* SPDX-License-Identifier: Apache-2.0 */
/*
 * ship.c - stop 8 of 12: one job's blocks leave.     before: handoff.c   after: common/transport/shipper.c
 *
 *   [packed layers] ─▶ checksum ─▶ shipper ─▶ left: its slot may be written, the track is free after the last
 *
 * One block of a job is under way at a time. While it is, the next one is summed, so that the wire does not wait for that.
 */
#include "prefill-node/mover_inside.h"

#include "common/base/clock.h"
#include "common/base/trace.h"
#include "common/kv/wire.h"
#include "kernels/backend.h"
#include "prefill-node/handoff.h"

#include <assert.h>

static enum status open_shipper(struct mover *m, struct job *j, struct err *err)
{
    struct shipper_config config = { .transport = j->transport, .link = j->link, .layers = j->layers };

    config.made = j->made;
    j->made = NULL;
    config.link.wake = mover_wake;
    config.link.ctx = m;
    config.say = j->peer->say;
    config.ctx = j->peer_ctx;
    return shipper_open(&j->shipper, &config, err);
}

/* The test block; where the transport reads the device's memory, with the bytes that lie there. */
static const struct kv_block *test_block(struct job *j, uint64_t *checksum)
{
    const struct kv_block *b = transfer_block(j->transfer, j->shipped, checksum);

    if (j->transport->place == PLACE_HOST)
        return b;
    j->transfer_block = *b;
    j->transfer_block.data = j->transfer_device;
    return &j->transfer_block;
}

/* The packed block of a layer that has not left; NULL: it is not packed yet. */
static const struct kv_block *packed_block(struct job *j, int32_t layer)
{
    if (layer >= __atomic_load_n(&j->packed, __ATOMIC_ACQUIRE))
        return NULL;
    return &j->slots[j->slot_of[layer % SCHEDULER_SLOTS]].block;
}

/* The sum of a layer's block, once per layer: ahead of its turn where there is time. */
static uint64_t sum_of(struct mover *m, struct job *j, const struct kv_block *b)
{
    if (j->summed <= b->layer) {
        j->sum = j->transport->place == PLACE_HOST ? wire_checksum(b->data, b->bytes)
                                                   : m->be->ops->checksum(m->be, LANE_COPY, b->data, b->bytes);
        j->summed = b->layer + 1;
    }
    return j->sum;
}

/* While a block is under way the next one is summed, so that the wire does not wait for it. */
static void sum_ahead(struct mover *m, struct job *j)
{
    const struct kv_block *b = j->transfer || j->shipped + 1 >= j->layers ? NULL : packed_block(j, j->shipped + 1);

    if (b)
        sum_of(m, j, b);
}

/* The next block, if there is one that has not been given to the shipper. */
static bool next_block(struct mover *m, struct job *j)
{
    const struct kv_block *b;
    uint64_t checksum;

    if (j->transfer) {
        b = test_block(j, &checksum);
    } else {
        b = packed_block(j, j->shipped);
        if (!b)
            return false;
        checksum = sum_of(m, j, b);
    }
    assert(b->layer == j->shipped);
    shipper_block(j->shipper, b, checksum);
    j->moving = true;
    j->moving_ns = j->progress_ns = clock_now_ns();
    return true;
}

static void block_left(struct mover *m, struct job *j)
{
    const int64_t now = clock_now_ns();

    j->times.ship += now - j->moving_ns;
    trace_add(j->trace, TRACE_send, j->trace_order, j->shipped, j->moving_ns, now,
              shipper_bytes(j->shipper) - j->shipped_bytes);
    j->shipped_bytes = shipper_bytes(j->shipper);
    j->moving = false;
    __atomic_store_n(&j->shipped, j->shipped + 1, __ATOMIC_RELEASE); /* its slot may be written */
    if (j->transfer)
        return;
    scheduler_shipped(m->scheduler, &j->turn);
    if (j->shipped == j->layers && scheduler_has_left(m->scheduler, &j->turn))
        scheduler_end(m->scheduler, &j->turn);
}

/* A peer that keeps its connection but takes nothing is as good as lost. */
static enum status watch_progress(struct job *j, struct err *err)
{
    const uint64_t moved = shipper_moved(j->shipper);
    const int64_t now = clock_now_ns();

    if (moved != j->progress_bytes) {
        j->progress_bytes = moved;
        j->progress_ns = now;
    }
    if (now - j->progress_ns < MOVER_STALL_MS * NS_PER_MS)
        return ST_AGAIN;
    return err_set(err, ST_EDEADLINE, "the decode node took no bytes of layer %d for %d s", j->shipped,
                   MOVER_STALL_MS / 1000);
}

/* The peer says Ready for a layer after the one before has left, so the ticket stays as it is while `ready` does. */
void ship_tell_ready(struct job *j)
{
    const int32_t ready = __atomic_load_n(&j->ready, __ATOMIC_ACQUIRE);

    if (ready <= j->told)
        return;
    j->told = ready;
    shipper_ready(j->shipper, ready - 1, &j->ticket);
}

enum status ship(struct mover *m, struct job *j, struct err *err)
{
    enum status st = ST_OK;

    if (!j->shipper)
        st = open_shipper(m, j, err);
    if (st == ST_OK)
        ship_tell_ready(j);
    while (st == ST_OK && j->shipped < j->layers && (j->moving || next_block(m, j))) {
        st = shipper_poll(j->shipper, err);
        if (st == ST_OK)
            block_left(m, j);
        else if (st == ST_AGAIN)
            st = watch_progress(j, err);
        if (st == ST_AGAIN)
            sum_ahead(m, j);
    }
    return st;
}
