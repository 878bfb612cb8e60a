/* SPDX-License-Identifier: Apache-2.0 */
/*
 * run.c - stop 6 of 12: the rounds of a chain on one layer, and the rows that stay.   before: prefill-node/forward.c
 *                                                                                     after: prefill-node/handoff.c
 *
 *      layer K, V ─▶ view ─▶ score, refine ─▶ budget ─▶ select ─▶ index ─▶ edits ─┬─▶ result ─pack─▶ block
 *                     ▲                                                           │
 *                     └────────────── survivors, packed ragged ◀──────────────────┘  another round
 *
 * The first round sees the layer as the forward pass left it. Before another round the survivors are packed into scratch
 * and become its view (run_survive.c), with two maps: `token` says which token of the context a row came from, `position`
 * where its key stands (the same, unless keys were given new positions). The only choice by score is the back end's select.
 *
 * Promised of every result: per head ascending rows, each at most once, and exactly the budget where the chain states one;
 * a press that breaks this is stopped here, before packing.
 */
#include "presses/run.h"
#include "common/kv/block.h"
#include "presses/run_parts.h"

#include <inttypes.h>
#include <math.h>
#include <string.h>

/* ---- one round -------------------------------------------------------------------------------------------------- */

static struct kv_rows dense_view(const struct press_layer *in)
{
    struct kv_rows v = {
        .k = in->kv.k, .v = in->kv.v, .dtype = in->kv.dtype, .heads = in->kv.heads, .dim = in->kv.dim
    };

    for (int32_t g = 0; g < v.heads; g++) {
        v.first[g] = g * in->kv.stride;
        v.rows[g] = in->kv.tokens;
        v.at[g + 1] = v.at[g] + v.rows[g];
    }
    return v;
}

/* Every row of the view stays. */
static void choose_all(struct press_run *run, const struct kv_rows *view, int64_t *first)
{
    for (int32_t g = 0; g < view->heads; g++) {
        first[g] = view->at[g];
        for (int64_t r = 0; r < view->rows[g]; r++)
            run->index_host[view->at[g] + r] = (int32_t)r;
    }
    first[view->heads] = view->at[view->heads];
    run->be->ops->upload(run->be, LANE_PRESS, run->index, run->index_host,
                         (uint64_t)first[view->heads] * sizeof(int32_t));
    run->be->ops->wait(run->be, LANE_PRESS);
}

/* What the keep asks for, before a stage shares it out. True: everything stays anyway. */
static bool budget_open(struct press_round *round)
{
    bool all = true;

    round->budget = (struct select_args){ .score = round->score, .total = -1, .protected_score = INFINITY };
    for (int32_t g = 0; g < round->view.heads; g++) {
        round->budget.keep[g] = press_keep_rows(&round->keep, round->view.rows[g]);
        all = all && round->budget.keep[g] == round->view.rows[g];
    }
    return all;
}

/* Score and refinements of the round, then the protection of its tail. */
static enum status round_score(struct press_round *round, const struct chain_part *part, const struct chain_round *r,
                               struct err *err)
{
    const struct press *score = part->stages[r->score].press;
    int32_t end = r->budget >= 0 ? r->budget : r->keep >= 0 ? r->keep : r->choose;
    enum status st;

    const struct press_keep keep = round->keep;

    if (r->budget >= 0 && part->stages[r->budget].press->hides_keep)
        round->keep = (struct press_keep){ 0 };
    round->tail = score->tail ? score->tail(&part->stages[r->score], round->in->query_tokens) : 0;
    st = press_rescore(round, &part->stages[end], &round->view, round->score, err);
    round->keep = keep;
    if (st == ST_OK && end == r->score + 1)
        round->budget.protected_score = press_protected(round, &round->view, round->score);
    return st;
}

static enum status round_choose(struct press_run *run, struct press_round *round, const struct chain_part *part,
                                const struct chain_round *r, int64_t *first, struct err *err)
{
    const struct press_stage *rule = r->budget >= 0 ? &part->stages[r->budget] : NULL;
    enum status st = ST_OK;

    if (r->choose >= 0)
        rule = &part->stages[r->choose];
    else if (!rule && (part->stages[r->score].press->choose || part->stages[r->score].press->budget))
        rule = &part->stages[r->score];
    round->scored = r->score >= 0;
    if (round->held && round->held->score && round->first) {
        run_hold_take(run, round);
        rule = NULL;
    } else if (round->in->scored) {
        run_scored_take(round);
    } else if (r->score >= 0) {
        st = round_score(round, part, r, err);
    }
    if (st == ST_OK && rule && rule->press->budget)
        st = rule->press->budget(rule, round, err);
    if (st != ST_OK)
        return st;
    if (rule && rule->press->choose)
        return rule->press->choose(rule, round, run->index, first, err);
    round->be->ops->select(round->be, &round->view, &round->budget, run->index, first);
    return ST_OK;
}

