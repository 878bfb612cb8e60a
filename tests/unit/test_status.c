/* SPDX-License-Identifier: Apache-2.0 */
#include "common/base/status.h"
#include "tests/support/cmocka_main.h"

static const enum status all[] = {
#define STATUS(name, number, word, grpc, text) name,
#include "common/base/status.def"
#undef STATUS
};

static void every_status_has_a_word_of_its_own(void **state)
{
    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(all); i++)
        for (size_t k = 0; k < i; k++)
            assert_string_not_equal(status_word(all[i]), status_word(all[k]));
    assert_string_equal(status_word(ST_EINVAL), "INVALID_ARGUMENT");
    assert_string_equal(status_word((enum status) - 99), "INTERNAL");
}

static void every_status_survives_the_wire(void **state)
{
    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(all); i++)
        if (all[i] != ST_AGAIN)
            assert_int_equal(status_from_grpc(status_grpc(all[i])), all[i]);
    assert_int_equal(status_grpc(ST_AGAIN), 13);
}

static void codes_that_are_not_ours_become_internal(void **state)
{
    (void)state;
    assert_int_equal(status_from_grpc(2), ST_EINTERNAL);
    assert_int_equal(status_from_grpc(10), ST_EINTERNAL);
    assert_int_equal(status_from_grpc(-1), ST_EINTERNAL);
    assert_int_equal(status_from_grpc(1000), ST_EINTERNAL);
}

static void a_failure_carries_its_sentence(void **state)
{
    struct err err = { 0 };

    (void)state;
    assert_int_equal(err_set(&err, ST_ERANGE, "%s: %d is too many", "x", 9), ST_ERANGE);
    assert_int_equal(err.code, ST_ERANGE);
    assert_string_equal(err.text, "x: 9 is too many");
}

static void the_first_who_knew_is_right(void **state)
{
    struct err err = { 0 };

    (void)state;
    err_set(&err, ST_ENOTFOUND, "the cause");
    assert_int_equal(err_set(&err, ST_EINTERNAL, "a consequence"), ST_EINTERNAL);
    assert_int_equal(err.code, ST_ENOTFOUND);
    assert_string_equal(err.text, "the cause");
}

static void nobody_has_to_listen(void **state)
{
    (void)state;
    assert_int_equal(err_set(NULL, ST_EINVAL, "unheard"), ST_EINVAL);
    err_prefix(NULL, "unheard");
    err_clear(NULL);
}

static void a_prefix_goes_in_front(void **state)
{
    struct err err = { 0 };

    (void)state;
    err_prefix(&err, "nothing yet");
    assert_string_equal(err.text, "");
    err_set(&err, ST_EINVAL, "line %d", 3);
    err_prefix(&err, "%s", "a.conf");
    assert_string_equal(err.text, "a.conf: line 3");
    assert_int_equal(err.code, ST_EINVAL);
}

static void a_cleared_err_takes_a_new_sentence(void **state)
{
    struct err err = { 0 };

    (void)state;
    err_set(&err, ST_EUNAVAILABLE, "first try");
    err_clear(&err);
    assert_int_equal(err.code, ST_OK);
    err_set(&err, ST_EDATALOSS, "second try");
    assert_string_equal(err.text, "second try");
}

/* Wherever a long text of 3-byte characters is cut, it ends with a whole one. */
static void a_long_sentence_ends_with_a_whole_character(void **state)
{
    char euros[3 * ERR_TEXT_MAX] = "";

    (void)state;
    for (size_t i = 0; i + 3 < sizeof euros; i += 3)
        memcpy(euros + i, "\xE2\x82\xAC", 4);
    for (int shift = 0; shift < 4; shift++) {
        struct err err = { 0 };
        size_t bytes;

        err_set(&err, ST_EINVAL, "%.*s%s", shift, "abc", euros);
        bytes = strlen(err.text);
        assert_in_range(bytes, ERR_TEXT_MAX - 3, ERR_TEXT_MAX - 1);
        assert_memory_equal(err.text + bytes - 3, "\xE2\x82\xAC", 3);
        err_prefix(&err, "%s", "p");
        bytes = strlen(err.text);
        assert_memory_equal(err.text, "p: ", 3);
        assert_memory_equal(err.text + bytes - 3, "\xE2\x82\xAC", 3);
    }
}

static void a_sentence_that_just_fits_is_whole(void **state)
{
    char text[ERR_TEXT_MAX];
    struct err err = { 0 };

    (void)state;
    memset(text, 'x', sizeof text - 1);
    text[sizeof text - 1] = '\0';
    err_set(&err, ST_EINVAL, "%s", text);
    assert_string_equal(err.text, text);
}

int main(int argc, char **argv)
{
    static const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_status_has_a_word_of_its_own),
        cmocka_unit_test(every_status_survives_the_wire),
        cmocka_unit_test(codes_that_are_not_ours_become_internal),
        cmocka_unit_test(a_failure_carries_its_sentence),
        cmocka_unit_test(the_first_who_knew_is_right),
        cmocka_unit_test(nobody_has_to_listen),
        cmocka_unit_test(a_prefix_goes_in_front),
        cmocka_unit_test(a_cleared_err_takes_a_new_sentence),
        cmocka_unit_test(a_long_sentence_ends_with_a_whole_character),
        cmocka_unit_test(a_sentence_that_just_fits_is_whole),
    };

    return cmocka_main(argc, argv, tests, ARRAY_LEN(tests), NULL, NULL);
}
