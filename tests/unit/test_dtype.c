/* SPDX-License-Identifier: Apache-2.0 */
#include "common/tensor/dtype.h"
#include "tests/support/cmocka_main.h"

#include <math.h>

static uint32_t bits_of(float f)
{
    uint32_t u;

    memcpy(&u, &f, sizeof u);
    return u;
}

/* The value of a 16- or 8-bit float by its definition, in double. */
static double by_definition(uint32_t bits, int exponent_bits, int fraction_bits)
{
    int bias = (1 << (exponent_bits - 1)) - 1;
    uint32_t fraction = bits & ((1u << fraction_bits) - 1);
    int exponent = (int)(bits >> fraction_bits & ((1u << exponent_bits) - 1));
    double v = exponent == 0 ? ldexp(fraction, 1 - bias - fraction_bits)
                             : ldexp(fraction + (double)(1u << fraction_bits), exponent - bias - fraction_bits);

    return bits >> (exponent_bits + fraction_bits) & 1 ? -v : v;
}

static void every_word_names_its_type(void **state)
{
    static const enum dtype all[] = {
#define DTYPE(name, number, word, values, bytes) name,
#include "common/tensor/dtype.def"
#undef DTYPE
    };

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(all); i++)
        assert_int_equal(dtype_parse(dtype_word(all[i])), all[i]);
    assert_int_equal(dtype_parse("f33"), -1);
    assert_int_equal(dtype_parse(""), -1);
}

static void bytes_are_counted_in_whole_blocks(void **state)
{
    (void)state;
    assert_int_equal(dtype_bytes(DT_F32, 3), 12);
    assert_int_equal(dtype_bytes(DT_BF16, 3), 6);
    assert_int_equal(dtype_bytes(DT_U4, 6), 3);
    assert_int_equal(dtype_bytes(DT_Q4_K, 512), 288);
    assert_int_equal(dtype_bytes(DT_Q8_0, 0), 0);
    assert_int_equal(dtype_block_values(DT_Q6_K), 256);
    assert_int_equal(dtype_block_bytes(DT_Q6_K), 210);
    assert_true(dtype_bytes(DT_F32, UINT64_C(1) << 40) == UINT64_C(1) << 42);
}

static void every_half_widens_to_its_value(void **state)
{
    (void)state;
    for (uint32_t h = 0; h < 0x10000; h++) {
        float f = f16_to_f32((uint16_t)h);

        if ((h & 0x7fff) > 0x7c00)
            assert_true(isnan(f));
        else if ((h & 0x7fff) == 0x7c00)
            assert_true(isinf(f) && !!signbit(f) == (h >> 15 != 0));
        else if ((double)f != by_definition(h, 5, 10) || !!signbit(f) != (h >> 15))
            fail_msg("f16 %04x: expected %a, got %a", h, by_definition(h, 5, 10), (double)f);
    }
}

static void every_half_survives_a_round_trip(void **state)
{
    (void)state;
    for (uint32_t h = 0; h < 0x10000; h++) {
        if ((h & 0x7fff) > 0x7c00)
            assert_true(isnan(f16_to_f32(f32_to_f16(f16_to_f32((uint16_t)h)))));
        else if (f32_to_f16(f16_to_f32((uint16_t)h)) != h)
            fail_msg("f16 %04x came back as %04x", h, f32_to_f16(f16_to_f32((uint16_t)h)));
    }
}

/* Between each two neighbours: a little below the middle goes down, a little above goes up, the middle to even. */
static void halves_round_to_nearest_even(void **state)
{
    (void)state;
    for (uint32_t h = 0; h < 0x7bff; h++) {
        float low = f16_to_f32((uint16_t)h), high = f16_to_f32((uint16_t)(h + 1)), middle = (low + high) / 2;

        assert_int_equal(f32_to_f16(middle), h + (h & 1));
        assert_int_equal(f32_to_f16(nextafterf(middle, 0)), h);
        assert_int_equal(f32_to_f16(nextafterf(middle, high)), h + 1);
        assert_int_equal(f32_to_f16(-middle), 0x8000 + h + (h & 1));
    }
    assert_int_equal(f32_to_f16(65519.0f), 0x7bff);
    assert_int_equal(f32_to_f16(65520.0f), 0x7c00);
    assert_int_equal(f32_to_f16(-1e30f), 0xfc00);
    assert_int_equal(f32_to_f16(1e-30f), 0);
}

static void bf16_rounds_to_nearest_even(void **state)
{
    (void)state;
    for (uint32_t h = 0; h < 0x7f7f; h++) {
        float low = bf16_to_f32((uint16_t)h);
        uint32_t middle = bits_of(low) + 0x8000;
        float f;

        memcpy(&f, &middle, sizeof f);
        assert_int_equal(f32_to_bf16(f), h + (h & 1));
        assert_int_equal(f32_to_bf16(nextafterf(f, 0)), h);
        assert_int_equal(f32_to_bf16(nextafterf(f, INFINITY)), h + 1);
        assert_int_equal(f32_to_bf16(low), h);
    }
}

