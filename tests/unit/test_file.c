/* SPDX-License-Identifier: Apache-2.0 */
#include "common/base/file.h"
#include "tests/support/cmocka_main.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

static char folder[] = "/tmp/platen-test-file-XXXXXX";
static char path[sizeof folder + 16];

static int make_folder(void **state)
{
    (void)state;
    if (!mkdtemp(folder))
        return -1;
    snprintf(path, sizeof path, "%s/it", folder);
    return 0;
}

static int remove_folder(void **state)
{
    (void)state;
    unlink(path);
    return rmdir(folder);
}

static void write_it(const void *data, size_t bytes)
{
    FILE *f = fopen(path, "we");

    assert_non_null(f);
    assert_int_equal(fwrite(data, 1, bytes, f), bytes);
    assert_int_equal(fclose(f), 0);
}

static void a_file_is_mapped_whole(void **state)
{
    struct file f = { 0 };

    (void)state;
    write_it("a\0b", 3);
    assert_int_equal(file_open(&f, path, NULL), ST_OK);
    assert_int_equal(f.bytes, 3);
    assert_memory_equal(f.data, "a\0b", 3);
    file_close(&f);
    assert_null(f.data);
}

static void closing_twice_is_fine(void **state)
{
    struct file f = { 0 };

    (void)state;
    file_close(&f);
    file_close(NULL);
    write_it("x", 1);
    assert_int_equal(file_open(&f, path, NULL), ST_OK);
    file_close(&f);
    file_close(&f);
}

static void an_empty_file_is_no_error(void **state)
{
    struct file f = { 0 };

    (void)state;
    write_it("", 0);
    assert_int_equal(file_open(&f, path, NULL), ST_OK);
    assert_int_equal(f.bytes, 0);
    assert_null(f.data);
    file_close(&f);
}

static void a_missing_file_is_not_found_and_named(void **state)
{
    struct file f = { 0 };
    struct err err = { 0 };

    (void)state;
    assert_int_equal(file_open(&f, "/nowhere/at/all", &err), ST_ENOTFOUND);
    assert_non_null(strstr(err.text, "/nowhere/at/all"));
    assert_null(f.data);
}

static void a_folder_is_refused_and_named(void **state)
{
    struct file f = { 0 };
    struct err err = { 0 };

    (void)state;
    assert_int_equal(file_open(&f, folder, &err), ST_EINVAL);
    assert_non_null(strstr(err.text, folder));
    assert_non_null(strstr(err.text, "directory"));
}

static void a_pipe_without_a_writer_is_refused_at_once(void **state)
{
    struct file f = { 0 };
    struct err err = { 0 };

    (void)state;
    unlink(path);
    assert_int_equal(mkfifo(path, 0600), 0);
    assert_int_equal(file_open(&f, path, &err), ST_EINVAL); /* the ctest time limit tells when it waits */
    assert_non_null(strstr(err.text, "regular"));
    unlink(path);
}

static void a_link_to_nothing_is_there_and_cannot_be_opened(void **state)
{
    struct file f = { 0 };
    struct err err = { 0 };

    (void)state;
    unlink(path);
    assert_int_equal(symlink("/nowhere/at/all", path), 0);
    assert_true(file_exists(path) && !file_is_dir(path));
    assert_int_equal(file_open(&f, path, &err), ST_ENOTFOUND);
    assert_non_null(strstr(err.text, path));
    unlink(path);
}

static void what_is_there_is_told_apart(void **state)
{
    (void)state;
    write_it("x", 1);
    assert_true(file_exists(path) && !file_is_dir(path));
    assert_true(file_exists(folder) && file_is_dir(folder));
    assert_false(file_exists("/nowhere/at/all") || file_is_dir("/nowhere/at/all"));
}

/* In a process of its own, whose exit code says what was not so. */
static int use_without_std(int fd)
{
    char byte;

    close(fd);
    file_fill_std();
    if (open(path, O_RDWR | O_CREAT, 0600) <= STDERR_FILENO)
        return 1;
    if (fd == STDIN_FILENO ? read(fd, &byte, 1) >= 0 : write(fd, "lost", 4) >= 0)
        return 2;
    return errno == EBADF ? 0 : 3;
}

static void a_closed_descriptor_of_three_is_never_given_to_a_file(void **state)
{
    (void)state;
    for (int fd = STDIN_FILENO; fd <= STDERR_FILENO; fd++) {
        pid_t child = fork();
        int how = -1;

        if (child == 0)
            _exit(use_without_std(fd));
        assert_int_equal(waitpid(child, &how, 0), child);
        assert_true(WIFEXITED(how));
        assert_int_equal(WEXITSTATUS(how), 0);
    }
    unlink(path);
}

int main(int argc, char **argv)
{
    static const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_file_is_mapped_whole),
        cmocka_unit_test(closing_twice_is_fine),
        cmocka_unit_test(an_empty_file_is_no_error),
        cmocka_unit_test(a_missing_file_is_not_found_and_named),
        cmocka_unit_test(a_folder_is_refused_and_named),
        cmocka_unit_test(a_pipe_without_a_writer_is_refused_at_once),
        cmocka_unit_test(what_is_there_is_told_apart),
        cmocka_unit_test(a_link_to_nothing_is_there_and_cannot_be_opened),
        cmocka_unit_test(a_closed_descriptor_of_three_is_never_given_to_a_file),
    };

    return cmocka_main(argc, argv, tests, ARRAY_LEN(tests), make_folder, remove_folder);
}
