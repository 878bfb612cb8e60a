/* SPDX-License-Identifier: Apache-2.0 */
/* test_scheduler.c - who gets in, and whose turn it is; with a clock of our own. */
#include "prefill-node/scheduler.h"

#include "common/base/clock.h"
#include "tests/support/cmocka_main.h"

static int64_t test_now = NS_PER_S;

static int64_t test_clock(void)
{
    return test_now;
}

/* A token takes a millisecond. */
static struct scheduler *opened(int64_t queue_tokens)
{
    const struct scheduler_config config = { queue_tokens, 100, 1e6, test_clock };

    return scheduler_open(&config);
}

static enum status put(struct scheduler *s, struct turn *t, int64_t tokens)
{
    int64_t ahead, retry_ms;
    enum status st = scheduler_reserve(s, tokens, &ahead, &retry_ms, NULL);

    if (st != ST_OK)
        return st;
    *t = (struct turn){ .tokens = tokens, .layers = 10 };
    scheduler_put(s, t);
    return ST_OK;
}

static struct turn *take(struct scheduler *s)
{
    struct turn *t = NULL;
    bool dropped;

    return scheduler_take(s, &t, &dropped, 1) == ST_OK ? t : NULL;
}

/* One layer, and its block leaves at once. */
static void layer(struct scheduler *s, struct turn *t)
{
    test_now += t->tokens * NS_PER_MS / t->layers_all;
    scheduler_layer(s, t);
    scheduler_shipped(s, t);
}

/* Everything it still has to do. */
static void finish(struct scheduler *s, struct turn *t)
{
    while (t->layers > 0)
        layer(s, t);
    scheduler_leave(s, t);
    scheduler_end(s, t);
}

static void an_idle_node_takes_any_order(void **state)
{
    struct scheduler *s = opened(10);
    struct turn a;

    (void)state;
    assert_int_equal(put(s, &a, 100000), ST_OK);
    assert_ptr_equal(take(s), &a);
    finish(s, &a);
    scheduler_close(s);
}

static void a_full_queue_refuses_at_once_and_says_when(void **state)
{
    struct scheduler *s = opened(1000);
    int64_t ahead = 0, retry_ms = 0;
    struct err err = { 0 };
    struct turn a, b;

    (void)state;
    assert_int_equal(put(s, &a, 900), ST_OK);
    assert_int_equal(put(s, &b, 100), ST_OK);
    assert_int_equal(scheduler_reserve(s, 1, &ahead, &retry_ms, &err), ST_EEXHAUSTED);
    assert_int_equal(ahead, 1000);
    assert_int_equal(retry_ms, 1000);
    assert_non_null(strstr(err.text, "limit 1000"));
    while (take(s)) {
        finish(s, &b);
        assert_ptr_equal(take(s), &a);
        finish(s, &a);
    }
    assert_int_equal(scheduler_reserve(s, 1, &ahead, &retry_ms, NULL), ST_OK);
    scheduler_revoke(s, 1);
    scheduler_close(s);
}

static void a_queue_full_of_orders_says_so(void **state)
{
    const struct scheduler_config config = { .queue_tokens = 1000, .queue_orders = 1 };
    struct scheduler *s = scheduler_open(&config);
    int64_t ahead, retry_ms;
    struct err err = { 0 };

    (void)state;
    assert_int_equal(scheduler_reserve(s, 10, &ahead, &retry_ms, NULL), ST_OK);
    assert_int_equal(scheduler_reserve(s, 10, &ahead, &retry_ms, &err), ST_EEXHAUSTED);
    assert_non_null(strstr(err.text, "limit 1 orders"));
    scheduler_revoke(s, 10);
    assert_int_equal(scheduler_reserve(s, 10, &ahead, &retry_ms, NULL), ST_OK);
    scheduler_revoke(s, 10);
    scheduler_close(s);
}

static void what_is_reserved_counts_until_it_is_revoked(void **state)
{
    struct scheduler *s = opened(100);
    int64_t ahead, retry_ms;

    (void)state;
    assert_int_equal(scheduler_reserve(s, 60, &ahead, &retry_ms, NULL), ST_OK);
    assert_int_equal(scheduler_reserve(s, 60, &ahead, &retry_ms, NULL), ST_EEXHAUSTED);
    scheduler_revoke(s, 60);
    assert_int_equal(scheduler_reserve(s, 60, &ahead, &retry_ms, NULL), ST_OK);
    scheduler_revoke(s, 60);
    scheduler_close(s);
}

