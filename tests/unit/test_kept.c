/* SPDX-License-Identifier: Apache-2.0 */
#include "client/kept.h"
#include "tests/support/cmocka_main.h"

static void a_layer_with_a_window_keeps_its_last_positions(void **state)
{
    struct kept k = { 0 };

    (void)state;
    kept_open(&k, 2, 2, 10);
    kept_window(&k, 0, 3);
    kept_window(&k, 1, 100);
    assert_int_equal(k.layer[0].first[2], 6);
    for (int32_t g = 0; g < 2; g++)
        for (int32_t i = 0; i < 3; i++)
            assert_int_equal(k.layer[0].token[g * 3 + i], 7 + i);
    assert_int_equal(k.layer[1].first[1], 10);
    assert_int_equal(k.layer[1].token[19], 9);
    kept_close(&k);
    assert_null(k.layer);
}

static void a_page_that_cannot_be_written_is_refused(void **state)
{
    struct token_list ids = { 0 };
    struct kept k = { 0 };
    struct kept_report report = { .kept = &k, .model = "m", .press = "none", .ids = &ids };
    struct err err = { 0 };

    (void)state;
    kept_open(&k, 1, 1, 1);
    kept_window(&k, 0, 1);
    assert_int_equal(kept_page(&report, "/no/such/folder/page.html", &err), ST_EINVAL);
    assert_non_null(strstr(err.text, "/no/such/folder/page.html"));
    kept_close(&k);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_layer_with_a_window_keeps_its_last_positions),
        cmocka_unit_test(a_page_that_cannot_be_written_is_refused),
    };

    return cmocka_main(argc, argv, tests, ARRAY_LEN(tests), NULL, NULL);
}
