/* SPDX-License-Identifier: Apache-2.0 */
/* test_metrics.c - what is counted is what is shown. */
#include "tests/support/cmocka_main.h"

#include "common/base/arena.h"
#include "common/metrics/metrics.h"
#include "tests/support/allocations.h"

#include <pthread.h>
#include <stdlib.h>

/* The page has this line. */
static void shows(const struct metrics *m, const char *line)
{
    struct text out = { 0 };
    char want[200];

    metrics_print(m, &out);
    snprintf(want, sizeof(want), "\n%s\n", line);
    if (strstr(text_str(&out), want) == NULL)
        fail_msg("no line \"%s\" in\n%s", line, text_str(&out));
    text_fini(&out);
}

static void counters_and_gauges_show_their_values(void **state)
{
    struct metrics *m = metrics_open(8);
    struct metric *stop = metrics_counter(m, "answers_total", "finish=\"stop\"", "answers that ended");
    struct metric *length = metrics_counter(m, "answers_total", "finish=\"length\"", "answers that ended");
    struct metric *queued = metrics_gauge(m, "queued", NULL, "orders that wait");
    struct metric *time = metrics_counter(m, "stall_seconds_total", NULL, "time the engine waited");

    (void)state;
    metric_add(stop, 1);
    metric_add(stop, 2);
    metric_add(length, 1e12);
    metric_add(queued, 5);
    metric_add(queued, -5);
    metric_set(queued, 7);
    metric_add(time, 0.1);
    metric_add(NULL, 1);
    metric_set(NULL, 1);
    metric_observe(NULL, 1);
    shows(m, "answers_total{finish=\"stop\"} 3");
    shows(m, "answers_total{finish=\"length\"} 1000000000000");
    shows(m, "queued 7");
    shows(m, "stall_seconds_total 0.1");
    assert_true(metric_value(stop) == 3);
    metrics_close(m);
}

static void each_name_is_explained_once(void **state)
{
    struct metrics *m = metrics_open(8);
    struct text out = { 0 };
    const char *first;

    (void)state;
    metrics_counter(m, "a_total", "x=\"1\"", "about a");
    metrics_counter(m, "a_total", "x=\"2\"", "about a");
    metrics_gauge(m, "b", NULL, "about b");
    metrics_print(m, &out);
    first = strstr(text_str(&out),
                   "# HELP a_total about a\n# TYPE a_total counter\na_total{x=\"1\"} 0\na_total{x=\"2\"} 0\n"
                   "# HELP b about b\n# TYPE b gauge\nb 0\n");
    assert_non_null(first);
    assert_null(strstr(first + 1, "# HELP a_total"));
    text_fini(&out);
    metrics_close(m);
}

static void a_histogram_counts_up_to_each_bound(void **state)
{
    static const double bounds[] = { 0.5, 1, 2.5 };
    struct metrics *m = metrics_open(8);
    struct metric *h = metrics_histogram(m, "first_token_seconds", "node=\"d\"", "time to the first token", bounds, 3);

    (void)state;
    metric_observe(h, 0.25);
    metric_observe(h, 0.5);
    metric_observe(h, 2);
    metric_observe(h, 100);
    shows(m, "first_token_seconds_bucket{node=\"d\",le=\"0.5\"} 2");
    shows(m, "first_token_seconds_bucket{node=\"d\",le=\"1\"} 2");
    shows(m, "first_token_seconds_bucket{node=\"d\",le=\"2.5\"} 3");
    shows(m, "first_token_seconds_bucket{node=\"d\",le=\"+Inf\"} 4");
    shows(m, "first_token_seconds_sum{node=\"d\"} 102.75");
    shows(m, "first_token_seconds_count{node=\"d\"} 4");
    metrics_close(m);
}

static double read_it(void *arg)
{
    return *(double *)arg;
}

static void a_read_gauge_is_read_when_shown(void **state)
{
    struct metrics *m = metrics_open(8);
    double value = 1;

    (void)state;
    metrics_gauge_read(m, "blocks", NULL, "blocks held", read_it, &value);
    value = 42;
    shows(m, "blocks 42");
    metrics_close(m);
}

static void the_process_is_shown(void **state)
{
    struct metrics *m = metrics_open(1);
    struct text out = { 0 };
    const char *row;
    double bytes;

    (void)state;
    metrics_print(m, &out);
    row = strstr(text_str(&out), "\nprocess_resident_memory_bytes ");
    assert_non_null(row);
    assert_int_equal(sscanf(row, " process_resident_memory_bytes %lf", &bytes), 1);
    assert_true(bytes > 100000);
    assert_non_null(strstr(text_str(&out), "\nprocess_threads 1\n"));
    assert_non_null(strstr(text_str(&out), "\nprocess_open_fds "));
    text_fini(&out);
    metrics_close(m);
}

static double heap_shown(const struct metrics *m)
{
    struct text out = { 0 };
    const char *row;
    double bytes = 0;

    metrics_print(m, &out);
    row = strstr(text_str(&out), "\nprocess_heap_bytes ");
    assert_non_null(row);
    assert_int_equal(sscanf(row, " process_heap_bytes %lf", &bytes), 1);
    text_fini(&out);
    return bytes;
}

static void what_is_allocated_is_shown_and_what_is_freed_is_not(void **state)
{
    enum { PIECE = 100000, PIECES = 20, LARGE = 64 << 20, SLACK = 16384 };
    struct metrics *m;
    void *piece[PIECES], *large;
    double before, held;

    (void)state;
    if (!ALLOCATIONS_ARE_COUNTED)
        skip(); /* a sanitizer's allocator is not the C library's */
    m = metrics_open(1);
    before = heap_shown(m);
    for (int i = 0; i < PIECES; i++)
        piece[i] = mem_zero(1, PIECE);
    large = mem_zero(1, LARGE);
    held = heap_shown(m) - before;
    assert_true(held >= PIECE * PIECES + LARGE && held < PIECE * PIECES + LARGE + SLACK);
    for (int i = 0; i < PIECES; i++)
        free(piece[i]);
    free(large);
    held = heap_shown(m) - before;
    assert_true(held < SLACK && held > -SLACK);
    metrics_close(m);
}

static void *add_many(void *arg)
{
    for (int i = 0; i < 100000; i++)
        metric_add((struct metric *)arg, 1);
    return NULL;
}

static void no_addition_is_lost_between_threads(void **state)
{
    struct metrics *m = metrics_open(1);
    struct metric *x = metrics_counter(m, "x_total", NULL, "x");
    pthread_t threads[4];

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(threads); i++)
        pthread_create(&threads[i], NULL, add_many, x);
    for (size_t i = 0; i < ARRAY_LEN(threads); i++)
        pthread_join(threads[i], NULL);
    assert_true(metric_value(x) == 400000);
    metrics_close(m);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(counters_and_gauges_show_their_values),
        cmocka_unit_test(each_name_is_explained_once),
        cmocka_unit_test(a_histogram_counts_up_to_each_bound),
        cmocka_unit_test(a_read_gauge_is_read_when_shown),
        cmocka_unit_test(the_process_is_shown),
        cmocka_unit_test(what_is_allocated_is_shown_and_what_is_freed_is_not),
        cmocka_unit_test(no_addition_is_lost_between_threads),
    };

    return cmocka_main(argc, argv, tests, ARRAY_LEN(tests), NULL, NULL);
}
