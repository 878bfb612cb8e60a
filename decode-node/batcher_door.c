/* SPDX-License-Identifier: Apache-2.0 */
/*
 * batcher_door.c - what any thread may ask of the engine.
 *
 *   batcher_reserve ─▶ sequences, tail pages promised      two counts; nothing waits
 *   batcher_submit, batcher_call ─▶ [arrivals] ─▶ engine   looked for between two steps
 *
 * A promise is made before a context is fetched, so that a sequence which was let in never runs out of room.
 */
#include "decode-node/batcher_inside.h"

#include "common/base/arena.h"
#include "common/base/clock.h"

#include <stdlib.h>

enum status batcher_reserve(struct batcher *b, int32_t tail_rows, struct err *err)
{
    int64_t rows = (int64_t)tail_pages_of(tail_rows) * KV_PAGE_TOKENS;

    if (rows > b->cfg.tail_tokens_max)
        return err_set(err, ST_ERANGE, "question and answer need %d rows of tail, one sequence may have %d", tail_rows,
                       b->cfg.tail_tokens_max);
    /* relaxed: the counts only bound each other; what they guard is handed over through the queue */
    if (__atomic_add_fetch(&b->sequences, 1, __ATOMIC_RELAXED) > b->cfg.sequences_max) {
        __atomic_sub_fetch(&b->sequences, 1, __ATOMIC_RELAXED);
        return err_set(err, ST_EEXHAUSTED,
                       "queue: %d answers are running or waiting, as many as --sequences-limit allows",
                       b->cfg.sequences_max);
    }
    if (__atomic_add_fetch(&b->tail_rows, rows, __ATOMIC_RELAXED) > b->cfg.tail_tokens) {
        batcher_release(b, tail_rows);
        return err_set(err, ST_EEXHAUSTED, "tails: question and answer need room for %lld tokens, all %d are promised",
                       (long long)rows, b->cfg.tail_tokens);
    }
    return ST_OK;
}

void batcher_release(struct batcher *b, int32_t tail_rows)
{
    __atomic_sub_fetch(&b->sequences, 1, __ATOMIC_RELAXED);
    __atomic_sub_fetch(&b->tail_rows, (int64_t)tail_pages_of(tail_rows) * KV_PAGE_TOKENS, __ATOMIC_RELAXED);
}

static enum status arrive(struct batcher *b, struct arrival *a)
{
    enum status st = queue_put(b->arrivals, a);

    if (st != ST_OK)
        free(a);
    else
        __atomic_add_fetch(&b->arrived, 1, __ATOMIC_RELEASE); /* pairs with the engine's acquire load */
    return st;
}

void batcher_submit(struct batcher *b, struct sequence *s)
{
    struct arrival *a = mem_zero(1, sizeof *a);

    s->slot = -1;
    s->begin_ns = clock_now_ns();
    a->sequence = s;
    if (arrive(b, a) != ST_OK) { /* shut: the node is going down */
        __atomic_store_n(&s->finish, FINISH_CANCELLED, __ATOMIC_RELEASE);
        sem_post(b->cfg.wake);
    }
}

enum status batcher_call(struct batcher *b, void (*fn)(struct batcher *b, void *arg), void *arg)
{
    struct arrival *a = mem_zero(1, sizeof *a);

    a->fn = fn;
    a->arg = arg;
    return arrive(b, a);
}

enum status batcher_health(struct batcher *b, struct err *err)
{
    if (!__atomic_load_n(&b->broken, __ATOMIC_RELAXED))
        return ST_OK;
    enum status st = b->be->ops->health(b->be, err);
    return st != ST_OK ? st : err_set(err, ST_EINTERNAL, "the device failed");
}

int32_t batcher_sequences(struct batcher *b)
{
    return __atomic_load_n(&b->sequences, __ATOMIC_RELAXED);
}

int64_t batcher_tail_tokens(struct batcher *b)
{
    return __atomic_load_n(&b->tail_rows, __ATOMIC_RELAXED);
}
