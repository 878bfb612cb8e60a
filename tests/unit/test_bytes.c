/* SPDX-License-Identifier: Apache-2.0 */
#include "common/base/bytes.h"
#include "tests/support/cmocka_main.h"

static const uint8_t some[] = { 0x01, 0x02, 0x03, 0x84, 0x05, 0x06, 0x07, 0x88, 0x09 };

static void loads_are_little_endian_from_any_address(void **state)
{
    (void)state;
    assert_int_equal(load_u16(some + 1), 0x0302);
    assert_true(load_u32(some) == 0x84030201u);
    assert_true(load_u64(some + 1) == UINT64_C(0x0988070605840302));
}

static void stores_are_the_reverse_of_loads(void **state)
{
    uint8_t room[9] = { 0 };

    (void)state;
    store_u64(room + 1, UINT64_C(0xF1E2D3C4B5A69788));
    assert_true(load_u64(room + 1) == UINT64_C(0xF1E2D3C4B5A69788));
    store_u32(room + 1, 0xDEADBEEF);
    assert_true(load_u32(room + 1) == 0xDEADBEEF);
    assert_int_equal(room[0], 0);
}

static void a_cursor_reads_in_order(void **state)
{
    struct cursor c = cursor_on(some, sizeof some);

    (void)state;
    assert_int_equal(cursor_u8(&c), 1);
    assert_true(cursor_u64(&c) == UINT64_C(0x0988070605840302));
    assert_int_equal(cursor_left(&c), 0);
    assert_false(c.bad);
}

static void a_cursor_refuses_a_length_past_the_end(void **state)
{
    struct cursor c = cursor_on(some, sizeof some);

    (void)state;
    assert_null(cursor_take(&c, sizeof some + 1));
    assert_true(c.bad);
    c = cursor_on(some, sizeof some);
    assert_null(cursor_take(&c, UINT64_MAX)); /* no wrap of the address */
    assert_true(c.bad);
}

static void a_bad_cursor_stays_bad_and_reads_zero(void **state)
{
    struct cursor c = cursor_on(some, 3);

    (void)state;
    assert_int_equal(cursor_u32(&c), 0);
    assert_true(c.bad);
    assert_int_equal(cursor_u8(&c), 0); /* although three bytes are left */
    assert_true(cursor_u64(&c) == 0);
    assert_null(cursor_take(&c, 0));
}

static void an_empty_cursor_gives_nothing(void **state)
{
    struct cursor c = cursor_on(some, 0);

    (void)state;
    assert_non_null(cursor_take(&c, 0));
    assert_false(c.bad);
    assert_int_equal(cursor_u8(&c), 0);
    assert_true(c.bad);
}

static void sizes_that_do_not_fit_are_refused(void **state)
{
    uint64_t out = 7;

    (void)state;
    assert_true(size_mul(UINT64_C(1) << 32, UINT64_C(1) << 31, &out) && out == UINT64_C(1) << 63);
    assert_false(size_mul(UINT64_C(1) << 32, UINT64_C(1) << 32, &out));
    assert_true(size_add(UINT64_MAX - 1, 1, &out) && out == UINT64_MAX);
    assert_false(size_add(UINT64_MAX, 1, &out));
}

int main(int argc, char **argv)
{
    static const struct CMUnitTest tests[] = {
        cmocka_unit_test(loads_are_little_endian_from_any_address),
        cmocka_unit_test(stores_are_the_reverse_of_loads),
        cmocka_unit_test(a_cursor_reads_in_order),
        cmocka_unit_test(a_cursor_refuses_a_length_past_the_end),
        cmocka_unit_test(a_bad_cursor_stays_bad_and_reads_zero),
        cmocka_unit_test(an_empty_cursor_gives_nothing),
        cmocka_unit_test(sizes_that_do_not_fit_are_refused),
    };

    return cmocka_main(argc, argv, tests, ARRAY_LEN(tests), NULL, NULL);
}
