/* SPDX-License-Identifier: Apache-2.0 */
/* test_transfer.c - blocks of test bytes are blocks of the model, and enough of them. */
#include "common/transport/transfer.h"

#include "common/kv/wire.h"
#include "tests/support/cmocka_main.h"

static const struct kv_shape shape = { .layers = 2, .heads = 3, .dim = 64, .dtype = DT_BF16 };

static void blocks_add_up_to_what_was_asked(void **state)
{
    static const uint64_t sizes[] = { 1, 100, 1 << 20, TRANSFER_BLOCK_BYTES, TRANSFER_BLOCK_BYTES * 3 + 1 };

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(sizes); i++) {
        struct transfer *t;
        uint64_t checksum, bytes = 0;

        assert_int_equal(transfer_open(&t, &shape, sizes[i], NULL), ST_OK);
        for (int32_t l = 0; l < transfer_blocks(t); l++) {
            const struct kv_block *b = transfer_block(t, l, &checksum);
            struct kv_shape many = shape;

            many.layers = transfer_blocks(t);
            assert_int_equal(b->layer, l);
            assert_int_equal(kv_block_check(b, &many, transfer_rows(t), NULL), ST_OK);
            bytes += b->bytes;
        }
        assert_true(bytes >= sizes[i] && bytes <= sizes[i] + TRANSFER_BLOCK_BYTES + 65536);
        transfer_close(t);
    }
}

static void the_checksum_is_that_of_the_bytes(void **state)
{
    struct transfer *t;
    const struct kv_block *b;
    uint64_t checksum;

    (void)state;
    assert_int_equal(transfer_open(&t, &shape, 300000, NULL), ST_OK);
    b = transfer_block(t, 0, &checksum);
    assert_true(checksum == wire_checksum(b->data, b->bytes));
    transfer_close(t);
    transfer_close(NULL);
}

static void sizes_beyond_the_limits_are_refused(void **state)
{
    struct transfer *t = NULL;

    (void)state;
    assert_int_equal(transfer_open(&t, &shape, 0, NULL), ST_ERANGE);
    assert_int_equal(transfer_open(&t, &shape, TRANSFER_BYTES_MAX + 1, NULL), ST_ERANGE);
    assert_null(t);
}

static const struct CMUnitTest tests[] = {
    cmocka_unit_test(blocks_add_up_to_what_was_asked),
    cmocka_unit_test(the_checksum_is_that_of_the_bytes),
    cmocka_unit_test(sizes_beyond_the_limits_are_refused),
};

int main(int argc, char **argv)
{
    return cmocka_main(argc, argv, tests, ARRAY_LEN(tests), NULL, NULL);
}
