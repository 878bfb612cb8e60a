/* SPDX-License-Identifier: Apache-2.0 */
/*
 * ipc.c - blocks between two processes of one machine, by plain device copies: on one GPU, or between two that reach each
 * other. For pairs that NCCL refuses, and where no NCCL is.
 *
 *   prefill node: slot ── Block{ticket: handle of its memory, offset} ──▶ decode node: mapped once, copied, Ready
 *
 * The decode node copies, on a stream of its own: so nobody but it ever writes into its arena, and an order that ends in
 * the middle has let go of its place as soon as the copy has passed. Mappings are kept for the next block; a process has
 * few slots. They are not kept for long: memory of a process that died stays on its device while somebody maps it.
 */
#include "common/transport/transport.h"

#include "common/base/arena.h"
#include "common/base/clock.h"
#include "common/transport/device_place.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum {
    MAPPINGS_MAX = 64,
    REFUSED_MAX = 32,
    TICKET_BYTES = CUDA_IPC_BYTES + 16,
    GRACE_MS = 2000,
    NAP_NS = 20000,
    KEEP_MS = 2500
};

/* Memory of another process. */
struct mapping {
    struct cuda_ipc handle;
    void *at; /* NULL: a free entry */
    int32_t users;
    int64_t used_ns;
};

struct station {
    struct device_place place;
    pthread_mutex_t lock; /* of the mappings; held while one is made */
    struct mapping mappings[MAPPINGS_MAX];
    uint8_t refused[REFUSED_MAX][PROCESS_BYTES]; /* processes whose memory the driver does not map here; under lock */
    int32_t refused_count;
    int64_t keep_ns;
};

struct link {
    struct link_config config;
    void *stream, *event;    /* receiver */
    struct mapping *mapping; /* of the block under way */
    uint8_t peer[PROCESS_BYTES];
    bool knows_peer;
};

/* ---- the station ------------------------------------------------------------------------------------------------- */

static void ipc_shut(struct station *s)
{
    if (!s)
        return;
    if (s->place.context)
        s->place.cuda->context_set(s->place.context);
    for (int i = 0; i < MAPPINGS_MAX; i++) {
        if (s->mappings[i].at)
            s->place.cuda->ipc_close(s->mappings[i].at);
    }
    device_place_close(&s->place);
    pthread_mutex_destroy(&s->lock);
    free(s);
}

static enum status ipc_open(struct station **out, const struct station_config *config, struct err *err)
{
    struct station *s = mem_zero(1, sizeof *s);
    enum status st = device_place_open(&s->place, config, err);

    pthread_mutex_init(&s->lock, NULL);
    s->keep_ns = (config->keep_ms > 0 ? config->keep_ms : KEEP_MS) * NS_PER_MS;
    if (st != ST_OK) {
        ipc_shut(s);
        return st;
    }
    *out = s;
    return ST_OK;
}

/* Who it is, and with whom it was tried in vain: where two devices do not reach each other only the driver knows it, and
 * no second order shall find it out again. */
static enum status ipc_hello(struct station *s, struct text *out, struct err *err)
{
    (void)err;
    device_who_write(out, &s->place.who);
    pthread_mutex_lock(&s->lock);
    for (int32_t i = 0; i < s->refused_count; i++)
        text_add(out, (const char *)s->refused[i], PROCESS_BYTES);
    pthread_mutex_unlock(&s->lock);
    return ST_OK;
}

/* The latest REFUSED_MAX are remembered. Under lock. */
static void refuse(struct station *s, const struct link *l)
{
    if (l->knows_peer)
        memcpy(s->refused[s->refused_count < REFUSED_MAX ? s->refused_count++ : REFUSED_MAX - 1], l->peer,
               PROCESS_BYTES);
}

static enum status ipc_meets(struct station *s, const void *hello, size_t hello_bytes, struct err *why)
{
    struct cursor c = cursor_on(hello, hello_bytes);
    struct device_who who;

    device_who_read(&who, &c);
    if (c.bad)
        return err_set(why, ST_EPRECONDITION, "ipc: the decode node's hello is too short");
    if (!device_who_same_machine(&who, &s->place.who))
        return err_set(why, ST_EPRECONDITION, "ipc: the nodes are on two machines");
    if (memcmp(who.process, s->place.who.process, PROCESS_BYTES) == 0)
        return err_set(why, ST_EPRECONDITION, "ipc: both ends are one process");
    while (cursor_left(&c) >= PROCESS_BYTES) {
        if (memcmp(cursor_take(&c, PROCESS_BYTES), s->place.who.process, PROCESS_BYTES) == 0)
            return err_set(why, ST_EPRECONDITION, "ipc: the decode node's device cannot map this node's memory");
    }
    return ST_OK;
}

