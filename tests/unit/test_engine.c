/* SPDX-License-Identifier: Apache-2.0 */
/*
 * test_engine.c - scheduler, engine and mover together on a small model, with peers that behave and peers that do not.
 * The wire is the loopback; after every test nothing is queued, running or held.
 */
#include "common/base/arena.h"
#include "common/base/clock.h"
#include "common/kv/wire.h"
#include "common/transport/loopback.h"
#include "common/transport/receiver.h"
#include "proto/platen/internal/v1/prefill.pb-c.h"
#include "prefill-node/job.h"
#include "tests/support/cmocka_main.h"
#include "tests/unit/small_prefill.h"

#include <stdlib.h>
#include <time.h>

static struct prefill_node node;

/* A decode node in this process; its functions run on the mover thread. */
struct peer {
    struct job *job; /* counted */
    struct station *station;
    struct link *link;
    struct receiver *receiver;
    struct receiver_sink sink;
    void *place[SMALL_LAYERS];
    int32_t awaited;
    bool dumb;   /* never says Ready */
    bool mute;   /* never says Adopted */
    bool gone;   /* relaxed */
    int beats;   /* relaxed */
    int arrived; /* relaxed */
    Platen__Internal__V1__Commit commit;
    struct err damage, why;
    int ended, freed; /* release */
};

static enum status on_place(void *ctx, const struct kv_block *plan, void **place, struct err *err)
{
    struct peer *p = ctx;

    (void)err;
    p->awaited = plan->layer;
    *place = p->place[plan->layer] = mem_aligned(plan->bytes + 64);
    return ST_OK;
}

static enum status on_ready(void *ctx, int32_t layer, const struct ticket *ticket)
{
    (void)ticket;
    struct peer *p = ctx;

    if (!p->dumb)
        __atomic_store_n(&p->job->ready, layer + 1, __ATOMIC_RELAXED);
    mover_wake(node.mover);
    return ST_OK;
}

static void on_arrived(void *ctx, const struct kv_block *block)
{
    struct peer *p = ctx;

    (void)block;
    __atomic_add_fetch(&p->arrived, 1, __ATOMIC_RELAXED);
}

static void on_beat(void *ctx, const Platen__Internal__V1__Beat *msg)
{
    struct peer *p = ctx;

    (void)msg;
    __atomic_add_fetch(&p->beats, 1, __ATOMIC_RELAXED);
}

static void on_committed(void *ctx, const Platen__Internal__V1__Commit *msg)
{
    struct peer *p = ctx;

    p->commit = *msg;
    if (!p->mute)
        __atomic_store_n(&p->job->adopted, true, __ATOMIC_RELAXED);
    mover_wake(node.mover);
}

static void on_wake(void *ctx)
{
    struct peer *p = ctx;
    const int32_t layer = p->awaited;
    const struct kv_block *b;

    if (layer < 0 || transport_find("loopback")->poll(p->link, &p->damage) != ST_OK)
        return;
    p->awaited = -1;
    b = &receiver_blocks(p->receiver)[layer];
    receiver_filled(p->receiver, layer, wire_checksum(b->data, b->bytes), &p->damage);
}

static enum status hear(struct peer *p, const Platen__Internal__V1__FromPrefill *msg)
{
    const size_t bytes = protobuf_c_message_get_packed_size(&msg->base);
    uint8_t *packed = mem_alloc(bytes + 1);
    enum status st;

    protobuf_c_message_pack(&msg->base, packed);
    st = receiver_message(p->receiver, rpc_buffer_copy(packed, bytes), &p->damage);
    free(packed);
    return st < 0 ? ST_ECANCELLED : ST_OK;
}

static enum status peer_say(void *ctx, const Platen__Internal__V1__FromPrefill *msg)
{
    return hear(ctx, msg);
}

static bool peer_gone(void *ctx)
{
    return __atomic_load_n(&((struct peer *)ctx)->gone, __ATOMIC_RELAXED);
}

static void peer_end(void *ctx, const struct err *why)
{
    struct peer *p = ctx;

    p->why = *why;
    __atomic_add_fetch(&p->ended, 1, __ATOMIC_RELEASE);
}

static void peer_free(void *ctx)
{
    __atomic_add_fetch(&((struct peer *)ctx)->freed, 1, __ATOMIC_RELEASE);
}

