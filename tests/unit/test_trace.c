/* SPDX-License-Identifier: Apache-2.0 */
/* test_trace.c - spans that were added, read back from the file as JSON. */
#include "common/base/trace.h"
#include "tests/support/cmocka_main.h"

#include <jansson.h>
#include <math.h>
#include <pthread.h>
#include <string.h>
#include <unistd.h>

static char path[] = "/tmp/platen-trace-XXXXXX";

static struct trace *opened(void)
{
    struct trace *t = NULL;
    struct err err = { 0 };

    assert_int_equal(trace_open(&t, path, &err), ST_OK);
    trace_name(t, "a-node", "\"host\":1");
    return t;
}

static json_t *written(struct trace *t)
{
    struct err err = { 0 };
    json_error_t where;
    json_t *doc;

    assert_int_equal(trace_write(t, &err), ST_OK);
    doc = json_load_file(path, 0, &where);
    if (!doc)
        fail_msg("line %d: %s", where.line, where.text);
    return doc;
}

/* The i-th span (not what names tracks) of the file, or NULL. */
static json_t *span_at(json_t *doc, size_t i)
{
    json_t *events = json_object_get(doc, "traceEvents"), *event;
    size_t at;

    json_array_foreach(events, at, event)
    {
        if (strcmp(json_string_value(json_object_get(event, "ph")), "X") == 0 && i-- == 0)
            return event;
    }
    return NULL;
}

static double number(const json_t *o, const char *key)
{
    const json_t *value = json_object_get(o, key);

    if (!json_is_number(value))
        fail_msg("no number called %s", key);
    return json_number_value(value);
}

static void spans_come_back_with_their_times_in_microseconds(void **state)
{
    struct trace *t = opened();
    const uint64_t order = trace_order("some request");
    char hex[20];
    json_t *doc, *one, *arguments;

    (void)state;
    trace_add(t, TRACE_send, order, 3, 5000000, 5002500, 4096);
    doc = written(t);
    one = span_at(doc, 0);
    assert_non_null(one);
    assert_null(span_at(doc, 1));
    assert_string_equal(json_string_value(json_object_get(one, "name")), "send 3");
    assert_string_equal(json_string_value(json_object_get(one, "cat")), "send");
    assert_true(number(one, "ts") == 5000.0 && number(one, "dur") == 2.5);
    arguments = json_object_get(one, "args");
    snprintf(hex, sizeof hex, "%016llx", (unsigned long long)order);
    assert_string_equal(json_string_value(json_object_get(arguments, "order")), hex);
    assert_true(number(arguments, "layer") == 3 && number(arguments, "bytes") == 4096);
    json_decref(doc);
    trace_close(t);
}

static void spans_of_one_track_never_overlap(void **state)
{
    struct trace *t = opened();
    json_t *doc, *a, *b, *c;

    (void)state;
    trace_add(t, TRACE_receive, 1, 0, 1000, 9000, 1);
    trace_add(t, TRACE_receive, 2, 0, 2000, 3000, 1);
    trace_add(t, TRACE_receive, 2, 1, 3000, 4000, 1);
    doc = written(t);
    a = span_at(doc, 0);
    b = span_at(doc, 1);
    c = span_at(doc, 2);
    assert_true(number(a, "tid") != number(b, "tid"));
    assert_true(number(b, "tid") == number(c, "tid"));
    json_decref(doc);
    trace_close(t);
}

static void a_full_ring_keeps_the_last_spans(void **state)
{
    struct trace *t = opened();
    json_t *doc;

    (void)state;
    for (int64_t i = 0; i < TRACE_SPANS + 10; i++)
        trace_add(t, TRACE_step, 0, TRACE_NO_LAYER, i * 1000, i * 1000 + 500, 1);
    doc = written(t);
    assert_true(number(span_at(doc, 0), "ts") == 10);
    assert_non_null(span_at(doc, TRACE_SPANS - 1));
    assert_null(span_at(doc, TRACE_SPANS));
    json_decref(doc);
    trace_close(t);
}

static void *adds(void *arg)
{
    for (int64_t i = 0; i < 3 * TRACE_SPANS; i++)
        trace_add(arg, TRACE_press, 7, 1, i, i + 1, (uint64_t)i);
    return NULL;
}

static void threads_add_while_it_is_written(void **state)
{
    struct trace *t = opened();
    pthread_t threads[2];

    (void)state;
    for (int i = 0; i < 2; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, adds, t), 0);
    for (int i = 0; i < 3; i++) {
        json_t *doc = written(t), *one;

        for (size_t k = 0; k < 50 && (one = span_at(doc, k)) != NULL; k++) /* every one of them is whole */
            assert_true(fabs(number(json_object_get(one, "args"), "tokens") * 1e-3 - number(one, "ts")) < 1e-4);
        json_decref(doc);
    }
    for (int i = 0; i < 2; i++)
        pthread_join(threads[i], NULL);
    trace_close(t);
}

static void no_file_is_no_trace(void **state)
{
    struct trace *t = (struct trace *)path;
    struct err err = { 0 };

    (void)state;
    assert_int_equal(trace_open(&t, NULL, &err), ST_OK);
    assert_null(t);
    trace_name(t, "a", "b");
    trace_add(t, TRACE_step, 0, 0, 0, 0, 0);
    assert_int_equal(trace_write(t, &err), ST_OK);
    trace_close(t);
}

static void a_path_that_cannot_be_written_is_refused(void **state)
{
    struct trace *t;
    struct err err = { 0 };

    (void)state;
    assert_int_equal(trace_open(&t, "/nowhere/at/all", &err), ST_EINVAL);
    assert_non_null(strstr(err.text, "/nowhere/at/all"));
}

static int make_path(void **state)
{
    const int fd = mkstemp(path);

    (void)state;
    return fd < 0 ? 1 : close(fd);
}

static int remove_path(void **state)
{
    (void)state;
    return unlink(path);
}

/* Nothing is written here: what is renamed over a device takes its place. */
static void what_is_no_regular_file_is_refused(void **state)
{
    static const char *const there[] = { "/dev/null", "/tmp" };

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(there); i++) {
        struct trace *t = NULL;
        struct err err = { 0 };

        assert_int_equal(trace_open(&t, there[i], &err), ST_EINVAL);
        assert_non_null(strstr(err.text, there[i]));
        assert_non_null(strstr(err.text, "no regular file"));
        assert_null(t);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(spans_come_back_with_their_times_in_microseconds),
        cmocka_unit_test(spans_of_one_track_never_overlap),
        cmocka_unit_test(a_full_ring_keeps_the_last_spans),
        cmocka_unit_test(threads_add_while_it_is_written),
        cmocka_unit_test(no_file_is_no_trace),
        cmocka_unit_test(what_is_no_regular_file_is_refused),
        cmocka_unit_test(a_path_that_cannot_be_written_is_refused),
    };

    return cmocka_run_group_tests(tests, make_path, remove_path);
}
