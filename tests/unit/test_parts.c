/* SPDX-License-Identifier: Apache-2.0 */
/* What a node tells of its device while it runs: a back end that answers as the promise says stands for the device. */
#include "common/base/clock.h"
#include "common/node/parts.h"
#include "tests/support/captured.h"
#include "tests/support/cmocka_main.h"

static const struct fallback refused[] = {
    { "own product", "cublaslt", "heuristics", 15, { 16, 1000, 77 } },
    { "ragged attention", "cudnn", "plan", 3000, { 32, 8, 128 } },
};

static int32_t refusals;

static const char *describe(struct backend *be)
{
    (void)be;
    return "fake";
}

static const struct fallback *fallback_at(struct backend *be, int32_t index)
{
    (void)be;
    return index < refusals ? &refused[index] : NULL;
}

static const struct fallback *missing_at(struct backend *be, int32_t index)
{
    static const struct fallback missing = { "own attention", "cudnn", "no such file", 0, { 0 } };

    (void)be;
    return index == 0 ? &missing : NULL;
}

static const struct backend_ops misses_one = { .describe = describe, .fallback_at = missing_at };
static const struct backend_ops asks_libraries = { .describe = describe, .fallback_at = fallback_at };
static const struct backend_ops asks_none = { .describe = describe };

static int setup(void **state)
{
    static const struct node_options options = { .backend = "fake:0", .listen = "127.0.0.1:0" };
    static struct backend be;
    static struct node_parts parts;

    refusals = 0;
    be = (struct backend){ .ops = &asks_libraries };
    parts_init(&parts, &options, NULL);
    parts.be = &be;
    *state = &parts;
    return 0;
}

static int teardown(void **state)
{
    metrics_close(((struct node_parts *)*state)->metrics);
    return 0;
}

static const char *watched(struct node_parts *p)
{
    struct capture c = capture_begin();

    parts_watch(p);
    return capture_end(c);
}

static void counted(const struct node_parts *p, const char *line)
{
    struct text page = { 0 };

    metrics_print(p->metrics, &page);
    assert_non_null(strstr(text_str(&page), line));
    text_fini(&page);
}

static void a_fall_back_is_logged_and_counted_once(void **state)
{
    struct node_parts *p = *state;

    assert_string_equal(watched(p), "");
    counted(p, "\nplaten_device_fallbacks_total 0\n");
    refusals = 1;
    assert_non_null(strstr(watched(p), " level=warn event=fallback instead=\"own product\" shape=16x1000x77 "
                                       "library=cublaslt why=\"heuristics\" library_status=15\n"));
    counted(p, "\nplaten_device_fallbacks_total 1\n");
    assert_string_equal(watched(p), "");
    counted(p, "\nplaten_device_fallbacks_total 1\n");
}

static void fall_backs_of_different_shapes_are_all_told(void **state)
{
    struct node_parts *p = *state;
    const char *lines;

    refusals = 2;
    lines = watched(p);
    assert_non_null(strstr(lines, "shape=16x1000x77"));
    assert_non_null(strstr(lines, "instead=\"ragged attention\" shape=32x8x128 library=cudnn"));
    counted(p, "\nplaten_device_fallbacks_total 2\n");
}

static void a_back_end_that_asks_no_library_has_no_fall_backs(void **state)
{
    struct node_parts *p = *state;

    p->be->ops = &asks_none;
    assert_string_equal(watched(p), "");
    counted(p, "\nplaten_device_fallbacks_total 0\n");
}

static void a_library_that_is_not_there_falls_back_for_every_shape(void **state)
{
    struct node_parts *p = *state;
    char words[128];

    p->be->ops = &misses_one;
    assert_non_null(strstr(watched(p), "instead=\"own attention\" shape=every library=cudnn why=\"no such file\""));
    backend_describe(p->be, words, sizeof words);
    assert_string_equal(words, "fake; own attention for every (cudnn: no such file, status 0)");
}

static void the_description_names_what_fell_back(void **state)
{
    struct node_parts *p = *state;
    char words[128], few[24];

    backend_describe(p->be, words, sizeof words);
    assert_string_equal(words, "fake");
    refusals = 1;
    backend_describe(p->be, words, sizeof words);
    assert_string_equal(words, "fake; own product for 16x1000x77 (cublaslt: heuristics, status 15)");
    refusals = 2;
    backend_describe(p->be, few, sizeof few);
    assert_string_equal(few, "fake; own product for 1");
}

/* The node raises itself as if a signal had come. */
static void an_engine_that_does_not_come_back_is_a_device_that_failed(void **state)
{
    static const char *const names[] = { "fake" };
    struct node_parts *p = *state;
    int64_t turn_ns = clock_now_ns();

    assert_int_equal(signals_open(&p->signals, NULL, NULL, NULL), ST_OK);
    assert_int_equal(parts_bind(p, "fake", names, 1, NULL), ST_OK);
    assert_string_equal(watched(p), ""); /* no engine yet */
    p->turn_ns = &turn_ns;
    assert_string_equal(watched(p), "");
    turn_ns -= 299 * NS_PER_S;
    assert_string_equal(watched(p), "");
    assert_false(signals_raised(p->signals));
    turn_ns -= 2 * NS_PER_S;
    assert_non_null(
        strstr(watched(p), " level=error event=device why=\"the engine has not come back from fake:0 for 300 s\"\n"));
    assert_true(signals_raised(p->signals));
    assert_true(p->device_failed);
    assert_string_equal(watched(p), ""); /* once */
    service_close(p->service);
    signals_close(p->signals);
}

static void an_engine_without_a_turn_or_without_a_device_may_take_its_time(void **state)
{
    static const struct backend_ops host = { .host_is_device = true };
    struct node_parts *p = *state;
    int64_t turn_ns = 0;

    p->turn_ns = &turn_ns;
    assert_string_equal(watched(p), "");
    turn_ns = clock_now_ns() - 1000 * NS_PER_S;
    p->be->ops = &host;
    assert_string_equal(watched(p), "");
    assert_false(p->device_failed);
}

int main(int argc, char **argv)
{
    static const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(a_fall_back_is_logged_and_counted_once, setup, teardown),
        cmocka_unit_test_setup_teardown(fall_backs_of_different_shapes_are_all_told, setup, teardown),
        cmocka_unit_test_setup_teardown(a_back_end_that_asks_no_library_has_no_fall_backs, setup, teardown),
        cmocka_unit_test_setup_teardown(a_library_that_is_not_there_falls_back_for_every_shape, setup, teardown),
        cmocka_unit_test_setup_teardown(an_engine_that_does_not_come_back_is_a_device_that_failed, setup, teardown),
        cmocka_unit_test_setup_teardown(an_engine_without_a_turn_or_without_a_device_may_take_its_time, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(the_description_names_what_fell_back, setup, teardown),
    };

    return cmocka_main(argc, argv, tests, ARRAY_LEN(tests), NULL, NULL);
}
