/* SPDX-License-Identifier: Apache-2.0 */
/*
 * grpc.c - blocks inside the order's own stream, as Chunk messages of a megabyte. The path that always works.
 *
 *      block  |■■■■■■■■|■■■■■■■■|■■■|          the caller's memory, borrowed, never copied here
 *                 │        │
 *             record 0  record 1               one of CHUNKS each
 *                 └──▶ rpc_call_send_bulk ──▶ HTTP/2, whose window is the back pressure
 *
 * A record is busy from its send until gRPC gave the bytes back. The block is done when all of it was handed over and no
 * record is busy. Receiving is receiver.c's: bytes come with the messages.
 */
#include "common/transport/transport.h"

#include "common/base/arena.h"
#include "common/base/clock.h"
#include "common/base/thread.h"
#include "common/rpc/rpc_call.h"
#include "common/transport/wire_block.h"
#include "proto/platen/internal/v1/prefill.pb-c.h"

#include <assert.h>
#include <pthread.h>
#include <stdlib.h>

enum { CHUNKS = 8, CLOSE_MS = 1000 };

struct chunk {
    struct link *link;
    bool busy; /* under link->lock */
};

struct link {
    struct link_config config;
    const struct kv_block *block; /* owned by the mover: NULL when nothing is under way */
    uint64_t offset;              /* handed over so far */

    pthread_mutex_t lock; /* never held while sending */
    pthread_cond_t quiet;
    int busy;    /* records */
    bool closed; /* nobody waits for the rest any more: the last release frees the link */
    struct chunk chunk[CHUNKS];
};

static enum status grpc_connect(struct link **out, const struct link_config *config, struct err *err)
{
    struct link *l;

    if (!config->stream)
        return err_set(err, ST_EINTERNAL, "transport grpc without a stream");
    l = mem_zero(1, sizeof *l);
    l->config = *config;
    rpc_call_ref(config->stream);
    pthread_mutex_init(&l->lock, NULL);
    cond_init(&l->quiet);
    for (int i = 0; i < CHUNKS; i++)
        l->chunk[i].link = l;
    *out = l;
    return ST_OK;
}

static void link_free(struct link *l)
{
    rpc_call_unref(l->config.stream);
    pthread_cond_destroy(&l->quiet);
    pthread_mutex_destroy(&l->lock);
    free(l);
}

/* gRPC has done with a chunk's bytes. Any thread. */
static void chunk_release(void *arg)
{
    struct chunk *c = arg;
    struct link *l = c->link;
    bool last;

    pthread_mutex_lock(&l->lock);
    c->busy = false;
    l->busy--;
    last = l->closed && l->busy == 0;
    if (!l->closed && l->config.wake)
        l->config.wake(l->config.ctx);
    pthread_cond_signal(&l->quiet);
    pthread_mutex_unlock(&l->lock);
    if (last)
        link_free(l);
}

static struct chunk *chunk_reserve(struct link *l)
{
    struct chunk *c = NULL;

    pthread_mutex_lock(&l->lock);
    for (int i = 0; i < CHUNKS && !c; i++) {
        if (!l->chunk[i].busy)
            c = &l->chunk[i];
    }
    if (c) {
        c->busy = true;
        l->busy++;
    }
    pthread_mutex_unlock(&l->lock);
    return c;
}

static void chunk_revoke(struct chunk *c)
{
    pthread_mutex_lock(&c->link->lock);
    c->busy = false;
    c->link->busy--;
    pthread_mutex_unlock(&c->link->lock);
}

static bool link_quiet(struct link *l)
{
    bool quiet;

    pthread_mutex_lock(&l->lock);
    quiet = l->busy == 0;
    pthread_mutex_unlock(&l->lock);
    return quiet;
}

/* Hands the next chunk over. ST_AGAIN: no room now. */
static enum status chunk_send(struct link *l)
{
    Platen__Internal__V1__Chunk head = PLATEN__INTERNAL__V1__CHUNK__INIT;
    const uint64_t left = l->block->bytes - l->offset;
    const uint64_t bytes = left < CHUNK_BYTES ? left : CHUNK_BYTES;
    struct chunk *c = chunk_reserve(l);
    struct rpc_span span;
    enum status st;

    if (!c)
        return ST_AGAIN;
    head.layer = l->block->layer;
    head.offset = l->offset;
    span.data = (const uint8_t *)l->block->data + l->offset;
    span.bytes = (size_t)bytes;
    st = rpc_call_send_bulk(l->config.stream, &wire_chunk, &head.base, &span, 1, chunk_release, c);
    if (st == ST_OK)
        l->offset += bytes;
    else
        chunk_revoke(c);
    return st;
}

static enum status grpc_send(struct link *l, const struct kv_block *block, const struct ticket *ticket, struct err *err)
{
    (void)ticket;
    (void)err;
    assert(!l->block && block->data);
    l->block = block;
    l->offset = 0;
    return ST_OK;
}

static enum status grpc_poll(struct link *l, struct err *err)
{
    enum status st = ST_OK;

    if (!l->block)
        return ST_OK;
    while (st == ST_OK && l->offset < l->block->bytes)
        st = chunk_send(l);
    if (st == ST_ECANCELLED)
        return err_set(err, st, "the stream ended in the middle of layer %d", l->block->layer);
    if (st != ST_OK)
        return st;
    if (!link_quiet(l))
        return ST_AGAIN;
    l->block = NULL;
    return ST_OK;
}

static uint64_t grpc_moved(const struct link *l)
{
    return l->block ? l->offset : 0;
}

static enum status grpc_close(struct link *l)
{
    const int64_t deadline = clock_in_ms(CLOSE_MS);
    bool quiet;

    if (!l)
        return ST_OK;
    pthread_mutex_lock(&l->lock);
    while (l->busy > 0 && cond_wait(&l->quiet, &l->lock, deadline))
        ;
    quiet = l->busy == 0;
    l->closed = true;
    pthread_mutex_unlock(&l->lock);
    if (quiet)
        link_free(l);
    return quiet ? ST_OK : ST_EDEADLINE;
}

const struct transport transport_grpc = {
    .name = "grpc",
    .summary = "in the order's own stream; works everywhere",
    .place = PLACE_HOST,
    .connect = grpc_connect,
    .send = grpc_send,
    .poll = grpc_poll,
    .moved = grpc_moved,
    .close = grpc_close,
};
