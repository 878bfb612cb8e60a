/* SPDX-License-Identifier: Apache-2.0 */
/*
 * observed - the attention that a row got from all tokens that could see it.
 *
 *      score[j] = sum over i >= j of P[i][j] / (number of those i), mean over the group
 *
 * No T x T matrix is held: the forward pass leaves each row's log-sum-exp, and a second pass over q and K adds the
 * columns up. Related to H2O, Zhang et al. 2023, arXiv:2306.14048.
 */
#include "presses/press.h"

static void observed_needs(const struct press_stage *stage, int64_t query_tokens, struct chain_needs *needs)
{
    (void)stage;
    (void)query_tokens;
    needs->q_rotated = true;
    needs->lse = true;
}

static enum status observed_score(const struct press_stage *stage, struct press_round *round,
                                  const struct kv_rows *view, float *score, struct err *err)
{
    const struct press_layer *in = round->in;
    struct column_args args = { .q = in->q,
                                .rows = in->tokens,
                                .q_heads = in->hp->q_heads,
                                .scale = in->hp->attn_scale,
                                .lse = in->lse,
                                .lse_stride = in->lse_stride };
    const int32_t *token = view->token ? press_index_get(round, view->token, view->at[view->heads]) : NULL;
    float *host;

    (void)stage;
    (void)err;
    round->be->ops->score_columns(round->be, view, &args, score);
    host = press_scores_get(round, view, score);
    for (int32_t g = 0; g < view->heads; g++)
        for (int64_t r = 0; r < view->rows[g]; r++)
            host[view->at[g] + r] /= (float)(in->tokens - (token ? token[view->at[g] + r] : r));
    press_scores_put(round, view, score, host);
    return ST_OK;
}

static enum status observed_admit(const struct press_stage *stage, const struct press_door *door, struct err *err)
{
    return press_admit_op(stage, door, door->ops->score_columns != NULL, "score_columns", err);
}

const struct press press_observed = {
    .name = "observed",
    .kind = PRESS_SCORE,
    .summary = "keeps rows by the mean attention they got",
    .source = "arXiv:2306.14048",
    .reference = "ObservedAttentionPress",
    .cost = "T T H D (as much as attention itself)",
    .differs = "",
    .whole_only = true,
    .prefill_only = true,
    .needs = observed_needs,
    .admit = observed_admit,
    .score = observed_score,
};