/* The decode node wants to know whose memory it maps. */
static enum status ipc_answer(struct link *l, struct text *out, struct err *err)
{
    (void)err;
    device_who_write(out, &l->config.station->place.who);
    return ST_OK;
}

/* ---- mappings ---------------------------------------------------------------------------------------------------- */

/* The entry for a handle: its own, a free one, or the one unused for longest. NULL: all are in use. Under lock. */
static struct mapping *mapping_find(struct station *s, const struct cuda_ipc *handle)
{
    struct mapping *best = NULL;

    for (int i = 0; i < MAPPINGS_MAX; i++) {
        struct mapping *m = &s->mappings[i];

        if (m->at && memcmp(&m->handle, handle, sizeof *handle) == 0)
            return m;
        if (m->users == 0 && (!best || (best->at && (!m->at || m->used_ns < best->used_ns))))
            best = m;
    }
    return best;
}

/* Under lock. */
static enum status mapping_make(struct station *s, struct mapping *m, const struct cuda_ipc *handle, struct err *err)
{
    const struct cuda_table *cuda = s->place.cuda;

    if (m->at && memcmp(&m->handle, handle, sizeof *handle) == 0)
        return ST_OK;
    if (m->at)
        cuda->ipc_close(m->at);
    m->at = NULL;
    m->handle = *handle;
    return cuda_check(cuda, cuda->ipc_open(&m->at, *handle, CUDA_IPC_PEER_ACCESS), "ipc: mapping the peer's memory",
                      err);
}

static enum status mapping_take(struct link *l, const struct cuda_ipc *handle, struct mapping **out, struct err *err)
{
    struct station *s = l->config.station;
    struct mapping *m;
    enum status st;

    pthread_mutex_lock(&s->lock);
    m = mapping_find(s, handle);
    st = m ? mapping_make(s, m, handle, err) : err_set(err, ST_EEXHAUSTED, "ipc: %d mappings in use", MAPPINGS_MAX);
    if (m && st == ST_OK) {
        m->users++;
        m->used_ns = clock_now_ns();
        *out = m;
    } else if (st == ST_EINTERNAL) {
        refuse(s, l);
    }
    pthread_mutex_unlock(&s->lock);
    return st == ST_EINTERNAL ? ST_EUNAVAILABLE : st;
}

static void mapping_give(struct station *s, struct mapping *m)
{
    pthread_mutex_lock(&s->lock);
    m->users--;
    m->used_ns = clock_now_ns();
    pthread_mutex_unlock(&s->lock);
}

static void ipc_tick(struct station *s)
{
    const int64_t before = clock_now_ns() - s->keep_ns;

    s->place.cuda->context_set(s->place.context);
    pthread_mutex_lock(&s->lock);
    for (int i = 0; i < MAPPINGS_MAX; i++) {
        struct mapping *m = &s->mappings[i];

        if (!m->at || m->users > 0 || m->used_ns > before)
            continue;
        s->place.cuda->ipc_close(m->at);
        m->at = NULL;
    }
    pthread_mutex_unlock(&s->lock);
}

/* ---- one order's link ------------------------------------------------------------------------------------------- */

static enum status ipc_close(struct link *l);

static enum status open_receiver(struct link *l, struct err *err)
{
    const struct cuda_table *cuda = l->config.station->place.cuda;
    int least = 0, greatest = 0;
    enum status st = cuda_check(cuda, cuda->priorities(&least, &greatest), "ipc: priorities", err);

    if (st == ST_OK)
        st = cuda_check(cuda, cuda->stream_open(&l->stream, CUDA_STREAM_NON_BLOCKING, greatest), "ipc: stream", err);
    if (st == ST_OK)
        st = cuda_check(cuda, cuda->event_open(&l->event, CUDA_EVENT_NO_TIMING), "ipc: event", err);
    return st;
}

/* A prefill node of before says nothing here. */
static void know_peer(struct link *l)
{
    struct cursor c = cursor_on(l->config.hello, l->config.hello_bytes);
    struct device_who who;

    device_who_read(&who, &c);
    l->knows_peer = !c.bad && !l->config.sends;
    if (l->knows_peer)
        memcpy(l->peer, who.process, PROCESS_BYTES);
}

static enum status ipc_connect(struct link **out, const struct link_config *config, struct err *err)
{
    struct link *l = mem_zero(1, sizeof *l);
    enum status st = ST_OK;

    l->config = *config;
    know_peer(l);
    config->station->place.cuda->context_set(config->station->place.context);
    if (!config->sends)
        st = open_receiver(l, err);
    if (st != ST_OK) {
        ipc_close(l);
        return st;
    }
    *out = l;
    return ST_OK;
}