static void a_short_context_passes_a_long_one(void **state)
{
    struct scheduler *s = opened(100000);
    struct turn big, small;

    (void)state;
    assert_int_equal(put(s, &big, 8000), ST_OK);
    assert_ptr_equal(take(s), &big);
    layer(s, &big);
    assert_int_equal(put(s, &small, 100), ST_OK);
    for (int i = 0; i < 10; i++) {
        assert_ptr_equal(take(s), &small);
        layer(s, &small);
    }
    assert_int_not_equal(small.track, big.track);
    scheduler_leave(s, &small);
    scheduler_end(s, &small);
    assert_ptr_equal(take(s), &big);
    finish(s, &big);
    scheduler_close(s);
}

static void a_longer_one_does_not_pass(void **state)
{
    struct scheduler *s = opened(100000);
    struct turn first, second;

    (void)state;
    assert_int_equal(put(s, &first, 1000), ST_OK);
    assert_ptr_equal(take(s), &first);
    assert_int_equal(put(s, &second, 1000), ST_OK);
    layer(s, &first);
    assert_ptr_equal(take(s), &first);
    assert_int_equal(second.track, -1);
    finish(s, &first);
    assert_ptr_equal(take(s), &second);
    finish(s, &second);
    scheduler_close(s);
}

static void a_stream_of_short_ones_does_not_starve_a_long_one(void **state)
{
    struct scheduler *s = opened(100000);
    const int64_t begin = test_now;
    struct turn big, small;

    (void)state;
    assert_int_equal(put(s, &big, 2000), ST_OK);
    assert_int_equal(put(s, &small, 100), ST_OK);
    while (big.layers > 0) {
        struct turn *t = take(s);

        assert_non_null(t);
        if (t == &big) {
            layer(s, &big);
            continue;
        }
        finish(s, &small); /* and the next one is there already */
        assert_int_equal(put(s, &small, 100), ST_OK);
    }
    /* Alone it takes 2 s; it is due after 8 s, and no later one is due before it then. */
    assert_true(test_now - begin < 12 * NS_PER_S);
    scheduler_leave(s, &big);
    scheduler_end(s, &big);
    assert_ptr_equal(take(s), &small);
    finish(s, &small);
    scheduler_close(s);
}

static void no_turn_while_two_blocks_wait_for_the_wire(void **state)
{
    struct scheduler *s = opened(100000);
    struct scheduler_load load;
    struct turn a, b;

    (void)state;
    assert_int_equal(put(s, &a, 100), ST_OK);
    assert_ptr_equal(take(s), &a);
    scheduler_layer(s, &a);
    assert_ptr_equal(take(s), &a);
    scheduler_layer(s, &a);
    assert_null(take(s));
    scheduler_look(s, &load);
    assert_int_equal(load.buffers, 2);
    assert_int_equal(put(s, &b, 5000), ST_OK); /* a later one uses the time */
    assert_ptr_equal(take(s), &b);
    test_now += 7 * NS_PER_MS;
    scheduler_shipped(s, &a);
    assert_int_equal(a.stall_ns, 7 * NS_PER_MS);
    assert_ptr_equal(take(s), &a);
    scheduler_shipped(s, &a);
    finish(s, &a);
    assert_ptr_equal(take(s), &b);
    finish(s, &b);
    scheduler_look(s, &load);
    assert_int_equal(load.buffers, 0);
    assert_int_equal(load.running, 0);
    scheduler_close(s);
}

static void one_whose_memory_is_not_free_waits_and_those_after_it_too(void **state)
{
    struct scheduler *s = opened(100000);
    struct turn held, small, big, later;

    (void)state;
    assert_int_equal(put(s, &held, 3000), ST_OK);
    held.share = 0.7;
    assert_ptr_equal(take(s), &held);
    assert_int_equal(put(s, &big, 200), ST_OK);
    big.share = 0.4;
    assert_int_equal(put(s, &later, 300), ST_OK);
    assert_ptr_equal(take(s), &held); /* big is due earlier, and later fits; but later is due after big */
    assert_int_equal(put(s, &small, 100), ST_OK);
    small.share = 0.3;
    assert_ptr_equal(take(s), &small);
    finish(s, &small);
    assert_ptr_equal(take(s), &held);
    finish(s, &held);
    assert_ptr_equal(take(s), &big);
    finish(s, &big);
    assert_ptr_equal(take(s), &later);
    finish(s, &later);
    scheduler_close(s);
}

static void a_waiting_one_that_is_dropped_leaves_at_once(void **state)
{
    struct scheduler *s = opened(100000);
    struct scheduler_load load;
    struct turn a;

    (void)state;
    assert_int_equal(put(s, &a, 100), ST_OK);
    scheduler_drop(s, &a);
    assert_true(scheduler_has_left(s, &a));
    assert_null(take(s));
    scheduler_look(s, &load);
    assert_int_equal(load.queued, 0);
    assert_int_equal(load.left_tokens, 0);
    scheduler_end(s, &a);
    scheduler_close(s);
}

