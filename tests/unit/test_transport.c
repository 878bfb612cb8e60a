/* SPDX-License-Identifier: Apache-2.0 */
/* test_transport.c - every row of transport.def, and which one an order gets. */
#include "common/transport/transport.h"
#include "tests/support/cmocka_main.h"

static void every_transport_has_what_the_table_asks(void **state)
{
    size_t i;

    (void)state;
    for (i = 0; transport_at(i); i++) {
        const struct transport *t = transport_at(i);

        assert_ptr_equal(transport_find(t->name), t);
        assert_true(strlen(t->summary) > 10);
        assert_non_null(t->connect);
        assert_true((t->send != NULL) != t->pulls);
        assert_true((t->lend != NULL) == t->pulls);
        assert_true((t->open != NULL) == (t->shut != NULL));
        assert_non_null(t->poll);
        assert_non_null(t->close);
        t->close(NULL);
    }
    assert_true(i >= 2);
    assert_null(transport_find("carrier-pigeon"));
    assert_null(transport_find(""));
}

static void the_first_that_both_have_is_taken(void **state)
{
    const char *const offered[] = { "nccl", "grpc", "loopback" };
    const struct transport *t = NULL;
    struct text note = { 0 };

    (void)state;
    assert_int_equal(transport_choose(&t, "grpc", offered, 3, &note, NULL), ST_OK);
    assert_string_equal(t->name, "grpc");
    assert_non_null(strstr(text_str(&note), "nccl"));
    text_clear(&note);
    assert_int_equal(transport_choose(&t, "loopback, grpc", offered + 1, 2, &note, NULL), ST_OK);
    assert_string_equal(t->name, "grpc");
    assert_string_equal(text_str(&note), "");
    text_fini(&note);
}

static void nothing_in_common_names_both_lists(void **state)
{
    const char *const offered[] = { "nccl", "loopback" };
    const struct transport *t;
    struct err err = { 0 };

    (void)state;
    assert_int_equal(transport_choose(&t, "grpc", offered, 2, NULL, &err), ST_EPRECONDITION);
    assert_non_null(strstr(err.text, "nccl,loopback"));
    assert_non_null(strstr(err.text, "grpc"));
    err_clear(&err);
    assert_int_equal(transport_choose(&t, "grpc", NULL, 0, NULL, &err), ST_EPRECONDITION);
}

static void an_operators_list_is_checked(void **state)
{
    struct err err = { 0 };

    (void)state;
    assert_int_equal(transport_list_check("grpc", NULL), ST_OK);
    assert_int_equal(transport_list_check("grpc,loopback", NULL), ST_OK);
    assert_int_equal(transport_list_check("grpc,gprc", &err), ST_EINVAL);
    assert_non_null(strstr(err.text, "`gprc`"));
    assert_int_equal(transport_list_check(" ,", NULL), ST_EINVAL);
}

static const struct CMUnitTest tests[] = {
    cmocka_unit_test(every_transport_has_what_the_table_asks),
    cmocka_unit_test(the_first_that_both_have_is_taken),
    cmocka_unit_test(nothing_in_common_names_both_lists),
    cmocka_unit_test(an_operators_list_is_checked),
};

int main(int argc, char **argv)
{
    return cmocka_main(argc, argv, tests, ARRAY_LEN(tests), NULL, NULL);
}