/* Ascending rows within the view, or a sentence that names the head. */
static enum status check_choice(struct press_run *run, const struct kv_rows *view, const int64_t *first,
                                const char *name, struct err *err)
{
    const int32_t *index = run->index;

    if (first[0] != 0 || first[view->heads] > view->at[view->heads])
        return err_set(err, ST_EINTERNAL, "the press %s chose %" PRId64 " rows of %" PRId64, name, first[view->heads],
                       view->at[view->heads]);
    if (!run->be->ops->host_is_device) {
        run->be->ops->download(run->be, LANE_PRESS, run->index_host, run->index,
                               (uint64_t)first[view->heads] * sizeof(int32_t));
        run->be->ops->wait(run->be, LANE_PRESS);
        index = run->index_host;
    }
    for (int32_t g = 0; g < view->heads; g++) {
        int64_t last = -1;

        for (int64_t i = first[g]; i < first[g + 1]; i++) {
            if (index[i] <= last || index[i] >= view->rows[g])
                return err_set(err, ST_EINTERNAL,
                               "the press %s chose row %d after row %" PRId64 " of head %d, which has %" PRId64, name,
                               index[i], last, g, view->rows[g]);
            last = index[i];
        }
        if (first[g + 1] < first[g])
            return err_set(err, ST_EINTERNAL, "the press %s gives head %d a negative number of rows", name, g);
    }
    return ST_OK;
}

/* Edits of what stays. One that looks at keys gets them as they will be sent: rotated to their new positions first. */
static enum status run_edits(struct press_run *run, struct press_round *round, const struct chain_part *part,
                             const struct chain_round *r, int64_t *first, struct err *err)
{
    struct press_scratch mark = work_mark(&run->work);
    int32_t channels = round->channels;
    enum status st = ST_OK;

    for (int32_t i = r->edits; i < r->end && st == ST_OK; i++) {
        const struct press_stage *stage = &part->stages[i];

        if (stage->press->edits_keys && (round->rerotate || run->compact)) {
            round->rerotate = run->rotated = true;
            st = run_survive(run, round, first, err);
            if (st != ST_OK)
                return st;
            choose_all(run, &round->view, first);
        }
        st = stage->press->edit(stage, round, run->index, first, err);
        if (st == ST_OK && round->channels < channels && i + 1 < part->stage_count)
            run->be->ops->keep_channels(run->be, &round->view, run->index, first, run->channel, round->channels);
        channels = round->channels;
        work_back(&run->work, mark);
    }
    return st;
}

/* Runs one round: run->index and first name the rows of round->view that stay. */
static enum status run_round(struct press_run *run, struct press_round *round, const struct chain_part *part,
                             const struct chain_round *r, const struct press_keep *keep, int64_t *first,
                             struct err *err)
{
    struct press_scratch mark = work_mark(&run->work);
    bool all;
    enum status st = ST_OK;

    round->begin = r->begin;
    round->end = r->end;
    round->keep = *keep;
    round->scored = false;
    all = budget_open(round);
    if (r->score >= 0 && part->stages[r->score].press->settle) /* its budget is not one per head */
        all = keep->rows > 0 ? keep->rows >= round->view.rows[0] : keep->ratio == 0.0;
    if (r->choose < 0 && (r->score < 0 || all))
        choose_all(run, &round->view, first);
    else
        st = round_choose(run, round, part, r, first, err);
    if (st == ST_OK)
        st = check_choice(run, &round->view, first, part->stages[r->begin].press->name, err);
    if (st == ST_OK && run->scored > 0 && r->choose >= 0 && part == &run->chain->prefill)
        run_scored_note(run, round);
    work_back(&run->work, mark);
    return st == ST_OK ? run_edits(run, round, part, r, first, err) : st;
}

/* ---- the whole chain ------------------------------------------------------------------------------------------ */

static void result_fill(struct press_run *run, const struct press_round *round, const int64_t *first,
                        struct press_result *out)
{
    const struct kv_rows *view = &round->view;
    int64_t most = run_longest(first, view->heads);

    *out = (struct press_result){ .layer = round->in->layer,
                                  .rope = round->in->rope,
                                  .view = *view,
                                  .index = run->index,
                                  .score = round->scored ? round->score : NULL,
                                  .k_dim = round->channels,
                                  .channel = round->channels < view->dim ? run->channel : NULL,
                                  .rerotate = round->rerotate || (run->compact && !run->rotated),
                                  .position = run->position.set ? run->position.device : NULL };
    memcpy(out->first, first, ((size_t)view->heads + 1) * sizeof *first);
    if (run->token.set) {
        run_map_choose(run, &run->token, view, first, false, &run->next_token);
        out->token = run->next_token.device;
    } else {
        out->token = run->index;
    }
    if (most > run->rows_most)
        run->rows_most = most;
}

