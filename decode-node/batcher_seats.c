/* SPDX-License-Identifier: Apache-2.0 */
/*
 * batcher_seats.c - which sequences run: those that arrive wait in line, a slot each lets them run, and they end.
 *
 *      arrival ─▶ waiting ─▶ slot ─▶ ending decided ─▶ no step touches it ─▶ finish written
 *
 * A slot ties a sequence to its context's blocks and its tail's pages. Once `finish` is written a sequence is not ours.
 */
#include "decode-node/batcher_inside.h"

#include "common/base/clock.h"

#include <stdlib.h>

void batcher_let_go(struct batcher *b, struct sequence *s)
{
    if (s->slot >= 0) {
        tails_take_back(&b->tails, s->slot, s->pages);
        b->slot[s->slot] = NULL;
        b->running--;
        metric_set(b->m_running, b->running);
    }
    s->last_ns = clock_now_ns();
    __atomic_store_n(&s->finish, s->ending, __ATOMIC_RELEASE);
    sem_post(b->cfg.wake);
}

/* hot */
void batcher_end(struct batcher *b, struct sequence *s, enum finish how)
{
    if (s->ending == FINISH_NONE)
        s->ending = how;
    if (s->in_flight == 0)
        batcher_let_go(b, s);
}

static enum finish why_stop(const struct batcher *b, const struct sequence *s, int64_t now)
{
    if (__atomic_load_n(&b->broken, __ATOMIC_RELAXED))
        return FINISH_FAILED;
    if (__atomic_load_n(&b->stopping, __ATOMIC_RELAXED) || __atomic_load_n(s->cancelled, __ATOMIC_RELAXED))
        return FINISH_CANCELLED;
    return now >= s->deadline_ns ? FINISH_DEADLINE : FINISH_NONE;
}

/* hot */
void batcher_reap(struct batcher *b)
{
    int64_t now = clock_now_ns();

    for (int32_t i = 0; i < b->cfg.slots; i++) {
        struct sequence *s = b->slot[i];
        enum finish how = s && s->ending == FINISH_NONE ? why_stop(b, s, now) : FINISH_NONE;
        if (how != FINISH_NONE)
            batcher_end(b, s, how);
    }
    for (struct sequence **at = &b->waiting; *at;) {
        struct sequence *s = *at;
        enum finish how = why_stop(b, s, now);
        if (how == FINISH_NONE) {
            at = &s->next;
            continue;
        }
        *at = s->next;
        if (*at == NULL)
            b->waiting_end = at;
        metric_add(b->m_queued, -1);
        batcher_end(b, s, how);
    }
}

void batcher_seat(struct batcher *b)
{
    for (int32_t i = 0; i < b->cfg.slots && b->waiting; i++) {
        struct sequence *s = b->waiting;
        if (b->slot[i])
            continue;
        b->waiting = s->next;
        if (b->waiting == NULL)
            b->waiting_end = &b->waiting;
        s->slot = i;
        b->slot[i] = s;
        b->running++;
        if (s->own)
            repressed_seat(s->own, &b->repress, i, s->context);
        b->be->ops->slot_blocks(b->be, i, s->context->block);
        metric_add(b->m_queued, -1);
        metric_set(b->m_running, b->running);
    }
}

/* The blocks of a context have moved: the slots that read them are tied to them anew. */
static void tie_again(struct batcher *b, const struct context *c)
{
    for (int32_t i = 0; i < b->cfg.slots; i++)
        if (b->slot[i] && c == (repressed_reads_own(b->slot[i]->own) ? b->slot[i]->own->own : b->slot[i]->context))
            b->be->ops->slot_blocks(b->be, i, c->block);
}

static void moved(void *owner, int64_t by, void *ctx)
{
    context_moved(owner, by);
    tie_again(ctx, owner);
}

void batcher_compact(struct batcher *b, struct blocks *blocks)
{
    blocks_compact(blocks, moved, b);
}

void batcher_take(struct batcher *b, struct arrival *a)
{
    struct sequence *s = a->sequence;

    __atomic_sub_fetch(&b->arrived, 1, __ATOMIC_RELAXED);
    if (a->fn)
        a->fn(b, a->arg);
    if (s) {
        s->next = NULL;
        *b->waiting_end = s;
        b->waiting_end = &s->next;
        metric_add(b->m_queued, 1);
    }
    free(a);
}
