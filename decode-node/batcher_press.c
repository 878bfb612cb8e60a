/* SPDX-License-Identifier: Apache-2.0 */
/*
 * batcher_press.c - answers with a decode part: what follows the step that ended a forward call of theirs.
 *
 * Steps under way are waited for where a compression is due, where attention is added up after every call (cam), and where rows
 * are scored as they come: they read what those steps write. All that a compression needs was made by batcher_room.c.
 */
#include "decode-node/batcher_inside.h"

#include "common/base/clock.h"
#include "common/base/trace.h"

/* Cuts a sequence's rows down: its tail is empty afterwards. */
static enum status compress(struct batcher *b, struct sequence *s)
{
    int64_t begin = clock_now_ns(), rows = s->own->head_max + s->tail, done;
    enum status st =
        repressed_press(s->own, &b->repress, s->slot, s->context, s->tail, s->context->next_position + s->placed);

    if (st != ST_OK)
        return st;
    tails_take_back(&b->tails, s->slot, s->pages);
    s->pages = s->tail = 0;
    metric_add(b->m_compressions, 1);
    done = clock_now_ns();
    metric_observe(b->m_compress_seconds, (double)(done - begin) / 1e9);
    trace_add(b->cfg.trace, TRACE_compress, 0, TRACE_NO_LAYER, begin, done, (uint64_t)rows);
    return ST_OK;
}

/* A call of the sequence is over: whatever its decode part does after one. */
static void press_on(struct batcher *b, struct sequence *s)
{
    const int32_t slot = s->slot;
    struct repressed *a = s->own;
    bool due = repressed_due(a, s->context->next_position + s->placed);
    enum status st = ST_OK;

    a->fresh = 0;
    if (due || a->part.cam_merge > 0)
        batcher_land(b);
    if (b->slot[slot] != s || s->ending != FINISH_NONE) /* that was its last token: it may not be ours any more */
        return;
    if (a->part.cam_merge > 0)
        st = repressed_attend(a, &b->repress, s->slot, s->context, s->tail);
    if (st == ST_OK && due)
        st = compress(b, s);
    if (st != ST_OK)
        batcher_end(b, s, FINISH_FAILED);
    else if (!due)
        repressed_trim(a);
}

/* Rows of the last step that are scored as they come: even those of a call that is not over. */
static void score(struct batcher *b, struct sequence *s)
{
    const int32_t slot = s->slot;

    batcher_land(b);
    if (b->slot[slot] == s && s->ending == FINISH_NONE && repressed_score(s->own, &b->repress) != ST_OK)
        batcher_end(b, s, FINISH_FAILED);
}

void batcher_press(struct batcher *b)
{
    int64_t least = 0, most = 0;

    for (int32_t i = 0; i < b->cfg.slots; i++) {
        struct sequence *s = b->slot[i];

        if (s && s->own && s->own->unscored > 0)
            score(b, s);
        s = b->slot[i];
        if (s && s->own && s->own->fresh > 0 && s->ending == FINISH_NONE)
            press_on(b, s);
        s = b->slot[i];
        if (!s || !s->own)
            continue;
        repressed_hold(s->own, s->tail);
        if (most == 0 || s->own->head_min + s->tail < least)
            least = s->own->head_min + s->tail;
        if (s->own->head_max + s->tail > most)
            most = s->own->head_max + s->tail;
    }
    metric_set(b->m_head_min, (double)least);
    metric_set(b->m_head_max, (double)most);
}
