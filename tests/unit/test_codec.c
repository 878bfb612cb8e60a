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

static void known_but_unbuilt_is_not_called_unknown(void **state)
{
    static const char *const words[] = { "int8", "fp8", "int4" };
    enum kv_codec codec;

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(words); i++) {
        struct err err = { 0 };

        assert_int_equal(codec_parse(words[i], &codec, &err), ST_EUNIMPLEMENTED);
        assert_non_null(strstr(err.text, words[i]));
        assert_non_null(strstr(err.text, "not built yet"));
    }
}

static void unknown_word_names_the_nearest(void **state)
{
    struct err err = { 0 };
    enum kv_codec codec;

    (void)state;
    assert_int_equal(codec_parse("plane", &codec, &err), ST_EINVAL);
    assert_non_null(strstr(err.text, "`plain`"));
    err_clear(&err);
    assert_int_equal(codec_parse("zzzzzzzz", &codec, &err), ST_EINVAL);
    assert_non_null(strstr(err.text, "fp8"));
}

static void rows_weigh_what_their_channels_do(void **state)
{
    (void)state;
    assert_int_equal(codec_row_bytes(KV_PLAIN, DT_F32, 64), 256);
    assert_int_equal(codec_row_bytes(KV_PLAIN, DT_BF16, 64), 128);
    assert_int_equal(codec_row_bytes(KV_INT8, DT_BF16, 64), 64);
    assert_int_equal(codec_row_bytes(KV_INT4, DT_BF16, 63), 32);
    assert_int_equal(codec_extra_bytes(KV_PLAIN, 1000), 0);
    assert_int_equal(codec_extra_bytes(KV_INT8, 1000), 8000);
}

static void only_plain_is_built(void **state)
{
    (void)state;
    assert_true(codec_built(KV_PLAIN));
    assert_false(codec_built(KV_INT8));
    assert_false(codec_built((enum kv_codec)77));
    assert_string_equal(codec_word((enum kv_codec)77), "?");
}

static const struct CMUnitTest tests[] = {
    cmocka_unit_test(plain_is_the_default),
    cmocka_unit_test(known_but_unbuilt_is_not_called_unknown),
    cmocka_unit_test(unknown_word_names_the_nearest),
    cmocka_unit_test(rows_weigh_what_their_channels_do),
    cmocka_unit_test(only_plain_is_built),
};

int main(int argc, char **argv)
{
    return cmocka_main(argc, argv, tests, ARRAY_LEN(tests), NULL, NULL);
}
