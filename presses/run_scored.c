/* SPDX-License-Identifier: Apache-2.0 */
/*
 * run_scored.c - scores that cannot be made again, since what they look at is gone: taken when a row comes, kept until it has
 * left the window of dms:decoding=on. Of the context's rows a bit is enough: whether they will go then.
 *
 *   prefill   choice ─▶ verdicts on each head's last rows ─▶ behind the block's rows ─▶ press_scored_begin
 *   decode    new rows' hidden states ──press_run_score──▶ behind those; a choice reads them, and forgets all but the window
 *
 * No row inside the window leaves, so in every head the i-th entry from the end is the i-th row from the end.
 */
#include "common/base/arena.h"
#include "presses/run_parts.h"

#include <assert.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

/* ---- prefill ------------------------------------------------------------------------------------------------------ */

void run_scored_begin(struct press_run *run)
{
    const struct chain *c = run->chain;
    int64_t bytes;

    if (!c->goes_on || c->decode_part.scored == 0)
        return;
    run->scored = c->decode_part.scored;
    bytes = ((run->scored < run->tokens ? run->scored : run->tokens) + 7) / 8 * run->hp->kv_heads;
    if (bytes > run->verdict_room) {
        run->verdict = mem_grow(run->verdict, (size_t)bytes);
        run->verdict_room = bytes;
    }
}

void run_scored_note(struct press_run *run, struct press_round *round)
{
    const struct kv_rows *view = &round->view;
    const double below = run->chain->decode_part.below;
    const float *score = press_scores_get(round, view, round->score);
    uint8_t *to = run->verdict;

    for (int32_t g = 0; g < view->heads; g++) {
        const int64_t rows = run->scored < view->rows[g] ? run->scored : view->rows[g];
        const float *last = score + view->at[g] + view->rows[g] - rows;

        memset(to, 0, (size_t)(rows + 7) / 8);
        for (int64_t r = 0; r < rows; r++)
            to[r / 8] |= (uint8_t)((double)last[r] < below) << r % 8;
        to += (rows + 7) / 8;
    }
}

/* ---- while tokens are generated ------------------------------------------------------------------------------------ */

void press_scored_open(struct press_scored *s, const struct hparams *hp, int64_t keep, int64_t fresh)
{
    s->layers = hp->layers;
    s->heads = hp->kv_heads;
    s->keep = keep;
    s->bits = mem_alloc((size_t)(s->layers * s->heads * ((keep + 7) / 8)));
    s->room = 2 * keep + fresh; /* what is kept moves to the front once every `keep` rows at most */
    for (int32_t l = 0; l < hp->layers; l++)
        if (hparams_layer_is_full(hp, l))
            s->score[l] = mem_alloc((size_t)(s->heads * s->room) * sizeof *s->score[l]);
}

void press_scored_fini(struct press_scored *s)
{
    for (int32_t l = 0; l < s->layers; l++)
        free(s->score[l]);
    free(s->bits);
    memset(s, 0, sizeof *s);
}

static uint8_t *bits_of(const struct press_scored *s, int32_t layer)
{
    return s->bits + (int64_t)layer * s->heads * ((s->keep + 7) / 8);
}

static void download_layer(struct press_scored *s, struct backend *be, const struct kv_block *block, uint8_t *bits)
{
    struct kv_parts parts;

    kv_block_parts(block, &parts);
    assert(parts.bytes[KV_PART_VERDICTS] <= (uint64_t)(s->heads * ((s->keep + 7) / 8)));
    if (parts.bytes[KV_PART_VERDICTS] > 0)
        be->ops->download(be, LANE_PRESS, bits, (const char *)block->data + parts.offset[KV_PART_VERDICTS],
                          parts.bytes[KV_PART_VERDICTS]);
}