static void a_running_one_that_is_dropped_is_taken_to_leave(void **state)
{
    struct scheduler *s = opened(100000);
    struct turn a, b, *t = NULL;
    bool dropped = false;

    (void)state;
    assert_int_equal(put(s, &a, 100), ST_OK);
    assert_ptr_equal(take(s), &a);
    assert_int_equal(put(s, &b, 1), ST_OK);
    scheduler_layer(s, &a);
    scheduler_layer(s, &a); /* stands still, and is taken all the same */
    scheduler_drop(s, &a);
    assert_false(scheduler_has_left(s, &a));
    assert_int_equal(scheduler_take(s, &t, &dropped, 1), ST_OK);
    assert_ptr_equal(t, &a);
    assert_true(dropped);
    scheduler_leave(s, &a);
    scheduler_end(s, &a);
    assert_ptr_equal(take(s), &b);
    finish(s, &b);
    scheduler_close(s);
}

static void tracks_are_given_back_once_shipped_not_once_computed(void **state)
{
    struct scheduler *s = opened(100000);
    struct turn t[3];

    (void)state;
    for (int i = 0; i < 2; i++) {
        assert_int_equal(put(s, &t[i], 100), ST_OK);
        assert_ptr_equal(take(s), &t[i]);
        t[i].layers = 1;
        scheduler_layer(s, &t[i]);
        scheduler_leave(s, &t[i]); /* computed; its last block is under way */
    }
    assert_int_equal(put(s, &t[2], 1), ST_OK);
    assert_null(take(s));
    scheduler_shipped(s, &t[0]);
    scheduler_end(s, &t[0]);
    assert_ptr_equal(take(s), &t[2]);
    assert_int_equal(t[2].track, 0);
    finish(s, &t[2]);
    scheduler_shipped(s, &t[1]);
    scheduler_end(s, &t[1]);
    scheduler_close(s);
}

static void stopping_refuses_and_lets_the_engine_go(void **state)
{
    struct scheduler *s = opened(100);
    int64_t ahead, retry_ms;
    struct turn *t;
    bool dropped;

    (void)state;
    scheduler_stop(s);
    assert_int_equal(scheduler_reserve(s, 1, &ahead, &retry_ms, NULL), ST_EUNAVAILABLE);
    assert_int_equal(scheduler_take(s, &t, &dropped, clock_in_ms(5000)), ST_ECANCELLED);
    scheduler_close(s);
}

static void estimates_follow_what_is_measured(void **state)
{
    struct scheduler *s = opened(100);
    int64_t ahead, slow_ms, fast_ms;
    struct turn a;

    (void)state;
    assert_int_equal(put(s, &a, 10000), ST_OK);
    assert_int_equal(scheduler_reserve(s, 1000, &ahead, &slow_ms, NULL), ST_EEXHAUSTED);
    for (int i = 0; i < 50; i++)
        scheduler_measure(s, 1000, 100 * NS_PER_MS);
    assert_int_equal(scheduler_reserve(s, 1000, &ahead, &fast_ms, NULL), ST_EEXHAUSTED);
    assert_int_equal(slow_ms, 10000);
    assert_in_range(fast_ms, 990, 1010);
    scheduler_drop(s, &a);
    scheduler_end(s, &a);
    scheduler_close(s);
}

static const struct CMUnitTest tests[] = {
    cmocka_unit_test(an_idle_node_takes_any_order),
    cmocka_unit_test(a_full_queue_refuses_at_once_and_says_when),
    cmocka_unit_test(a_queue_full_of_orders_says_so),
    cmocka_unit_test(what_is_reserved_counts_until_it_is_revoked),
    cmocka_unit_test(a_short_context_passes_a_long_one),
    cmocka_unit_test(a_longer_one_does_not_pass),
    cmocka_unit_test(a_stream_of_short_ones_does_not_starve_a_long_one),
    cmocka_unit_test(no_turn_while_two_blocks_wait_for_the_wire),
    cmocka_unit_test(one_whose_memory_is_not_free_waits_and_those_after_it_too),
    cmocka_unit_test(a_waiting_one_that_is_dropped_leaves_at_once),
    cmocka_unit_test(a_running_one_that_is_dropped_is_taken_to_leave),
    cmocka_unit_test(tracks_are_given_back_once_shipped_not_once_computed),
    cmocka_unit_test(stopping_refuses_and_lets_the_engine_go),
    cmocka_unit_test(estimates_follow_what_is_measured),
};

int main(int argc, char **argv)
{
    return cmocka_main(argc, argv, tests, ARRAY_LEN(tests), NULL, NULL);
}
