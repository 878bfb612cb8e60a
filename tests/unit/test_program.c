/* SPDX-License-Identifier: Apache-2.0 */
/* A node's process, in a child: what it does when its device fails. The node is one that only fails, and closes or not. */
#include "common/base/clock.h"
#include "common/node/program.h"
#include "tests/support/cmocka_main.h"

#include <errno.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static const struct opt_set no_options = { 0 };

static enum status read_none(struct node_options *o, int argc, char **argv, struct arena *arena, struct err *err)
{
    (void)argc, (void)argv, (void)arena, (void)err;
    *o = (struct node_options){ .log_level = "info", .drain_s = 0 };
    return ST_OK;
}

static void open_parts(struct node_parts *parts, const struct node_options *o, struct signals *signals)
{
    static const struct backend_ops ops = { .name = "fake" };
    static struct backend be = { .ops = &ops };

    parts_init(parts, o, signals);
    parts->be = &be;
}

static enum status open_failing(struct node_parts *parts, const struct node_options *o, struct signals *signals,
                                struct err *err)
{
    static const char *const names[] = { "fake" };
    static struct node_options listens;
    struct err why = { 0 };
    enum status st;

    open_parts(parts, o, signals);
    listens = *o;
    listens.listen = "127.0.0.1:0";
    parts->opt = &listens;
    st = parts_bind(parts, "fake", names, 1, err);
    err_set(&why, ST_EINTERNAL, "cuda:0: a step: did not end in time");
    if (st == ST_OK)
        parts_device_failed(parts, &why);
    if (st == ST_OK)
        parts_device_failed(parts, &why); /* twice is once */
    return st;
}

static enum status open_sound(struct node_parts *parts, const struct node_options *o, struct signals *signals,
                              struct err *err)
{
    (void)err;
    open_parts(parts, o, signals);
    signals_raise(signals);
    return ST_OK;
}

static bool close_it(struct node_parts *parts, int64_t deadline_ns)
{
    (void)deadline_ns;
    service_close(parts->service);
    metrics_close(parts->metrics);
    return true;
}

/* As a driver that waits for its card. */
static bool close_never(struct node_parts *parts, int64_t deadline_ns)
{
    (void)parts, (void)deadline_ns;
    while (pause() != 0)
        ;
    return false;
}

static struct node_program fails = {
    .name = "fake", .head = "", .finished = "finished", .options = &no_options, .read = read_none
};

/* Its exit code, and what it wrote to stderr. */
static int run(const struct node_program *p, char *out, size_t bytes)
{
    int ends[2], status = -1;
    size_t at = 0;
    ssize_t got;
    pid_t child;

    assert_int_equal(pipe(ends), 0);
    child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        struct node_options options = { 0 };
        struct node_parts parts = { 0 };
        char *argv[] = { (char *)"fake", NULL };

        dup2(ends[1], STDERR_FILENO);
        close(ends[0]);
        close(ends[1]);
        _exit(node_main(p, &options, &parts, 1, argv));
    }
    close(ends[1]);
    while (at + 1 < bytes && (got = read(ends[0], out + at, bytes - at - 1)) > 0)
        at += (size_t)got;
    out[at] = '\0';
    close(ends[0]);
    while (waitpid(child, &status, 0) < 0 && errno == EINTR)
        ;
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

static void a_node_whose_device_fails_says_so_and_leaves_with_1(void **state)
{
    char lines[4096];
    const char *at;

    (void)state;
    fails.open = open_failing;
    fails.close = close_it;
    assert_int_equal(run(&fails, lines, sizeof lines), 1);
    at = strstr(lines, " level=error event=device why=\"cuda:0: a step: did not end in time\"\n");
    assert_non_null(at);
    assert_null(strstr(strchr(at, '\n'), "event=device"));
    assert_non_null(strstr(at, "event=draining"));
    assert_non_null(strstr(at, "event=ended finished=1 closed=1 why=\"the device failed\"\n"));
}

static void a_device_that_gives_nothing_back_does_not_keep_the_process(void **state)
{
    const int64_t begin = clock_now_ns();
    char lines[4096];

    (void)state;
    fails.open = open_failing;
    fails.close = close_never;
    assert_int_equal(run(&fails, lines, sizeof lines), 1);
    assert_non_null(strstr(lines, "event=ended finished=0 closed=0 why=\"the device failed\"\n"));
    assert_true(clock_now_ns() - begin < 30 * NS_PER_S);
}

static void a_node_that_was_asked_to_end_leaves_with_0(void **state)
{
    char lines[4096];

    (void)state;
    fails.open = open_sound;
    fails.close = close_it;
    assert_int_equal(run(&fails, lines, sizeof lines), 0);
    assert_null(strstr(lines, "event=device"));
    assert_non_null(strstr(lines, "event=ended finished=1\n"));
}

int main(int argc, char **argv)
{
    static const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_node_whose_device_fails_says_so_and_leaves_with_1),
        cmocka_unit_test(a_device_that_gives_nothing_back_does_not_keep_the_process),
        cmocka_unit_test(a_node_that_was_asked_to_end_leaves_with_0),
    };

    return cmocka_main(argc, argv, tests, ARRAY_LEN(tests), NULL, NULL);
}