static void bf16_keeps_infinity_and_nan(void **state)
{
    uint32_t low_payload = 0x7f800001; /* a NaN whose payload lies in the half that goes */
    float nan_low;

    (void)state;
    memcpy(&nan_low, &low_payload, sizeof nan_low);
    assert_int_equal(f32_to_bf16(INFINITY), 0x7f80);
    assert_int_equal(f32_to_bf16(-INFINITY), 0xff80);
    assert_true(isnan(bf16_to_f32(f32_to_bf16(nan_low))));
    assert_true(isnan(bf16_to_f32(f32_to_bf16(NAN))));
}

static void every_fp8_widens_to_its_value_and_back(void **state)
{
    (void)state;
    for (uint32_t b = 0; b < 256; b++) {
        float f = f8_to_f32((uint8_t)b);

        if ((b & 0x7f) == 0x7f) {
            assert_true(isnan(f) && (f32_to_f8(f) & 0x7f) == 0x7f);
            continue;
        }
        assert_true((double)f == by_definition(b, 4, 3));
        assert_int_equal(f32_to_f8(f), b);
    }
}

static void fp8_rounds_to_nearest_even(void **state)
{
    (void)state;
    for (uint32_t b = 0; b < 0x7e; b++) {
        float low = f8_to_f32((uint8_t)b), high = f8_to_f32((uint8_t)(b + 1)), middle = (low + high) / 2;

        assert_int_equal(f32_to_f8(middle), b + (b & 1));
        assert_int_equal(f32_to_f8(nextafterf(middle, 0)), b);
        assert_int_equal(f32_to_f8(nextafterf(middle, high)), b + 1);
        assert_int_equal(f32_to_f8(-middle), 0x80 + b + (b & 1));
    }
}

static void fp8_saturates_at_448(void **state)
{
    (void)state;
    assert_true(f8_to_f32(f32_to_f8(1e9f)) == 448.0f);
    assert_true(f8_to_f32(f32_to_f8(-INFINITY)) == -448.0f);
    assert_true(f8_to_f32(f32_to_f8(464.0f)) == 448.0f);
}

static void plain_types_widen_from_odd_addresses(void **state)
{
    static const uint8_t bytes[] = { 0xEE, 0x00, 0x3c, 0x00, 0xc0, 0xff, 0xff, 0xff, 0x7f };
    float y[4];

    (void)state;
    dtype_to_f32(y, bytes + 1, DT_F16, 2);
    assert_true(y[0] == 1.0f && y[1] == -2.0f);
    dtype_to_f32(y, bytes + 1, DT_BF16, 2);
    assert_true(y[0] == bf16_to_f32(0x3c00) && y[1] == -2.0f);
    dtype_to_f32(y, bytes + 5, DT_I32, 1);
    assert_true(y[0] == 2147483648.0f);
    dtype_to_f32(y, bytes + 3, DT_I8, 3);
    assert_true(y[0] == 0.0f && y[1] == -64.0f && y[2] == -1.0f);
    dtype_to_f32(y, bytes + 2, DT_F8E4M3, 1);
    assert_true(y[0] == f8_to_f32(0x3c));
    dtype_to_f32(y, bytes + 1, DT_F32, 1);
    assert_int_equal(bits_of(y[0]), 0xc0003c00);
}

static void int4_gives_the_low_nibble_first(void **state)
{
    static const uint8_t bytes[] = { 0x21, 0xf0 };
    float y[4];

    (void)state;
    dtype_to_f32(y, bytes, DT_U4, 4);
    assert_true(y[0] == 1.0f && y[1] == 2.0f && y[2] == 0.0f && y[3] == 15.0f);
}

static void narrowing_writes_each_plain_type(void **state)
{
    static const float x[] = { 1.0f, -0.0f, 1.00390625f };
    uint16_t half[4] = { 0, 0, 0, 0xABCD };
    float whole[3];

    (void)state;
    dtype_from_f32(half, DT_BF16, x, 3);
    assert_true(half[0] == 0x3f80 && half[1] == 0x8000 && half[2] == 0x3f80 && half[3] == 0xABCD);
    dtype_from_f32(half, DT_F16, x, 3);
    assert_true(half[0] == 0x3c00 && half[1] == 0x8000 && half[2] == 0x3c04 && half[3] == 0xABCD);
    dtype_from_f32(whole, DT_F32, x, 3);
    assert_memory_equal(whole, x, sizeof x);
}

int main(int argc, char **argv)
{
    static const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_word_names_its_type),
        cmocka_unit_test(bytes_are_counted_in_whole_blocks),
        cmocka_unit_test(every_half_widens_to_its_value),
        cmocka_unit_test(every_half_survives_a_round_trip),
        cmocka_unit_test(halves_round_to_nearest_even),
        cmocka_unit_test(bf16_rounds_to_nearest_even),
        cmocka_unit_test(bf16_keeps_infinity_and_nan),
        cmocka_unit_test(every_fp8_widens_to_its_value_and_back),
        cmocka_unit_test(fp8_rounds_to_nearest_even),
        cmocka_unit_test(fp8_saturates_at_448),
        cmocka_unit_test(plain_types_widen_from_odd_addresses),
        cmocka_unit_test(int4_gives_the_low_nibble_first),
        cmocka_unit_test(narrowing_writes_each_plain_type),
    };

    return cmocka_main(argc, argv, tests, ARRAY_LEN(tests), NULL, NULL);
}
