/* SPDX-License-Identifier: Apache-2.0 */
/*
 * knorm - keys with a small norm matter most.
 *
 * Keys that gather the most attention tend to have the smallest L2 norm, so score = -|k|. Needs only K.
 *
 *   k      rows of D, rotation applied (it does not change the norm), device
 *   score  f32, one per row, device; higher = keep
 *
 * Devoto et al. 2024, arXiv:2406.11430, section 3.
 */
#include "presses/press.h"

static enum status knorm_score(const struct press_stage *stage, struct press_round *round, const struct kv_rows *view,
                               float *score, struct err *err)
{
    (void)stage;
    (void)err;
    round->be->ops->score_key_norm(round->be, view, -1.0f, score);
    return ST_OK;
}

static enum status knorm_admit(const struct press_stage *stage, const struct press_door *door, struct err *err)
{
    return press_admit_op(stage, door, door->ops->score_key_norm != NULL, "score_key_norm", err);
}

const struct press press_knorm = {
    .name = "knorm",
    .kind = PRESS_SCORE,
    .summary = "keeps the keys with the smallest L2 norm",
    .source = "arXiv:2406.11430",
    .reference = "KnormPress",
    .cost = "T G D",
    .differs = "",
    .admit = knorm_admit,
    .score = knorm_score,
    .row_alone = 1,
};
