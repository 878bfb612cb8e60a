/* SPDX-License-Identifier: Apache-2.0 */
/* test_grpc.c - blocks inside a real stream: a server that ships, a client that receives, in one process. */
#include "common/base/arena.h"
#include "common/base/clock.h"
#include "common/base/thread.h"
#include "common/kv/wire.h"
#include "common/rpc/rpc_channel.h"
#include "common/rpc/rpc_server.h"
#include "common/transport/shipper.h"
#include "tests/support/cmocka_main.h"
#include "tests/unit/wire_maker.h"

#include <stdlib.h>
#include <time.h>

enum { BIG_ROWS = 60000 };

static const struct kv_shape big_shape = { .layers = MAKER_LAYERS, .heads = 2, .dim = 16, .dtype = DT_F32 };

struct world {
    struct rpc_server *server;
    struct rpc_client *client;
    struct rpc_channel *channel;
    struct kv_block blocks[MAKER_LAYERS];
    pthread_t sender;
    struct rpc_call *stream; /* the sender's end, counted */
    int started;             /* `sender` and `stream` are set */
    enum status sent;        /* how the sender ended */
    int64_t close_ns;        /* how long its close took */

    struct receiver *receiver;
    struct receiver_sink sink;
    void *place[MAKER_LAYERS];
    bool lazy; /* the receiver asks for nothing more after the first chunk */
    int messages, committed, done;
    enum status got;
    struct err err;
};

static void nap(void)
{
    const struct timespec t = { 0, 200000 };

    nanosleep(&t, NULL);
}

static bool reaches(const int *value, int want, int64_t ms)
{
    const int64_t deadline = clock_in_ms(ms);

    while (__atomic_load_n(value, __ATOMIC_ACQUIRE) < want && clock_now_ns() < deadline)
        nap();
    return __atomic_load_n(value, __ATOMIC_ACQUIRE) >= want;
}

/* ---- the sending end ------------------------------------------------------------------------------------------- */

static enum status say(void *ctx, const Platen__Internal__V1__FromPrefill *msg)
{
    struct world *w = ctx;

    return rpc_call_send(w->stream, &msg->base);
}

static enum status say_until(struct world *w, const Platen__Internal__V1__FromPrefill *msg)
{
    enum status st;

    while ((st = say(w, msg)) == ST_AGAIN)
        nap();
    return st;
}

static enum status ship_all(struct world *w, struct shipper *s)
{
    Platen__Internal__V1__FromPrefill msg = PLATEN__INTERNAL__V1__FROM_PREFILL__INIT;
    Platen__Internal__V1__Commit commit = PLATEN__INTERNAL__V1__COMMIT__INIT;
    enum status st = ST_OK;

    for (int32_t l = 0; st == ST_OK && l < MAKER_LAYERS; l++) {
        const struct kv_block *b = &w->blocks[l];

        shipper_block(s, b, wire_checksum(b->data, b->bytes));
        while ((st = shipper_poll(s, NULL)) == ST_AGAIN)
            nap();
    }
    if (st != ST_OK)
        return st;
    shipper_totals(s, &commit);
    msg.kind_case = PLATEN__INTERNAL__V1__FROM_PREFILL__KIND_COMMIT;
    msg.commit = &commit;
    return say_until(w, &msg);
}

static void *sender_run(void *arg)
{
    struct world *w = arg;
    struct shipper_config config = { .transport = transport_find("grpc"), .layers = MAKER_LAYERS, .say = say };
    Platen__Internal__V1__FromPrefill msg = PLATEN__INTERNAL__V1__FROM_PREFILL__INIT;
    Platen__Internal__V1__Accepted accepted = PLATEN__INTERNAL__V1__ACCEPTED__INIT;
    struct shipper *s = NULL;
    int64_t begin;

    config.ctx = w;
    config.link.stream = w->stream;
    accepted.layers = MAKER_LAYERS;
    msg.kind_case = PLATEN__INTERNAL__V1__FROM_PREFILL__KIND_ACCEPTED;
    msg.accepted = &accepted;
    w->sent = say_until(w, &msg);
    if (w->sent == ST_OK)
        w->sent = shipper_open(&s, &config, NULL);
    if (w->sent == ST_OK)
        w->sent = ship_all(w, s);
    rpc_call_finish(w->stream, w->sent, NULL, -1);
    begin = clock_now_ns();
    shipper_close(s);
    w->close_ns = clock_now_ns() - begin;
    rpc_call_unref(w->stream);
    return NULL;
}

