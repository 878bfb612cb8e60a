/* SPDX-License-Identifier: Apache-2.0 */
/*
 * batcher_step.c - stop 10 of 12: which rows the next step holds, and what it chose.    before: batcher.c   after: forward.c
 *
 *   every sequence that generates   1 row      its last token, taken on the device (token -1 - slot)
 *   questions, while rows are left  n rows     as many as fit; the rest in the next step
 *
 * On a device that runs by itself the next step is queued before the last one's tokens are known (behind = 1), so a
 * sequence's end is learnt one step late; what that step computed for it is dropped.
 *
 * Nothing here allocates, locks, logs or formats.
 */
#include "decode-node/batcher_inside.h"

#include "common/base/clock.h"
#include "common/base/trace.h"

#include <string.h>

/* Positions up to the prompt's end: all of it turns by the frequencies of that length, however it is cut into steps. */
static int32_t prompt_end(const struct sequence *s)
{
    return (int32_t)(s->context->next_position + s->placed - s->fed + s->prompt_tokens);
}

/* Puts `rows` rows of a sequence into the step. hot */
static void put_rows(struct batcher *b, struct sequence *s, int32_t rows, struct flight *f)
{
    struct step_seq *q = &b->seq[b->step.seqs];
    bool generates = s->fed == s->prompt_tokens;

    tails_grow(&b->tails, s->slot, &s->pages, tail_pages_of(s->tail + rows));
    *q = (struct step_seq){
        .slot = s->slot, .row = b->step.rows, .rows = rows, .tail = s->tail, .length = generates ? 0 : prompt_end(s)
    };
    for (int32_t i = 0; i < rows; i++) {
        b->token[q->row + i] = generates ? -1 - s->slot : s->prompt[s->fed + i];
        b->position[q->row + i] = (int32_t)(s->context->next_position + s->placed + i);
    }
    if (s->own && repressed_feed(s->own, &b->repress, q->row, rows, &b->forward.take[b->forward.takes]))
        b->forward.takes++;
    if (!generates)
        s->fed += rows;
    s->tail += rows;
    s->placed += rows;
    b->output[b->step.seqs] = -1;
    if (s->fed == s->prompt_tokens) {
        b->output[b->step.seqs] = q->row + rows - 1;
        f->chooses[f->wanted++] = s;
        s->asked++;
        if (s->own)
            repressed_call(s->own);
    }
    f->touches[f->touched++] = s;
    s->in_flight++;
    b->step.seqs++;
    b->step.rows += rows;
}

/* Fills the step: first every sequence that generates, then questions while rows are left. False: nothing to do. hot */
static bool fill(struct batcher *b, struct flight *f)
{
    f->wanted = f->touched = 0;
    b->step.rows = b->step.seqs = b->forward.takes = 0;
    for (int32_t i = 0; i < b->cfg.slots; i++) {
        struct sequence *s = b->slot[i];
        if (s && s->ending == FINISH_NONE && s->fed == s->prompt_tokens && s->asked < s->max_new)
            put_rows(b, s, 1, f);
    }
    for (int32_t i = 0; i < b->cfg.slots && b->step.rows < b->cfg.rows_max; i++) {
        struct sequence *s = b->slot[i];
        int32_t left = b->cfg.rows_max - b->step.rows;
        if (s && s->ending == FINISH_NONE && s->fed < s->prompt_tokens)
            put_rows(b, s, s->prompt_tokens - s->fed < left ? s->prompt_tokens - s->fed : left, f);
    }
    return b->step.rows > 0;
}

static bool is_end_token(const struct batcher *b, int32_t id)
{
    const struct hparams *hp = &b->cfg.weights->hp;

    for (int32_t i = 0; i < hp->eos_count; i++)
        if (hp->eos_id[i] == id)
            return true;
    return false;
}

/* A token is known. hot */
static void give(struct batcher *b, struct sequence *s, int32_t id)
{
    int32_t n = s->made_count;

    if (s->ending != FINISH_NONE) /* chosen by the step after its end */
        return;
    s->made[n] = id;
    if (n == 0)
        s->first_ns = clock_now_ns();
    __atomic_store_n(&s->made_count, n + 1, __ATOMIC_RELEASE);
    metric_add(b->m_tokens, 1);
    if (is_end_token(b, id))
        s->ending = FINISH_STOP;
    else if (n + 1 == s->max_new)
        s->ending = FINISH_LENGTH;
}

/* Looks at the oldest step under way. What a device that failed says was chosen is nobody's token. hot */
static void collect(struct batcher *b)
{
    struct flight *f = &b->flight[0];
    struct flight done;

    b->be->ops->step_result(b->be, b->flights - 1, b->chosen);
    if (b->be->ops->health(b->be, NULL) != ST_OK)
        __atomic_store_n(&b->broken, 1, __ATOMIC_RELAXED);
    for (int32_t i = 0; i < f->wanted && !__atomic_load_n(&b->broken, __ATOMIC_RELAXED); i++)
        give(b, f->chooses[i], b->chosen[i]);
    for (int32_t i = 0; i < f->touched; i++) {
        struct sequence *s = f->touches[i];
        if (--s->in_flight == 0 && s->ending != FINISH_NONE)
            batcher_let_go(b, s);
    }
    if (f->wanted > 0)
        sem_post(b->cfg.wake);
    done = b->flight[0];
    memmove(&b->flight[0], &b->flight[1], sizeof b->flight - sizeof b->flight[0]);
    b->flight[BATCHER_BEHIND_MAX] = done;
    b->flights--;
}

void batcher_land(struct batcher *b)
{
    while (b->flights > 0)
        collect(b);
}

static void run(struct batcher *b)
{
    int64_t begin = clock_now_ns(), end;

    b->step.apart = b->forward.takes > 0;
    forward_step(&b->forward, &b->step);
    b->flights++;
    if (b->flights > b->behind)
        collect(b);
    metric_add(b->m_steps, 1);
    end = clock_now_ns();
    metric_observe(b->m_step_seconds, (double)(end - begin) / 1e9);
    trace_add(b->cfg.trace, TRACE_step, 0, TRACE_NO_LAYER, begin, end, (uint64_t)b->step.rows);
}

bool batcher_step(struct batcher *b)
{
    if (!fill(b, &b->flight[b->flights]))
        return false;
    run(b);
    return true;
}
