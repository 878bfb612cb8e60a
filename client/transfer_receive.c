/* SPDX-License-Identifier: Apache-2.0 */
/* transfer_receive.c - the receiving process: every message through the receiver, every byte into a place, checked. */
#include "client/transfer.h"

#include "common/base/arena.h"
#include "common/base/clock.h"
#include "common/rpc/rpc_channel.h"
#include "common/transport/receiver.h"
#include "common/transport/transfer.h"
#include "proto/platen/internal/v1/prefill.pb-c.h"

#include <semaphore.h>
#include <stdio.h>
#include <stdlib.h>

enum { TRANSFER_MS = 120000 };

struct receiving {
    struct receiver *receiver;
    void *place;
    int64_t begin_ns, end_ns;
    sem_t over;
    struct err err;
};

static enum status on_place(void *ctx, const struct kv_block *plan, void **place, struct err *err)
{
    struct receiving *r = ctx;

    (void)plan; /* blocks come one after the other and are only checked: one place is enough */
    (void)err;
    if (r->begin_ns == 0)
        r->begin_ns = clock_now_ns();
    *place = r->place;
    return ST_OK;
}

static void on_committed(void *ctx, const Platen__Internal__V1__Commit *msg)
{
    (void)msg;
    ((struct receiving *)ctx)->end_ns = clock_now_ns();
}

static void on_buffer(struct rpc_call *call, void *owner, struct rpc_buffer *buffer)
{
    struct receiving *r = rpc_call_user(call);

    (void)owner;
    if (receiver_message(r->receiver, buffer, &r->err) < 0)
        rpc_call_cancel(call);
    else
        rpc_call_want(call);
}

static void on_done(struct rpc_call *call, void *owner, const struct rpc_end *end)
{
    struct receiving *r = rpc_call_user(call);

    (void)owner;
    if (r->end_ns == 0)
        err_set(&r->err, end->status == ST_OK ? ST_EDATALOSS : end->status, "%s",
                end->sentence[0] ? end->sentence : "the transfer ended early");
    sem_post(&r->over);
}

static const struct rpc_events events = { .buffer = on_buffer, .done = on_done };

/* Asks for the bytes and waits for the end, which the call's deadline bounds. */
static enum status run(struct receiving *r, struct rpc_channel *channel, const char *transport, uint64_t bytes,
                       struct err *err)
{
    Platen__Internal__V1__ToPrefill msg = PLATEN__INTERNAL__V1__TO_PREFILL__INIT;
    Platen__Internal__V1__Transfer transfer = PLATEN__INTERNAL__V1__TRANSFER__INIT;
    struct rpc_call_options o = { .method = "/platen.internal.v1.Prefill/Run",
                                  .deadline_ns = clock_in_ms(TRANSFER_MS),
                                  .events = &events,
                                  .user = r };
    struct rpc_call *call;
    enum status st;

    transfer.transport = (char *)transport;
    transfer.bytes = bytes;
    msg.kind_case = PLATEN__INTERNAL__V1__TO_PREFILL__KIND_TRANSFER;
    msg.transfer = &transfer;
    st = rpc_call_start(&call, channel, &o, &msg.base, err);
    if (st != ST_OK)
        return st;
    while (sem_wait(&r->over) != 0)
        ;
    rpc_call_unref(call);
    return r->err.code == ST_OK ? ST_OK : err_set(err, r->err.code, "%s", r->err.text);
}

static enum status connect_and_run(struct receiving *r, int32_t port, const char *transport, uint64_t bytes,
                                   struct err *err)
{
    struct rpc_client *client = NULL;
    struct rpc_channel *channel = NULL;
    char target[32];
    enum status st = rpc_client_open(&client, 1, err);

    snprintf(target, sizeof target, "127.0.0.1:%d", port);
    if (st == ST_OK)
        st = rpc_channel_open(&channel, client, target, NULL, err);
    if (st == ST_OK)
        st = run(r, channel, transport, bytes, err);
    rpc_channel_close(channel);
    rpc_client_close(client);
    return st;
}

enum status transfer_receive(int32_t port, const char *transport, uint64_t bytes, struct transfer_result *out,
                             struct err *err)
{
    struct kv_shape shape = transfer_shape();
    struct receiver_config config = { .shape = shape, .codec = KV_PLAIN };
    struct receiving r = { 0 };
    struct receiver_sink sink = { .ctx = &r, .place = on_place, .committed = on_committed };
    struct transfer *plan;
    enum status st = transfer_open(&plan, &shape, bytes, err);

    if (st != ST_OK)
        return st;
    config.shape.layers = transfer_blocks(plan);
    config.rows_max = transfer_rows(plan);
    transfer_close(plan);
    config.sink = &sink;
    rpc_tune_bulk();
    r.receiver = receiver_open(&config);
    r.place = mem_aligned(kv_block_bytes_max(&shape, KV_PLAIN, config.rows_max));
    sem_init(&r.over, 0, 0);
    st = connect_and_run(&r, port, transport, bytes, err);
    out->bytes = receiver_bytes(r.receiver);
    out->seconds = (double)(r.end_ns - r.begin_ns) / 1e9;
    sem_destroy(&r.over);
    receiver_close(r.receiver);
    free(r.place);
    return st;
}
