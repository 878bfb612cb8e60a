/* SPDX-License-Identifier: Apache-2.0 */
/* test_nccl.c - the NCCL transport against a fake NCCL: what it promises when all is well, and when nothing is. */
#include "common/transport/nccl.h"

#include "common/base/arena.h"
#include "common/base/clock.h"
#include "common/transport/stations.h"
#include "tests/support/cmocka_main.h"
#include "tests/unit/fake_nccl.h"

#include <stdio.h>
#include <stdlib.h>
#include <time.h>

enum { BYTES = 64 << 10, PLACES = 8, ROUNDS = 60 };

static const struct nccl_times quick = {
    .make_ms = 400, .post_ms = 200, .grace_ms = 40, .abort_ms = 120, .doubt_ms = 150, .idle_ms = 600000
};

/* A prefill station on device 0 and a decode station on device 1. */
struct site {
    const struct transport *nccl;
    struct station *prefill, *decode;
    uint8_t *from[PLACES], *into[PLACES];
    int32_t wakes; /* atomic */
};

/* One order's two ends. */
struct ends {
    struct link *sender, *receiver;
    struct kv_block from, into;
    struct ticket ticket;
};

static struct station *station(struct site *s, int32_t device)
{
    const struct station_config config = { .device = device, .cuda = &fake_cuda, .nccl = &fake_nccl };
    struct station *out = NULL;

    assert_int_equal(s->nccl->open(&out, &config, NULL), ST_OK);
    nccl_set_times(out, &quick);
    return out;
}

static void site_open(struct site *s)
{
    memset(s, 0, sizeof *s);
    fake_reset();
    s->nccl = transport_find("nccl");
    s->prefill = station(s, 0);
    s->decode = station(s, 1);
    for (int i = 0; i < PLACES; i++) {
        s->from[i] = mem_alloc(BYTES);
        s->into[i] = mem_zero(1, BYTES);
        for (int at = 0; at < BYTES; at++)
            s->from[i][at] = (uint8_t)(at * 7 + i * 13 + (at >> 8));
    }
}

static void site_close(struct site *s)
{
    fake_release();
    s->nccl->shut(s->decode);
    s->nccl->shut(s->prefill);
    assert_int_equal(fake_comms(), 0);
    assert_int_equal(fake_streams(), 0);
    for (int i = 0; i < PLACES; i++) {
        free(s->from[i]);
        free(s->into[i]);
    }
    fake_reset();
}

static void on_wake(void *ctx)
{
    __atomic_fetch_add(&((struct site *)ctx)->wakes, 1, __ATOMIC_RELAXED);
}

/* Order, Accepted. */
static enum status meet(struct site *s, struct ends *e, int place, struct err *err)
{
    struct link_config config = { .station = s->prefill, .sends = true, .wake = on_wake, .ctx = s };
    struct text hello = { 0 }, answer = { 0 };
    enum status st;

    memset(e, 0, sizeof *e);
    e->from = (struct kv_block){ .layer = place, .data = s->from[place], .bytes = BYTES };
    e->into = (struct kv_block){ .layer = place, .data = s->into[place], .bytes = BYTES };
    assert_int_equal(s->nccl->hello(s->decode, &hello, NULL), ST_OK);
    config.hello = text_str(&hello);
    config.hello_bytes = hello.bytes;
    st = s->nccl->connect(&e->sender, &config, err);
    if (st == ST_OK) {
        assert_int_equal(s->nccl->answer(e->sender, &answer, NULL), ST_OK);
        config.station = s->decode;
        config.sends = false;
        config.hello = text_str(&answer);
        config.hello_bytes = answer.bytes;
        st = s->nccl->connect(&e->receiver, &config, err);
    }
    text_fini(&hello);
    text_fini(&answer);
    return st;
}

static void part(struct site *s, struct ends *e)
{
    s->nccl->close(e->sender);
    s->nccl->close(e->receiver);
}

static void post(struct site *s, struct ends *e)
{
    e->ticket.bytes = 0;
    assert_int_equal(s->nccl->recv(e->receiver, &e->into, &e->ticket, NULL), ST_OK);
}

static void send(struct site *s, struct ends *e)
{
    assert_int_equal(s->nccl->send(e->sender, &e->from, &e->ticket, NULL), ST_OK);
}

static enum status until(struct site *s, struct link *l, int64_t ms, struct err *err)
{
    const int64_t deadline = clock_in_ms(ms);
    enum status st;