static void on_order(struct rpc_call *call, void *owner, const ProtobufCMessage *msg)
{
    struct world *w = owner;

    (void)msg;
    rpc_call_ref(call);
    w->stream = call;
    assert_int_equal(thread_start(&w->sender, "sender", sender_run, w, NULL), ST_OK);
    __atomic_store_n(&w->started, 1, __ATOMIC_RELEASE);
}

static const struct rpc_events server_events = { .message = on_order };

/* ---- the receiving end ----------------------------------------------------------------------------------------- */

static enum status on_place(void *ctx, const struct kv_block *plan, void **place, struct err *err)
{
    struct world *w = ctx;

    (void)err;
    *place = w->place[plan->layer] = mem_aligned(plan->bytes);
    return ST_OK;
}

static void on_committed(void *ctx, const Platen__Internal__V1__Commit *msg)
{
    struct world *w = ctx;

    (void)msg;
    w->committed++;
}

static void on_buffer(struct rpc_call *call, void *owner, struct rpc_buffer *buffer)
{
    struct world *w = owner;

    w->got = receiver_message(w->receiver, buffer, &w->err);
    __atomic_add_fetch(&w->messages, 1, __ATOMIC_RELEASE);
    if (w->got < 0)
        rpc_call_cancel(call);
    else if (!w->lazy || w->messages < 3)
        rpc_call_want(call);
}

static void on_done(struct rpc_call *call, void *owner, const struct rpc_end *end)
{
    struct world *w = owner;

    (void)call;
    (void)end;
    __atomic_store_n(&w->done, 1, __ATOMIC_RELEASE);
}

static const struct rpc_events client_events = { .buffer = on_buffer, .done = on_done };

/* ---- both ------------------------------------------------------------------------------------------------------ */

static struct rpc_call *start(struct world *w)
{
    const struct rpc_call_options o = { .method = "/platen.internal.v1.Prefill/Run",
                                        .deadline_ns = clock_in_ms(30000),
                                        .events = &client_events,
                                        .owner = w };
    Platen__Internal__V1__ToPrefill order = PLATEN__INTERNAL__V1__TO_PREFILL__INIT;
    struct rpc_call *call;

    assert_int_equal(rpc_call_start(&call, w->channel, &o, &order.base, NULL), ST_OK);
    return call;
}

static void join_sender(struct world *w)
{
    assert_true(reaches(&w->started, 1, 5000));
    pthread_join(w->sender, NULL);
}

static int world_open(void **state)
{
    struct world *w = mem_zero(1, sizeof *w);
    const struct rpc_method method = { .name = "/platen.internal.v1.Prefill/Run",
                                       .kind = RPC_BIDI,
                                       .request = &platen__internal__v1__to_prefill__descriptor,
                                       .events = &server_events,
                                       .owner = w };
    struct receiver_config in = { .shape = big_shape, .rows_max = BIG_ROWS };
    struct rpc_server_options so;

    *state = w;
    for (int32_t l = 0; l < MAKER_LAYERS; l++)
        w->blocks[l] = maker_block(l, l == 1 ? BIG_ROWS : 300, l == 1 ? BIG_ROWS - 7 : 20); /* 15 MiB, and small ones */
    rpc_server_options_init(&so);
    so.listen = "127.0.0.1:0";
    assert_int_equal(rpc_server_open(&w->server, &so, NULL), ST_OK);
    rpc_server_add(w->server, &method, 1);
    assert_int_equal(rpc_server_start(w->server, NULL), ST_OK);
    assert_int_equal(rpc_client_open(&w->client, 1, NULL), ST_OK);
    assert_int_equal(rpc_channel_open(&w->channel, w->client, rpc_server_address(w->server), NULL, NULL), ST_OK);
    w->sink = (struct receiver_sink){ .ctx = w, .place = on_place, .committed = on_committed };
    in.sink = &w->sink;
    w->receiver = receiver_open(&in);
    return 0;
}

