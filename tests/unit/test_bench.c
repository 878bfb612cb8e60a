/* SPDX-License-Identifier: Apache-2.0 */
#include "client/bench.h"
#include "tests/support/cmocka_main.h"

static void contexts_are_the_ids_that_the_contract_names(void **state)
{
    int32_t token[12000], small[12000];

    (void)state;
    bench_tokens(token, 12000, 49152);
    bench_tokens(small, 12000, 300);
    assert_int_equal(token[0], 100);
    assert_int_equal(token[1], 8019);
    assert_int_equal(token[6], 100 + 7919 * 6 % 40000);
    for (int i = 0; i < 12000; i++)
        assert_in_range(small[i], 0, 299);
    assert_int_equal(token[11999], 100 + (int32_t)(INT64_C(7919) * 11999 % 40000));
}

static void a_median_is_the_middle(void **state)
{
    double odd[] = { 5, 1, 3 }, even[] = { 4, 1, 3, 2 }, one[] = { 7 };

    (void)state;
    assert_float_equal(bench_median(odd, 3), 3, 0);
    assert_float_equal(bench_median(even, 4), 2.5, 0);
    assert_float_equal(bench_median(one, 1), 7, 0);
}

static void the_smallest_id_wins_among_equal_logits(void **state)
{
    const float logits[] = { -1, 2, 5, 5, 4 };

    (void)state;
    assert_int_equal(bench_argmax(logits, 5), 2);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(contexts_are_the_ids_that_the_contract_names),
        cmocka_unit_test(a_median_is_the_middle),
        cmocka_unit_test(the_smallest_id_wins_among_equal_logits),
    };

    return cmocka_main(argc, argv, tests, ARRAY_LEN(tests), NULL, NULL);
}
