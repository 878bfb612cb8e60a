/* SPDX-License-Identifier: Apache-2.0 */
#include "client/sources.h"
#include "tests/support/cmocka_main.h"

#include <stdlib.h>
#include <unistd.h>

/* A file with these bytes; its name is the caller's. */
static char *file_of(const char *data, size_t bytes)
{
    char *path = strdup("/tmp/platen-sources-XXXXXX");
    int fd = mkstemp(path);

    assert_true(fd >= 0);
    assert_int_equal(write(fd, data, bytes), bytes);
    close(fd);
    return path;
}

static void remove_file(char *path)
{
    unlink(path);
    free(path);
}

static void a_file_is_taken_with_every_byte(void **state)
{
    char *path = file_of("a\0b\n\0", 5);
    struct source_options o = { .context_file = path };
    struct source context, query;
    struct err err = { 0 };

    (void)state;
    assert_int_equal(sources_open(&context, &query, &o, &err), ST_OK);
    assert_int_equal(context.text.bytes, 5);
    assert_memory_equal(context.text.data, "a\0b\n\0", 5);
    assert_int_equal(context.tokens, 0);
    assert_int_equal(query.text.bytes, 0);
    source_close(&context);
    source_close(&query);
    remove_file(path);
}

static void ids_stand_between_any_white_space(void **state)
{
    static const int32_t want[] = { 1, 22, 333, 0, 2147483647 };
    char *path = file_of("  1 22\t333\r\n0\n\n2147483647", 25);
    struct source_options o = { .context_tokens = path };
    struct source context, query;
    struct err err = { 0 };

    (void)state;
    assert_int_equal(sources_open(&context, &query, &o, &err), ST_OK);
    assert_int_equal(context.tokens, ARRAY_LEN(want));
    assert_memory_equal(context.token, want, sizeof want);
    source_close(&context);
    source_close(&query);
    remove_file(path);
}

static void what_is_no_id_is_named(void **state)
{
    static const char *const bad[] = { "1 2 three", "1 -2", "1 2147483648", "1 2.0", "1 99999999999999999999999",
                                       "",          " \n" };
    static const char *const word[] = { "three",       "-2",           "2147483648",  "2.0",
                                        "99999999999", "no token ids", "no token ids" };

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
        char *path = file_of(bad[i], strlen(bad[i]));
        struct source_options o = { .context_tokens = path };
        struct source context, query;
        struct err err = { 0 };

        assert_int_equal(sources_open(&context, &query, &o, &err), ST_EINVAL);
        assert_non_null(strstr(err.text, word[i]));
        assert_non_null(strstr(err.text, path));
        remove_file(path);
    }
}

static void a_nul_byte_is_not_the_end_of_an_id(void **state)
{
    static const struct {
        const char *data;
        size_t bytes;
    } bad[] = { { "1\0002 3", 6 }, { "1 2\000", 4 }, { "\000", 1 } };

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
        char *path = file_of(bad[i].data, bad[i].bytes);
        struct source_options o = { .context_tokens = path };
        struct source context, query;
        struct err err = { 0 };

        assert_int_equal(sources_open(&context, &query, &o, &err), ST_EINVAL);
        assert_non_null(strstr(err.text, "is not a token id"));
        remove_file(path);
    }
}

static void a_missing_file_and_a_folder_are_refused(void **state)
{
    struct source_options missing = { .context_file = "/no/such/file" }, folder = { .context_file = "/tmp" };
    struct source context, query;
    struct err err = { 0 };

    (void)state;
    assert_int_equal(sources_open(&context, &query, &missing, &err), ST_ENOTFOUND);
    assert_non_null(strstr(err.text, "/no/such/file"));
    err_clear(&err);
    assert_int_equal(sources_open(&context, &query, &folder, &err), ST_EINVAL);
    assert_non_null(strstr(err.text, "/tmp"));
}

static void exactly_one_context_and_at_most_one_query_are_allowed(void **state)
{
    struct source_options none = { 0 }, one = { .context = "" }, two = { .context = "x", .context_tokens = "y" };
    struct source_options queries = { .context = "x", .query = "a", .query_tokens = "b" };
    struct err err = { 0 };

    (void)state;
    assert_int_equal(sources_check(&none, false, &err), ST_EINVAL);
    assert_int_equal(sources_check(&none, true, NULL), ST_OK);
    assert_int_equal(sources_check(&one, false, NULL), ST_OK);
    assert_int_equal(sources_check(&two, false, NULL), ST_EINVAL);
    assert_int_equal(sources_check(&two, true, NULL), ST_EINVAL);
    assert_int_equal(sources_check(&queries, false, NULL), ST_EINVAL);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_file_is_taken_with_every_byte),
        cmocka_unit_test(ids_stand_between_any_white_space),
        cmocka_unit_test(what_is_no_id_is_named),
        cmocka_unit_test(a_nul_byte_is_not_the_end_of_an_id),
        cmocka_unit_test(a_missing_file_and_a_folder_are_refused),
        cmocka_unit_test(exactly_one_context_and_at_most_one_query_are_allowed),
    };

    return cmocka_main(argc, argv, tests, ARRAY_LEN(tests), NULL, NULL);
}
