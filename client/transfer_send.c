/* SPDX-License-Identifier: Apache-2.0 */
/* transfer_send.c - the sending process: a server with one method, and a thread per transfer that drives the shipper. */
#include "client/transfer.h"

#include "common/base/arena.h"
#include "common/base/clock.h"
#include "common/base/thread.h"
#include "common/kv/wire.h"
#include "common/rpc/rpc_server.h"
#include "common/transport/shipper.h"
#include "common/transport/transfer.h"
#include "common/transport/transport.h"
#include "proto/platen/internal/v1/prefill.pb-c.h"

#include <errno.h>
#include <semaphore.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum { WAKE_MS = 50, STALL_MS = 30000 };

/* One transfer. Counted by its call; the sending thread holds a count of its own. */
struct sending {
    struct rpc_call *call;
    struct transfer *transfer;
    const struct transport *transport;
    sem_t wake;
};

struct kv_shape transfer_shape(void)
{
    return (struct kv_shape){ .layers = 1, .heads = 8, .dim = 128, .dtype = DT_BF16 };
}

static enum status say(void *ctx, const Platen__Internal__V1__FromPrefill *msg)
{
    return rpc_call_send(((struct sending *)ctx)->call, &msg->base);
}

static void wake(void *ctx)
{
    sem_post(&((struct sending *)ctx)->wake);
}

/* There may be news, or a while has passed. */
static void wait_news(struct sending *s)
{
    struct timespec until;

    clock_gettime(CLOCK_REALTIME, &until);
    until.tv_nsec += WAKE_MS * NS_PER_MS;
    until.tv_sec += until.tv_nsec / NS_PER_S;
    until.tv_nsec %= NS_PER_S;
    while (sem_timedwait(&s->wake, &until) != 0 && errno == EINTR)
        ;
}

/* Says a message that may have to wait for room. */
static enum status say_surely(struct sending *s, const Platen__Internal__V1__FromPrefill *msg)
{
    enum status st;

    while ((st = say(s, msg)) == ST_AGAIN)
        if (rpc_call_wait_room(s->call, clock_in_ms(STALL_MS)) != ST_OK)
            return ST_EDEADLINE;
    return st;
}

static enum status say_accepted(struct sending *s)
{
    Platen__Internal__V1__FromPrefill msg = PLATEN__INTERNAL__V1__FROM_PREFILL__INIT;
    Platen__Internal__V1__Accepted accepted = PLATEN__INTERNAL__V1__ACCEPTED__INIT;

    accepted.transport = (char *)s->transport->name;
    accepted.layers = transfer_blocks(s->transfer);
    msg.kind_case = PLATEN__INTERNAL__V1__FROM_PREFILL__KIND_ACCEPTED;
    msg.accepted = &accepted;
    return say_surely(s, &msg);
}

static enum status say_commit(struct sending *s, const struct shipper *shipper)
{
    Platen__Internal__V1__FromPrefill msg = PLATEN__INTERNAL__V1__FROM_PREFILL__INIT;
    Platen__Internal__V1__Commit commit = PLATEN__INTERNAL__V1__COMMIT__INIT;

    shipper_totals(shipper, &commit);
    msg.kind_case = PLATEN__INTERNAL__V1__FROM_PREFILL__KIND_COMMIT;
    msg.commit = &commit;
    return say_surely(s, &msg);
}

/* An order's blocks are summed too, each while the one before is under way. */
static enum status ship_all(struct sending *s, struct shipper *shipper, struct err *err)
{
    const int32_t blocks = transfer_blocks(s->transfer);
    uint64_t known, sum = 0;
    enum status st = ST_OK;

    for (int32_t i = 0; i < blocks && st == ST_OK; i++) {
        const struct kv_block *block = transfer_block(s->transfer, i, &known);

        shipper_block(shipper, block, i == 0 ? wire_checksum(block->data, block->bytes) : sum);
        st = shipper_poll(shipper, err);
        if (i + 1 < blocks)
            sum = wire_checksum(block->data, block->bytes); /* the same memory: only the layer's number is another */
        while (st == ST_AGAIN && !rpc_call_cancelled(s->call)) {
            wait_news(s);
            st = shipper_poll(shipper, err);
        }
    }
    return st == ST_AGAIN ? ST_ECANCELLED : st;
}

