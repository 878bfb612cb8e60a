/* SPDX-License-Identifier: Apache-2.0 */
/* What log_event writes, read back from a stderr that was put on a temporary file for the time of one event. */
#include "common/base/log.h"
#include "tests/support/captured.h"
#include "tests/support/cmocka_main.h"

#include <fcntl.h>
#include <pthread.h>
#include <regex.h>
#include <stdlib.h>
#include <unistd.h>

static char *seen;

static void a_line_holds_time_level_event_and_values(void **state)
{
    struct capture c = capture_begin();
    regex_t shape;

    (void)state;
    log_event(LOG_WARN, "committed", "layers=%d ms=%.1f", 30, 1.25);
    seen = capture_end(c);
    assert_int_equal(regcomp(&shape,
                             "^time=2[0-9]{3}-[01][0-9]-[0-3][0-9]T[0-9]{2}:[0-9]{2}:[0-9]{2}\\.[0-9]{3}Z "
                             "level=warn event=committed layers=30 ms=1\\.2\n$",
                             REG_EXTENDED | REG_NOSUB),
                     0);
    if (regexec(&shape, seen, 0, NULL, 0) != 0)
        fail_msg("not the shape of a log line: %s", seen);
    regfree(&shape);
}

static void an_event_without_values_ends_after_its_word(void **state)
{
    struct capture c = capture_begin();

    (void)state;
    log_event(LOG_ERROR, "stopped", NULL);
    seen = capture_end(c);
    assert_non_null(strstr(seen, "level=error event=stopped\n"));
}

static void a_text_of_many_words_is_one_value(void **state)
{
    static char longest[5000];
    struct log_text q;
    size_t bytes;

    (void)state;
    assert_string_equal(log_quote(&q, ""), "\"\"");
    assert_string_equal(log_quote(&q, "no press \"x\" status=OK"), "\"no press \\\"x\\\" status=OK\"");
    assert_string_equal(log_quote(&q, "C:\\a\\"), "\"C:\\\\a\\\\\"");
    memset(longest, '"', sizeof longest - 1);
    bytes = strlen(log_quote(&q, longest));
    assert_in_range(bytes, LOG_TEXT_BYTES_MAX - 8, LOG_TEXT_BYTES_MAX - 1);
    assert_string_equal(q.at + bytes - 6, "\\\"...\"");
}

static void levels_below_the_switch_are_silent(void **state)
{
    struct capture c = capture_begin();

    (void)state;
    log_event(LOG_DEBUG, "unseen", "n=1"); /* the default is info */
    log_set_level(LOG_ERROR);
    log_event(LOG_WARN, "unseen", "n=2");
    log_event(LOG_ERROR, "heard", "n=3");
    log_set_level(LOG_DEBUG);
    log_event(LOG_DEBUG, "also_heard", "n=4");
    log_set_level(LOG_INFO);
    seen = capture_end(c);
    assert_null(strstr(seen, "unseen"));
    assert_non_null(strstr(seen, "event=heard n=3\n"));
    assert_non_null(strstr(seen, "level=debug event=also_heard n=4\n"));
}

static void an_event_is_always_one_line(void **state)
{
    struct capture c = capture_begin();

    (void)state;
    log_event(LOG_INFO, "odd", "reason=%s", "two\nlines\rand\x1b[31m colour");
    seen = capture_end(c);
    assert_non_null(strstr(seen, "reason=two lines and [31m colour\n"));
    assert_ptr_equal(strchr(seen, '\n'), seen + strlen(seen) - 1);
}

static void a_line_that_is_too_long_is_cut_and_still_ends(void **state)
{
    struct capture c = capture_begin();

    (void)state;
    log_event(LOG_INFO, "long", "x=%*s", 100000, "y");
    log_event(LOG_INFO, "next", NULL);
    seen = capture_end(c);
    assert_true(strlen(seen) < 5000);
    assert_non_null(strstr(seen, "\ntime="));
    assert_non_null(strstr(seen, "event=next\n"));
}

static void *log_many(void *arg)
{
    for (int i = 0; i < 500; i++)
        log_event(LOG_INFO, "many", "who=%s i=%03d end", (const char *)arg, i);
    return NULL;
}

static void lines_of_several_threads_do_not_mix(void **state)
{
    struct capture c = capture_begin();
    static char names[4][8] = { "aaaa", "bbbb", "cccc", "dddd" };
    pthread_t threads[4];
    size_t lines = 0;

    (void)state;
    for (size_t i = 0; i < 4; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, log_many, names[i]), 0);
    for (size_t i = 0; i < 4; i++)
        pthread_join(threads[i], NULL);
    seen = capture_end(c);
    for (char *line = strtok(seen, "\n"); line; line = strtok(NULL, "\n"), lines++) {
        assert_memory_equal(line, "time=", 5);
        assert_string_equal(line + strlen(line) - 4, " end");
        assert_int_equal(strlen(line),
                         strlen("time=2026-01-31T23:59:59.123Z level=info event=many who=aaaa i=000 end"));
    }
    assert_int_equal(lines, 2000);
}

static void level_words_are_parsed(void **state)
{
    (void)state;
    assert_int_equal(log_level_parse("error"), LOG_ERROR);
    assert_int_equal(log_level_parse("warn"), LOG_WARN);
    assert_int_equal(log_level_parse("info"), LOG_INFO);
    assert_int_equal(log_level_parse("debug"), LOG_DEBUG);
    assert_int_equal(log_level_parse("Debug"), -1);
    assert_int_equal(log_level_parse(""), -1);
}

static void a_reader_that_has_stopped_stops_nobody(void **state)
{
    static char text[1 << 20];
    int before = dup(STDERR_FILENO), ends[2];
    size_t bytes = 0;
    ssize_t got;

    (void)state;
    assert_int_equal(pipe(ends), 0);
    assert_true(dup2(ends[1], STDERR_FILENO) >= 0);
    for (int i = 0; i < 2000; i++) /* more than a pipe holds; ctest's time limit tells when one waits */
        log_event(LOG_INFO, "unread", "n=%d filler=%060d", i, i);
    assert_int_equal(fcntl(ends[0], F_SETFL, O_NONBLOCK), 0);
    while ((got = read(ends[0], text + bytes, sizeof text - 1 - bytes)) > 0)
        bytes += (size_t)got;
    log_event(LOG_INFO, "read-again", "n=1");
    bytes += (size_t)read(ends[0], text + bytes, sizeof text - 1 - bytes);
    text[bytes] = '\0';
    assert_true(dup2(before, STDERR_FILENO) >= 0);
    close(before);
    close(ends[0]);
    close(ends[1]);
    assert_non_null(strstr(text, "event=unread n=0 "));
    assert_null(strstr(text, "event=unread n=1999 "));
    assert_non_null(strstr(text, "event=log-lines-lost lines="));
    assert_non_null(strstr(text, "event=read-again n=1\n"));
}

int main(int argc, char **argv)
{
    static const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_line_holds_time_level_event_and_values),
        cmocka_unit_test(an_event_without_values_ends_after_its_word),
        cmocka_unit_test(a_reader_that_has_stopped_stops_nobody),
        cmocka_unit_test(a_text_of_many_words_is_one_value),
        cmocka_unit_test(levels_below_the_switch_are_silent),
        cmocka_unit_test(an_event_is_always_one_line),
        cmocka_unit_test(a_line_that_is_too_long_is_cut_and_still_ends),
        cmocka_unit_test(lines_of_several_threads_do_not_mix),
        cmocka_unit_test(level_words_are_parsed),
    };

    return cmocka_main(argc, argv, tests, ARRAY_LEN(tests), NULL, NULL);
}