    while ((st = s->nccl->poll(l, err)) == ST_AGAIN && clock_now_ns() < deadline)
        nanosleep(&(struct timespec){ 0, 100000 }, NULL);
    return st;
}

static void move(struct site *s, struct ends *e)
{
    post(s, e);
    send(s, e);
    assert_int_equal(until(s, e->receiver, 5000, NULL), ST_OK);
    assert_int_equal(until(s, e->sender, 5000, NULL), ST_OK);
    assert_memory_equal(e->into.data, e->from.data, BYTES);
}

static void set(int32_t *knob, int32_t to)
{
    __atomic_store_n(knob, to, __ATOMIC_RELAXED);
}

/* ---- when all is well ------------------------------------------------------------------------------------------- */

static void a_block_arrives_in_its_place(void **state)
{
    struct site s;
    struct ends e;

    (void)state;
    site_open(&s);
    set(&fake_knobs.latency_us, 2000);
    set(&fake_knobs.make_us, 5000);
    assert_int_equal(meet(&s, &e, 0, NULL), ST_OK);
    move(&s, &e);
    assert_true(__atomic_load_n(&s.wakes, __ATOMIC_RELAXED) >= 2);
    part(&s, &e);
    site_close(&s);
}

static void one_communicator_serves_all_orders(void **state)
{
    struct site s;
    struct ends e;

    (void)state;
    site_open(&s);
    for (int i = 0; i < PLACES; i++) {
        assert_int_equal(meet(&s, &e, i, NULL), ST_OK);
        move(&s, &e);
        part(&s, &e);
    }
    assert_int_equal(fake_opened(), 2);
    assert_int_equal(nccl_pairs(s.prefill), 1);
    site_close(&s);
}

static void sends_go_out_in_the_order_of_receives(void **state)
{
    struct ends e[PLACES];
    struct site s;

    (void)state;
    site_open(&s);
    for (int i = 0; i < PLACES; i++) {
        assert_int_equal(meet(&s, &e[i], i, NULL), ST_OK);
        post(&s, &e[i]);
    }
    for (int i = PLACES - 1; i > 0; i--)
        send(&s, &e[i]);
    assert_int_equal(until(&s, e[1].sender, 30, NULL), ST_AGAIN); /* the first has not come yet */
    send(&s, &e[0]);
    for (int i = 0; i < PLACES; i++) {
        assert_int_equal(until(&s, e[i].receiver, 5000, NULL), ST_OK);
        assert_int_equal(until(&s, e[i].sender, 5000, NULL), ST_OK);
        assert_memory_equal(s.into[i], s.from[i], BYTES);
        part(&s, &e[i]);
    }
    site_close(&s);
}

static void two_processes_on_one_device_are_refused(void **state)
{
    struct err why = { 0 };
    struct text hello = { 0 };
    struct station *other;
    struct site s;

    (void)state;
    site_open(&s);
    other = station(&s, 0);
    s.nccl->hello(other, &hello, NULL);
    assert_int_equal(s.nccl->meets(s.prefill, text_str(&hello), hello.bytes, &why), ST_EPRECONDITION);
    assert_non_null(strstr(why.text, "one device"));
    text_clear(&hello);
    s.nccl->hello(s.decode, &hello, NULL);
    assert_int_equal(s.nccl->meets(s.prefill, text_str(&hello), hello.bytes, NULL), ST_OK);
    assert_int_equal(s.nccl->meets(s.prefill, "short", 5, NULL), ST_EPRECONDITION);
    text_fini(&hello);
    s.nccl->shut(other);
    site_close(&s);
}

static void the_pair_that_was_idle_longest_makes_room(void **state)
{
    struct station *decodes[NCCL_PAIRS_MAX + 3], *first;
    struct ends e;
    struct site s;

    (void)state;
    site_open(&s);
    first = s.decode;
    for (int i = 0; i < NCCL_PAIRS_MAX + 3; i++) {
        s.decode = decodes[i] = station(&s, 1 + i % 7);
        assert_int_equal(meet(&s, &e, i % PLACES, NULL), ST_OK);
        move(&s, &e);
        part(&s, &e);
        assert_true(nccl_pairs(s.prefill) <= NCCL_PAIRS_MAX);
    }
    s.decode = decodes[0]; /* its pair went first; it still has its own end, and gets a new one */
    assert_int_equal(meet(&s, &e, 0, NULL), ST_OK);
    move(&s, &e);
    part(&s, &e);
    for (int i = 0; i < NCCL_PAIRS_MAX + 3; i++)
        s.nccl->shut(decodes[i]);
    s.decode = first;
    site_close(&s);
}