struct press_round run_round_open(struct press_run *run, const struct press_layer *in)
{
    struct press_round round = {
        .be = run->be, .in = in, .first = true, .work = &run->work, .score = run->score, .part_end = -1
    };

    round.channel = run->channel;
    round.channels = run->hp->head_dim;
    chain_places(run->hp, in->layer, &round.place, &round.places);
    round.view = dense_view(in);
    round.held = run->held.heads > 0 ? &run->held : NULL;
    if (run->chain)
        round.stages = run->chain->prefill.stages;
    return round;
}

enum status run_had_room(const struct press_run *run, enum status st, struct err *err)
{
    struct err why = { 0 };

    if (!run->be->ops->press_room || run->be->ops->press_room(run->be, &why) == ST_OK)
        return st;
    err_clear(err);
    return err_set(err, why.code, "%s", why.text);
}

enum status press_run_layer(struct press_run *run, const struct press_layer *in, struct press_result *out,
                            struct err *err)
{
    struct press_round round = run_round_open(run, in);
    const struct chain_part *part = run->chain ? &run->chain->prefill : NULL;
    int64_t first[KV_HEADS_MAX + 1] = { 0 };
    enum status st = ST_OK;

    if (in->tokens != run->tokens || in->kv.tokens != run->tokens || in->kv.heads != run->hp->kv_heads)
        return err_set(err, ST_EINTERNAL,
                       "layer %d has %" PRId64 " tokens and %d heads; the press began with %" PRId64 " and %d",
                       in->layer, in->kv.tokens, in->kv.heads, run->tokens, run->hp->kv_heads);
    if (run->held.heads > 0 && !run->held.settled)
        return err_set(err, ST_EINTERNAL, "layer %d is pressed before all layers were held and settled", in->layer);
    run->token.set = run->position.set = run->rotated = false;
    run->flip = 0;
    if (!part)
        choose_all(run, &round.view, first);
    for (int32_t i = 0; part && i < part->round_count && st == ST_OK; i++) {
        struct press_keep keep = chain_round_keep(part, &part->rounds[i], round.place);

        st = run_round(run, &round, part, &part->rounds[i], &keep, first, err);
        if (st == ST_OK && i + 1 < part->round_count)
            st = run_survive(run, &round, first, err);
    }
    if (st == ST_OK) {
        result_fill(run, &round, first, out);
        out->scored = run->scored;
        out->verdict = run->verdict;
    }
    return run_had_room(run, st, err);
}

enum status run_decode_round(struct press_run *run, struct press_round *round, const struct chain *chain,
                             int64_t target, const int32_t *token, struct press_result *out, struct err *err)
{
    struct press_keep keep = { 0, target };
    int64_t first[KV_HEADS_MAX + 1] = { 0 };
    enum status st;

    round->stages = chain->decode.stages;
    run->compact = run->rotated = false;
    run->token.set = run->position.set = false;
    if (token) {
        run->be->ops->download(run->be, LANE_PRESS, run->token.host, token,
                               (uint64_t)round->view.at[round->view.heads] * sizeof *token);
        run->be->ops->wait(run->be, LANE_PRESS);
        run->token.set = true;
    }
    st = run_round(run, round, &chain->decode, &chain->decode.rounds[0], &keep, first, err);
    if (st == ST_OK)
        result_fill(run, round, first, out);
    return run_had_room(run, st, err);
}

/* ---- what became of it ------------------------------------------------------------------------------------------ */

enum status press_run_plan(struct press_run *run, const struct press_result *result, struct kv_block *block,
                           struct err *err)
{
    enum status st =
        run_block_plan(&result->view, result->first, result->k_dim, result->codec, result->scored, block, err);

    (void)run;
    block->layer = result->layer;
    return st;
}

enum status press_run_pack(struct press_run *run, const struct press_result *result, const struct kv_block *block,
                           struct err *err)
{
    struct pack_args args = { .rows = &result->view, .index = result->index, .token = result->position };
    struct kv_parts parts;

    memcpy(args.first, result->first, sizeof args.first);
    args.channel = result->channel;
    args.rerotate = result->rerotate ? &result->rope : NULL;
    run->be->ops->pack(run->be, &args, block);
    if (block->scored > 0) {
        kv_block_parts(block, &parts);
        run->be->ops->upload(run->be, LANE_PRESS, (char *)block->data + parts.offset[KV_PART_VERDICTS], result->verdict,
                             parts.bytes[KV_PART_VERDICTS]);
    }
    return run_had_room(run, ST_OK, err);
}

enum status press_run_tokens(struct press_run *run, const struct press_result *result, int32_t *token, struct err *err)
{
    (void)err;
    run->be->ops->download(run->be, LANE_PRESS, token, result->token,
                           (uint64_t)result->first[result->view.heads] * sizeof *token);
    run->be->ops->wait(run->be, LANE_PRESS);
    return ST_OK;
}

int64_t press_run_rows_most(const struct press_run *run)
{
    return run->rows_most;
}