static const struct job_peer test_peer = { peer_say, peer_gone, peer_end, peer_free };

static void accept_it(struct peer *p)
{
    Platen__Internal__V1__FromPrefill msg = PLATEN__INTERNAL__V1__FROM_PREFILL__INIT;
    Platen__Internal__V1__Accepted accepted = PLATEN__INTERNAL__V1__ACCEPTED__INIT;

    accepted.layers = SMALL_LAYERS;
    msg.kind_case = PLATEN__INTERNAL__V1__FROM_PREFILL__KIND_ACCEPTED;
    msg.accepted = &accepted;
    assert_int_equal(hear(p, &msg), ST_OK);
}

static void peer_open(struct peer *p, int64_t tokens, const char *press, const struct loopback_knobs *knobs)
{
    const struct transport *loopback = transport_find("loopback");
    struct receiver_config in = {
        .shape = node.parts.shape, .rows_max = tokens, .transport = loopback, .ready = on_ready
    };
    struct link_config link = { .wake = on_wake, .ctx = p };
    struct job *j;

    memset(p, 0, sizeof *p);
    p->awaited = -1;
    p->station = link.station = loopback_open(knobs);
    assert_int_equal(loopback->connect(&p->link, &link, NULL), ST_OK);
    p->sink = (struct receiver_sink){
        .ctx = p, .place = on_place, .beat = on_beat, .arrived = on_arrived, .committed = on_committed
    };
    in.sink = &p->sink;
    in.link = p->link;
    p->receiver = receiver_open(&in);
    p->job = j = job_open(&test_peer, p);
    j->transport = loopback;
    j->link.station = p->station;
    j->layers = j->turn.layers = SMALL_LAYERS;
    j->tokens = j->turn.tokens = tokens;
    j->token = mem_alloc((size_t)tokens * sizeof *j->token);
    for (int64_t i = 0; i < tokens; i++)
        j->token[i] = small_token(i);
    assert_int_equal(chain_parse(&j->chain, press, strlen(press), node.parts.files, NULL), ST_OK);
    chain_needs_of(j->chain, 0, false, &j->needs);
    accept_it(p);
}

static void peer_start(struct peer *p)
{
    int64_t ahead, retry_ms;

    job_ref(p->job);
    assert_int_equal(scheduler_reserve(node.scheduler, p->job->tokens, &ahead, &retry_ms, NULL), ST_OK);
    scheduler_put(node.scheduler, &p->job->turn);
    mover_take(node.mover, p->job);
}

static void peer_close(struct peer *p)
{
    assert_true(small_reaches(&p->freed, 1, 5000));
    assert_int_equal(p->ended, 1);
    assert_true(small_prefill_quiet(&node, 2000));
    receiver_close(p->receiver);
    transport_find("loopback")->close(p->link);
    loopback_close(p->station);
    for (int l = 0; l < SMALL_LAYERS; l++)
        free(p->place[l]);
    job_unref(p->job);
}

/* An order to its end; rows of layer 0, head 0 in *rows (may be NULL). */
static void runs_well(int64_t tokens, const char *press, struct peer *p)
{
    peer_open(p, tokens, press, NULL);
    peer_start(p);
    assert_true(small_reaches(&p->ended, 1, 20000));
    assert_string_equal(p->why.text, "");
    assert_int_equal(p->why.code, ST_OK);
    assert_int_equal(p->arrived, SMALL_LAYERS);
}

static void an_order_is_computed_pressed_and_shipped(void **state)
{
    struct peer p;

    (void)state;
    runs_well(300, "knorm | ratio=0.5", &p);
    for (int l = 0; l < SMALL_LAYERS; l++)
        assert_int_equal(receiver_blocks(p.receiver)[l].first[1], 150);
    assert_int_equal(p.commit.next_position, 300);
    assert_int_equal(p.commit.rows, 2 * 150 * SMALL_LAYERS);
    peer_close(&p);
}

static void the_same_context_gives_the_same_bytes(void **state)
{
    struct peer a, b;

    (void)state;
    runs_well(700, "snapkv:window=64 | adakv:alpha=0.2 | ratio=0.5", &a);
    runs_well(700, "snapkv:window=64 | adakv:alpha=0.2 | ratio=0.5", &b);
    assert_true(a.commit.checksum == b.commit.checksum);
    assert_int_equal(kv_block_rows(&receiver_blocks(a.receiver)[2]), 700);
    peer_close(&a);
    peer_close(&b);
}