static enum status send_all(struct sending *s, struct err *err)
{
    struct shipper_config config = { .transport = s->transport,
                                     .link = { .stream = s->call, .wake = wake, .ctx = s },
                                     .layers = transfer_blocks(s->transfer),
                                     .say = say,
                                     .ctx = s };
    struct shipper *shipper = NULL;
    enum status st = shipper_open(&shipper, &config, err);

    if (st == ST_OK)
        st = say_accepted(s);
    if (st == ST_OK)
        st = ship_all(s, shipper, err);
    if (st == ST_OK)
        st = say_commit(s, shipper);
    shipper_close(shipper);
    return st;
}

static void *send_thread(void *arg)
{
    struct sending *s = arg;
    struct err err = { 0 };
    enum status st = send_all(s, &err);

    rpc_call_finish(s->call, st, err.text, -1);
    rpc_call_unref(s->call);
    return NULL;
}

static void sending_free(void *user)
{
    struct sending *s = user;

    transfer_close(s->transfer);
    sem_destroy(&s->wake);
    free(s);
}

static void on_open(struct rpc_call *call, void *owner)
{
    struct sending *s = mem_zero(1, sizeof *s);

    (void)owner;
    s->call = call;
    sem_init(&s->wake, 0, 0);
    rpc_call_set_user(call, s, sending_free);
}

static enum status start(struct sending *s, const Platen__Internal__V1__Transfer *msg, struct err *err)
{
    struct kv_shape shape = transfer_shape();
    pthread_t thread;
    enum status st;

    if (strcmp(msg->transport, "grpc") != 0)
        return err_set(err, ST_EPRECONDITION, "transport `%.32s` is asked for, this process has grpc", msg->transport);
    s->transport = transport_find("grpc");
    st = transfer_open(&s->transfer, &shape, msg->bytes, err);
    if (st != ST_OK)
        return st;
    rpc_call_ref(s->call);
    st = thread_start(&thread, "transfer", send_thread, s, err);
    if (st == ST_OK)
        pthread_detach(thread);
    else
        rpc_call_unref(s->call);
    return st;
}

static void on_message(struct rpc_call *call, void *owner, const ProtobufCMessage *msg)
{
    const Platen__Internal__V1__ToPrefill *to = (const Platen__Internal__V1__ToPrefill *)msg;
    struct err err = { 0 };

    (void)owner;
    if (to->kind_case == PLATEN__INTERNAL__V1__TO_PREFILL__KIND_TRANSFER &&
        start(rpc_call_user(call), to->transfer, &err) != ST_OK)
        rpc_call_fail(call, &err);
    rpc_call_want(call);
}

static const struct rpc_events events = { .open = on_open, .message = on_message };

enum status transfer_serve(int port_fd, struct err *err)
{
    const struct rpc_method run = { .name = "/platen.internal.v1.Prefill/Run",
                                    .kind = RPC_BIDI,
                                    .request = &platen__internal__v1__to_prefill__descriptor,
                                    .events = &events };
    struct rpc_server_options o;
    struct rpc_server *server;
    int32_t port;
    enum status st;

    rpc_tune_bulk();
    rpc_server_options_init(&o);
    o.listen = "127.0.0.1:0";
    st = rpc_server_open(&server, &o, err);
    if (st != ST_OK)
        return st;
    rpc_server_add(server, &run, 1);
    st = rpc_server_start(server, err);
    port = rpc_server_port(server);
    if (st == ST_OK && write(port_fd, &port, sizeof port) != sizeof port)
        st = err_set(err, ST_EINTERNAL, "the parent does not listen");
    if (st == ST_OK) {
        for (;;) /* the parent ends this process */
            pause();
    }
    rpc_server_close(server);
    return st;
}
