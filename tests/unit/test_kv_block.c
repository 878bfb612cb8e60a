/* SPDX-License-Identifier: Apache-2.0 */
/* test_kv_block.c - where a block's parts stand, and what is not believed of a header. */
#include "common/kv/block.h"
#include "tests/support/cmocka_main.h"

static const struct kv_shape shape = { .layers = 30, .heads = 3, .dim = 64, .dtype = DT_BF16 };

static struct kv_block ragged(uint32_t a, uint32_t b, uint32_t c)
{
    const uint32_t rows[] = { a, b, c };
    struct kv_block block = { .layer = 4, .dim = 64, .k_dim = 64, .dtype = DT_BF16 };

    assert_int_equal(kv_block_set_rows(&block, rows, 3, NULL), ST_OK);
    return block;
}

static void parts_follow_each_other_on_64_byte_boundaries(void **state)
{
    struct kv_block b = ragged(3, 0, 5);

    (void)state;
    b.dim = b.k_dim = 24; /* 48 bytes a row: nothing is round */
    assert_int_equal(kv_block_plan(&b, NULL), ST_OK);
    assert_int_equal(kv_block_rows(&b), 8);
    assert_int_equal(b.k_offset, 0);
    assert_int_equal(b.v_offset, 384);
    assert_int_equal(b.extra_offset, 768);
    assert_int_equal(b.bytes, 768);
    b = ragged(1, 1, 1);
    b.dim = b.k_dim = 24;
    assert_int_equal(kv_block_plan(&b, NULL), ST_OK);
    assert_int_equal(b.v_offset, 192);
    assert_int_equal(b.bytes, 384);
    assert_int_equal(kv_block_row_bytes(&b), 288);
}

static void dropped_channels_make_k_rows_shorter(void **state)
{
    struct kv_block b = ragged(10, 10, 10);

    (void)state;
    b.k_dim = 32;
    assert_int_equal(kv_block_plan(&b, NULL), ST_OK);
    assert_int_equal(b.v_offset, 30 * 64);
    assert_int_equal(kv_block_row_bytes(&b), 30 * (64 + 128));
}

static void a_block_without_rows_has_no_bytes(void **state)
{
    struct kv_block b = ragged(0, 0, 0);

    (void)state;
    assert_int_equal(kv_block_plan(&b, NULL), ST_OK);
    assert_int_equal(b.bytes, 0);
}

static void padding_stays_within_a_thousandth_and_4_kib(void **state)
{
    (void)state;
    for (uint32_t rows = 1; rows < 5000 * KV_CODECS; rows += 37) {
        struct kv_block b = ragged(rows / KV_CODECS, rows / 2 / KV_CODECS, rows / 3 / KV_CODECS);
        uint64_t kept;

        b.codec = (enum kv_codec)(rows % KV_CODECS);
        assert_int_equal(kv_block_plan(&b, NULL), ST_OK);
        kept = kv_block_row_bytes(&b);
        assert_true(b.bytes >= kept && b.bytes <= kept + kept / 1000 + 4096);
    }
}

static void parts_of_a_codec_follow_each_other(void **state)
{
    static const struct {
        enum kv_codec codec;
        uint64_t bytes[KV_PARTS];
    } want[] = {
        { KV_PLAIN, { 166 * 64 * 2, 166 * 64 * 2 } },
        { KV_INT8, { 166 * 64, 166 * 64, 166 * 4, 166 * 4 } },
        { KV_FP8, { 166 * 64, 166 * 64, 166 * 4, 166 * 4 } },
        /* 100 rows: 64 coded, 36 whole; 65: 32, 33; 1: 0, 1 */
        { KV_INT4, { 96 * 32, 96 * 32, 3 * 64 * 4, 96 * 4, 70 * 64 * 2, 70 * 64 * 2 } },
    };

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(want); i++) {
        struct kv_block b = ragged(100, 65, 1);
        struct kv_parts parts;
        uint64_t at = 0, kept = 0;

        b.codec = want[i].codec;
        assert_int_equal(kv_block_plan(&b, NULL), ST_OK);
        kv_block_parts(&b, &parts);
        for (int p = 0; p < KV_PARTS; p++) {
            assert_int_equal(parts.offset[p], at);
            assert_int_equal(parts.bytes[p], want[i].bytes[p]);
            at += kv_align(parts.bytes[p]);
            kept += parts.bytes[p];
        }
        assert_int_equal(b.bytes, at);
        assert_int_equal(kv_block_row_bytes(&b), kept);
        assert_int_equal(b.v_offset, parts.offset[KV_PART_V]);
        assert_int_equal(b.extra_offset, parts.offset[KV_PART_K_SCALE]);
    }
}

