/* SPDX-License-Identifier: Apache-2.0 */
/*
 * keydiff - keys that differ most from the others matter.
 *
 *      anchor = mean of the head's keys made unit length      score = -cos(k, anchor)
 *
 * Park et al. 2025, arXiv:2504.15364, section 4; its iterative form is `keydiff | block`.
 */
#include "presses/press.h"

static enum status keydiff_score(const struct press_stage *stage, struct press_round *round, const struct kv_rows *view,
                                 float *score, struct err *err)
{
    (void)stage;
    (void)err;
    round->be->ops->score_key_diff(round->be, view, score);
    return ST_OK;
}

static enum status keydiff_admit(const struct press_stage *stage, const struct press_door *door, struct err *err)
{
    return press_admit_op(stage, door, door->ops->score_key_diff != NULL, "score_key_diff", err);
}

const struct press press_keydiff = {
    .name = "keydiff",
    .kind = PRESS_SCORE,
    .summary = "keeps the keys that point away from the mean key",
    .source = "arXiv:2504.15364",
    .reference = "KeyDiffPress",
    .cost = "T G D",
    .differs = "",
    .admit = keydiff_admit,
    .score = keydiff_score,
};