static void a_pair_too_many_is_refused_while_all_are_in_use(void **state)
{
    struct station *decodes[NCCL_PAIRS_MAX + 1], *first;
    struct ends e[NCCL_PAIRS_MAX + 1];
    struct text hello = { 0 };
    struct err err = { 0 };
    struct site s;

    (void)state;
    site_open(&s);
    first = s.decode;
    for (int i = 0; i < NCCL_PAIRS_MAX; i++) {
        s.decode = decodes[i] = station(&s, 1);
        assert_int_equal(meet(&s, &e[i], i % PLACES, NULL), ST_OK);
    }
    s.decode = decodes[NCCL_PAIRS_MAX] = station(&s, 1);
    s.nccl->hello(s.decode, &hello, NULL);
    assert_int_equal(s.nccl->meets(s.prefill, text_str(&hello), hello.bytes, NULL), ST_EPRECONDITION);
    text_fini(&hello);
    assert_int_equal(meet(&s, &e[NCCL_PAIRS_MAX], 0, &err), ST_EEXHAUSTED);
    assert_non_null(strstr(err.text, "in use"));
    for (int i = 0; i < NCCL_PAIRS_MAX; i++)
        part(&s, &e[i]);
    for (int i = 0; i <= NCCL_PAIRS_MAX; i++)
        s.nccl->shut(decodes[i]);
    s.decode = first;
    site_close(&s);
}

/* ---- when it is not ---------------------------------------------------------------------------------------------- */

/* After a loss: the next order meets anew and its block arrives. */
static void works_again(struct site *s)
{
    struct ends e;

    fake_release();
    memset(&fake_knobs, 0, sizeof fake_knobs);
    assert_int_equal(meet(s, &e, 7, NULL), ST_OK);
    move(s, &e);
    part(s, &e);
}

static void a_silent_peer_is_given_up(void **state)
{
    const int64_t begin = clock_now_ns();
    struct err err = { 0 };
    struct site s;
    struct ends e;

    (void)state;
    site_open(&s);
    set(&fake_knobs.silent, 1);
    assert_int_equal(meet(&s, &e, 0, NULL), ST_OK);
    post(&s, &e);
    send(&s, &e);
    assert_int_equal(until(&s, e.receiver, 5000, &err), ST_EUNAVAILABLE);
    assert_non_null(strstr(err.text, "silent"));
    assert_int_equal(until(&s, e.sender, 5000, NULL), ST_EUNAVAILABLE);
    assert_true(clock_now_ns() - begin < 2 * NS_PER_S);
    part(&s, &e);
    works_again(&s);
    assert_int_equal(fake_opened(), 4);
    site_close(&s);
}

static void an_error_of_the_communicator_is_told(void **state)
{
    struct err err = { 0 };
    struct site s;
    struct ends e;

    (void)state;
    site_open(&s);
    assert_int_equal(meet(&s, &e, 0, NULL), ST_OK);
    move(&s, &e);
    set(&fake_knobs.silent, 1);
    set(&fake_knobs.error, 6);
    post(&s, &e);
    assert_int_equal(until(&s, e.receiver, 5000, &err), ST_EUNAVAILABLE);
    assert_non_null(strstr(err.text, "remote process exited"));
    part(&s, &e);
    works_again(&s);
    site_close(&s);
}

static void a_communicator_that_does_not_come_up_is_given_up(void **state)
{
    struct err err = { 0 };
    struct site s;
    struct ends e;

    (void)state;
    site_open(&s);
    set(&fake_knobs.make_us, 1000000000);
    assert_int_equal(meet(&s, &e, 0, NULL), ST_OK);
    post(&s, &e);
    assert_int_equal(until(&s, e.receiver, 5000, &err), ST_EUNAVAILABLE);
    assert_non_null(strstr(err.text, "communicator: not done in time"));
    part(&s, &e);
    works_again(&s);
    site_close(&s);
}

