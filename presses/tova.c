/* SPDX-License-Identifier: Apache-2.0 */
/*
 * tova - what the last token looks at, over all heads together.
 *
 *      A [H][1][n - 1] ──mean over all H heads──▶ one row of scores for every KV head; the last token stays
 *
 * Oren et al. 2024, arXiv:2401.06104, section 3.3.
 */
#include "presses/window.h"

static void tova_needs(const struct press_stage *stage, int64_t query_tokens, struct chain_needs *needs)
{
    (void)stage;
    (void)query_tokens;
    window_need(needs, 1);
}

static int64_t tova_tail(const struct press_stage *stage, int64_t query_tokens)
{
    (void)stage;
    (void)query_tokens;
    return 1;
}

static enum status tova_score(const struct press_stage *stage, struct press_round *round, const struct kv_rows *view,
                              float *score, struct err *err)
{
    struct window_args w = { .window = 1, .kernel = 1 };
    enum status st = window_score(round, view, &w, score, err);

    (void)stage;
    if (st == ST_OK)
        round->be->ops->score_share(round->be, view, 1, score);
    return st;
}

static enum status tova_admit(const struct press_stage *stage, const struct press_door *door, struct err *err)
{
    enum status st = press_admit_op(stage, door, door->ops->score_window != NULL, "score_window", err);

    return st == ST_OK ? press_admit_op(stage, door, door->ops->score_share != NULL, "score_share", err) : st;
}

const struct press press_tova = {
    .name = "tova",
    .kind = PRESS_SCORE,
    .summary = "keeps what the last token attends to; all heads keep the same tokens",
    .source = "arXiv:2401.06104",
    .reference = "TOVAPress",
    .cost = "T H D",
    .differs = "",
    .even_only = true,
    .needs = tova_needs,
    .admit = tova_admit,
    .tail = tova_tail,
    .score = tova_score,
};
