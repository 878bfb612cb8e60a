/* SPDX-License-Identifier: Apache-2.0 */
/* test_rpc_token.c - a token file is a token, or says why not. */
#include "tests/support/cmocka_main.h"

#include "common/base/thread.h"
#include "common/rpc/rpc_token.h"

#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

static char folder[] = "/tmp/platen-test-token-XXXXXX";
static char path[sizeof folder + 16];

static int make_folder(void **state)
{
    (void)state;
    if (!mkdtemp(folder))
        return -1;
    snprintf(path, sizeof path, "%s/token", folder);
    return 0;
}

static int remove_folder(void **state)
{
    (void)state;
    unlink(path);
    return rmdir(folder);
}

static void write_it(const char *data, size_t bytes)
{
    FILE *f = fopen(path, "we");

    assert_non_null(f);
    assert_int_equal(fwrite(data, 1, bytes, f), bytes);
    assert_int_equal(fclose(f), 0);
}

static void reads(const char *data, const char *want)
{
    char *token = NULL;

    write_it(data, strlen(data));
    assert_int_equal(rpc_token_read(&token, path, NULL), ST_OK);
    assert_string_equal(token, want);
    free(token);
}

static void refuses(const char *data, size_t bytes, const char *why)
{
    struct err err = { 0 };
    char *token = (char *)data;

    write_it(data, bytes);
    assert_int_equal(rpc_token_read(&token, path, &err), ST_EINVAL);
    assert_null(token);
    assert_non_null(strstr(err.text, path));
    if (!strstr(err.text, why))
        fail_msg("no \"%s\" in \"%s\"", why, err.text);
}

static void newlines_at_the_end_are_not_of_the_token(void **state)
{
    (void)state;
    reads("secret", "secret");
    reads("secret\n", "secret");
    reads("two words~\r\n", "two words~");
}

static void no_path_is_no_token(void **state)
{
    char *token = folder;

    (void)state;
    assert_int_equal(rpc_token_read(&token, NULL, NULL), ST_OK);
    assert_null(token);
}

static void an_empty_file_is_refused(void **state)
{
    (void)state;
    refuses("", 0, "the token file is empty");
    refuses("\n", 1, "the token file is empty");
    refuses("\r\n\n", 3, "the token file is empty");
}

static void what_a_header_cannot_carry_is_refused(void **state)
{
    (void)state;
    refuses("sec\0ret", 7, "byte 4");
    refuses("first\nsecond\n", 13, "byte 6");
    refuses("gr\xc3\xbc\xc3\x9f", 6, "byte 3");
    refuses("\x7f", 1, "byte 1");
}

static void a_refused_token_is_not_shown(void **state)
{
    struct err err = { 0 };
    char *token;

    (void)state;
    write_it("hunter2\tx", 9);
    assert_int_equal(rpc_token_read(&token, path, &err), ST_EINVAL);
    assert_null(strstr(err.text, "hunter2"));
}

static void the_longest_token_is_read_and_one_more_byte_is_refused(void **state)
{
    static char text[RPC_TOKEN_MAX + 100];
    char *token = NULL;

    (void)state;
    memset(text, 'x', sizeof text);
    text[RPC_TOKEN_MAX] = '\r';
    text[RPC_TOKEN_MAX + 1] = '\n';
    write_it(text, RPC_TOKEN_MAX + 2);
    assert_int_equal(rpc_token_read(&token, path, NULL), ST_OK);
    assert_int_equal(strlen(token), RPC_TOKEN_MAX);
    free(token);
    text[RPC_TOKEN_MAX] = 'x';
    refuses(text, RPC_TOKEN_MAX + 1, "longer than 1024 bytes");
    refuses(text, sizeof text, "longer than 1024 bytes");
}

static void a_file_that_is_not_there_is_not_found(void **state)
{
    struct err err = { 0 };
    char *token;

    (void)state;
    unlink(path);
    assert_int_equal(rpc_token_read(&token, path, &err), ST_ENOTFOUND);
    assert_non_null(strstr(err.text, path));
    assert_int_equal(rpc_token_read(&token, folder, &err), ST_EINVAL);
}

static void *write_slowly(void *arg)
{
    FILE *f = fopen(path, "we"); /* waits for the reader */

    (void)arg;
    assert_non_null(f);
    for (const char *c = "secret\n"; *c; c++) {
        fputc(*c, f);
        fflush(f);
        usleep(10000);
    }
    fclose(f);
    return NULL;
}

static void a_pipe_is_read_to_its_end(void **state)
{
    struct err err = { 0 };
    pthread_t writer;
    char *token = NULL;

    (void)state;
    assert_int_equal(mkfifo(path, 0600), 0);
    assert_int_equal(thread_start(&writer, "writer", write_slowly, NULL, &err), ST_OK);
    assert_int_equal(rpc_token_read(&token, path, &err), ST_OK);
    assert_string_equal(token, "secret");
    pthread_join(writer, NULL);
    free(token);
    unlink(path);
}

static void a_pipe_that_nobody_writes_is_given_up(void **state)
{
    struct err err = { 0 };
    char *token;

    (void)state;
    assert_int_equal(mkfifo(path, 0600), 0);
    assert_int_equal(rpc_token_read(&token, path, &err), ST_EDEADLINE); /* the ctest time limit tells when it waits */
    assert_non_null(strstr(err.text, path));
    unlink(path);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(newlines_at_the_end_are_not_of_the_token),
        cmocka_unit_test(no_path_is_no_token),
        cmocka_unit_test(an_empty_file_is_refused),
        cmocka_unit_test(what_a_header_cannot_carry_is_refused),
        cmocka_unit_test(a_refused_token_is_not_shown),
        cmocka_unit_test(the_longest_token_is_read_and_one_more_byte_is_refused),
        cmocka_unit_test(a_file_that_is_not_there_is_not_found),
        cmocka_unit_test(a_pipe_is_read_to_its_end),
        cmocka_unit_test(a_pipe_that_nobody_writes_is_given_up),
    };

    return cmocka_main(argc, argv, tests, ARRAY_LEN(tests), make_folder, remove_folder);
}