static void a_communicator_that_is_refused_is_told(void **state)
{
    struct err err = { 0 };
    struct site s;
    struct ends e;

    (void)state;
    site_open(&s);
    set(&fake_knobs.refuse, 5);
    assert_int_equal(meet(&s, &e, 0, NULL), ST_OK);
    post(&s, &e);
    assert_int_equal(until(&s, e.receiver, 5000, &err), ST_EUNAVAILABLE);
    assert_non_null(strstr(err.text, "some error"));
    part(&s, &e);
    works_again(&s);
    site_close(&s);
}

/* The prefill node is gone: nobody will send. */
static void a_place_is_free_again_when_its_order_ends(void **state)
{
    const int64_t begin = clock_now_ns();
    struct site s;
    struct ends e;

    (void)state;
    site_open(&s);
    assert_int_equal(meet(&s, &e, 0, NULL), ST_OK);
    move(&s, &e);
    post(&s, &e);
    assert_int_equal(until(&s, e.receiver, 10, NULL), ST_AGAIN);
    assert_int_equal(s.nccl->close(e.receiver), ST_OK);
    assert_true(clock_now_ns() - begin < NS_PER_S);
    s.nccl->close(e.sender);
    works_again(&s);
    site_close(&s);
}

/* An order that ends between Ready and the send: the sender pays, and the communicator lives. */
static void a_place_that_was_promised_is_filled(void **state)
{
    struct site s;
    struct ends e;

    (void)state;
    site_open(&s);
    assert_int_equal(meet(&s, &e, 0, NULL), ST_OK);
    post(&s, &e);
    send(&s, &e); /* what shipper_close does */
    assert_int_equal(s.nccl->close(e.sender), ST_OK);
    assert_int_equal(s.nccl->close(e.receiver), ST_OK);
    works_again(&s);
    assert_int_equal(fake_opened(), 2);
    site_close(&s);
}

/* The order's stream broke at both ends. */
static void break_off(struct site *s, struct ends *e)
{
    s->nccl->doubt(e->sender);
    s->nccl->doubt(e->receiver);
    part(s, e);
}

static bool all_given_back(int64_t ms)
{
    const int64_t deadline = clock_in_ms(ms);

    while (fake_comms() > 0 && clock_now_ns() < deadline)
        nanosleep(&(struct timespec){ 0, NS_PER_MS }, NULL);
    return fake_comms() == 0;
}

static void a_peer_that_may_be_gone_leaves_nothing(void **state)
{
    struct site s;
    struct ends e;

    (void)state;
    site_open(&s);
    assert_int_equal(meet(&s, &e, 0, NULL), ST_OK);
    move(&s, &e); /* nothing is under way: no transfer would ever tell */
    break_off(&s, &e);
    assert_int_equal(fake_comms(), 2);
    assert_true(all_given_back(5000));
    assert_int_equal(meet(&s, &e, 1, NULL), ST_OK); /* and the next one meets as if nothing had been */
    move(&s, &e);
    part(&s, &e);
    site_close(&s);
}

static void a_peer_that_left_without_a_word_is_forgotten_in_time(void **state)
{
    struct nccl_times times = quick;
    struct site s;
    struct ends e;

    (void)state;
    site_open(&s);
    times.idle_ms = 100;
    nccl_set_times(s.prefill, &times);
    nccl_set_times(s.decode, &times);
    assert_int_equal(meet(&s, &e, 0, NULL), ST_OK);
    move(&s, &e);
    part(&s, &e);
    assert_true(all_given_back(5000));
    site_close(&s);
}

static void a_peer_that_is_gone_while_they_meet_leaves_nothing(void **state)
{
    struct site s;
    struct ends e;

    (void)state;
    site_open(&s);
    set(&fake_knobs.make_us, 10000000);
    assert_int_equal(meet(&s, &e, 0, NULL), ST_OK);
    break_off(&s, &e);
    assert_true(all_given_back(5000));
    site_close(&s);
}

static void a_peer_that_comes_again_is_trusted(void **state)
{
    struct site s;
    struct ends e;

    (void)state;
    site_open(&s);
    assert_int_equal(meet(&s, &e, 0, NULL), ST_OK);
    move(&s, &e);
    break_off(&s, &e); /* it was only cancelled */
    assert_int_equal(meet(&s, &e, 1, NULL), ST_OK);
    nanosleep(&(struct timespec){ 0, 2 * quick.doubt_ms * NS_PER_MS }, NULL);
    move(&s, &e);
    assert_int_equal(fake_opened(), 2);
    part(&s, &e);
    nanosleep(&(struct timespec){ 0, 2 * quick.doubt_ms * NS_PER_MS }, NULL);
    assert_int_equal(fake_comms(), 2); /* that one ended well */
    site_close(&s);
}