static enum status ipc_lend(struct link *l, const struct kv_block *block, struct ticket *ticket, struct err *err)
{
    const struct device_place *p = &l->config.station->place;
    struct cuda_ipc handle;
    void *base = NULL;
    size_t bytes = 0;
    enum status st;

    p->cuda->context_set(p->context);
    st = cuda_check(p->cuda, p->cuda->range(&base, &bytes, block->data), "ipc: where the block lies", err);
    if (st == ST_OK)
        st = cuda_check(p->cuda, p->cuda->ipc_get(&handle, base), "ipc: lending the block", err);
    if (st != ST_OK)
        return ST_EUNAVAILABLE;
    memcpy(ticket->data, handle.data, CUDA_IPC_BYTES);
    store_u64(ticket->data + CUDA_IPC_BYTES, (uint64_t)((char *)block->data - (char *)base));
    store_u64(ticket->data + CUDA_IPC_BYTES + 8, bytes);
    ticket->bytes = TICKET_BYTES;
    return ST_OK;
}

/* Begins the copy out of the peer's memory, whose bounds the driver knows: `range` of the mapping. */
static enum status begin_copy(struct link *l, const struct kv_block *into, uint64_t offset, struct err *err)
{
    const struct cuda_table *cuda = l->config.station->place.cuda;
    const char *from = (const char *)l->mapping->at + offset;
    size_t bytes = 0;
    void *base = NULL;
    enum status st = cuda_check(cuda, cuda->range(&base, &bytes, l->mapping->at), "ipc: the mapping", err);

    if (st != ST_OK)
        return ST_EUNAVAILABLE;
    if (offset > bytes || into->bytes > bytes - offset)
        return err_set(err, ST_EDATALOSS, "ipc: layer %d lies outside of what was lent", into->layer);
    st = cuda_check(cuda, cuda->copy(into->data, from, into->bytes, l->stream), "ipc: copy", err);
    if (st == ST_OK)
        st = cuda_check(cuda, cuda->event_record(l->event, l->stream), "ipc: event", err);
    return st == ST_OK ? ST_OK : ST_EUNAVAILABLE;
}

static enum status ipc_recv(struct link *l, const struct kv_block *into, struct ticket *ticket, struct err *err)
{
    struct station *s = l->config.station;
    struct cuda_ipc handle;
    enum status st;

    if (ticket->bytes != TICKET_BYTES)
        return err_set(err, ST_EDATALOSS, "ipc: layer %d was announced without its memory", into->layer);
    memcpy(handle.data, ticket->data, CUDA_IPC_BYTES);
    s->place.cuda->context_set(s->place.context);
    st = mapping_take(l, &handle, &l->mapping, err);
    if (st == ST_OK)
        st = begin_copy(l, into, load_u64(ticket->data + CUDA_IPC_BYTES), err);
    ticket->bytes = 0;
    return st;
}

/* There is no call-back without a thread: whoever polls is woken by itself, soon. */
static enum status ipc_poll(struct link *l, struct err *err)
{
    struct station *s = l->config.station;
    int result;

    if (!l->mapping)
        return ST_OK;
    s->place.cuda->context_set(s->place.context);
    result = s->place.cuda->event_query(l->event);
    if (result == CUDA_NOT_READY)
        return ST_AGAIN;
    mapping_give(s, l->mapping);
    l->mapping = NULL;
    return cuda_check(s->place.cuda, result, "ipc: copy", err) == ST_OK ? ST_OK : ST_EUNAVAILABLE;
}

static enum status ipc_close(struct link *l)
{
    const int64_t deadline = clock_in_ms(GRACE_MS);
    const struct cuda_table *cuda;
    enum status st;

    if (!l)
        return ST_OK;
    cuda = l->config.station->place.cuda;
    while ((st = ipc_poll(l, NULL)) == ST_AGAIN && clock_now_ns() < deadline)
        nanosleep(&(struct timespec){ 0, NAP_NS }, NULL);
    cuda->context_set(l->config.station->place.context);
    if (l->event)
        cuda->event_close(l->event);
    if (l->stream)
        cuda->stream_close(l->stream);
    free(l);
    return st == ST_AGAIN ? ST_EDEADLINE : ST_OK;
}

const struct transport transport_ipc = {
    .name = "ipc",
    .summary = "between processes of one machine, by copies on the GPU",
    .place = PLACE_DEVICE,
    .pulls = true,
    .open = ipc_open,
    .shut = ipc_shut,
    .tick = ipc_tick,
    .hello = ipc_hello,
    .meets = ipc_meets,
    .answer = ipc_answer,
    .connect = ipc_connect,
    .lend = ipc_lend,
    .recv = ipc_recv,
    .poll = ipc_poll,
    .close = ipc_close,
};
