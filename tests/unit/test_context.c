/* SPDX-License-Identifier: Apache-2.0 */
/* test_context.c - kept contexts: found by handle, renewed, dropped, outlived. */
#include "common/base/clock.h"
#include "decode-node/context.h"
#include "tests/support/cmocka_main.h"

#include <unistd.h>

static int open_table(void **state)
{
    *state = contexts_open(3);
    return 0;
}

static int close_table(void **state)
{
    contexts_close(*state);
    return 0;
}

static void keep(struct contexts *t, int64_t ttl_s, char handle[HANDLE_CHARS + 1])
{
    struct context *c = context_open(NULL, 2);

    assert_int_equal(contexts_keep(t, c, ttl_s, handle, NULL), ST_OK);
    context_unref(c);
}

static void a_kept_context_is_found_by_its_handle(void **state)
{
    char one[HANDLE_CHARS + 1], two[HANDLE_CHARS + 1];
    struct context *c;
    int64_t left = 0;

    keep(*state, 100, one);
    keep(*state, 100, two);
    assert_string_not_equal(one, two);
    assert_int_equal(strlen(one), HANDLE_CHARS);
    assert_int_equal(contexts_find(*state, two, false, &c, &left, NULL), ST_OK);
    assert_int_equal(context_refs(c), 2);
    assert_in_range(left, 99, 100);
    context_unref(c);
}

static void an_unknown_handle_is_not_found_and_named(void **state)
{
    struct err err = { 0 };
    struct context *c;

    assert_int_equal(contexts_find(*state, "beef", true, &c, NULL, &err), ST_ENOTFOUND);
    assert_non_null(strstr(err.text, "beef"));
    err_clear(&err);
    assert_int_equal(contexts_drop(*state, "", &err), ST_ENOTFOUND);
}

static void more_than_the_limit_is_refused(void **state)
{
    char handle[HANDLE_CHARS + 1];
    struct err err = { 0 };
    struct context *c = context_open(NULL, 2);

    for (int i = 0; i < 3; i++)
        keep(*state, 100, handle);
    assert_int_equal(contexts_keep(*state, c, 100, handle, &err), ST_EEXHAUSTED);
    assert_int_equal(context_refs(c), 1);
    context_unref(c);
    assert_int_equal(contexts_count(*state), 3);
}

static void time_to_live_ends_and_use_renews_it(void **state)
{
    char once[HANDLE_CHARS + 1], used[HANDLE_CHARS + 1];
    struct context *c;

    keep(*state, 1, once);
    keep(*state, 1, used);
    usleep(600 * 1000);
    assert_int_equal(contexts_find(*state, used, true, &c, NULL, NULL), ST_OK);
    context_unref(c);
    usleep(600 * 1000);
    contexts_expire(*state);
    assert_int_equal(contexts_count(*state), 1);
    assert_int_equal(contexts_find(*state, once, true, &c, NULL, NULL), ST_ENOTFOUND);
    assert_int_equal(contexts_find(*state, used, false, &c, NULL, NULL), ST_OK);
    context_unref(c);
}

static void a_context_that_is_asked_outlives_its_time(void **state)
{
    char handle[HANDLE_CHARS + 1];
    struct context *c;

    keep(*state, 1, handle);
    assert_int_equal(contexts_find(*state, handle, true, &c, NULL, NULL), ST_OK);
    usleep(1100 * 1000);
    contexts_expire(*state);
    assert_int_equal(contexts_count(*state), 1);
    context_unref(c);
    contexts_expire(*state);
    assert_int_equal(contexts_count(*state), 0);
}

static void a_dropped_context_lives_until_its_last_answer(void **state)
{
    char handle[HANDLE_CHARS + 1];
    struct context *c;

    keep(*state, 100, handle);
    assert_int_equal(contexts_find(*state, handle, true, &c, NULL, NULL), ST_OK);
    assert_int_equal(contexts_drop(*state, handle, NULL), ST_OK);
    assert_int_equal(context_refs(c), 1);
    assert_int_equal(c->layers, 2);
    context_unref(c);
}

static const struct CMUnitTest tests[] = {
    cmocka_unit_test_setup_teardown(a_kept_context_is_found_by_its_handle, open_table, close_table),
    cmocka_unit_test_setup_teardown(an_unknown_handle_is_not_found_and_named, open_table, close_table),
    cmocka_unit_test_setup_teardown(more_than_the_limit_is_refused, open_table, close_table),
    cmocka_unit_test_setup_teardown(time_to_live_ends_and_use_renews_it, open_table, close_table),
    cmocka_unit_test_setup_teardown(a_context_that_is_asked_outlives_its_time, open_table, close_table),
    cmocka_unit_test_setup_teardown(a_dropped_context_lives_until_its_last_answer, open_table, close_table),
};

int main(int argc, char **argv)
{
    return cmocka_main(argc, argv, tests, ARRAY_LEN(tests), NULL, NULL);
}
