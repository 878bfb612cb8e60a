/* SPDX-License-Identifier: Apache-2.0 */
/* test_tails.c - what pages a tail has: all of them in full layers, a ring in those that see a window. */
#include "decode-node/tails.h"

#include "tests/support/cmocka_main.h"

#include <stdlib.h>
#include <string.h>

enum { SLOTS = 3, LONGEST = 64 * 40, ROWS_MAX = 100, WINDOW = 150, INDEX_MAX = 40 };

/* A back end that remembers what it was told. */
struct noted {
    struct backend be;
    int32_t page[SLOTS][INDEX_MAX], ring[SLOTS][INDEX_MAX];
};

static void note_page(struct backend *be, int32_t slot, int32_t index, int32_t page)
{
    ((struct noted *)be)->page[slot][index] = page;
}

static void note_ring(struct backend *be, int32_t slot, int32_t index, int32_t page)
{
    ((struct noted *)be)->ring[slot][index] = page;
}

static const struct backend_ops ops = { .slot_page = note_page, .slot_ring = note_ring };

struct world {
    struct noted noted;
    struct tails tails;
    struct metrics *metrics;
    int32_t held[SLOTS];
};

static void open_world(struct world *w, int32_t window, int32_t tail_tokens)
{
    struct hparams *hp = calloc(1, sizeof *hp);

    memset(w, 0, sizeof *w);
    hp->layers = 3;
    hp->window[1] = window;
    w->noted.be.ops = &ops;
    w->metrics = metrics_open(4);
    tails_open(&w->tails, &w->noted.be, hp, SLOTS, tail_tokens, LONGEST, ROWS_MAX, w->metrics);
    free(hp);
}

static void close_world(struct world *w)
{
    tails_close(&w->tails);
    metrics_close(w->metrics);
}

static void a_long_tail_holds_only_its_window_in_a_ring(void **state)
{
    const int32_t ring = (WINDOW + ROWS_MAX + 61) / 64 + 1; /* 5: not all 40 */
    struct cache_config cache = { 0 };
    struct world w;

    (void)state;
    open_world(&w, WINDOW, SLOTS * LONGEST);
    tails_describe(&w.tails, &cache);
    assert_int_equal(cache.pages, SLOTS * INDEX_MAX);
    assert_int_equal(cache.ring_pages, SLOTS * ring);
    assert_int_equal(cache.window[0] + cache.window[2], 0);
    assert_int_equal(cache.window[1], WINDOW);
    for (int32_t slot = 0; slot < SLOTS; slot++)
        tails_grow(&w.tails, slot, &w.held[slot], INDEX_MAX);
    assert_int_equal((int)metric_value(w.tails.full.gauge), SLOTS * INDEX_MAX);
    assert_int_equal((int)metric_value(w.tails.ring.gauge), SLOTS * ring);
    close_world(&w);
}

/* Every step of every size: what its rows see lies in pages of their own, none of them another slot's. */
static void rows_that_are_seen_are_never_written_over(void **state)
{
    struct world w;

    (void)state;
    open_world(&w, WINDOW, SLOTS * LONGEST);
    tails_grow(&w.tails, 1, &w.held[1], INDEX_MAX);
    for (int32_t tail = 0, rows = 1; tail + rows <= LONGEST; tail += rows, rows = rows % ROWS_MAX + 1) {
        const int32_t first = tail - WINDOW + 1 > 0 ? (tail - WINDOW + 1) / 64 : 0, last = (tail + rows - 1) / 64;

        tails_grow(&w.tails, 0, &w.held[0], last + 1);
        for (int32_t i = first; i <= last; i++)
            for (int32_t j = first; j < i; j++)
                assert_int_not_equal(w.noted.ring[0][i], w.noted.ring[0][j]);
        for (int32_t i = first; i <= last; i++)
            for (int32_t j = 0; j < INDEX_MAX; j++)
                assert_int_not_equal(w.noted.ring[0][i], w.noted.ring[1][j]);
    }
    close_world(&w);
}

static void pages_come_back(void **state)
{
    struct world w;

    (void)state;
    open_world(&w, WINDOW, LONGEST); /* room for one long tail at a time */
    for (int i = 0; i < 10; i++) {
        w.held[2] = 0;
        tails_grow(&w.tails, 2, &w.held[2], 3 + i * 4);
        tails_take_back(&w.tails, 2, w.held[2]);
        assert_int_equal((int)metric_value(w.tails.full.gauge), 0);
        assert_int_equal((int)metric_value(w.tails.ring.gauge), 0);
        assert_int_equal(w.tails.full.free, w.tails.full.count);
        assert_int_equal(w.tails.ring.free, w.tails.ring.count);
    }
    close_world(&w);
}

static void without_windows_there_is_no_ring(void **state)
{
    struct cache_config cache = { 0 };
    struct world w;

    (void)state;
    open_world(&w, 0, SLOTS * LONGEST);
    tails_describe(&w.tails, &cache);
    assert_int_equal(cache.ring_pages, 0);
    memset(w.noted.ring, -1, sizeof w.noted.ring);
    tails_grow(&w.tails, 0, &w.held[0], INDEX_MAX);
    assert_int_equal(w.noted.ring[0][0], -1);
    tails_take_back(&w.tails, 0, w.held[0]);
    close_world(&w);
}

static const struct CMUnitTest tests[] = {
    cmocka_unit_test(a_long_tail_holds_only_its_window_in_a_ring),
    cmocka_unit_test(rows_that_are_seen_are_never_written_over),
    cmocka_unit_test(pages_come_back),
    cmocka_unit_test(without_windows_there_is_no_ring),
};

int main(int argc, char **argv)
{
    return cmocka_main(argc, argv, tests, ARRAY_LEN(tests), NULL, NULL);
}
