/* SPDX-License-Identifier: Apache-2.0 */
/*
 * blocks.c - extents of one arena.
 *
 *   offset   0        a        b     c             d            capacity
 *            [extent ][  free  ][ext ][   extent   ][    free    ]
 *
 * Only extents are listed, in order of their offsets; free room is what lies between two of them, so neighbours merge by
 * themselves and there is nothing to get out of step. Contexts are hundreds, not millions: a walk is fine, and none
 * happens between two decode steps.
 */
#include "decode-node/blocks.h"

#include "common/base/arena.h"
#include "common/kv/layout.h"

#include <assert.h>
#include <pthread.h>
#include <stdlib.h>

/* A gap shorter than this share of the extent behind it is left: closing it would take too many copies. */
enum { PIECES_MAX = 64 };

struct blocks {
    struct backend *be;
    uint8_t *base;
    uint64_t capacity;
    pthread_mutex_t lock; /* guards the list and used */
    struct extent *first;
    uint64_t used;
};

enum status blocks_open(struct blocks **out, struct backend *be, uint64_t capacity, struct err *err)
{
    struct blocks *b = mem_zero(1, sizeof *b);
    void *base;
    enum status st = be->ops->alloc(be, capacity, "blocks", &base, err);

    if (st != ST_OK) {
        free(b);
        return st;
    }
    b->be = be;
    b->base = base;
    b->capacity = capacity;
    pthread_mutex_init(&b->lock, NULL);
    *out = b;
    return ST_OK;
}

void blocks_close(struct blocks *b)
{
    if (b == NULL)
        return;
    assert(b->first == NULL);
    b->be->ops->free(b->be, b->base);
    pthread_mutex_destroy(&b->lock);
    free(b);
}

static uint64_t extent_end(const struct extent *e)
{
    return e ? e->offset + e->bytes : 0;
}

/* The shortest gap that holds `bytes`: *after is the extent before it (NULL: the front). False: no gap is long enough. */
static bool best_fit(const struct blocks *b, uint64_t bytes, struct extent **after)
{
    uint64_t best = UINT64_MAX;
    struct extent *prev = NULL;

    for (struct extent *e = b->first;; prev = e, e = e->next) {
        uint64_t end = e ? e->offset : b->capacity;
        uint64_t gap = end - extent_end(prev);
        if (gap >= bytes && gap < best) {
            best = gap;
            *after = prev;
        }
        if (e == NULL)
            return best != UINT64_MAX;
    }
}

static void link_after(struct blocks *b, struct extent *e, struct extent *prev)
{
    e->prev = prev;
    e->next = prev ? prev->next : b->first;
    if (e->next)
        e->next->prev = e;
    if (prev)
        prev->next = e;
    else
        b->first = e;
    e->offset = extent_end(prev);
}

enum status blocks_reserve(struct blocks *b, uint64_t bytes, void *owner, struct extent **out, struct err *err)
{
    struct extent *after = NULL;
    uint64_t room;

    bytes = bytes > 0 ? kv_align(bytes) : 64;
    pthread_mutex_lock(&b->lock);
    room = b->capacity - b->used;
    if (best_fit(b, bytes, &after)) {
        struct extent *e = mem_zero(1, sizeof *e);
        e->bytes = bytes;
        e->owner = owner;
        e->pinned = true;
        link_after(b, e, after);
        b->used += bytes;
        *out = e;
        pthread_mutex_unlock(&b->lock);
        return ST_OK;
    }
    pthread_mutex_unlock(&b->lock);
    if (room >= bytes)
        return ST_AGAIN;
    return err_set(err, ST_EEXHAUSTED, "the context needs %llu bytes of blocks at most, %llu of %llu are free",
                   (unsigned long long)bytes, (unsigned long long)room, (unsigned long long)b->capacity);
}

void blocks_commit(struct blocks *b, struct extent *e, uint64_t bytes)
{
    bytes = bytes > 0 ? kv_align(bytes) : 64;
    pthread_mutex_lock(&b->lock);
    assert(bytes <= e->bytes);
    b->used -= e->bytes - bytes;
    e->bytes = bytes;
    e->pinned = false;
    pthread_mutex_unlock(&b->lock);
}

void blocks_release(struct blocks *b, struct extent *e)
{
    if (e == NULL)
        return;
    pthread_mutex_lock(&b->lock);
    if (e->prev)
        e->prev->next = e->next;
    else
        b->first = e->next;
    if (e->next)
        e->next->prev = e->prev;
    b->used -= e->bytes;
    pthread_mutex_unlock(&b->lock);
    free(e);
}

void *blocks_at(const struct blocks *b, const struct extent *e)
{
    return b->base + e->offset;
}

/* Towards the front by `gap` bytes, in pieces that do not overlap themselves: a device copies in no particular order. */
static void move_down(struct blocks *b, const struct extent *e, uint64_t gap)
{
    uint8_t *from = b->base + e->offset;

    for (uint64_t done = 0; done < e->bytes; done += gap) {
        uint64_t piece = e->bytes - done < gap ? e->bytes - done : gap;
        b->be->ops->copy(b->be, LANE_COMPUTE, from - gap + done, from + done, piece);
    }
}

void blocks_compact(struct blocks *b, void (*moved)(void *owner, int64_t by, void *ctx), void *ctx)
{
    pthread_mutex_lock(&b->lock);
    for (struct extent *e = b->first; e != NULL; e = e->next) {
        uint64_t to = extent_end(e->prev);
        uint64_t gap = e->offset - to;
        if (e->pinned || gap == 0 || gap < e->bytes / PIECES_MAX)
            continue;
        move_down(b, e, gap);
        e->offset = to;
        moved(e->owner, -(int64_t)gap, ctx);
    }
    pthread_mutex_unlock(&b->lock);
    b->be->ops->wait(b->be, LANE_COMPUTE);
}

uint64_t blocks_used(struct blocks *b)
{
    uint64_t used;

    pthread_mutex_lock(&b->lock);
    used = b->used;
    pthread_mutex_unlock(&b->lock);
    return used;
}

uint64_t blocks_capacity(const struct blocks *b)
{
    return b->capacity;
}
