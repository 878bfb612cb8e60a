/* SPDX-License-Identifier: Apache-2.0 */
/* Blocks of GGUF read back against tests/golden/quant.txt, which the reference package wrote. */
#include "common/base/file.h"
#include "common/tensor/quant.h"
#include "tests/support/cmocka_main.h"

#include <stdlib.h>

/* "00ff..." up to a blank or the end of line; *at moves behind it. The caller frees. */
static uint8_t *hex_read(const char **at, const char *end, size_t *bytes)
{
    size_t digits = 0;
    uint8_t *out;

    while (*at + digits < end && (*at)[digits] != ' ' && (*at)[digits] != '\n')
        digits++;
    out = malloc(digits / 2 + 1);
    assert_non_null(out);
    for (size_t i = 0; i < digits / 2; i++) {
        char pair[3] = { (*at)[2 * i], (*at)[2 * i + 1], '\0' };
        out[i] = (uint8_t)strtoul(pair, NULL, 16);
    }
    *bytes = digits / 2;
    *at += digits + 1;
    return out;
}

static const char *golden_line(const struct file *f, const char *word)
{
    const char *end = (const char *)f->data + f->bytes;

    for (const char *at = (const char *)f->data; at && at < end;) {
        if (strncmp(at, word, strlen(word)) == 0 && at[strlen(word)] == ' ')
            return at + strlen(word) + 1;
        at = memchr(at, '\n', (size_t)(end - at));
        at = at ? at + 1 : NULL;
    }
    fail_msg("tests/golden/quant.txt has no line for %s", word);
    return NULL;
}

static void assert_golden(const char *word)
{
    enum dtype t = (enum dtype)dtype_parse(word);
    struct file golden = { 0 };
    size_t block_bytes, value_bytes;
    struct err err = { 0 };

    assert_int_equal(file_open(&golden, "tests/golden/quant.txt", &err), ST_OK);
    const char *at = golden_line(&golden, word);
    uint8_t *blocks = hex_read(&at, (const char *)golden.data + golden.bytes, &block_bytes);
    uint8_t *want = hex_read(&at, (const char *)golden.data + golden.bytes, &value_bytes);
    uint64_t values = value_bytes / sizeof(float);
    float *got = malloc(value_bytes + sizeof(float));
    assert_non_null(got);

    assert_true(values >= 4 * (uint64_t)dtype_block_values(t));
    assert_int_equal(dtype_bytes(t, values), block_bytes);
    got[values] = 12345.0f;
    dtype_to_f32(got, blocks, t, values);
    for (uint64_t i = 0; i < values; i++)
        if (memcmp(&got[i], want + i * sizeof(float), sizeof(float)) != 0) {
            float wanted;
            memcpy(&wanted, want + i * sizeof(float), sizeof wanted);
            fail_msg("%s value %llu: expected %a, got %a", word, (unsigned long long)i, (double)wanted, (double)got[i]);
        }
    assert_true(got[values] == 12345.0f);
    free(got);
    free(want);
    free(blocks);
    file_close(&golden);
}

static void q8_0_equals_the_reference_bit_for_bit(void **state)
{
    (void)state;
    assert_golden("q8_0");
}

static void q4_0_equals_the_reference_bit_for_bit(void **state)
{
    (void)state;
    assert_golden("q4_0");
}

static void q4_1_equals_the_reference_bit_for_bit(void **state)
{
    (void)state;
    assert_golden("q4_1");
}

static void q4_k_equals_the_reference_bit_for_bit(void **state)
{
    (void)state;
    assert_golden("q4_k");
}

static void q5_k_equals_the_reference_bit_for_bit(void **state)
{
    (void)state;
    assert_golden("q5_k");
}

static void q6_k_equals_the_reference_bit_for_bit(void **state)
{
    (void)state;
    assert_golden("q6_k");
}

static void quantised_types_are_told_from_plain_ones(void **state)
{
    (void)state;
    assert_true(quant_is(DT_Q8_0) && quant_is(DT_Q6_K) && quant_is(DT_Q4_1));
    assert_false(quant_is(DT_F32) || quant_is(DT_BF16) || quant_is(DT_U4) || quant_is(DT_I8));
}

static void blocks_may_start_at_an_odd_address(void **state)
{
    uint8_t bytes[1 + 34] = { 0, 0x00, 0x3c }; /* d = 1 */
    float y[32];

    (void)state;
    bytes[1 + 2] = 0x80;
    bytes[1 + 33] = 0x7f;
    quant_to_f32(y, bytes + 1, DT_Q8_0, 1);
    assert_true(y[0] == -128.0f && y[1] == 0.0f && y[31] == 127.0f);
}

static void no_blocks_write_nothing(void **state)
{
    float y = 7.0f;

    (void)state;
    quant_to_f32(&y, NULL, DT_Q4_K, 0);
    assert_true(y == 7.0f);
}

int main(int argc, char **argv)
{
    static const struct CMUnitTest tests[] = {
        cmocka_unit_test(q8_0_equals_the_reference_bit_for_bit),
        cmocka_unit_test(q4_0_equals_the_reference_bit_for_bit),
        cmocka_unit_test(q4_1_equals_the_reference_bit_for_bit),
        cmocka_unit_test(q4_k_equals_the_reference_bit_for_bit),
        cmocka_unit_test(q5_k_equals_the_reference_bit_for_bit),
        cmocka_unit_test(q6_k_equals_the_reference_bit_for_bit),
        cmocka_unit_test(quantised_types_are_told_from_plain_ones),
        cmocka_unit_test(blocks_may_start_at_an_odd_address),
        cmocka_unit_test(no_blocks_write_nothing),
    };

    return cmocka_main(argc, argv, tests, ARRAY_LEN(tests), NULL, NULL);
}
