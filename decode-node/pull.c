/* SPDX-License-Identifier: Apache-2.0 */
/*
 * pull.c - moving test blocks, for self tests and to learn what a link does.
 *
 * Blocks come one after the other and are only proven, so one place is enough: host memory, or an extent of the arena
 * where the transport writes the device's memory. The first transfer between two nodes is also where NCCL makes their
 * communicator, which takes half a second that no order should wait for.
 */
#include "decode-node/pull.h"

#include "common/base/arena.h"
#include "common/base/bytes.h"
#include "common/base/clock.h"
#include "common/transport/transfer.h"
#include "decode-node/node.h"
#include "proto/platen/internal/v1/prefill.pb-c.h"

#include <stdlib.h>

enum { TRANSFER_MS = 60000 };

struct pull {
    struct node *node;
    struct filling filling;
    struct receiver_sink sink;
    struct extent *extent; /* of the place; NULL: host memory */
    void *place;
    int64_t begin_ns, end_ns;
    int32_t over; /* atomic */
    bool committed;
    struct err err; /* what we found wrong */
    struct err end; /* how the stream ended */
};

static enum status on_ready(void *ctx, int32_t layer, const struct ticket *ticket)
{
    return filling_say_ready(&((struct pull *)ctx)->filling, layer, ticket);
}

static void on_failed(struct filling *f, enum status st, const struct err *err)
{
    struct pull *p = CONTAINER_OF(f, struct pull, filling);

    err_set(&p->err, st, "%s", err->text);
}

static void on_closed(struct filling *f, enum status st)
{
    struct pull *p = CONTAINER_OF(f, struct pull, filling);

    if (st != ST_OK) {
        err_set(&p->err, ST_EINTERNAL, "%s does not let go of its memory", f->transport->name);
        p->extent = NULL; /* never to be used again */
    }
    __atomic_store_n(&p->over, 1, __ATOMIC_RELEASE);
}

static enum status on_accepted(void *ctx, const Platen__Internal__V1__Accepted *msg, struct err *err)
{
    struct pull *p = ctx;

    p->filling.failed = on_failed;
    p->filling.closed = on_closed;
    return filling_connect(&p->filling, p->node->intake, p->node->parts.stations, msg, on_ready, err);
}

static enum status on_place(void *ctx, const struct kv_block *plan, void **place, struct err *err)
{
    struct pull *p = ctx;

    (void)plan;
    (void)err;
    if (p->begin_ns == 0)
        p->begin_ns = clock_now_ns();
    *place = p->place;
    return ST_OK;
}

static void on_committed(void *ctx, const Platen__Internal__V1__Commit *msg)
{
    struct pull *p = ctx;

    (void)msg;
    p->end_ns = clock_now_ns();
    p->committed = true;
}

static void on_buffer(struct rpc_call *call, void *owner, struct rpc_buffer *buffer)
{
    struct pull *p = rpc_call_user(call);
    Platen__Internal__V1__ToPrefill msg = PLATEN__INTERNAL__V1__TO_PREFILL__INIT;
    Platen__Internal__V1__Adopted adopted = PLATEN__INTERNAL__V1__ADOPTED__INIT;

    (void)owner;
    p->filling.call = call;
    if (receiver_message(p->filling.receiver, buffer, &p->err) < 0) {
        rpc_call_cancel(call);
        return;
    }
    if (p->committed) {
        msg.kind_case = PLATEN__INTERNAL__V1__TO_PREFILL__KIND_ADOPTED;
        msg.adopted = &adopted;
        rpc_call_send(call, &msg.base);
        rpc_call_half_close(call);
    }
    if (receiver_awaits(p->filling.receiver) >= 0)
        intake_take(p->node->intake, &p->filling);
    else
        rpc_call_want(call);
}

static void on_done(struct rpc_call *call, void *owner, const struct rpc_end *end)
{
    struct pull *p = rpc_call_user(call);

    (void)owner;
    err_set(&p->end, end->status == ST_OK ? ST_EUNAVAILABLE : end->status, "%s", end->sentence);
    p->filling.broken = !p->committed;
    if (p->filling.link)
        intake_end(p->node->intake, &p->filling);
    else
        __atomic_store_n(&p->over, 1, __ATOMIC_RELEASE);
}

static const struct rpc_events events = { .buffer = on_buffer, .done = on_done };

