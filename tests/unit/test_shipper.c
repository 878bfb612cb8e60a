/* SPDX-License-Identifier: Apache-2.0 */
/* test_shipper.c - shipper and receiver over the loopback: the rules of transports beside the stream, and its faults. */
#include "common/transport/shipper.h"

#include "common/base/clock.h"
#include "common/kv/wire.h"
#include "common/transport/loopback.h"
#include "tests/support/cmocka_main.h"
#include "tests/unit/wire_maker.h"

#include <stdlib.h>
#include <time.h>

/* Both ends in one thread: what the shipper says, the receiver hears at once. */
struct pair {
    struct station *station;
    struct shipper *shipper;
    struct link *link;
    struct catcher catcher;
    int32_t awaited;
    bool deaf; /* the stream takes nothing: ST_AGAIN */
    bool never_ready;
    enum status heard;
};

static enum status say(void *ctx, const Platen__Internal__V1__FromPrefill *msg)
{
    struct pair *p = ctx;

    if (p->deaf)
        return ST_AGAIN;
    p->heard = catcher_take(&p->catcher, maker_message(msg));
    return p->heard < 0 ? ST_ECANCELLED : ST_OK;
}

static enum status ready(void *ctx, int32_t layer, const struct ticket *ticket)
{
    struct pair *p = CONTAINER_OF(ctx, struct pair, catcher);

    p->awaited = layer;
    if (!p->never_ready)
        shipper_ready(p->shipper, layer, ticket);
    return ST_OK;
}

static void pair_open(struct pair *p, const struct loopback_knobs *knobs)
{
    const struct transport *loopback = transport_find("loopback");
    struct shipper_config out = { .transport = loopback, .layers = MAKER_LAYERS, .say = say, .ctx = p };
    struct receiver_config in = { .shape = maker_shape, .rows_max = MAKER_ROWS, .transport = loopback };
    struct link_config link = { 0 };

    memset(p, 0, sizeof *p);
    p->awaited = -1;
    p->station = loopback_open(knobs);
    out.link.station = link.station = p->station;
    assert_int_equal(shipper_open(&p->shipper, &out, NULL), ST_OK);
    assert_int_equal(loopback->connect(&p->link, &link, NULL), ST_OK);
    catcher_open(&p->catcher);
    receiver_close(p->catcher.receiver);
    in.sink = &p->catcher.sink;
    in.link = p->link;
    in.ready = ready;
    p->catcher.receiver = receiver_open(&in);
    assert_int_equal(catcher_take(&p->catcher, maker_accepted(MAKER_LAYERS)), ST_OK);
}

static void pair_close(struct pair *p)
{
    shipper_close(p->shipper);
    transport_find("loopback")->close(p->link);
    catcher_close(&p->catcher);
    loopback_close(p->station);
}

/* One block to its end, at most `ms`. The receiver's status where that one failed. */
static enum status ship(struct pair *p, const struct kv_block *b, int64_t ms, struct err *err)
{
    const int64_t deadline = clock_in_ms(ms);
    enum status st;

    shipper_block(p->shipper, b, wire_checksum(b->data, b->bytes));
    while ((st = shipper_poll(p->shipper, err)) == ST_AGAIN && clock_now_ns() < deadline)
        ;
    if (st == ST_OK && p->awaited >= 0) {
        const struct kv_block *got = &receiver_blocks(p->catcher.receiver)[p->awaited];

        st = receiver_filled(p->catcher.receiver, p->awaited, wire_checksum(got->data, got->bytes), err);
        p->awaited = -1;
    }
    return st;
}

static void a_context_goes_through(void **state)
{
    Platen__Internal__V1__FromPrefill msg = PLATEN__INTERNAL__V1__FROM_PREFILL__INIT;
    Platen__Internal__V1__Commit commit = PLATEN__INTERNAL__V1__COMMIT__INIT;
    struct kv_block blocks[MAKER_LAYERS];
    struct pair p;

    (void)state;
    pair_open(&p, NULL);
    for (int32_t l = 0; l < MAKER_LAYERS; l++) {
        blocks[l] = maker_block(l, 50, 60 * (uint32_t)l);
        assert_int_equal(ship(&p, &blocks[l], 1000, NULL), ST_OK);
        assert_true(catcher_has(&p.catcher, &blocks[l]));
        assert_int_equal(shipper_layers(p.shipper), l + 1);
    }
    shipper_totals(p.shipper, &commit);
    msg.kind_case = PLATEN__INTERNAL__V1__FROM_PREFILL__KIND_COMMIT;
    msg.commit = &commit;
    assert_int_equal(say(&p, &msg), ST_OK);
    assert_int_equal(p.catcher.committed, 1);
    pair_close(&p);
    for (int32_t l = 0; l < MAKER_LAYERS; l++)
        free(blocks[l].data);
}

