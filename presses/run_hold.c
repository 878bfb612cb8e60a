/* SPDX-License-Identifier: Apache-2.0 */
/*
 * run_hold.c - chains that must see every layer before any is cut.
 *
 *      press_run_hold for each layer ─▶ scores remembered on the host ─▶ [second pass] ─▶ settle ─▶ press_run_layer as usual
 *
 * Scores of all layers take P G T floats of host memory, for the time of one context.
 */
#include "common/base/arena.h"
#include "presses/run_parts.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* The stage of the first round that settles, or NULL. */
static const struct press_stage *settler_of(const struct chain *chain)
{
    const struct chain_part *part = &chain->prefill;
    const struct chain_round *r = part->round_count > 0 ? &part->rounds[0] : NULL;
    int32_t at = !r ? -1 : r->score >= 0 ? r->score : r->choose;

    return at >= 0 && part->stages[at].press->settle ? &part->stages[at] : NULL;
}

const char *press_holder(const struct chain *chain)
{
    const struct press_stage *stage = settler_of(chain);

    return stage ? stage->press->name : NULL;
}

static const struct press_stage *settler(const struct press_run *run)
{
    return settler_of(run->chain);
}

void run_hold_begin(struct press_run *run)
{
    struct press_held *h = &run->held;
    struct chain_needs needs;
    int32_t place;

    chain_needs_of(run->chain, run->query_tokens, false, &needs);
    if (!needs.all_layers || !settler(run))
        return;
    chain_places(run->hp, 0, &place, &h->places);
    h->heads = run->hp->kv_heads;
    h->tokens = run->tokens;
    h->head_scores = mem_zero((size_t)h->places * (size_t)h->heads, sizeof *h->head_scores);
    h->keep = mem_zero((size_t)h->places * (size_t)h->heads, sizeof *h->keep);
    h->total = mem_zero((size_t)h->places, sizeof *h->total);
    if (!settler(run)->press->hold)
        h->score = mem_zero((size_t)h->places * (size_t)h->heads * (size_t)h->tokens, sizeof *h->score);
}

void run_hold_end(struct press_run *run)
{
    free(run->held.score);
    free(run->held.head_scores);
    free(run->held.keep);
    free(run->held.total);
    memset(&run->held, 0, sizeof run->held);
}

enum status press_run_hold(struct press_run *run, const struct press_layer *in, struct err *err)
{
    struct press_round round = run_round_open(run, in);
    const struct press_stage *stage = settler(run);
    const float *host;
    enum status st;

    round.begin = run->chain->prefill.rounds[0].begin;
    round.end = run->chain->prefill.rounds[0].end;
    round.keep = chain_round_keep(&run->chain->prefill, &run->chain->prefill.rounds[0], round.place);
    if (stage->press->feeds)
        return ST_OK; /* the second pass scores */
    if (stage->press->hold) {
        st = stage->press->hold(stage, &round, err);
    } else {
        st = stage->press->score(stage, &round, &round.view, run->score, err);
        if (st == ST_OK) {
            host = press_scores_get(&round, &round.view, run->score);
            memcpy(held_scores(&run->held, round.place), host, (size_t)round.view.at[round.view.heads] * sizeof *host);
        }
    }
    work_back(&run->work, (struct press_scratch){ 0, 0 });
    return run_had_room(run, st, err);
}

/* ---- the second pass --------------------------------------------------------------------------------------------- */

void press_run_prompt(struct press_run *run, const struct press_prompt *prompt)
{
    run->prompt = *prompt;
}

static int32_t feeds_of(const struct press_stage *stage, const struct press_prompt *prompt)
{
    return stage && stage->press->feeds ? stage->press->feeds(stage, prompt) : 0;
}

int32_t press_run_feeds(const struct press_run *run)
{
    return run->held.heads > 0 ? feeds_of(settler(run), &run->prompt) : 0;
}

int64_t press_feed_max(const struct chain *chain, const struct press_prompt *prompt)
{
    const struct press_stage *stage = settler_of(chain);
    int64_t most = 0;

    for (int32_t i = 0; i < feeds_of(stage, prompt); i++) {
        int64_t tokens = stage->press->feed(stage, prompt, i, NULL);

        most = tokens > most ? tokens : most;
    }
    return most;
}

int64_t press_run_feed_max(const struct press_run *run)
{
    return run->held.heads > 0 ? press_feed_max(run->chain, &run->prompt) : 0;
}

int64_t press_run_feed(struct press_run *run, int32_t feed, const int32_t **token)
{
    int64_t tokens = settler(run)->press->feed(settler(run), &run->prompt, feed, NULL);

    run->feed = mem_grow(run->feed, (size_t)tokens * sizeof *run->feed);
    *token = run->feed;
    return settler(run)->press->feed(settler(run), &run->prompt, feed, run->feed);
}

void press_feed_needs(const struct chain *chain, struct chain_needs *out)
{
    const struct press_stage *stage = settler_of(chain);

    memset(out, 0, sizeof *out);
    if (stage && stage->press->feed_needs)
        stage->press->feed_needs(stage, out);
}

void press_run_feed_needs(const struct press_run *run, struct chain_needs *out)
{
    press_feed_needs(run->chain, out);
}

enum status press_run_feed_layer(struct press_run *run, int32_t feed, const struct press_layer *in, int64_t rows,
                                 struct err *err)
{
    struct press_layer context = *in;
    struct press_round round;
    enum status st;

    context.kv.tokens = context.tokens = run->tokens; /* scores are those of the context's rows */
    round = run_round_open(run, &context);
    round.prompt = &run->prompt;
    st = settler(run)->press->feed_layer(settler(run), &round, feed, rows, err);
    work_back(&run->work, (struct press_scratch){ 0, 0 });
    return run_had_room(run, st, err);
}

/* ---- the decision ------------------------------------------------------------------------------------------------- */

enum status press_run_settle(struct press_run *run, struct err *err)
{
    const struct chain_part *part = &run->chain->prefill;
    struct press_keep keep = chain_round_keep(part, &part->rounds[0], 0);

    run->held.settled = true;
    if (keep.rows == 0 && keep.ratio == 0.0 && part->rounds[0].keep >= 0)
        return ST_OK; /* everything stays: nobody asks */
    return settler(run)->press->settle(settler(run), &run->held, &keep, err);
}

void run_hold_take(struct press_run *run, struct press_round *round)
{
    const struct press_held *h = &run->held;
    int32_t p = round->place;

    press_scores_put(round, &round->view, round->score, held_scores(h, p));
    round->budget.total = h->total[p];
    for (int32_t g = 0; g < h->heads; g++) {
        round->budget.safe[g] = 0;
        round->budget.keep[g] = h->keep[p * h->heads + g];
    }
    round->budget.protected_score = INFINITY;
}
