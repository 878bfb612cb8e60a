/* SPDX-License-Identifier: Apache-2.0 */
#include "common/base/text.h"
#include "tests/support/cmocka_main.h"

static void a_text_grows_by_every_way_of_adding(void **state)
{
    struct text t = { 0 };

    (void)state;
    assert_string_equal(text_str(&t), "");
    text_puts(&t, "ab");
    text_add(&t, "c\0d", 3);
    text_printf(&t, "%d", 42);
    assert_int_equal(t.bytes, 7);
    assert_memory_equal(t.data, "abc\0d42", 8); /* the NUL at the end included */
    text_fini(&t);
    assert_null(t.data);
}

static void a_text_may_become_large(void **state)
{
    struct text t = { 0 };

    (void)state;
    for (int i = 0; i < 5000; i++)
        text_printf(&t, "%05d", i);
    assert_int_equal(t.bytes, 25000);
    for (int i = 0; i < 5000; i += 777) {
        char want[8];
        snprintf(want, sizeof want, "%05d", i);
        assert_memory_equal(t.data + 5 * i, want, 5);
    }
    text_fini(&t);
}

static void a_cleared_text_keeps_its_room(void **state)
{
    struct text t = { 0 };
    size_t room;

    (void)state;
    text_clear(&t);
    text_printf(&t, "%*s", 500, "x");
    room = t.room;
    text_clear(&t);
    assert_string_equal(text_str(&t), "");
    assert_int_equal(t.room, room);
    text_add(&t, NULL, 0);
    assert_string_equal(text_str(&t), "");
    text_fini(&t);
}

static void assert_json(const char *s, size_t bytes, const char *want)
{
    struct text t = { 0 };

    text_json(&t, s, bytes);
    assert_string_equal(text_str(&t), want);
    text_fini(&t);
}

static void json_strings_are_escaped(void **state)
{
    (void)state;
    assert_json("", 0, "\"\"");
    assert_json("a\"b\\c/", 6, "\"a\\\"b\\\\c/\"");
    assert_json("\b\f\n\r\t", 5, "\"\\b\\f\\n\\r\\t\"");
    assert_json("\x01\0\x1f\x7f", 4, "\"\\u0001\\u0000\\u001f\\u007f\"");
    assert_json("\xC3\xA9\xF0\x9F\x98\x80", 6, "\"\xC3\xA9\xF0\x9F\x98\x80\"");
}

static void json_replaces_bytes_that_are_no_utf8(void **state)
{
    (void)state;
    assert_json("a\xFF", 2, "\"a\xEF\xBF\xBD\"");
    assert_json("\xE2\x82", 2, "\"\xEF\xBF\xBD\xEF\xBF\xBD\"");
    assert_json("\xED\xA0\x80", 3, "\"\xEF\xBF\xBD\xEF\xBF\xBD\xEF\xBF\xBD\"");
}

static void every_code_point_survives_utf8(void **state)
{
    (void)state;
    for (uint32_t code = 0; code <= 0x10FFFF; code++) {
        char s[4];
        size_t bytes = utf8_encode(s, code), len;

        if (code >= 0xD800 && code <= 0xDFFF) {
            assert_int_equal(utf8_decode(s, bytes, &len), -1);
            continue;
        }
        if (utf8_decode(s, bytes, &len) != (int32_t)code || len != bytes)
            fail_msg("U+%04X did not come back", code);
    }
}

static void bad_utf8_is_refused_one_byte_at_a_time(void **state)
{
    static const char *const bad[] = { "\x80",
                                       "\xBF",
                                       "\xC0\x80",
                                       "\xC1\xBF",
                                       "\xE0\x9F\xBF",
                                       "\xF0\x8F\xBF\xBF",
                                       "\xF4\x90\x80\x80",
                                       "\xF5\x80\x80\x80",
                                       "\xFE",
                                       "\xFF",
                                       "\xE2\x28\xA1",
                                       "\xC3" };
    size_t len;

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
        assert_int_equal(utf8_decode(bad[i], strlen(bad[i]), &len), -1);
        assert_int_equal(len, 1);
        assert_false(utf8_valid(bad[i], strlen(bad[i])));
    }
    assert_int_equal(utf8_decode("", 0, &len), -1);
}

static void a_prefix_ends_before_a_character_that_is_cut(void **state)
{
    static const char s[] = "a\xE2\x82\xAC\xF0\x9F\x98\x80";

    (void)state;
    assert_int_equal(utf8_prefix(s, 8), 8);
    assert_int_equal(utf8_prefix(s, 7), 4);
    assert_int_equal(utf8_prefix(s, 4), 4);
    assert_int_equal(utf8_prefix(s, 3), 1);
    assert_int_equal(utf8_prefix("", 0), 0);
    assert_true(utf8_valid("a\0b", 3));
}

