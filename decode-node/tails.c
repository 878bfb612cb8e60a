/* SPDX-License-Identifier: Apache-2.0 */
/*
 * tails.c - pages of tails, and the ring of those that a windowed layer needs.
 *
 *   tail rows          [ 0 .. 63 ][ 64 .. ][ 128 .. ][ 192 .. ][ 256 .. ][ 320 .. ] ...
 *   pages, full            7          3        12         5         9         1
 *   pages, ring of 3       4          0         2         4         0         2
 *
 * A step of n rows writes at tail .. tail + n - 1, and its first row still sees tail - window + 1: window + n - 1 rows,
 * which lie in at most (window + n - 3) / 64 + 2 pages. With so many in the ring, the page that comes round holds nothing
 * that is still seen. The back end's table keeps one entry for every 64 rows, so that its kernels know no rings.
 */
#include "decode-node/tails.h"

#include "common/base/arena.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

/* Pages that the ring of one slot needs; 0: no layer has a window. */
static int32_t ring_pages(const struct hparams *hp, int32_t rows_max)
{
    int64_t window = 0;

    for (int32_t l = 0; l < hp->layers; l++)
        window = hp->window[l] > window ? hp->window[l] : window;
    return window > 0 ? (int32_t)((window + rows_max + KV_PAGE_TOKENS - 3) / KV_PAGE_TOKENS + 1) : 0;
}

static void pages_open(struct tail_pages *p, int32_t slots, int32_t per_slot, int32_t most)
{
    const int64_t all = (int64_t)slots * per_slot;

    p->per_slot = per_slot;
    p->count = p->free = (int32_t)(all < most ? all : most);
    p->stack = mem_zero((size_t)p->count, sizeof *p->stack);
    p->held = mem_zero((size_t)all, sizeof *p->held);
    for (int32_t i = 0; i < p->count; i++)
        p->stack[i] = p->count - 1 - i;
}

void tails_open(struct tails *t, struct backend *be, const struct hparams *hp, int32_t slots, int32_t tail_tokens,
                int32_t tail_tokens_max, int32_t rows_max, struct metrics *metrics)
{
    const int32_t most = tail_tokens / KV_PAGE_TOKENS, longest = tail_pages_of(tail_tokens_max);
    const int32_t ring = ring_pages(hp, rows_max);

    memset(t, 0, sizeof *t);
    t->be = be;
    t->slots = slots;
    t->window = mem_zero((size_t)hp->layers, sizeof *t->window);
    memcpy(t->window, hp->window, (size_t)hp->layers * sizeof *t->window);
    pages_open(&t->full, slots, longest, most);
    pages_open(&t->ring, slots, ring < longest ? ring : longest, most);
    t->full.gauge = metrics_gauge(metrics, "platen_decode_tail_pages", NULL, "tail pages in use");
    t->ring.gauge =
        metrics_gauge(metrics, "platen_decode_ring_pages", NULL, "tail pages in use by layers that see a window");
}

void tails_close(struct tails *t)
{
    free(t->full.stack);
    free(t->full.held);
    free(t->ring.stack);
    free(t->ring.held);
    free(t->window);
    memset(t, 0, sizeof *t);
}

void tails_describe(const struct tails *t, struct cache_config *cache)
{
    cache->pages = t->full.count;
    cache->pages_per_slot = t->full.per_slot;
    cache->window = t->window;
    cache->ring_pages = t->ring.count;
}

/* The slot's next page: one from the stack, or from the second time round the one that was given then. hot */
static int32_t page_at(struct tail_pages *p, int32_t slot, int32_t index)
{
    int32_t *at = &p->held[(int64_t)slot * p->per_slot + index % p->per_slot];

    if (index < p->per_slot) {
        assert(p->free > 0);
        *at = p->stack[--p->free];
        metric_add(p->gauge, 1);
    }
    return *at;
}

void tails_grow(struct tails *t, int32_t slot, int32_t *held, int32_t pages)
{
    for (; *held < pages; (*held)++) {
        t->be->ops->slot_page(t->be, slot, *held, page_at(&t->full, slot, *held));
        if (t->ring.per_slot > 0)
            t->be->ops->slot_ring(t->be, slot, *held, page_at(&t->ring, slot, *held));
    }
}

static void pages_take_back(struct tail_pages *p, int32_t slot, int32_t held)
{
    const int32_t count = held < p->per_slot ? held : p->per_slot;

    for (int32_t i = 0; i < count; i++)
        p->stack[p->free++] = p->held[(int64_t)slot * p->per_slot + i];
    metric_add(p->gauge, -count);
}

void tails_take_back(struct tails *t, int32_t slot, int32_t held)
{
    pages_take_back(&t->full, slot, held);
    pages_take_back(&t->ring, slot, held);
}
