/* SPDX-License-Identifier: Apache-2.0 */
/*
 * repress_score.c - answers whose rows are scored as they come, since what the score looks at is gone afterwards (kvzap under
 * dms:decoding=on).
 *
 *   step   normed input of attention, every full layer ─copy─▶ [ hidden ]      where the row stands in the step
 *   after  hidden ──press_run_score──▶ a->scored, behind what the verdicts of the context's blocks gave
 *
 * One buffer does for all answers: rows of one step are scored before the next is queued.
 */
#include "decode-node/repress.h"

static uint64_t hidden_bytes(const struct repress *r)
{
    return dtype_bytes(r->be->act, (uint64_t)r->weights->hp.dim);
}

static char *hidden_at(const struct repress *r, int32_t layer, int32_t row)
{
    return (char *)r->hidden + (uint64_t)(layer * r->step_rows + row) * hidden_bytes(r);
}

/* hot */
void repressed_take_hidden(struct repressed *a, struct repress *r, struct forward_take *take)
{
    take->hidden = hidden_at(r, 0, take->row);
    take->hidden_stride = (uint64_t)r->step_rows * hidden_bytes(r);
    a->unscored_row = take->row;
    a->unscored = take->rows;
}

enum status repressed_score(struct repressed *a, struct repress *r)
{
    const struct hparams *hp = &r->weights->hp;
    enum status st = ST_OK;

    press_scored_more(&a->scored, a->unscored);
    for (int32_t l = 0; l < hp->layers && st == ST_OK; l++) {
        struct press_layer in = { .hp = hp, .layer = l, .tokens = a->unscored };

        if (!hparams_layer_is_full(hp, l))
            continue;
        in.hidden = hidden_at(r, l, a->unscored_row);
        st = press_run_score(r->run, a->chain, &in, &a->scored, &a->failure);
    }
    a->unscored = 0;
    return st;
}

/* Hidden states of a step, all zero. */
static enum status reserve_hidden(struct repress *r, struct err *err)
{
    const struct hparams *hp = &r->weights->hp;
    const uint64_t bytes = dtype_bytes(r->be->act, (uint64_t)(hp->layers * r->step_rows) * (uint64_t)hp->dim);
    enum status st;

    if (r->hidden)
        return ST_OK;
    st = r->be->ops->alloc(r->be, bytes, "presses", &r->hidden, err);
    if (st == ST_OK)
        repress_zero(r, r->hidden, bytes);
    return st;
}

enum status repressed_score_open(struct repressed *a, struct repress *r, const struct repress_ask *ask, struct err *err)
{
    const int64_t longest = ask->context_tokens + ask->prompt_tokens + ask->max_new; /* a head is never longer */
    const int64_t window = a->part.scored < longest ? a->part.scored : longest;

    press_scored_open(&a->scored, &r->weights->hp, window,
                      repress_tail_rows(&a->part, ask->prompt_tokens, ask->max_new));
    return reserve_hidden(r, err);
}

/* In the first layer as many rows as a step can have; in the others, whose parameters go up where the device has a memory of
 * its own, one. */
enum status repressed_rehearse_score(struct repressed *a, struct repress *r, struct err *err)
{
    const struct hparams *hp = &r->weights->hp;
    struct press_scored all = { 0 };
    enum status st = ST_OK;

    all.rows = r->step_rows < hp->max_positions ? r->step_rows : hp->max_positions; /* nor is a question longer */
    press_scored_open(&all, hp, 1, all.rows);
    for (int32_t l = 0; l < hp->layers && st == ST_OK; l++) {
        struct press_layer in = { .hp = hp, .layer = l, .hidden = r->hidden, .tokens = all.rows };

        if (!hparams_layer_is_full(hp, l))
            continue;
        st = press_run_score(r->run, a->chain, &in, &all, err);
        if (r->be->ops->host_is_device)
            break;
        all.rows = 1;
    }
    press_scored_fini(&all);
    return st;
}
