/* SPDX-License-Identifier: Apache-2.0 */
/*
 * tails.h - which pages hold the tails of the running sequences. Engine thread only.
 *
 *   full layers      slot ─▶ page of every 64 rows, as long as the sequence runs
 *   windowed layers  slot ─▶ a ring: the page of the oldest 64 rows is written anew once no row to come sees them
 *
 * Rooms are promised elsewhere (batcher_reserve), so there is always a page when one is needed.
 */
#ifndef PLATEN_DECODE_TAILS_H
#define PLATEN_DECODE_TAILS_H

#include "common/metrics/metrics.h"
#include "common/model/hparams.h"
#include "kernels/backend.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Pages of one pool: a stack of those that are free, and those that every slot holds. */
struct tail_pages {
    int32_t count, free, per_slot;
    int32_t *stack; /* [count] */
    int32_t *held;  /* [slots][per_slot] */
    struct metric *gauge;
};

struct tails {
    struct backend *be;
    int32_t slots;
    int32_t *window;              /* [layers] */
    struct tail_pages full, ring; /* ring.per_slot 0: no layer has a window */
};

/* Rows and answers: tail_tokens rows in all, tail_tokens_max of one sequence, steps of up to rows_max rows. `hp` is read
 * here only. Registers the gauges of pages in use. */
void tails_open(struct tails *t, struct backend *be, const struct hparams *hp, int32_t slots, int32_t tail_tokens,
                int32_t tail_tokens_max, int32_t rows_max, struct metrics *metrics);
void tails_close(struct tails *t);

/* Fills what cache_open wants to know of pages; window is borrowed from `t`. */
void tails_describe(const struct tails *t, struct cache_config *cache);

/* Gives a slot pages up to number `pages` of its tail; it has *held of them. hot */
void tails_grow(struct tails *t, int32_t slot, int32_t *held, int32_t pages);

/* Takes back what a slot with `held` pages of tail has. */
void tails_take_back(struct tails *t, int32_t slot, int32_t held);

/* Pages that `rows` rows of a tail fill. */
static inline int32_t tail_pages_of(int32_t rows)
{
    return (rows + KV_PAGE_TOKENS - 1) / KV_PAGE_TOKENS;
}

#ifdef __cplusplus
}
#endif
#endif