static void masks_of_channels_are_the_last_part(void **state)
{
    (void)state;
    for (int codec = 0; codec < KV_CODECS; codec++) {
        struct kv_block b = ragged(100, 65, 1);
        struct kv_parts parts;

        b.codec = (enum kv_codec)codec;
        b.k_dim = 33;
        assert_int_equal(kv_block_plan(&b, NULL), ST_OK);
        kv_block_parts(&b, &parts);
        assert_int_equal(parts.bytes[KV_PART_MASKS], 3 * 8);
        assert_int_equal(b.extra_offset + b.extra_bytes, parts.offset[KV_PART_MASKS] + 3 * 8);
        assert_int_equal(b.bytes, parts.offset[KV_PART_MASKS] + 64);
        assert_int_equal(parts.bytes[KV_PART_K], kv_coded_first(&b, 3) * (codec == KV_PLAIN  ? 66
                                                                          : codec == KV_INT4 ? 17
                                                                                             : 33));
    }
}

static void verdicts_on_the_last_rows_follow_the_masks(void **state)
{
    (void)state;
    for (int codec = 0; codec < KV_CODECS; codec++) {
        struct kv_block b = ragged(100, 65, 1);
        struct kv_parts parts;
        uint64_t kept;

        b.codec = (enum kv_codec)codec;
        b.k_dim = codec % 2 ? 33 : 64;
        assert_int_equal(kv_block_plan(&b, NULL), ST_OK);
        kept = kv_block_row_bytes(&b);
        b.scored = 70;
        assert_int_equal(kv_block_plan(&b, NULL), ST_OK);
        kv_block_parts(&b, &parts);
        assert_int_equal(parts.bytes[KV_PART_VERDICTS], 9 + 9 + 1);
        assert_int_equal(kv_verdict_first(&b, 2), 9 + 9);
        assert_int_equal(parts.offset[KV_PART_VERDICTS], parts.offset[KV_PART_MASKS] + (codec % 2 ? 64 : 0));
        assert_int_equal(b.extra_offset + b.extra_bytes, parts.offset[KV_PART_VERDICTS] + 9 + 9 + 1);
        assert_int_equal(b.bytes, parts.offset[KV_PART_VERDICTS] + 64);
        assert_int_equal(kv_block_row_bytes(&b), kept);
    }
}

static void numbers_that_make_no_sense_are_refused(void **state)
{
    static const struct {
        int32_t dim, k_dim, heads;
        enum dtype dtype;
    } wrong[] = { { 0, 0, 3, DT_BF16 },   { 257, 64, 3, DT_BF16 },       { 64, 65, 3, DT_BF16 },
                  { 64, 0, 3, DT_BF16 },  { 64, 64, 0, DT_BF16 },        { 64, 64, 257, DT_BF16 },
                  { 64, 64, 3, DT_Q4_0 }, { 64, 64, 3, (enum dtype)99 }, { -1, -1, 3, DT_F32 } };

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(wrong); i++) {
        struct kv_block b = ragged(1, 2, 3);
        struct err err = { 0 };

        b.dim = wrong[i].dim;
        b.k_dim = wrong[i].k_dim;
        b.heads = wrong[i].heads;
        b.dtype = wrong[i].dtype;
        assert_int_equal(kv_block_plan(&b, &err), ST_EINVAL);
        assert_true(strlen(err.text) > 10);
    }
    for (int codec = -1; codec <= KV_CODECS; codec += KV_CODECS + 1) {
        struct kv_block b = ragged(1, 2, 3);

        b.codec = (enum kv_codec)codec;
        assert_int_equal(kv_block_plan(&b, NULL), ST_EINVAL);
    }
}

static void sums_that_overflow_are_refused(void **state)
{
    struct kv_block b = ragged(1, 1, 1);

    (void)state;
    b.first[3] = INT64_MAX;
    assert_int_equal(kv_block_plan(&b, NULL), ST_ERANGE);
    b.first[3] = INT64_MAX / 130;
    assert_int_equal(kv_block_plan(&b, NULL), ST_ERANGE);
}

static void too_many_heads_are_refused_before_they_are_read(void **state)
{
    struct kv_block b = { 0 };

    (void)state;
    assert_int_equal(kv_block_set_rows(&b, NULL, KV_HEADS_MAX + 1, NULL), ST_EINVAL);
    assert_int_equal(kv_block_set_rows(&b, NULL, 0, NULL), ST_EINVAL);
    assert_int_equal(kv_block_set_rows(&b, NULL, -1, NULL), ST_EINVAL);
}

