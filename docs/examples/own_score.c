/* SPDX-License-Identifier: Apache-2.0 */
/*
 * own_score.c - level 1: a score of one's own. `vnorm | ratio=0.5` keeps the rows with the largest values.
 *
 *      score = |v|^2       one number per row of every KV head; larger stays
 *
 * Everything else (how much stays, which rows those are, packing them) is the chain's business.
 */
#include "presses/press.h"

static enum status vnorm_score(const struct press_stage *stage, struct press_round *round, const struct kv_rows *view,
                               float *score, struct err *err)
{
    (void)stage; /* no options */
    (void)err;   /* nothing can fail here */
    round->be->ops->row_squares(round->be, view, NULL, 0, NULL, score);
    return ST_OK;
}

/* Asked before any work is done: is the operation there? */
static enum status vnorm_admit(const struct press_stage *stage, const struct press_door *door, struct err *err)
{
    return press_admit_op(stage, door, door->ops->row_squares != NULL, "row_squares", err);
}

const struct press press_vnorm = {
    .name = "vnorm",
    .kind = PRESS_SCORE,
    .summary = "keeps the values with the largest norm",
    .source = "",
    .reference = "",
    .cost = "T G D",
    .differs = "",
    .admit = vnorm_admit,
    .score = vnorm_score,
    .row_alone = 1, /* so `dms:decoding=on` may go by it */
};

/* What makes the file a plug-in; in the tree a line PRESS(vnorm) in presses.def takes its place. */
static const struct press *const presses[] = { &press_vnorm };

const struct press_plugin platen_press_plugin = {
    .abi = PRESS_ABI,
    .press_bytes = sizeof(struct press),
    .ops_bytes = sizeof(struct backend_ops),
    .count = 1,
    .presses = presses,
};