static void the_nearest_word_is_suggested(void **state)
{
    static const char *const names[] = { "context", "context-file", "question", "press", "max-new-tokens", "json" };
    size_t n = ARRAY_LEN(names);

    (void)state;
    assert_string_equal(text_nearest("contxt", names, n), "context");
    assert_string_equal(text_nearest("contextfile", names, n), "context-file");
    assert_string_equal(text_nearest("qestion", names, n), "question");
    assert_string_equal(text_nearest("prses", names, n), "press");
    assert_string_equal(text_nearest("max-new-token", names, n), "max-new-tokens");
    assert_string_equal(text_nearest("press", names, n), "press");
}

static void the_beginning_of_a_word_is_near(void **state)
{
    static const char *const names[] = { "context", "max-new-tokens" };

    (void)state;
    assert_string_equal(text_nearest("max", names, 2), "max-new-tokens");
    assert_string_equal(text_nearest("c", names, 2), "context");
}

static void what_is_far_from_every_word_suggests_none(void **state)
{
    static const char *const names[] = { "context", "lr", "json" };
    char long_word[200];

    (void)state;
    assert_null(text_nearest("banana", names, 3));
    assert_null(text_nearest("xy", names, 3)); /* two edits make anything out of two letters */
    assert_null(text_nearest("", names, 3));
    assert_null(text_nearest("context", names, 0));
    memset(long_word, 'c', sizeof long_word - 1);
    long_word[sizeof long_word - 1] = '\0';
    assert_null(text_nearest(long_word, names, 3));
}

static void whole_numbers_are_read_whole(void **state)
{
    int64_t v = 0;

    (void)state;
    assert_true(text_to_i64("0", 0, 10, &v) && v == 0);
    assert_true(text_to_i64("-7", -10, 10, &v) && v == -7);
    assert_true(text_to_i64("9223372036854775807", 0, INT64_MAX, &v) && v == INT64_MAX);
    assert_true(text_to_i64("-9223372036854775808", INT64_MIN, 0, &v) && v == INT64_MIN);
}

static void what_is_no_whole_number_is_refused(void **state)
{
    static const char *const bad[] = { "",
                                       " 1",
                                       "1 ",
                                       "1x",
                                       "x",
                                       "1.0",
                                       "1e3",
                                       "0x10",
                                       "--1",
                                       "-",
                                       "1-",
                                       "+1",
                                       "9223372036854775808",
                                       "99999999999999999999999" };
    int64_t v = 77;

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(bad); i++)
        if (text_to_i64(bad[i], INT64_MIN, INT64_MAX, &v))
            fail_msg("\"%s\" was read as %lld", bad[i], (long long)v);
    assert_false(text_to_i64("11", 0, 10, &v));
    assert_false(text_to_i64("-1", 0, 10, &v));
    assert_true(v == 77);
}

static void numbers_are_read_whole(void **state)
{
    double v = 0;

    (void)state;
    assert_true(text_to_f64("0.5", 0, 1, &v) && v == 0.5);
    assert_true(text_to_f64("-1e-3", -1, 1, &v) && v == -1e-3);
    assert_true(text_to_f64("1", 0, 1, &v) && v == 1.0);
    assert_true(text_to_f64(".25", 0, 1, &v) && v == 0.25);
}

static void what_is_no_number_is_refused(void **state)
{
    static const char *const bad[] = { "",  " 1", "1 ", "nan", "inf",   "0x1p3", "1,5",
                                       "e", "1e", "-",  ".",   "1.2.3", "2",     "-0.1" };
    double v = 77;

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(bad); i++)
        if (text_to_f64(bad[i], 0, 1, &v))
            fail_msg("\"%s\" was read as %g", bad[i], v);
    assert_false(text_to_f64("1e999", 0, 1e308, &v));
    assert_true(v == 77);
}

int main(int argc, char **argv)
{
    static const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_text_grows_by_every_way_of_adding),
        cmocka_unit_test(a_text_may_become_large),
        cmocka_unit_test(a_cleared_text_keeps_its_room),
        cmocka_unit_test(json_strings_are_escaped),
        cmocka_unit_test(json_replaces_bytes_that_are_no_utf8),
        cmocka_unit_test(every_code_point_survives_utf8),
        cmocka_unit_test(bad_utf8_is_refused_one_byte_at_a_time),
        cmocka_unit_test(a_prefix_ends_before_a_character_that_is_cut),
        cmocka_unit_test(the_nearest_word_is_suggested),
        cmocka_unit_test(the_beginning_of_a_word_is_near),
        cmocka_unit_test(what_is_far_from_every_word_suggests_none),
        cmocka_unit_test(whole_numbers_are_read_whole),
        cmocka_unit_test(what_is_no_whole_number_is_refused),
        cmocka_unit_test(numbers_are_read_whole),
        cmocka_unit_test(what_is_no_number_is_refused),
    };

    return cmocka_main(argc, argv, tests, ARRAY_LEN(tests), NULL, NULL);
}
