/* SPDX-License-Identifier: Apache-2.0 */
/*
 * loopback.c - a wire inside one process, that can be made slow, false, dead or dumb.
 *
 *      sender's link ──send(block)──▶ station ◀──recv(into)── receiver's link        poll copies when both are there
 *
 * It follows the rules of transports beside the stream, so the state machine that NCCL and CUDA IPC will use is run by
 * every test that uses it.
 */
#include "common/transport/loopback.h"

#include "common/base/arena.h"
#include "common/base/clock.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

struct link {
    struct link_config config;
    struct link *peer;            /* NULL before it came and after it went */
    const struct kv_block *block; /* under way */
    bool sends;
    int64_t begun_ns;
};

struct station {
    struct loopback_knobs knobs;
    struct link *first; /* waits for its peer */
    uint64_t sent;      /* bytes of all blocks */
    bool dead;
};

struct station *loopback_open(const struct loopback_knobs *knobs)
{
    struct station *s = mem_zero(1, sizeof *s);

    if (knobs)
        s->knobs = *knobs;
    return s;
}

void loopback_close(struct station *s)
{
    free(s);
}

static enum status loopback_connect(struct link **out, const struct link_config *config, struct err *err)
{
    struct link *l;

    if (!config->station)
        return err_set(err, ST_EINTERNAL, "transport loopback without a station");
    l = mem_zero(1, sizeof *l);
    l->config = *config;
    l->peer = config->station->first;
    config->station->first = l->peer ? NULL : l;
    if (l->peer)
        l->peer->peer = l;
    *out = l;
    return ST_OK;
}

static void link_wake(struct link *l)
{
    if (l && l->config.wake)
        l->config.wake(l->config.ctx);
}

static void post(struct link *l, const struct kv_block *block, bool sends)
{
    assert(!l->block && block->data);
    l->block = block;
    l->sends = sends;
    l->begun_ns = clock_now_ns();
    link_wake(l->peer);
}

static enum status loopback_send(struct link *l, const struct kv_block *block, const struct ticket *ticket,
                                 struct err *err)
{
    (void)ticket;
    (void)err;
    post(l, block, true);
    return ST_OK;
}

static enum status loopback_recv(struct link *l, const struct kv_block *into, struct ticket *ticket, struct err *err)
{
    (void)ticket;
    (void)err;
    post(l, into, false);
    return ST_OK;
}

/* Carries the sender's block over, with the fault that was asked for. */
static void carry(struct station *s, const struct kv_block *from, const struct kv_block *to)
{
    const uint64_t begin = s->sent;
    const uint64_t damage = s->knobs.damage_at;

    memcpy(to->data, from->data, from->bytes);
    s->sent += from->bytes;
    if (damage > begin && damage <= s->sent)
        ((uint8_t *)to->data)[damage - begin - 1] ^= 1;
}

static bool wire_dies(const struct station *s, const struct link *l)
{
    return l->sends && s->knobs.die_at > 0 && s->sent + l->block->bytes >= s->knobs.die_at;
}

static enum status loopback_poll(struct link *l, struct err *err)
{
    struct station *s = l->config.station;
    struct link *peer = l->peer;

    if (!l->block)
        return ST_OK;
    if (s->dead || !peer || wire_dies(s, l)) {
        s->dead = true;
        return err_set(err, ST_EUNAVAILABLE, "the wire broke in layer %d", l->block->layer);
    }
    if (!l->sends || s->knobs.silent || !peer->block || clock_now_ns() < l->begun_ns + s->knobs.latency_ns)
        return ST_AGAIN;
    carry(s, l->block, peer->block);
    l->block = NULL;
    peer->block = NULL;
    link_wake(peer);
    return ST_OK;
}

static enum status loopback_close_link(struct link *l)
{
    if (!l)
        return ST_OK;
    if (l->peer)
        l->peer->peer = NULL;
    if (l->config.station->first == l)
        l->config.station->first = NULL;
    free(l);
    return ST_OK;
}

const struct transport transport_loopback = {
    .name = "loopback",
    .summary = "inside one process; tests and self tests only",
    .place = PLACE_HOST,
    .connect = loopback_connect,
    .send = loopback_send,
    .recv = loopback_recv,
    .poll = loopback_poll,
    .close = loopback_close_link,
};
