/* SPDX-License-Identifier: Apache-2.0 */
#include "common/base/clock.h"
#include "common/base/thread.h"
#include "tests/support/cmocka_main.h"

#include <malloc.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <time.h>

enum { INDICES = 1000 };

struct tally {
    int64_t count;
    _Atomic int runs[INDICES];
    _Atomic int outside; /* calls with an index or worker that does not exist */
    _Atomic int inside[16];
    _Atomic int crossed; /* calls that met another one on the same worker number */
    int threads;
    int64_t plain[INDICES]; /* written without atomics: pool_run must make it visible */
};

static void tally_body(void *arg, int64_t i, int worker)
{
    struct tally *t = arg;

    if (i < 0 || i >= t->count || worker < 0 || worker >= t->threads) {
        atomic_fetch_add(&t->outside, 1);
        return;
    }
    if (atomic_fetch_add(&t->inside[worker], 1) != 0)
        atomic_fetch_add(&t->crossed, 1);
    atomic_fetch_add(&t->runs[i], 1);
    t->plain[i] += i;
    atomic_fetch_sub(&t->inside[worker], 1);
}

static void assert_each_once(struct pool *p, int64_t count)
{
    struct tally *t = calloc(1, sizeof *t);

    assert_non_null(t);
    t->count = count;
    t->threads = pool_threads(p);
    pool_run(p, count, tally_body, t);
    for (int64_t i = 0; i < INDICES; i++) {
        assert_int_equal(t->runs[i], i < count);
        assert_true(t->plain[i] == (i < count ? i : 0));
    }
    assert_int_equal(t->outside, 0);
    assert_int_equal(t->crossed, 0);
    free(t);
}

static struct pool *open_pool(int threads)
{
    struct pool *p = NULL;
    struct err err = { 0 };

    if (pool_open(&p, threads, &err) != ST_OK)
        fail_msg("pool_open(%d): %s", threads, err.text);
    assert_int_equal(pool_threads(p), threads);
    return p;
}

static void every_index_runs_exactly_once(void **state)
{
    (void)state;
    for (int threads = 1; threads <= 8; threads++) {
        struct pool *p = open_pool(threads);

        for (int64_t count = 0; count < 20; count++)
            assert_each_once(p, count);
        assert_each_once(p, INDICES);
        pool_close(p);
    }
}

static void no_indices_run_nothing(void **state)
{
    struct pool *p = open_pool(3);

    (void)state;
    assert_each_once(p, 0);
    pool_run(p, -5, tally_body, NULL);
    pool_close(p);
}

/* Many short loops in a row: the next one begins while workers still wake up for the last. */
static void loops_in_a_row_do_not_mix(void **state)
{
    struct pool *p = open_pool(4);

    (void)state;
    for (int round = 0; round < 3000; round++)
        assert_each_once(p, round % 7 + 2);
    pool_close(p);
}

static void a_pool_that_slept_wakes_up(void **state)
{
    struct pool *p = open_pool(4);
    struct timespec longer_than_the_spin = { 0, 2 * NS_PER_MS };

    (void)state;
    for (int round = 0; round < 30; round++) {
        nanosleep(&longer_than_the_spin, NULL);
        assert_each_once(p, 40);
    }
    pool_close(p);
}

static void slow_body(void *arg, int64_t i, int worker)
{
    struct timespec nap = { 0, (i % 2) * 3 * NS_PER_MS };

    (void)worker;
    nanosleep(&nap, NULL);
    atomic_fetch_add((_Atomic int *)arg, 1);
}

static void a_caller_that_slept_is_woken(void **state)
{
    struct pool *p = open_pool(4);
    _Atomic int done = 0;

    (void)state;
    for (int round = 1; round <= 20; round++) {
        pool_run(p, 8, slow_body, &done);
        assert_int_equal(done, 8 * round);
    }
    pool_close(p);
}

struct meeting {
    _Atomic int arrived;
    _Atomic int of_worker[3];
};

static void meet_body(void *arg, int64_t i, int worker)
{
    struct meeting *m = arg;
    int64_t deadline = clock_in_ms(20000);

    (void)i;
    atomic_fetch_add(&m->of_worker[worker], 1);
    atomic_fetch_add(&m->arrived, 1);
    while (atomic_load(&m->arrived) < 3 && clock_now_ns() < deadline)
        sched_yield();
}

