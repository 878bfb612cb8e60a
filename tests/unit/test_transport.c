/* SPDX-License-Identifier: Apache-2.0 */
/* test_transport.c - every row of transport.def, and the check of an operator's list. */
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
    cmocka_unit_test(an_operators_list_is_checked),
};

int main(int argc, char **argv)
{
    return cmocka_main(argc, argv, tests, ARRAY_LEN(tests), NULL, NULL);
}