static void one_token_is_a_context(void **state)
{
    struct peer p;

    (void)state;
    runs_well(1, "", &p);
    assert_int_equal(p.commit.rows, 2 * SMALL_LAYERS);
    peer_close(&p);
}

static void many_orders_share_the_engine(void **state)
{
    struct peer p[12];

    (void)state;
    for (int i = 0; i < 12; i++)
        peer_open(&p[i], 20 + 170 * (i % 5), "knorm | ratio=0.25", NULL);
    for (int i = 0; i < 12; i++)
        peer_start(&p[i]);
    for (int i = 0; i < 12; i++) {
        assert_true(small_reaches(&p[i].ended, 1, 30000));
        assert_int_equal(p[i].why.code, ST_OK);
        assert_true(p[i].commit.checksum == p[i % 5].commit.checksum); /* whoever ran in between */
    }
    for (int i = 0; i < 12; i++)
        peer_close(&p[i]);
}

static void a_peer_that_goes_while_it_waits_is_forgotten(void **state)
{
    struct peer busy, p;

    (void)state;
    peer_open(&busy, 4000, "", NULL);
    peer_start(&busy);
    peer_open(&p, 4000, "", NULL);
    peer_start(&p);
    __atomic_store_n(&p.gone, true, __ATOMIC_RELAXED);
    mover_wake(node.mover);
    assert_true(small_reaches(&p.ended, 1, 5000));
    assert_int_equal(p.why.code, ST_ECANCELLED);
    assert_non_null(strstr(p.why.text, "queue"));
    __atomic_store_n(&busy.gone, true, __ATOMIC_RELAXED);
    mover_wake(node.mover);
    assert_true(small_reaches(&busy.ended, 1, 60000));
    assert_true(p.job->times.begun == 0 && busy.job->packed < SMALL_LAYERS);
    peer_close(&p);
    peer_close(&busy);
}

static void a_peer_that_goes_in_the_middle_stops_the_work(void **state)
{
    struct peer p;

    (void)state;
    peer_open(&p, 3000, "knorm | ratio=0.5", NULL);
    peer_start(&p);
    assert_true(small_reaches(&p.arrived, 1, 20000));
    __atomic_store_n(&p.gone, true, __ATOMIC_RELAXED);
    mover_wake(node.mover);
    assert_true(small_reaches(&p.ended, 1, 60000));
    assert_int_equal(p.why.code, ST_ECANCELLED);
    assert_true(p.arrived < SMALL_LAYERS);
    peer_close(&p);
}

static void a_peer_that_takes_nothing_holds_up_only_itself(void **state)
{
    struct peer dumb, p;

    (void)state;
    peer_open(&dumb, 100, "", NULL);
    dumb.dumb = true;
    peer_start(&dumb);
    runs_well(500, "knorm | ratio=0.5", &p);
    assert_int_equal(dumb.ended, 0);
    assert_int_equal(dumb.job->packed, 2); /* both slots are full, and no more was computed */
    __atomic_store_n(&dumb.gone, true, __ATOMIC_RELAXED);
    mover_wake(node.mover);
    assert_true(small_reaches(&dumb.ended, 1, 2000));
    peer_close(&dumb);
    peer_close(&p);
}

static void a_wire_that_breaks_names_the_stage(void **state)
{
    const struct loopback_knobs knobs = { .die_at = 100000 };
    struct peer p;

    (void)state;
    peer_open(&p, 400, "", &knobs);
    peer_start(&p);
    assert_true(small_reaches(&p.ended, 1, 10000));
    assert_int_equal(p.why.code, ST_EUNAVAILABLE);
    assert_non_null(strstr(p.why.text, "ship: "));
    peer_close(&p);
}

static void a_slow_wire_is_overlapped_and_counted_as_stall(void **state)
{
    const struct loopback_knobs knobs = { .latency_ns = 30 * NS_PER_MS };
    struct peer p;

    (void)state;
    peer_open(&p, 50, "", &knobs);
    peer_start(&p);
    assert_true(small_reaches(&p.ended, 1, 20000));
    assert_int_equal(p.why.code, ST_OK);
    assert_true(p.commit.stall_ms > 30);
    assert_true(p.commit.ship_ms > 30 * SMALL_LAYERS);
    peer_close(&p);
}