static void all_workers_run_at_the_same_time_and_under_their_own_number(void **state)
{
    struct pool *p = open_pool(3);
    struct meeting m = { 0 };
    int64_t before = clock_now_ns();

    (void)state;
    pool_run(p, 3, meet_body, &m); /* each call waits for the other two */
    assert_int_equal(m.arrived, 3);
    assert_true(clock_now_ns() - before < 15 * NS_PER_S);
    for (int worker = 0; worker < 3; worker++)
        assert_int_equal(m.of_worker[worker], 1);
    pool_close(p);
}

struct firsts {
    _Atomic int arrived;
    int64_t first[3];
    _Atomic int began[3];
};

static void first_body(void *arg, int64_t i, int worker)
{
    struct firsts *f = arg;
    int64_t deadline = clock_in_ms(20000);

    if (atomic_fetch_add(&f->began[worker], 1) > 0)
        return;
    f->first[worker] = i;
    atomic_fetch_add(&f->arrived, 1);
    while (atomic_load(&f->arrived) < 3 && clock_now_ns() < deadline)
        sched_yield();
}

static void every_worker_begins_where_its_own_share_begins(void **state)
{
    struct pool *p = open_pool(3);
    struct firsts f = { 0 };

    (void)state;
    pool_run(p, 10, first_body, &f); /* nobody takes a second index before all have their first */
    assert_int_equal(f.arrived, 3);
    assert_int_equal(f.first[0], 0);
    assert_int_equal(f.first[1], 3);
    assert_int_equal(f.first[2], 6);
    pool_close(p);
}

static void a_pool_of_one_runs_in_order_on_the_caller(void **state)
{
    struct pool *p = open_pool(1);

    (void)state;
    assert_each_once(p, INDICES);
    pool_close(p);
}

static void running_allocates_nothing(void **state)
{
    struct pool *p = open_pool(3);
    struct mallinfo2 before, after;
    _Atomic int done = 0;

    (void)state;
    pool_run(p, 8, slow_body, &done);
    before = mallinfo2();
    for (int round = 0; round < 5; round++)
        pool_run(p, 8, slow_body, &done);
    after = mallinfo2();
    assert_int_equal(after.uordblks, before.uordblks);
    assert_int_equal(after.hblkhd, before.hblkhd);
    pool_close(p);
}

static void a_pool_of_none_is_refused(void **state)
{
    struct pool *p = NULL;
    struct err err = { 0 };

    (void)state;
    assert_int_equal(pool_open(&p, 0, &err), ST_EINVAL);
    assert_null(p);
    assert_non_null(strstr(err.text, "0"));
}

static void closing_needs_no_run_before(void **state)
{
    (void)state;
    pool_close(NULL);
    for (int i = 0; i < 20; i++)
        pool_close(open_pool(4));
}

static void sum_body(void *arg, int64_t i, int worker)
{
    (void)i;
    (void)worker;
    atomic_fetch_add((_Atomic int *)arg, 1);
}

static void an_idle_pool_uses_no_processor(void **state)
{
    struct pool *p = open_pool(4);
    struct timespec before, after, idle = { 0, 200 * NS_PER_MS };
    _Atomic int done = 0;
    double used_ms;

    (void)state;
    pool_run(p, 100, sum_body, &done);
    nanosleep(&(struct timespec){ 0, 20 * NS_PER_MS }, NULL); /* past the spin */
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &before);
    nanosleep(&idle, NULL);
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &after);
    used_ms = (double)(after.tv_sec - before.tv_sec) * 1e3 + (double)(after.tv_nsec - before.tv_nsec) * 1e-6;
    if (used_ms > 50)
        fail_msg("four idle threads used %.1f ms of processor time in 200 ms", used_ms);
    pool_close(p);
}

int main(int argc, char **argv)
{
    static const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_index_runs_exactly_once),
        cmocka_unit_test(no_indices_run_nothing),
        cmocka_unit_test(loops_in_a_row_do_not_mix),
        cmocka_unit_test(a_pool_that_slept_wakes_up),
        cmocka_unit_test(a_caller_that_slept_is_woken),
        cmocka_unit_test(all_workers_run_at_the_same_time_and_under_their_own_number),
        cmocka_unit_test(every_worker_begins_where_its_own_share_begins),
        cmocka_unit_test(a_pool_of_one_runs_in_order_on_the_caller),
        cmocka_unit_test(running_allocates_nothing),
        cmocka_unit_test(a_pool_of_none_is_refused),
        cmocka_unit_test(closing_needs_no_run_before),
        cmocka_unit_test(an_idle_pool_uses_no_processor),
    };

    return cmocka_main(argc, argv, tests, ARRAY_LEN(tests), NULL, NULL);
}
