/* SPDX-License-Identifier: Apache-2.0 */
/* test_prefill_options.c - what an operator writes, and what he is told when it is wrong. */
#include "prefill-node/options.h"

#include "tests/support/cmocka_main.h"

#include <stdlib.h>
#include <unistd.h>

static enum status read_line(struct prefill_options *o, struct arena *arena, struct err *err, int argc, ...)
{
    char *argv[16] = { "prefill-node" };
    va_list ap;

    va_start(ap, argc);
    for (int i = 0; i < argc; i++)
        argv[i + 1] = va_arg(ap, char *);
    va_end(ap);
    return prefill_options_read(o, argc + 1, argv, arena, err);
}

static void defaults_are_those_of_the_table(void **state)
{
    struct prefill_options o = { 0 };
    struct arena arena = { 0 };

    (void)state;
    assert_int_equal(read_line(&o, &arena, NULL, 4, "--model", "m.gguf", "--listen", "127.0.0.1:0"), ST_OK);
    assert_string_equal(o.node.model, "m.gguf");
    assert_string_equal(o.node.backend, "cpu");
    assert_null(o.node.transport); /* what the back end can */
    assert_int_equal(o.node.dtype, 0);
    assert_int_equal(o.node.threads, 0);
    assert_int_equal(o.context_tokens, 0);
    assert_null(o.node.metrics);
    arena_fini(&arena);
}

static void required_and_unknown_flags_are_named(void **state)
{
    struct prefill_options o = { 0 };
    struct arena arena = { 0 };
    struct err err = { 0 };

    (void)state;
    assert_int_equal(read_line(&o, &arena, &err, 2, "--model", "m"), ST_EINVAL);
    assert_non_null(strstr(err.text, "listen"));
    err_clear(&err);
    assert_int_equal(read_line(&o, &arena, &err, 2, "--modle", "m"), ST_EINVAL);
    assert_non_null(strstr(err.text, "model"));
    err_clear(&err);
    assert_int_equal(read_line(&o, &arena, &err, 6, "--model", "m", "--listen", "x:1", "--dtype", "f16"), ST_EINVAL);
    assert_non_null(strstr(err.text, "dtype"));
    arena_fini(&arena);
}

static void help_needs_nothing_else(void **state)
{
    struct prefill_options o = { 0 };
    struct arena arena = { 0 };

    (void)state;
    assert_int_equal(read_line(&o, &arena, NULL, 1, "--help"), ST_OK);
    assert_true(o.node.help);
    arena_fini(&arena);
}

static void the_line_wins_over_the_file_and_sections_add(void **state)
{
    static const char text[] = "model = from-file\nthreads = 3\nqueue-tokens = 77\n[press-files]\nq = /tmp/q.bin\n";
    char path[] = "/tmp/platen-options-XXXXXX";
    const int fd = mkstemp(path);
    struct prefill_options o = { 0 };
    struct arena arena = { 0 };
    struct err err = { 0 };

    (void)state;
    assert_true(fd >= 0 && write(fd, text, sizeof text - 1) == (ssize_t)sizeof text - 1);
    close(fd);
    assert_int_equal(read_line(&o, &arena, &err, 8, "--config", path, "--listen", "h:1", "--threads", "5",
                               "--press-file", "r=/tmp/r.bin"),
                     ST_OK);
    assert_string_equal(o.node.model, "from-file");
    assert_int_equal(o.node.threads, 5);
    assert_int_equal(o.queue_tokens, 77);
    assert_int_equal(o.node.press_file.count, 2);
    assert_string_equal(o.node.press_file.items[0], "q=/tmp/q.bin");
    assert_string_equal(o.node.press_file.items[1], "r=/tmp/r.bin");
    unlink(path);
    arena_fini(&arena);
}

/* Reads `text` as the file of --config; what it is called stands in `path`. */
static enum status read_file(const char *text, char *path, struct err *err)
{
    struct prefill_options o = { 0 };
    struct arena arena = { 0 };
    enum status st;
    int fd;

    strcpy(path, "/tmp/platen-options-XXXXXX");
    fd = mkstemp(path);
    assert_true(fd >= 0 && write(fd, text, strlen(text)) == (ssize_t)strlen(text));
    close(fd);
    err_clear(err);
    st = read_line(&o, &arena, err, 6, "--config", path, "--listen", "h:1", "--model", "m");
    unlink(path);
    arena_fini(&arena);
    return st;
}

static void what_is_for_the_line_alone_is_refused_in_a_file(void **state)
{
    char path[64];
    struct err err = { 0 };

    (void)state;
    assert_int_equal(read_file("threads = 3\nconfig = other.conf\n", path, &err), ST_EINVAL);
    assert_memory_equal(err.text, path, strlen(path));
    assert_string_equal(err.text + strlen(path),
                        ": config = other.conf: a file names no other file; --config is for the command line");
    assert_int_equal(read_file("help = on\n", path, &err), ST_EINVAL);
    assert_string_equal(err.text + strlen(path), ": help = on: --help is for the command line");
    assert_int_equal(read_file("threads = 3\nhelp = off\n", path, &err), ST_OK);
}

static const struct CMUnitTest tests[] = {
    cmocka_unit_test(defaults_are_those_of_the_table),
    cmocka_unit_test(required_and_unknown_flags_are_named),
    cmocka_unit_test(help_needs_nothing_else),
    cmocka_unit_test(the_line_wins_over_the_file_and_sections_add),
    cmocka_unit_test(what_is_for_the_line_alone_is_refused_in_a_file),
};

int main(int argc, char **argv)
{
    return cmocka_main(argc, argv, tests, ARRAY_LEN(tests), NULL, NULL);
}
