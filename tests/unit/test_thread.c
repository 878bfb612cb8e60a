/* SPDX-License-Identifier: Apache-2.0 */
#include "common/base/thread.h"

#include "common/base/clock.h"
#include "tests/support/cmocka_main.h"

#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

static void *report(void *arg)
{
    sigset_t *blocked = arg;

    pthread_sigmask(SIG_BLOCK, NULL, blocked);
    return arg;
}

static void a_thread_runs_with_its_argument(void **state)
{
    sigset_t blocked;
    pthread_t thread;
    void *back;

    (void)state;
    assert_int_equal(thread_start(&thread, "one", report, &blocked, NULL), ST_OK);
    assert_int_equal(pthread_join(thread, &back), 0);
    assert_ptr_equal(back, &blocked);
}

static void signals_stay_with_the_main_thread(void **state)
{
    sigset_t before, blocked, after;
    pthread_t thread;

    (void)state;
    pthread_sigmask(SIG_BLOCK, NULL, &before);
    assert_int_equal(thread_start(&thread, "two", report, &blocked, NULL), ST_OK);
    pthread_join(thread, NULL);
    assert_true(sigismember(&blocked, SIGINT) && sigismember(&blocked, SIGTERM) && sigismember(&blocked, SIGHUP));
    assert_false(sigismember(&blocked, SIGSEGV));
    pthread_sigmask(SIG_BLOCK, NULL, &after);
    assert_int_equal(sigismember(&after, SIGTERM), sigismember(&before, SIGTERM)); /* the caller's are as they were */
}

static void *wait_for_go(void *arg)
{
    while (!atomic_load((_Atomic int *)arg))
        sched_yield();
    return NULL;
}

static void a_long_name_is_cut_to_what_the_kernel_takes(void **state)
{
    _Atomic int go = 0;
    pthread_t thread;
    char name[32];

    (void)state;
    assert_int_equal(thread_start(&thread, "a-name-that-is-too-long", wait_for_go, &go, NULL), ST_OK);
    assert_int_equal(pthread_getname_np(thread, name, sizeof name), 0);
    assert_string_equal(name, "a-name-that-is-");
    atomic_store(&go, 1);
    pthread_join(thread, NULL);
}

static void cores_are_at_least_one_and_at_most_those_online(void **state)
{
    (void)state;
    assert_in_range(thread_cores(), 1, sysconf(_SC_NPROCESSORS_ONLN));
}

/* In a child, so that the mask of the test itself stays. */
static void cores_follow_the_affinity_mask(void **state)
{
    pid_t child = fork();
    int how;

    (void)state;
    assert_true(child >= 0);
    if (child == 0) {
        cpu_set_t mask, one;

        if (sched_getaffinity(0, sizeof mask, &mask) != 0)
            _exit(1);
        CPU_ZERO(&one);
        for (int cpu = 0; cpu < CPU_SETSIZE && CPU_COUNT(&one) == 0; cpu++)
            if (CPU_ISSET(cpu, &mask))
                CPU_SET(cpu, &one);
        if (sched_setaffinity(0, sizeof one, &one) != 0)
            _exit(2);
        _exit(thread_cores() == 1 ? 0 : 3);
    }
    assert_int_equal(waitpid(child, &how, 0), child);
    assert_true(WIFEXITED(how));
    assert_int_equal(WEXITSTATUS(how), 0);
}

static void assert_quota(const char *cpu_max, int cores, int want)
{
    char folder[] = "/tmp/platen-test-thread-XXXXXX", path[sizeof folder + 16];
    FILE *f;

    assert_non_null(mkdtemp(folder));
    snprintf(path, sizeof path, "%s/cpu.max", folder);
    f = fopen(path, "we");
    assert_non_null(f);
    fputs(cpu_max, f);
    fclose(f);
    assert_int_equal(thread_cut_by_quota(cores, folder), want);
    unlink(path);
    rmdir(folder);
}

static void a_quota_cuts_cores_to_whole_ones(void **state)
{
    (void)state;
    assert_quota("200000 100000\n", 8, 2);
    assert_quota("150000 100000\n", 8, 1);
    assert_quota("50000 100000\n", 8, 1); /* never none */
    assert_quota("800000 100000\n", 4, 4);
}

static void no_quota_leaves_the_cores(void **state)
{
    (void)state;
    assert_quota("max 100000\n", 8, 8);
    assert_quota("", 8, 8);
    assert_quota("nonsense\n", 8, 8);
    assert_quota("100000 0\n", 8, 8);
    assert_int_equal(thread_cut_by_quota(8, "/nowhere/at/all"), 8);
}

struct door {
    pthread_mutex_t lock;
    pthread_cond_t news;
    bool open;
};

static void *open_door(void *arg)
{
    struct door *d = arg;

    pthread_mutex_lock(&d->lock);
    d->open = true;
    pthread_cond_signal(&d->news);
    pthread_mutex_unlock(&d->lock);
    return NULL;
}

static void a_wait_ends_at_its_deadline(void **state)
{
    struct door d = { .lock = PTHREAD_MUTEX_INITIALIZER };
    const int64_t begin = clock_now_ns(), deadline = clock_in_ms(30);

    (void)state;
    cond_init(&d.news);
    pthread_mutex_lock(&d.lock);
    while (cond_wait(&d.news, &d.lock, deadline))
        ;
    assert_true(clock_now_ns() - begin >= 30 * NS_PER_MS);
    assert_false(cond_wait(&d.news, &d.lock, begin)); /* long past */
    assert_false(cond_wait(&d.news, &d.lock, -1));
    pthread_mutex_unlock(&d.lock);
    pthread_cond_destroy(&d.news);
}

static void a_wait_without_end_hears_the_signal(void **state)
{
    struct door d = { .lock = PTHREAD_MUTEX_INITIALIZER };
    pthread_t other;

    (void)state;
    cond_init(&d.news);
    pthread_mutex_lock(&d.lock);
    assert_int_equal(thread_start(&other, "door", open_door, &d, NULL), ST_OK);
    while (!d.open)
        assert_true(cond_wait(&d.news, &d.lock, INT64_MAX));
    pthread_mutex_unlock(&d.lock);
    pthread_join(other, NULL);
    pthread_cond_destroy(&d.news);
}

int main(int argc, char **argv)
{
    static const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_thread_runs_with_its_argument),
        cmocka_unit_test(signals_stay_with_the_main_thread),
        cmocka_unit_test(a_long_name_is_cut_to_what_the_kernel_takes),
        cmocka_unit_test(cores_are_at_least_one_and_at_most_those_online),
        cmocka_unit_test(cores_follow_the_affinity_mask),
        cmocka_unit_test(a_quota_cuts_cores_to_whole_ones),
        cmocka_unit_test(no_quota_leaves_the_cores),
        cmocka_unit_test(a_wait_ends_at_its_deadline),
        cmocka_unit_test(a_wait_without_end_hears_the_signal),
    };

    return cmocka_main(argc, argv, tests, ARRAY_LEN(tests), NULL, NULL);
}
