/* SPDX-License-Identifier: Apache-2.0 */
/* test_wire.c - checksums that travel: their values are part of the wire format. */
#include "common/kv/wire.h"
#include "tests/support/cmocka_main.h"

static void checksums_are_xxh3_64(void **state)
{
    (void)state;
    /* python-xxhash 4.1.0: xxh3_64(b"").intdigest(), xxh3_64(b"platen").intdigest() */
    assert_true(wire_checksum("", 0) == UINT64_C(0x2d06800538d394c2));
    assert_true(wire_checksum("platen", 6) == UINT64_C(0xa8d592b640f7f2c6));
}

static void pieces_sum_up_to_the_whole(void **state)
{
    uint8_t data[10000];
    struct wire_sum *sum = wire_sum_open();

    (void)state;
    for (size_t i = 0; i < sizeof data; i++)
        data[i] = (uint8_t)(i * 31 + i / 7);
    for (size_t piece = 1; piece < sizeof data; piece = piece * 3 + 1) {
        wire_sum_reset(sum);
        for (size_t at = 0; at < sizeof data; at += piece)
            wire_sum_add(sum, data + at, at + piece < sizeof data ? piece : sizeof data - at);
        assert_true(wire_sum_value(sum) == wire_checksum(data, sizeof data));
    }
    wire_sum_close(sum);
    wire_sum_close(NULL);
}

static void layers_are_summed_as_little_endian_bytes(void **state)
{
    const uint64_t sums[] = { UINT64_C(0x0102030405060708), UINT64_C(0xfffefdfcfbfaf9f8) };
    const uint8_t bytes[] = { 8, 7, 6, 5, 4, 3, 2, 1, 0xf8, 0xf9, 0xfa, 0xfb, 0xfc, 0xfd, 0xfe, 0xff };

    (void)state;
    assert_true(wire_checksum_layers(sums, 2) == wire_checksum(bytes, sizeof bytes));
    assert_true(wire_checksum_layers(sums, 1) == wire_checksum(bytes, 8));
}

static const struct CMUnitTest tests[] = {
    cmocka_unit_test(checksums_are_xxh3_64),
    cmocka_unit_test(pieces_sum_up_to_the_whole),
    cmocka_unit_test(layers_are_summed_as_little_endian_bytes),
};

int main(int argc, char **argv)
{
    return cmocka_main(argc, argv, tests, ARRAY_LEN(tests), NULL, NULL);
}