static enum status start(struct pull *p, struct peer *peer, const char *transport, uint64_t bytes,
                         struct rpc_call **call, struct err *err)
{
    Platen__Internal__V1__ToPrefill msg = PLATEN__INTERNAL__V1__TO_PREFILL__INIT;
    Platen__Internal__V1__Transfer transfer = PLATEN__INTERNAL__V1__TRANSFER__INIT;
    Platen__Internal__V1__Identity id;
    struct rpc_call_options o = { .method = "/platen.internal.v1.Prefill/Run",
                                  .deadline_ns = clock_in_ms(TRANSFER_MS),
                                  .events = &events,
                                  .user = p };
    struct text hello = { 0 };
    enum status st = stations_hello(p->node->parts.stations, &hello, err);

    order_identity(&id, p->node);
    transfer.identity = &id;
    transfer.transport = (char *)transport;
    transfer.bytes = bytes;
    transfer.transport_hello.data = (uint8_t *)hello.data;
    transfer.transport_hello.len = hello.bytes;
    msg.kind_case = PLATEN__INTERNAL__V1__TO_PREFILL__KIND_TRANSFER;
    msg.transfer = &transfer;
    if (st == ST_OK)
        st = rpc_call_start(call, peer_channel(peer), &o, &msg.base, err);
    text_fini(&hello);
    return st;
}

static enum status open_place(struct pull *p, const struct transport *t, uint64_t bytes, struct err *err)
{
    enum status st;

    if (t->place == PLACE_HOST || !p->node->staging) {
        p->place = mem_aligned(bytes);
        return ST_OK;
    }
    st = blocks_reserve(p->node->blocks, bytes, NULL, &p->extent, err);
    if (st == ST_AGAIN)
        st = err_set(err, ST_EEXHAUSTED, "blocks: no room in one piece for a test");
    if (st == ST_OK)
        p->place = blocks_at(p->node->blocks, p->extent);
    return st;
}

static void await(struct pull *p, struct rpc_call *call)
{
    while (!__atomic_load_n(&p->over, __ATOMIC_ACQUIRE)) {
        if (signals_wait(p->node->parts.signals, clock_in_ms(2)))
            rpc_call_cancel(call);
    }
}

/* The receiver's shape, from a plan of the same transfer. */
static enum status plan(const struct node *n, uint64_t bytes, struct receiver_config *config, struct err *err)
{
    struct transfer *t = NULL;
    enum status st = transfer_open(&t, &n->parts.shape, bytes, err);

    if (st != ST_OK)
        return st;
    config->shape = n->parts.shape;
    config->shape.layers = transfer_blocks(t);
    config->rows_max = transfer_rows(t);
    transfer_close(t);
    return ST_OK;
}

enum status pull_bytes(struct node *n, struct peer *peer, const char *transport, uint64_t bytes, double *seconds,
                       struct err *err)
{
    struct pull p = { .node = n, .sink = { .accepted = on_accepted, .place = on_place, .committed = on_committed } };
    struct receiver_config config = { .codec = KV_PLAIN };
    const struct transport *t = transport_find(transport);
    struct rpc_call *call = NULL;
    bool has = false;
    enum status st;

    if (t)
        stations_of(n->parts.stations, t, &has);
    if (!has)
        return err_set(err, ST_EPRECONDITION, "%.32s: this node uses %s", transport, stations_list(n->parts.stations));
    st = plan(n, bytes, &config, err);
    if (st == ST_OK)
        st = open_place(&p, t, kv_block_bytes_max(&n->parts.shape, KV_PLAIN, config.rows_max), err);
    if (st != ST_OK)
        return st;
    p.sink.ctx = &p;
    config.sink = &p.sink;
    p.filling.receiver = receiver_open(&config);
    st = start(&p, peer, transport, bytes, &call, err);
    if (st == ST_OK) {
        await(&p, call);
        rpc_call_unref(call);
        *seconds = (double)(p.end_ns - p.begin_ns) / 1e9;
        if (p.err.code != ST_OK)
            st = err_set(err, p.err.code, "%s", p.err.text);
        else if (!p.committed)
            st = err_set(err, p.end.code, "%s", p.end.text);
    }
    receiver_close(p.filling.receiver);
    if (p.extent)
        blocks_release(n->blocks, p.extent);
    else if (t->place == PLACE_HOST || !n->staging)
        free(p.place);
    return st;
}
