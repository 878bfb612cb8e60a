/* SPDX-License-Identifier: Apache-2.0 */
/* test_codec.c - the words of row codecs, and what their rows weigh. */
#include "common/kv/codec.h"
#include "tests/support/cmocka_main.h"

static void plain_is_the_default(void **state)
{
    enum kv_codec codec = KV_INT8;

    (void)state;
    assert_int_equal(codec_parse("", &codec, NULL), ST_OK);
    assert_int_equal(codec, KV_PLAIN);
    codec = KV_INT8;
    assert_int_equal(codec_parse(NULL, &codec, NULL), ST_OK);
    assert_int_equal(codec, KV_PLAIN);
    assert_int_equal(codec_parse("plain", &codec, NULL), ST_OK);
}

static void words_and_numbers_belong_together(void **state)
{
    (void)state;
    for (int i = 0; i < KV_CODECS; i++) {
        enum kv_codec codec;

        assert_int_equal(codec_parse(codec_word((enum kv_codec)i), &codec, NULL), ST_OK);
        assert_int_equal(codec, i);
    }
    assert_string_equal(codec_word((enum kv_codec)77), "?");
}

static void what_a_device_has_not_is_told_with_what_it_has(void **state)
{
    struct err err = { 0 };

    (void)state;
    assert_int_equal(codec_admit(KV_FP8, 1u << KV_PLAIN | 1u << KV_FP8, "cpu", NULL), ST_OK);
    assert_int_equal(codec_admit(KV_INT4, 1u << KV_PLAIN | 1u << KV_FP8, "cuda", &err), ST_EUNIMPLEMENTED);
    assert_string_equal(err.text, "kv `int4` is not built for cuda; built is: plain, fp8");
}

static void unknown_word_names_the_nearest(void **state)
{
    struct err err = { 0 };
    enum kv_codec codec;

    (void)state;
    assert_int_equal(codec_parse("plane", &codec, &err), ST_EINVAL);
    assert_non_null(strstr(err.text, "did you mean `plain`? There are plain, int8, fp8, int4"));
    err_clear(&err);
    assert_int_equal(codec_parse("zzzzzzzz", &codec, &err), ST_EINVAL);
    assert_non_null(strstr(err.text, "there are plain, int8, fp8, int4"));
}

static void rows_weigh_what_their_channels_do(void **state)
{
    (void)state;
    assert_int_equal(kv_row_bytes(KV_PLAIN, DT_F32, 64), 256);
    assert_int_equal(kv_row_bytes(KV_PLAIN, DT_BF16, 64), 128);
    assert_int_equal(kv_row_bytes(KV_INT8, DT_BF16, 64), 64);
    assert_int_equal(kv_row_bytes(KV_FP8, DT_F32, 64), 64);
    assert_int_equal(kv_row_bytes(KV_INT4, DT_BF16, 63), 32);
}

static void int4_leaves_the_last_rows_of_a_head_whole(void **state)
{
    (void)state;
    for (int64_t rows = 0; rows < 1000; rows++) {
        const int64_t coded = kv_coded_rows(KV_INT4, rows);

        assert_int_equal(coded % KV_GROUP_ROWS, 0);
        assert_true(rows - coded < 2 * KV_GROUP_ROWS);
        assert_true(coded == 0 || rows - coded >= KV_GROUP_ROWS);
        assert_int_equal(kv_coded_rows(KV_INT8, rows), rows);
    }
}

static const struct CMUnitTest tests[] = {
    cmocka_unit_test(plain_is_the_default),
    cmocka_unit_test(words_and_numbers_belong_together),
    cmocka_unit_test(what_a_device_has_not_is_told_with_what_it_has),
    cmocka_unit_test(unknown_word_names_the_nearest),
    cmocka_unit_test(rows_weigh_what_their_channels_do),
    cmocka_unit_test(int4_leaves_the_last_rows_of_a_head_whole),
};

int main(int argc, char **argv)
{
    return cmocka_main(argc, argv, tests, ARRAY_LEN(tests), NULL, NULL);
}