/* One layer; heads with fewer rows than others have entries in front that no row stands for. */
static void begin_layer(struct press_scored *s, const struct kv_block *block, float *score, const uint8_t *bits)
{
    for (int32_t g = 0; g < s->heads; g++) {
        const int64_t rows = kv_scored_rows(block, block->first[g + 1] - block->first[g]);
        float *head = score + g * s->room;

        assert(rows <= s->keep);
        for (int64_t i = 0; i < s->keep - rows; i++)
            head[i] = INFINITY;
        for (int64_t r = 0; r < rows; r++)
            head[s->keep - rows + r] = bits[r / 8] >> r % 8 & 1 ? -INFINITY : INFINITY;
        bits += (rows + 7) / 8;
    }
}

void press_scored_begin(struct press_scored *s, struct backend *be, const struct kv_block *blocks)
{
    s->at = 0;
    s->rows = s->keep;
    for (int32_t l = 0; l < s->layers; l++)
        if (s->score[l])
            download_layer(s, be, &blocks[l], bits_of(s, l));
    be->ops->wait(be, LANE_PRESS);
    for (int32_t l = 0; l < s->layers; l++)
        if (s->score[l])
            begin_layer(s, &blocks[l], s->score[l], bits_of(s, l));
}

void press_scored_more(struct press_scored *s, int64_t rows)
{
    assert(s->rows + rows <= s->room);
    for (int32_t l = 0; s->at + s->rows + rows > s->room && l < s->layers; l++)
        for (int32_t g = 0; s->score[l] && g < s->heads; g++) {
            float *head = s->score[l] + g * s->room;

            memmove(head, head + s->at, (size_t)s->rows * sizeof *head);
        }
    if (s->at + s->rows + rows > s->room)
        s->at = 0;
    s->rows += rows;
}

void press_scored_chosen(struct press_scored *s)
{
    if (s->rows <= s->keep)
        return;
    s->at += s->rows - s->keep;
    s->rows = s->keep;
}

/* A view of rows of which only the tokens matter. */
static struct kv_rows fresh_view(const struct press_layer *in)
{
    struct kv_rows v = { .dtype = in->kv.dtype, .heads = in->hp->kv_heads, .dim = in->hp->head_dim };

    for (int32_t g = 0; g < v.heads; g++) {
        v.first[g] = v.at[g] = g * in->tokens;
        v.rows[g] = in->tokens;
    }
    v.at[v.heads] = v.heads * in->tokens;
    return v;
}

void press_run_keep_files(struct press_run *run)
{
    run->work.keeps_files = true;
}

enum status press_run_score(struct press_run *run, const struct chain *chain, const struct press_layer *given,
                            struct press_scored *s, struct err *err)
{
    const struct press_stage *stage = &chain->decode.stages[chain->decode.rounds[0].score];
    struct press_round round = run_round_open(run, given);
    const float *score;
    enum status st;

    assert(given->tokens <= s->rows && given->tokens <= run->tokens_max);
    round.stages = chain->decode.stages;
    round.end = chain->decode.rounds[0].end;
    round.view = fresh_view(given);
    round.first = false;
    round.held = NULL;
    st = stage->press->score(stage, &round, &round.view, run->score, err);
    if (st == ST_OK) {
        score = press_scores_get(&round, &round.view, run->score);
        for (int32_t g = 0; g < s->heads; g++)
            memcpy(s->score[given->layer] + g * s->room + s->at + s->rows - given->tokens, score + round.view.at[g],
                   (size_t)given->tokens * sizeof *score);
    }
    work_back(&run->work, (struct press_scratch){ 0, 0 });
    return run_had_room(run, st, err);
}

void run_scored_take(struct press_round *round)
{
    const struct press_scored *s = round->in->scored;
    const struct kv_rows *view = &round->view;
    float *score = round->be->ops->host_is_device
                       ? round->score
                       : press_work_host(round, (uint64_t)view->at[view->heads] * sizeof *score);

    for (int32_t g = 0; g < view->heads; g++) {
        const int64_t rows = view->rows[g], known = s->rows < rows ? s->rows : rows;
        const float *head = s->score[round->in->layer] + g * s->room + s->at + s->rows - known;
        float *to = score + view->at[g];

        for (int64_t r = 0; r < rows - known; r++)
            to[r] = INFINITY;
        memcpy(to + rows - known, head, (size_t)known * sizeof *to);
    }
    press_scores_put(round, view, round->score, score);
}
