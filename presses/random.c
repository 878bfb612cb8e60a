/* SPDX-License-Identifier: Apache-2.0 */
/*
 * random - every row gets a number in [0, 1) by chance; what any method must beat.
 *
 * The number depends on (seed, layer, head, token) alone, so that every device and every run draws the same.
 */
#include "common/base/bytes.h"
#include "presses/press.h"

struct random_options {
    int64_t seed;
};

static const struct opt random_table[] = {
    { .name = "seed",
      .type = OPT_INT,
      .offset = offsetof(struct random_options, seed),
      .min = 0,
      .max = INT32_MAX,
      .fallback = "0",
      .help = "another seed, another choice" },
};

static enum status random_score(const struct press_stage *stage, struct press_round *round, const struct kv_rows *view,
                                float *score, struct err *err)
{
    (void)err;
    round->be->ops->score_random(round->be, view, (uint64_t)((const struct random_options *)stage->options)->seed,
                                 round->in->layer, score);
    return ST_OK;
}

static enum status random_admit(const struct press_stage *stage, const struct press_door *door, struct err *err)
{
    return press_admit_op(stage, door, door->ops->score_random != NULL, "score_random", err);
}

const struct press press_random = {
    .name = "random",
    .kind = PRESS_SCORE,
    .summary = "keeps rows by chance",
    .source = "",
    .reference = "RandomPress",
    .cost = "T G",
    .differs = "Its own counter-based numbers, the same on every device; the layers differ.",
    .options = random_table,
    .option_count = ARRAY_LEN(random_table),
    .options_bytes = sizeof(struct random_options),
    .admit = random_admit,
    .score = random_score,
};
