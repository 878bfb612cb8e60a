/* SPDX-License-Identifier: Apache-2.0 */
#include "common/base/clock.h"
#include "common/base/queue.h"
#include "tests/support/cmocka_main.h"

#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <time.h>

static int items[8];

static void what_was_put_first_is_taken_first(void **state)
{
    struct queue *q = queue_open("order", 3);
    void *item;

    (void)state;
    for (int lap = 0; lap < 5; lap++) { /* around the ring more than once */
        assert_int_equal(queue_put(q, &items[0]), ST_OK);
        assert_int_equal(queue_put(q, &items[1]), ST_OK);
        assert_int_equal(queue_take(q, &item, 0), ST_OK);
        assert_ptr_equal(item, &items[0]);
        assert_int_equal(queue_take(q, &item, 0), ST_OK);
        assert_ptr_equal(item, &items[1]);
    }
    queue_close(q);
}

static void full_is_an_answer(void **state)
{
    struct queue *q = queue_open("full", 2);
    void *item;

    (void)state;
    assert_int_equal(queue_put(q, &items[0]), ST_OK);
    assert_int_equal(queue_put(q, &items[1]), ST_OK);
    assert_int_equal(queue_put(q, &items[2]), ST_EEXHAUSTED);
    assert_int_equal(queue_length(q), 2);
    assert_int_equal(queue_take(q, &item, 0), ST_OK);
    assert_int_equal(queue_put(q, &items[2]), ST_OK);
    queue_close(q);
}

static void empty_without_a_deadline_does_not_wait(void **state)
{
    struct queue *q = queue_open("empty", 1);
    void *item = &items[5];
    int64_t before = clock_now_ns();

    (void)state;
    assert_int_equal(queue_take(q, &item, 0), ST_AGAIN);
    assert_int_equal(queue_take(q, &item, before - 1), ST_AGAIN); /* nor with one that has passed */
    assert_true(clock_now_ns() - before < NS_PER_S);
    assert_ptr_equal(item, &items[5]); /* written only on success */
    queue_close(q);
}

static void a_taker_waits_until_its_deadline(void **state)
{
    struct queue *q = queue_open("deadline", 1);
    int64_t deadline = clock_in_ms(30);
    void *item;

    (void)state;
    assert_int_equal(queue_take(q, &item, deadline), ST_AGAIN);
    assert_true(clock_now_ns() >= deadline);
    queue_close(q);
}

static void a_shut_queue_takes_nothing_and_gives_what_is_left(void **state)
{
    struct queue *q = queue_open("shut", 4);
    void *item;

    (void)state;
    assert_int_equal(queue_put(q, &items[0]), ST_OK);
    queue_shut(q);
    queue_shut(q);
    assert_int_equal(queue_put(q, &items[1]), ST_ECANCELLED);
    assert_int_equal(queue_take(q, &item, clock_in_ms(5000)), ST_OK);
    assert_ptr_equal(item, &items[0]);
    assert_int_equal(queue_take(q, &item, clock_in_ms(5000)), ST_ECANCELLED);
    queue_close(q);
}

static void *take_one(void *arg)
{
    void *item = NULL;
    enum status st = queue_take(arg, &item, clock_in_ms(20000));

    return st == ST_OK ? item : st == ST_ECANCELLED ? (void *)&items[7] : NULL;
}

static void a_put_wakes_a_waiting_taker(void **state)
{
    struct queue *q = queue_open("wake", 1);
    struct timespec a_moment = { 0, 20 * NS_PER_MS };
    pthread_t taker;
    void *got;

    (void)state;
    assert_int_equal(pthread_create(&taker, NULL, take_one, q), 0);
    nanosleep(&a_moment, NULL);
    assert_int_equal(queue_put(q, &items[3]), ST_OK);
    pthread_join(taker, &got);
    assert_ptr_equal(got, &items[3]);
    queue_close(q);
}

static void shutting_wakes_every_waiter(void **state)
{
    struct queue *q = queue_open("wake all", 1);
    struct timespec a_moment = { 0, 20 * NS_PER_MS };
    int64_t before = clock_now_ns();
    pthread_t takers[4];
    void *got;

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(takers); i++)
        assert_int_equal(pthread_create(&takers[i], NULL, take_one, q), 0);
    nanosleep(&a_moment, NULL);
    queue_shut(q);
    for (size_t i = 0; i < ARRAY_LEN(takers); i++) {
        pthread_join(takers[i], &got);
        assert_ptr_equal(got, &items[7]);
    }
    assert_true(clock_now_ns() - before < 10 * NS_PER_S); /* woken, not run into their deadline of 20 s */
    queue_close(q);
}

enum { PUTTERS = 3, TAKERS = 3, ITEMS_EACH = 4000 };

struct crowd {
    struct queue *q;
    _Atomic int next;
    _Atomic int seen[PUTTERS * ITEMS_EACH];
};

static void *put_many(void *arg)
{
    struct crowd *c = arg;

    for (int i = 0; i < ITEMS_EACH; i++) {
        int n = atomic_fetch_add(&c->next, 1);
        while (queue_put(c->q, &c->seen[n]) == ST_EEXHAUSTED)
            sched_yield();
    }
    return NULL;
}

static void *take_many(void *arg)
{
    struct crowd *c = arg;
    void *item;

    while (queue_take(c->q, &item, clock_in_ms(20000)) == ST_OK)
        atomic_fetch_add((_Atomic int *)item, 1);
    return NULL;
}

static void a_crowd_takes_every_item_exactly_once(void **state)
{
    struct crowd *c = calloc(1, sizeof *c);
    pthread_t putters[PUTTERS], takers[TAKERS];

    (void)state;
    assert_non_null(c);
    c->q = queue_open("crowd", 16);
    for (size_t i = 0; i < TAKERS; i++)
        assert_int_equal(pthread_create(&takers[i], NULL, take_many, c), 0);
    for (size_t i = 0; i < PUTTERS; i++)
        assert_int_equal(pthread_create(&putters[i], NULL, put_many, c), 0);
    for (size_t i = 0; i < PUTTERS; i++)
        pthread_join(putters[i], NULL);
    queue_shut(c->q);
    for (size_t i = 0; i < TAKERS; i++)
        pthread_join(takers[i], NULL);
    assert_int_equal(queue_length(c->q), 0);
    for (size_t i = 0; i < PUTTERS * ITEMS_EACH; i++)
        assert_int_equal(c->seen[i], 1);
    queue_close(c->q);
    free(c);
}

static void closing_nothing_is_fine(void **state)
{
    (void)state;
    queue_close(NULL);
    queue_close(queue_open("unused", 1000));
}

int main(int argc, char **argv)
{
    static const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_was_put_first_is_taken_first),
        cmocka_unit_test(full_is_an_answer),
        cmocka_unit_test(empty_without_a_deadline_does_not_wait),
        cmocka_unit_test(a_taker_waits_until_its_deadline),
        cmocka_unit_test(a_shut_queue_takes_nothing_and_gives_what_is_left),
        cmocka_unit_test(a_put_wakes_a_waiting_taker),
        cmocka_unit_test(shutting_wakes_every_waiter),
        cmocka_unit_test(a_crowd_takes_every_item_exactly_once),
        cmocka_unit_test(closing_nothing_is_fine),
    };

    return cmocka_main(argc, argv, tests, ARRAY_LEN(tests), NULL, NULL);
}