static void a_block_of_another_model_is_named(void **state)
{
    struct kv_block b = ragged(10, 20, 30);
    struct err err = { 0 };

    (void)state;
    assert_int_equal(kv_block_check(&b, &shape, 30, NULL), ST_OK);
    assert_int_equal(kv_block_check(&b, &shape, 29, &err), ST_EDATALOSS);
    assert_non_null(strstr(err.text, "head 2 has 30 rows of 29 tokens"));
    b.layer = 30;
    assert_int_equal(kv_block_check(&b, &shape, 30, NULL), ST_EDATALOSS);
    b.layer = -1;
    assert_int_equal(kv_block_check(&b, &shape, 30, NULL), ST_EDATALOSS);
    b = ragged(1, 1, 1);
    b.dim = 128;
    assert_int_equal(kv_block_check(&b, &shape, 30, NULL), ST_EDATALOSS);
    b = ragged(1, 1, 1);
    b.dtype = DT_F32;
    assert_int_equal(kv_block_check(&b, &shape, 30, NULL), ST_EDATALOSS);
    b = ragged(1, 1, 1);
    b.heads = 2;
    assert_int_equal(kv_block_check(&b, &shape, 30, NULL), ST_EDATALOSS);
    b = ragged(1, 1, 1);
    b.scored = 7;
    err_clear(&err);
    assert_int_equal(kv_block_check(&b, &shape, 30, &err), ST_EDATALOSS);
    assert_non_null(strstr(err.text, "verdicts on 7 rows, the press wants those on 0"));
}

static void the_largest_block_is_an_upper_bound(void **state)
{
    struct kv_block b = ragged(100, 77, 3);
    struct kv_shape scored = shape;

    (void)state;
    assert_int_equal(kv_block_plan(&b, NULL), ST_OK);
    assert_true(b.bytes <= kv_block_bytes_max(&shape, KV_PLAIN, 100));
    for (uint32_t rows = 0; rows < 20000; rows += 17) {
        const uint32_t spread[] = { rows % 613, rows % 97, rows % 211 };
        const int64_t sum = (int64_t)spread[0] + spread[1] + spread[2];

        b = ragged(spread[0], spread[1], spread[2]);
        b.codec = (enum kv_codec)(rows / 17 % KV_CODECS);
        b.k_dim = 1 + (int32_t)(rows % 64);
        assert_int_equal(kv_block_plan(&b, NULL), ST_OK);
        assert_true(b.bytes <= kv_block_bytes_most(&shape, b.codec, sum));
        assert_true(b.bytes <= kv_block_bytes_most(&shape, b.codec, sum + 63)); /* more rows may all be coded */
        assert_true(b.bytes <= kv_block_bytes_max(&shape, b.codec, 613));
        b.scored = scored.scored = rows % 800;
        assert_int_equal(kv_block_plan(&b, NULL), ST_OK);
        assert_true(b.bytes <= kv_block_bytes_most(&scored, b.codec, sum));
        assert_true(b.bytes <= kv_block_bytes_max(&scored, b.codec, 613));
    }
    assert_int_equal(kv_block_bytes_max(&shape, KV_PLAIN, -1), 0);
    assert_int_equal(kv_block_bytes_max(&shape, KV_PLAIN, INT64_MAX), 0);
}

static const struct CMUnitTest tests[] = {
    cmocka_unit_test(parts_follow_each_other_on_64_byte_boundaries),
    cmocka_unit_test(dropped_channels_make_k_rows_shorter),
    cmocka_unit_test(parts_of_a_codec_follow_each_other),
    cmocka_unit_test(masks_of_channels_are_the_last_part),
    cmocka_unit_test(verdicts_on_the_last_rows_follow_the_masks),
    cmocka_unit_test(a_block_without_rows_has_no_bytes),
    cmocka_unit_test(padding_stays_within_a_thousandth_and_4_kib),
    cmocka_unit_test(numbers_that_make_no_sense_are_refused),
    cmocka_unit_test(sums_that_overflow_are_refused),
    cmocka_unit_test(too_many_heads_are_refused_before_they_are_read),
    cmocka_unit_test(a_block_of_another_model_is_named),
    cmocka_unit_test(the_largest_block_is_an_upper_bound),
};

int main(int argc, char **argv)
{
    return cmocka_main(argc, argv, tests, ARRAY_LEN(tests), NULL, NULL);
}