static void an_abort_that_hangs_holds_up_nobody(void **state)
{
    struct err err = { 0 };
    const int64_t begin = clock_now_ns();
    struct site s;
    struct ends e;

    (void)state;
    site_open(&s);
    assert_int_equal(meet(&s, &e, 0, NULL), ST_OK);
    move(&s, &e);
    set(&fake_knobs.hang, FAKE_HANG_ABORT);
    post(&s, &e);
    assert_int_equal(s.nccl->close(e.receiver), ST_EDEADLINE); /* the place stays NCCL's */
    s.nccl->close(e.sender);
    assert_true(clock_now_ns() - begin < 2 * NS_PER_S);
    nanosleep(&(struct timespec){ 0, 5 * quick.abort_ms * NS_PER_MS }, NULL);
    assert_int_equal(s.nccl->health(s.decode, &err), ST_EINTERNAL);
    assert_non_null(strstr(err.text, "not come back"));
    set(&fake_knobs.hang, FAKE_NO_HANG); /* those of later pairs come back */
    works_again(&s);
    site_close(&s);
}

static void a_send_that_hangs_holds_up_nobody(void **state)
{
    const int64_t begin = clock_now_ns();
    struct site s;
    struct ends e;

    (void)state;
    site_open(&s);
    set(&fake_knobs.hang, FAKE_HANG_SEND);
    assert_int_equal(meet(&s, &e, 0, NULL), ST_OK);
    post(&s, &e);
    send(&s, &e);
    assert_int_equal(until(&s, e.sender, 5000, NULL), ST_EUNAVAILABLE);
    assert_int_equal(s.nccl->close(e.sender), ST_EDEADLINE);
    s.nccl->close(e.receiver);
    assert_true(clock_now_ns() - begin < 3 * NS_PER_S);
    works_again(&s);
    site_close(&s);
}

/* The thread sits in the making of a communicator: the order is told, its place is free at once, since NCCL never had it, and
 * whoever asks for health learns that a call is stuck. */
static void an_opening_that_hangs_holds_up_nobody(void **state)
{
    const int64_t begin = clock_now_ns();
    struct err err = { 0 };
    struct site s;
    struct ends e;

    (void)state;
    site_open(&s);
    set(&fake_knobs.hang, FAKE_HANG_OPEN);
    assert_int_equal(meet(&s, &e, 0, NULL), ST_OK);
    post(&s, &e);
    send(&s, &e);
    assert_int_equal(until(&s, e.receiver, 5000, &err), ST_EUNAVAILABLE);
    assert_non_null(strstr(err.text, "does not come back"));
    assert_int_equal(until(&s, e.sender, 5000, NULL), ST_EUNAVAILABLE);
    assert_int_equal(s.nccl->close(e.receiver), ST_OK);
    assert_int_equal(s.nccl->close(e.sender), ST_OK);
    assert_true(clock_now_ns() - begin < 2 * NS_PER_S);
    nanosleep(&(struct timespec){ 0, 5 * quick.abort_ms * NS_PER_MS }, NULL);
    assert_int_equal(s.nccl->health(s.prefill, &err), ST_EINTERNAL);
    assert_non_null(strstr(err.text, "not come back"));
    assert_int_equal(fake_opened(), 0);
    set(&fake_knobs.hang, FAKE_NO_HANG); /* those of later pairs come back */
    works_again(&s);
    for (int i = 0; i < 200 && nccl_ending(s.prefill) > 0; i++)
        nanosleep(&(struct timespec){ 0, 10 * NS_PER_MS }, NULL);
    assert_int_equal(s.nccl->health(s.prefill, NULL), ST_OK);
    site_close(&s);
}

/* The same with nobody who looks: the order broke while they met. The next one finds the pair that hangs, gives it up, and the
 * one after it has a pair of its own although the old call is still out. */