static void a_full_stream_is_tried_again(void **state)
{
    struct kv_block b = maker_block(0, 5, 5);
    struct pair p;

    (void)state;
    pair_open(&p, NULL);
    p.deaf = true;
    shipper_block(p.shipper, &b, wire_checksum(b.data, b.bytes));
    assert_int_equal(shipper_poll(p.shipper, NULL), ST_AGAIN);
    assert_int_equal(p.catcher.placed, 0);
    p.deaf = false;
    assert_int_equal(shipper_poll(p.shipper, NULL), ST_OK);
    assert_int_equal(p.catcher.placed, 1);
    pair_close(&p);
    free(b.data);
}

static void nothing_is_sent_before_the_peer_is_ready(void **state)
{
    struct kv_block b = maker_block(0, 5, 5);
    struct pair p;

    (void)state;
    pair_open(&p, NULL);
    p.never_ready = true;
    assert_int_equal(ship(&p, &b, 20, NULL), ST_AGAIN);
    assert_int_equal(((uint8_t *)p.catcher.place[0])[0], 0xee);
    shipper_ready(p.shipper, 3, NULL); /* of another layer */
    assert_int_equal(shipper_poll(p.shipper, NULL), ST_AGAIN);
    shipper_ready(p.shipper, 0, NULL);
    assert_int_equal(shipper_poll(p.shipper, NULL), ST_OK);
    assert_true(catcher_has(&p.catcher, &b));
    pair_close(&p);
    free(b.data);
}

static void a_slow_wire_is_waited_for(void **state)
{
    const struct loopback_knobs knobs = { .latency_ns = 20 * NS_PER_MS };
    struct kv_block b = maker_block(0, 5, 5);
    const int64_t begin = clock_now_ns();
    struct pair p;

    (void)state;
    pair_open(&p, &knobs);
    assert_int_equal(ship(&p, &b, 5000, NULL), ST_OK);
    assert_true(clock_now_ns() - begin >= 20 * NS_PER_MS);
    pair_close(&p);
    free(b.data);
}

static void a_silent_wire_never_ends_a_send(void **state)
{
    const struct loopback_knobs knobs = { .silent = true };
    struct kv_block b = maker_block(0, 5, 5);
    struct pair p;

    (void)state;
    pair_open(&p, &knobs);
    assert_int_equal(ship(&p, &b, 30, NULL), ST_AGAIN);
    assert_int_equal(shipper_bytes(p.shipper), 0);
    pair_close(&p); /* in the middle of a block */
    free(b.data);
}

static void a_false_wire_is_found_out(void **state)
{
    struct kv_block b = maker_block(0, 40, 40), c = maker_block(1, 40, 40);
    const struct loopback_knobs knobs = { .damage_at = b.bytes + 100 };
    struct err err = { 0 };
    struct pair p;

    (void)state;
    pair_open(&p, &knobs);
    assert_int_equal(ship(&p, &b, 1000, &err), ST_OK);
    assert_int_equal(ship(&p, &c, 1000, &err), ST_EDATALOSS);
    assert_non_null(strstr(err.text, "layer 1 arrived damaged"));
    assert_int_equal(p.catcher.arrived, 1);
    pair_close(&p);
    free(b.data);
    free(c.data);
}

static void a_wire_that_dies_is_told_by_both_ends(void **state)
{
    struct kv_block b = maker_block(0, 40, 40), c = maker_block(1, 40, 40);
    const struct loopback_knobs knobs = { .die_at = b.bytes + 100 };
    struct err err = { 0 };
    struct pair p;

    (void)state;
    pair_open(&p, &knobs);
    assert_int_equal(ship(&p, &b, 1000, &err), ST_OK);
    assert_int_equal(ship(&p, &c, 1000, &err), ST_EUNAVAILABLE);
    assert_non_null(strstr(err.text, "layer 1"));
    assert_int_equal(transport_find("loopback")->poll(p.link, NULL), ST_EUNAVAILABLE);
    pair_close(&p);
    free(b.data);
    free(c.data);
}

static const struct CMUnitTest tests[] = {
    cmocka_unit_test(a_context_goes_through),
    cmocka_unit_test(a_full_stream_is_tried_again),
    cmocka_unit_test(nothing_is_sent_before_the_peer_is_ready),
    cmocka_unit_test(a_slow_wire_is_waited_for),
    cmocka_unit_test(a_silent_wire_never_ends_a_send),
    cmocka_unit_test(a_false_wire_is_found_out),
    cmocka_unit_test(a_wire_that_dies_is_told_by_both_ends),
};

int main(int argc, char **argv)
{
    return cmocka_main(argc, argv, tests, ARRAY_LEN(tests), NULL, NULL);
}
