/* SPDX-License-Identifier: Apache-2.0 */
#include "client/kept.h"
#include "tests/support/cmocka_main.h"

#include <math.h>
#include <unistd.h>

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

static void what_json_has_no_number_for_is_null_and_nan_comes_last(void **state)
{
    static const float logits[] = { NAN, -INFINITY, 2, -NAN, INFINITY, 3 };
    static char seen[1000];
    struct token_list ids = { 0 };
    struct kept k = { 0 };
    struct kept_report report = {
        .kept = &k, .model = "m", .press = "none", .ids = &ids, .logits = logits, .logit_count = 6, .vocab = 6
    };
    FILE *file = tmpfile();
    int before = dup(STDOUT_FILENO);

    (void)state;
    kept_open(&k, 1, 1, 1);
    kept_window(&k, 0, 1);
    fflush(stdout);
    assert_true(dup2(fileno(file), STDOUT_FILENO) >= 0);
    kept_json(&report);
    fflush(stdout);
    assert_true(dup2(before, STDOUT_FILENO) >= 0);
    close(before);
    rewind(file);
    seen[fread(seen, 1, sizeof seen - 1, file)] = '\0';
    assert_non_null(strstr(seen, "\"logits\":[[4,null],[5,3],[2,2],[1,null],[0,null],[3,null]]"));
    fclose(file);
    kept_close(&k);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_layer_with_a_window_keeps_its_last_positions),
        cmocka_unit_test(what_json_has_no_number_for_is_null_and_nan_comes_last),
        cmocka_unit_test(a_page_that_cannot_be_written_is_refused),
    };

    return cmocka_main(argc, argv, tests, ARRAY_LEN(tests), NULL, NULL);
}
