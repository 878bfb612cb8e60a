/* SPDX-License-Identifier: Apache-2.0 */
/* test_blocks.c - the arena of pressed contexts, on a back end that is nothing but malloc. */
#include "common/base/arena.h"
#include "decode-node/blocks.h"
#include "tests/support/cmocka_main.h"

#include <stdlib.h>

enum { CAPACITY = 64 * 100, EXTENTS = 40 };

static enum status plain_alloc(struct backend *be, uint64_t bytes, const char *what, void **out, struct err *err)
{
    (void)be;
    (void)what;
    (void)err;
    *out = mem_aligned(bytes);
    return ST_OK;
}

static void plain_free(struct backend *be, void *device)
{
    (void)be;
    free(device);
}

static void plain_copy(struct backend *be, enum lane lane, void *to, const void *from, uint64_t bytes)
{
    (void)be;
    (void)lane;
    memmove(to, from, bytes);
}

static void plain_wait(struct backend *be, enum lane lane)
{
    (void)be;
    (void)lane;
}

static const struct backend_ops plain_ops = {
    .name = "plain", .alloc = plain_alloc, .free = plain_free, .copy = plain_copy, .wait = plain_wait
};
static struct backend plain = { &plain_ops, DT_F32, DT_F32 };

static int open_arena(void **state)
{
    struct blocks *b = NULL;

    if (blocks_open(&b, &plain, CAPACITY, NULL) != ST_OK)
        return -1;
    *state = b;
    return 0;
}

static int close_arena(void **state)
{
    blocks_close(*state);
    return 0;
}

/* Reserves, commits and fills an extent with `mark`. */
static struct extent *put(struct blocks *b, uint64_t bytes, int mark, void *owner)
{
    struct extent *e = NULL;

    assert_int_equal(blocks_reserve(b, bytes, owner, &e, NULL), ST_OK);
    memset(blocks_at(b, e), mark, bytes);
    blocks_commit(b, e, bytes);
    return e;
}

static void no_byte_belongs_to_two_extents(void **state)
{
    struct blocks *b = *state;
    struct extent *e[EXTENTS] = { 0 };
    unsigned seed = 7;

    for (int round = 0; round < 2000; round++) {
        int i = (int)(rand_r(&seed) % EXTENTS);
        if (e[i]) {
            const uint8_t *at = blocks_at(b, e[i]);
            for (uint64_t k = 0; k < e[i]->bytes - 63; k++)
                assert_int_equal(at[k], i);
            blocks_release(b, e[i]);
            e[i] = NULL;
        } else {
            uint64_t bytes = 1 + (uint64_t)rand_r(&seed) % 400;
            if (blocks_reserve(b, bytes, NULL, &e[i], NULL) == ST_OK) {
                memset(blocks_at(b, e[i]), i, e[i]->bytes);
                blocks_commit(b, e[i], bytes);
            }
        }
    }
    for (int i = 0; i < EXTENTS; i++)
        blocks_release(b, e[i]);
    assert_int_equal(blocks_used(b), 0);
}

static void the_shortest_gap_that_fits_is_taken(void **state)
{
    struct blocks *b = *state;
    struct extent *a = put(b, 64 * 10, 1, NULL), *gap3 = put(b, 64 * 3, 2, NULL), *c = put(b, 64, 3, NULL);
    struct extent *gap2 = put(b, 64 * 2, 4, NULL), *d = put(b, 64, 5, NULL), *e;
    uint64_t at2 = gap2->offset;

    blocks_release(b, gap3);
    blocks_release(b, gap2);
    e = put(b, 64 * 2, 6, NULL);
    assert_int_equal(e->offset, at2);
    blocks_release(b, a);
    blocks_release(b, c);
    blocks_release(b, d);
    blocks_release(b, e);
}

static void what_commit_does_not_need_goes_back(void **state)
{
    struct blocks *b = *state;
    struct extent *e;

    assert_int_equal(blocks_reserve(b, CAPACITY, NULL, &e, NULL), ST_OK);
    blocks_commit(b, e, 65);
    assert_int_equal(blocks_used(b), 128);
    blocks_release(b, put(b, CAPACITY - 128, 1, NULL));
    blocks_release(b, e);
}

static void full_is_an_answer_that_tells_numbers(void **state)
{
    struct blocks *b = *state;
    struct err err = { 0 };
    struct extent *e = NULL;

    assert_int_equal(blocks_reserve(b, CAPACITY + 1, NULL, &e, &err), ST_EEXHAUSTED);
    assert_non_null(strstr(err.text, "6400"));
    assert_null(e);
}

static void note_move(void *owner, int64_t by, void *ctx)
{
    *(int64_t *)owner += by;
    (void)ctx;
}

static void compaction_makes_room_and_keeps_bytes(void **state)
{
    struct blocks *b = *state;
    int64_t by[3] = { 0 };
    struct extent *hole = put(b, 64 * 40, 9, NULL), *x = put(b, 64 * 10, 1, &by[0]);
    struct extent *hole2 = put(b, 64 * 30, 9, NULL), *y = put(b, 64 * 10, 2, &by[1]), *big;
    const uint8_t *was = blocks_at(b, y);

    blocks_release(b, hole);
    blocks_release(b, hole2);
    assert_int_equal(blocks_reserve(b, 64 * 70, NULL, &big, NULL), ST_AGAIN);
    blocks_compact(b, note_move, NULL);
    assert_int_equal(by[0], -64 * 40);
    assert_int_equal(by[1], -64 * 70);
    assert_ptr_equal((const uint8_t *)blocks_at(b, y), was + by[1]);
    for (int i = 0; i < 640; i++) {
        assert_int_equal(((const uint8_t *)blocks_at(b, x))[i], 1);
        assert_int_equal(((const uint8_t *)blocks_at(b, y))[i], 2);
    }
    assert_int_equal(blocks_reserve(b, 64 * 70, NULL, &big, NULL), ST_OK);
    blocks_release(b, x);
    blocks_release(b, y);
    blocks_release(b, big);
}

static void a_context_being_received_is_never_moved(void **state)
{
    struct blocks *b = *state;
    int64_t by = 0;
    struct extent *hole = put(b, 640, 9, NULL), *receiving = NULL, *after;
    uint64_t at;

    assert_int_equal(blocks_reserve(b, 640, NULL, &receiving, NULL), ST_OK);
    after = put(b, 640, 1, &by);
    at = receiving->offset;
    blocks_release(b, hole);
    blocks_compact(b, note_move, NULL);
    assert_int_equal(receiving->offset, at);
    assert_int_equal(by, 0);
    blocks_release(b, receiving);
    blocks_release(b, after);
}

static const struct CMUnitTest tests[] = {
    cmocka_unit_test_setup_teardown(no_byte_belongs_to_two_extents, open_arena, close_arena),
    cmocka_unit_test_setup_teardown(the_shortest_gap_that_fits_is_taken, open_arena, close_arena),
    cmocka_unit_test_setup_teardown(what_commit_does_not_need_goes_back, open_arena, close_arena),
    cmocka_unit_test_setup_teardown(full_is_an_answer_that_tells_numbers, open_arena, close_arena),
    cmocka_unit_test_setup_teardown(compaction_makes_room_and_keeps_bytes, open_arena, close_arena),
    cmocka_unit_test_setup_teardown(a_context_being_received_is_never_moved, open_arena, close_arena),
};

int main(int argc, char **argv)
{
    return cmocka_main(argc, argv, tests, ARRAY_LEN(tests), NULL, NULL);
}
