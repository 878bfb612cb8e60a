/* SPDX-License-Identifier: Apache-2.0 */
/* test_signals.c - the first signal asks, the second insists; each promise in a process of its own. */
#include "tests/support/cmocka_main.h"

#include "common/base/clock.h"
#include "common/service/signals.h"

#include <signal.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

/* The child says "r" when it is ready and "f" from on_first; it ends with 7 when the first signal came, after `linger`. */
static void say(void *arg)
{
    if (write(*(int *)arg, "f", 1) != 1)
        _exit(9);
}

static void child_run(int out, int64_t linger_ms)
{
    struct signals *s = NULL;

    if (signals_open(&s, say, &out, NULL) != ST_OK || write(out, "r", 1) != 1)
        _exit(9);
    if (!signals_wait(s, clock_in_ms(10000)) || !signals_raised(s))
        _exit(8);
    usleep((useconds_t)linger_ms * 1000);
    signals_close(s);
    _exit(7);
}

static pid_t child_start(int *in, int64_t linger_ms)
{
    int ends[2];
    char word;
    pid_t child;

    assert_int_equal(pipe(ends), 0);
    child = fork();
    if (child == 0)
        child_run(ends[1], linger_ms);
    close(ends[1]);
    assert_int_equal(read(ends[0], &word, 1), 1);
    assert_int_equal(word, 'r');
    *in = ends[0];
    return child;
}

static int exit_code(pid_t child)
{
    int status;

    assert_int_equal(waitpid(child, &status, 0), child);
    assert_true(WIFEXITED(status));
    return WEXITSTATUS(status);
}

static void the_first_signal_asks(void **state)
{
    static const int numbers[] = { SIGTERM, SIGINT };

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(numbers); i++) {
        char word;
        int in;
        pid_t child = child_start(&in, 0);

        kill(child, numbers[i]);
        assert_int_equal(read(in, &word, 1), 1);
        assert_int_equal(word, 'f');
        assert_int_equal(exit_code(child), 7);
        close(in);
    }
}

static void the_second_signal_ends_at_once_with_one(void **state)
{
    int64_t from;
    char word;
    int in;
    pid_t child = child_start(&in, 8000);

    (void)state;
    kill(child, SIGTERM);
    assert_int_equal(read(in, &word, 1), 1);
    from = clock_now_ns();
    kill(child, SIGINT);
    assert_int_equal(exit_code(child), 1);
    assert_in_range((clock_now_ns() - from) / NS_PER_MS, 0, 1900); /* ThreadSanitizer sleeps one second at exit */
    close(in);
}

static void count(void *arg)
{
    __atomic_fetch_add((int *)arg, 1, __ATOMIC_RELAXED);
}

static void sigusr1_tells_and_ends_nothing(void **state)
{
    struct signals *s = NULL;
    int told = 0;

    (void)state;
    assert_int_equal(signals_open(&s, NULL, NULL, NULL), ST_OK);
    kill(getpid(), SIGUSR1); /* nobody wants it yet */
    usleep(50000);
    signals_on_user(s, count, &told);
    kill(getpid(), SIGUSR1);
    for (int64_t end = clock_in_ms(5000); __atomic_load_n(&told, __ATOMIC_RELAXED) == 0 && clock_now_ns() < end;)
        usleep(1000);
    assert_int_equal(__atomic_load_n(&told, __ATOMIC_RELAXED), 1);
    assert_false(signals_raised(s));
    signals_on_user(s, NULL, NULL);
    signals_close(s);
}

static void a_program_may_raise_it_itself(void **state)
{
    struct signals *s = NULL;
    int64_t from = clock_now_ns();

    (void)state;
    assert_int_equal(signals_open(&s, NULL, NULL, NULL), ST_OK);
    assert_false(signals_raised(s));
    assert_false(signals_wait(s, clock_in_ms(50)));
    assert_in_range((clock_now_ns() - from) / NS_PER_MS, 45, 1000);
    signals_raise(s);
    signals_raise(s); /* twice is once */
    assert_true(signals_wait(s, 0));
    signals_close(s);
    signals_close(NULL);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_first_signal_asks),
        cmocka_unit_test(the_second_signal_ends_at_once_with_one),
        cmocka_unit_test(sigusr1_tells_and_ends_nothing),
        cmocka_unit_test(a_program_may_raise_it_itself),
    };

    return cmocka_main(argc, argv, tests, ARRAY_LEN(tests), NULL, NULL);
}
