/* SPDX-License-Identifier: Apache-2.0 */
#include "common/base/arena.h"
#include "tests/support/cmocka_main.h"

#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

static void memory_is_zero_and_aligned(void **state)
{
    struct arena a = { 0 };

    (void)state;
    for (size_t bytes = 0; bytes < 600; bytes += 7) {
        unsigned char *p = arena_alloc(&a, bytes);

        assert_non_null(p);
        assert_int_equal((uintptr_t)p % 16, 0);
        for (size_t i = 0; i < bytes; i++)
            assert_int_equal(p[i], 0);
        memset(p, 0xAA, bytes); /* whoever comes next must still find zeros */
    }
    arena_fini(&a);
}

static void pieces_never_overlap(void **state)
{
    enum { PIECES = 500 };
    struct arena a = { 0 };
    size_t sizes[PIECES];
    unsigned char *p[PIECES];

    (void)state;
    for (size_t i = 0; i < PIECES; i++) {
        sizes[i] = i % 50 == 0 ? 100000 : i * 13 % 700 + 1; /* now and then one that is larger than a chunk */
        p[i] = arena_alloc(&a, sizes[i]);
        memset(p[i], (int)(i & 0xFF), sizes[i]);
    }
    for (size_t i = 0; i < PIECES; i++)
        for (size_t k = 0; k < sizes[i]; k++)
            assert_int_equal(p[i][k], i & 0xFF);
    arena_fini(&a);
}

static void used_bytes_grow_and_go_back_to_zero(void **state)
{
    struct arena a = { 0 };

    (void)state;
    arena_alloc(&a, 100);
    assert_in_range(a.used_bytes, 100, 127);
    arena_alloc(&a, 3000000);
    assert_true(a.used_bytes >= 3000100);
    arena_fini(&a);
    assert_int_equal(a.used_bytes, 0);
    assert_null(a.head);
}

static void an_arena_can_be_used_again_after_fini(void **state)
{
    struct arena a = { 0 };

    (void)state;
    arena_strdup(&a, "once");
    arena_fini(&a);
    arena_fini(&a);
    assert_string_equal(arena_strdup(&a, "again"), "again");
    arena_fini(&a);
}

static void strings_are_copied_whole(void **state)
{
    struct arena a = { 0 };
    char *text;

    (void)state;
    assert_string_equal(arena_strdup(&a, ""), "");
    assert_string_equal(arena_strndup(&a, "abcdef", 3), "abc");
    assert_string_equal(arena_strndup(&a, NULL, 0), "");
    text = arena_strndup(&a, "a\0b", 3);
    assert_memory_equal(text, "a\0b", 4); /* a NUL inside does not cut */
    assert_string_equal(arena_printf(&a, "%s-%d", "x", 42), "x-42");
    assert_int_equal(strlen(arena_printf(&a, "%*s", 9000, "x")), 9000);
    arena_fini(&a);
}

static void arrays_are_zero(void **state)
{
    struct arena a = { 0 };
    int64_t *numbers = arena_array(&a, 1000, sizeof *numbers);

    (void)state;
    for (int i = 0; i < 1000; i++)
        assert_true(numbers[i] == 0);
    arena_fini(&a);
}

/* How a child that does `what` ends: its exit code (0: it came back), or -1 for a signal. stderr is closed to keep the log clean. */
static int code_of(void (*what)(void))
{
    pid_t child = fork();
    int how;

    assert_true(child >= 0);
    if (child == 0) {
        close(STDERR_FILENO);
        what();
        _exit(0);
    }
    assert_int_equal(waitpid(child, &how, 0), child);
    return WIFEXITED(how) ? WEXITSTATUS(how) : -1;
}

static void ask_for_too_many_elements(void)
{
    struct arena a = { 0 };

    arena_array(&a, SIZE_MAX / 4, 8);
}

static void ask_for_too_many_bytes(void)
{
    struct arena a = { 0 };

    arena_alloc(&a, SIZE_MAX - 3);
}

static void ask_for_too_many_zeroes(void)
{
    free(mem_zero(SIZE_MAX / 2, 3));
}

static void a_size_that_overflows_ends_the_program_with_1(void **state)
{
    (void)state;
    assert_int_equal(code_of(ask_for_too_many_elements), 1);
    assert_int_equal(code_of(ask_for_too_many_bytes), 1);
    assert_int_equal(code_of(ask_for_too_many_zeroes), 1);
}

static void plain_memory_is_never_null(void **state)
{
    char *p = mem_alloc(0), *z = mem_zero(0, 8), *s = mem_strdup("word");

    (void)state;
    assert_non_null(p);
    assert_non_null(z);
    assert_string_equal(s, "word");
    s = mem_grow(s, 4096);
    assert_string_equal(s, "word");
    free(p);
    free(z);
    free(s);
}

static void aligned_memory_begins_a_cache_line(void **state)
{
    (void)state;
    for (size_t bytes = 0; bytes < 300; bytes += 33) {
        void *p = mem_aligned(bytes);

        assert_int_equal((uintptr_t)p % 64, 0);
        free(p);
    }
}

int main(int argc, char **argv)
{
    static const struct CMUnitTest tests[] = {
        cmocka_unit_test(memory_is_zero_and_aligned),
        cmocka_unit_test(pieces_never_overlap),
        cmocka_unit_test(used_bytes_grow_and_go_back_to_zero),
        cmocka_unit_test(an_arena_can_be_used_again_after_fini),
        cmocka_unit_test(strings_are_copied_whole),
        cmocka_unit_test(arrays_are_zero),
        cmocka_unit_test(a_size_that_overflows_ends_the_program_with_1),
        cmocka_unit_test(plain_memory_is_never_null),
        cmocka_unit_test(aligned_memory_begins_a_cache_line),
    };

    return cmocka_main(argc, argv, tests, ARRAY_LEN(tests), NULL, NULL);
}