static void beats_come_while_nothing_else_does(void **state)
{
    struct peer p;

    (void)state;
    peer_open(&p, 20, "", NULL);
    p.mute = true;
    peer_start(&p);
    assert_true(small_reaches(&p.beats, 2, 5000));
    __atomic_store_n(&p.job->adopted, true, __ATOMIC_RELAXED);
    mover_wake(node.mover);
    assert_true(small_reaches(&p.ended, 1, 2000));
    assert_int_equal(p.why.code, ST_OK);
    peer_close(&p);
}

static void three_hundred_cancels_leave_nothing(void **state)
{
    (void)state;
    for (int i = 0; i < 300; i++) {
        const struct timespec nap = { 0, (i * 37 % 300) * 10000 };
        struct peer p;

        peer_open(&p, 1 + i * 7 % 200, i % 2 ? "knorm | ratio=0.5" : "", NULL);
        peer_start(&p);
        nanosleep(&nap, NULL);
        __atomic_store_n(&p.gone, true, __ATOMIC_RELAXED);
        mover_wake(node.mover);
        assert_true(small_reaches(&p.ended, 1, 5000));
        peer_close(&p);
    }
}

static int open_node(void **state)
{
    (void)state;
    small_prefill_open(&node, 0, 100000);
    return 0;
}

static int close_node(void **state)
{
    (void)state;
    small_prefill_close(&node);
    return 0;
}

static int open_windowed(void **state)
{
    (void)state;
    small_prefill_open(&node, 50, 100000);
    return 0;
}

static void windowed_layers_send_their_window_unpressed(void **state)
{
    static const int32_t want[SMALL_LAYERS] = { 100, 50, 100, 50, 100, 100 };
    struct peer a, b;

    (void)state;
    runs_well(200, "knorm | ratio=0.5", &a);
    for (int l = 0; l < SMALL_LAYERS; l++)
        assert_int_equal(receiver_blocks(a.receiver)[l].first[1], want[l]);
    runs_well(200, "", &b);
    for (int g = 0; g < 2; g++) { /* layer 1's block: the keys of the last 50 tokens, whatever the press of layer 0 */
        const struct kv_block *x = &receiver_blocks(a.receiver)[1], *y = &receiver_blocks(b.receiver)[1];

        assert_memory_equal((float *)x->data + x->first[g] * 16, (float *)y->data + y->first[g] * 16, 50 * 64);
    }
    peer_close(&a);
    runs_well(30, "", &a); /* shorter than the window */
    assert_int_equal(receiver_blocks(a.receiver)[1].first[1], 30);
    peer_close(&a);
    peer_close(&b);
}

static const struct CMUnitTest tests[] = {
    cmocka_unit_test_setup_teardown(an_order_is_computed_pressed_and_shipped, open_node, close_node),
    cmocka_unit_test_setup_teardown(the_same_context_gives_the_same_bytes, open_node, close_node),
    cmocka_unit_test_setup_teardown(one_token_is_a_context, open_node, close_node),
    cmocka_unit_test_setup_teardown(many_orders_share_the_engine, open_node, close_node),
    cmocka_unit_test_setup_teardown(a_peer_that_goes_while_it_waits_is_forgotten, open_node, close_node),
    cmocka_unit_test_setup_teardown(a_peer_that_goes_in_the_middle_stops_the_work, open_node, close_node),
    cmocka_unit_test_setup_teardown(a_peer_that_takes_nothing_holds_up_only_itself, open_node, close_node),
    cmocka_unit_test_setup_teardown(a_wire_that_breaks_names_the_stage, open_node, close_node),
    cmocka_unit_test_setup_teardown(a_slow_wire_is_overlapped_and_counted_as_stall, open_node, close_node),
    cmocka_unit_test_setup_teardown(beats_come_while_nothing_else_does, open_node, close_node),
    cmocka_unit_test_setup_teardown(three_hundred_cancels_leave_nothing, open_node, close_node),
    cmocka_unit_test_setup_teardown(windowed_layers_send_their_window_unpressed, open_windowed, close_node),
};

int main(int argc, char **argv)
{
    return cmocka_main(argc, argv, tests, ARRAY_LEN(tests), NULL, NULL);
}
