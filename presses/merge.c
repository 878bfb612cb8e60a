/* SPDX-License-Identifier: Apache-2.0 */
/*
 * merge - rows that go leave their value with the kept row whose key is nearest.
 *
 *      v_t = (v_t + sum w v_e) / (1 + sum w),  w = max(cos, 0) |v_e| / (|v_e| + |v_t|)      keys stay as they are
 *
 * kvpress pull request 219.
 */
#include "common/base/bytes.h"
#include "presses/press.h"

struct merge_options {
    double threshold, fraction;
};

static const struct opt merge_table[] = {
    { .name = "threshold",
      .type = OPT_FLOAT,
      .offset = offsetof(struct merge_options, threshold),
      .min = -1,
      .max = 1,
      .fallback = "0",
      .help = "least cosine of the keys" },
    { .name = "fraction",
      .type = OPT_FLOAT,
      .offset = offsetof(struct merge_options, fraction),
      .min = 0,
      .max = 1,
      .fallback = "1",
      .help = "share of the rows that go that may be merged, the nearest first" },
};

static enum status merge_edit(const struct press_stage *stage, struct press_round *round, const int32_t *index,
                              const int64_t *first, struct err *err)
{
    const struct merge_options *o = stage->options;

    (void)err;
    round->be->ops->merge_values(round->be, &round->view, index, first, (float)o->threshold, o->fraction);
    return ST_OK;
}

static enum status merge_admit(const struct press_stage *stage, const struct press_door *door, struct err *err)
{
    return press_admit_op(stage, door, door->ops->merge_values != NULL, "merge_values", err);
}

const struct press press_merge = {
    .name = "merge",
    .kind = PRESS_EDIT,
    .summary = "merges the values of rows that go into kept ones",
    .source = "kvpress pull request 219",
    .reference = "MergingPress",
    .cost = "gone kept G D",
    .differs = "fraction < 1 where fewer rows than that pass the threshold: all that pass are merged; the reference's "
               "threshold is then no number and the head merges nothing.",
    .options = merge_table,
    .option_count = ARRAY_LEN(merge_table),
    .options_bytes = sizeof(struct merge_options),
    .admit = merge_admit,
    .edit = merge_edit,
};