static void an_opening_that_hangs_is_found_by_the_next_order(void **state)
{
    struct site s;
    struct ends e;

    (void)state;
    site_open(&s);
    set(&fake_knobs.hang, FAKE_HANG_OPEN);
    assert_int_equal(meet(&s, &e, 0, NULL), ST_OK);
    break_off(&s, &e);
    nanosleep(&(struct timespec){ 0, (quick.make_ms + 50) * NS_PER_MS }, NULL);
    assert_int_equal(meet(&s, &e, 0, NULL), ST_OK);
    post(&s, &e);
    send(&s, &e);
    assert_int_equal(until(&s, e.receiver, 5000, NULL), ST_EUNAVAILABLE);
    assert_int_equal(until(&s, e.sender, 5000, NULL), ST_EUNAVAILABLE);
    part(&s, &e);
    set(&fake_knobs.hang, FAKE_NO_HANG); /* those of later pairs come back */
    assert_int_equal(meet(&s, &e, 1, NULL), ST_OK);
    move(&s, &e);
    part(&s, &e);
    assert_int_equal(nccl_ending(s.prefill), 1);
    assert_int_equal(nccl_ending(s.decode), 1);
    site_close(&s);
}

static void an_answer_of_nonsense_is_refused(void **state)
{
    struct link_config config = { 0 };
    struct link *l = NULL;
    struct site s;

    (void)state;
    site_open(&s);
    config.station = s.decode;
    config.hello = "nonsense";
    config.hello_bytes = 8;
    assert_int_equal(s.nccl->connect(&l, &config, NULL), ST_EDATALOSS);
    assert_null(l);
    site_close(&s);
}

/* Faults at random moments, both ends closed in any order: afterwards all is as before. */
static void random_losses_leave_nothing(void **state)
{
    const unsigned seed = 20261122;
    struct site s;

    (void)state;
    site_open(&s);
    srand(seed);
    for (int round = 0; round < ROUNDS; round++) {
        struct ends e;
        const int fault = rand() % 4, stop = rand() % 3;

        set(&fake_knobs.latency_us, rand() % 2000);
        assert_int_equal(meet(&s, &e, round % PLACES, NULL), ST_OK);
        if (fault == 1)
            set(&fake_knobs.silent, 1);
        if (fault == 2)
            set(&fake_knobs.error, 6);
        if (stop > 0)
            post(&s, &e);
        if (stop > 1)
            send(&s, &e);
        if (rand() % 2)
            until(&s, e.receiver, rand() % 20, NULL);
        part(&s, &e);
        works_again(&s);
    }
    assert_int_equal(s.nccl->health(s.decode, NULL), ST_OK);
    for (int i = 0; i < 200 && nccl_ending(s.decode) + nccl_ending(s.prefill) > 0; i++)
        nanosleep(&(struct timespec){ 0, 10 * NS_PER_MS }, NULL);
    assert_int_equal(nccl_ending(s.decode) + nccl_ending(s.prefill), 0);
    site_close(&s);
}

static const struct CMUnitTest tests[] = {
    cmocka_unit_test(a_block_arrives_in_its_place),
    cmocka_unit_test(one_communicator_serves_all_orders),
    cmocka_unit_test(sends_go_out_in_the_order_of_receives),
    cmocka_unit_test(two_processes_on_one_device_are_refused),
    cmocka_unit_test(the_pair_that_was_idle_longest_makes_room),
    cmocka_unit_test(a_pair_too_many_is_refused_while_all_are_in_use),
    cmocka_unit_test(a_silent_peer_is_given_up),
    cmocka_unit_test(an_error_of_the_communicator_is_told),
    cmocka_unit_test(a_communicator_that_does_not_come_up_is_given_up),
    cmocka_unit_test(a_communicator_that_is_refused_is_told),
    cmocka_unit_test(a_place_is_free_again_when_its_order_ends),
    cmocka_unit_test(a_place_that_was_promised_is_filled),
    cmocka_unit_test(a_peer_that_may_be_gone_leaves_nothing),
    cmocka_unit_test(a_peer_that_left_without_a_word_is_forgotten_in_time),
    cmocka_unit_test(a_peer_that_is_gone_while_they_meet_leaves_nothing),
    cmocka_unit_test(a_peer_that_comes_again_is_trusted),
    cmocka_unit_test(an_abort_that_hangs_holds_up_nobody),
    cmocka_unit_test(a_send_that_hangs_holds_up_nobody),
    cmocka_unit_test(an_opening_that_hangs_holds_up_nobody),
    cmocka_unit_test(an_opening_that_hangs_is_found_by_the_next_order),
    cmocka_unit_test(an_answer_of_nonsense_is_refused),
    cmocka_unit_test(random_losses_leave_nothing),
};

int main(int argc, char **argv)
{
    return cmocka_main(argc, argv, tests, ARRAY_LEN(tests), NULL, NULL);
}