static int world_close(void **state)
{
    struct world *w = *state;

    rpc_channel_close(w->channel);
    rpc_client_close(w->client);
    rpc_server_close(w->server);
    receiver_close(w->receiver);
    for (int32_t l = 0; l < MAKER_LAYERS; l++) {
        free(w->place[l]);
        free(w->blocks[l].data);
    }
    free(w);
    return 0;
}

static void blocks_arrive_byte_for_byte(void **state)
{
    struct world *w = *state;
    struct rpc_call *call = start(w);

    assert_true(reaches(&w->done, 1, 20000));
    join_sender(w);
    assert_string_equal(w->err.text, "");
    assert_int_equal(w->sent, ST_OK);
    assert_int_equal(w->committed, 1);
    for (int32_t l = 0; l < MAKER_LAYERS; l++)
        assert_memory_equal(w->place[l], w->blocks[l].data, w->blocks[l].bytes);
    rpc_call_unref(call);
}

static void a_peer_that_goes_lets_the_sender_go(void **state)
{
    struct world *w = *state;
    struct rpc_call *call;

    w->lazy = true;
    call = start(w);
    assert_true(reaches(&w->messages, 3, 10000));
    rpc_call_cancel(call);
    assert_true(reaches(&w->done, 1, 5000));
    join_sender(w);
    assert_int_equal(w->sent, ST_ECANCELLED);
    assert_true(w->close_ns < 900 * NS_PER_MS);
    assert_int_equal(w->committed, 0);
    rpc_call_unref(call);
}

static void a_peer_that_takes_nothing_holds_the_sender_back(void **state)
{
    struct world *w = *state;
    struct rpc_call *call;
    size_t queued;

    w->lazy = true;
    call = start(w);
    assert_true(reaches(&w->messages, 3, 10000));
    for (int i = 0; i < 1000; i++)
        nap();
    assert_int_equal(__atomic_load_n(&w->messages, __ATOMIC_ACQUIRE), 3);
    assert_true(reaches(&w->started, 1, 5000));
    queued = rpc_call_queued_bytes(w->stream);
    assert_true(queued <= 6u << 20); /* bounded, though 15 MiB want to go */
    w->lazy = false;
    rpc_call_want(call);
    assert_true(reaches(&w->done, 1, 20000));
    join_sender(w);
    assert_int_equal(w->sent, ST_OK);
    assert_int_equal(w->committed, 1);
    rpc_call_unref(call);
}

static void a_link_needs_a_stream(void **state)
{
    const struct link_config config = { 0 };
    struct link *l = NULL;

    (void)state;
    assert_int_equal(transport_find("grpc")->connect(&l, &config, NULL), ST_EINTERNAL);
    assert_null(l);
}

static const struct CMUnitTest tests[] = {
    cmocka_unit_test_setup_teardown(blocks_arrive_byte_for_byte, world_open, world_close),
    cmocka_unit_test_setup_teardown(a_peer_that_goes_lets_the_sender_go, world_open, world_close),
    cmocka_unit_test_setup_teardown(a_peer_that_takes_nothing_holds_the_sender_back, world_open, world_close),
    cmocka_unit_test(a_link_needs_a_stream),
};

int main(int argc, char **argv)
{
    return cmocka_main(argc, argv, tests, ARRAY_LEN(tests), NULL, NULL);
}
