/* SPDX-License-Identifier: Apache-2.0 */
/*
 * leverage - rows whose keys, before the rotation, no others can stand in for.
 *
 *      y = centred key . random D x sketch matrix / sqrt(sketch)        score = y' (Y'Y + 0.01 I)^-1 y, standardized
 *
 * Chari and Van Durme 2025, arXiv:2507.08143 (Compactor), section 3.1.
 */
#include "common/base/bytes.h"
#include "presses/compactor.h"
#include "presses/scores.h"

#include <math.h>

struct leverage_options {
    int64_t sketch, seed;
};

static const struct opt leverage_table[] = {
    { .name = "sketch",
      .type = OPT_INT,
      .offset = offsetof(struct leverage_options, sketch),
      .min = 1,
      .max = 256,
      .fallback = "48",
      .help = "channels of the random projection" },
    { .name = "seed",
      .type = OPT_INT,
      .offset = offsetof(struct leverage_options, seed),
      .min = 0,
      .max = INT32_MAX,
      .fallback = "0",
      .help = "another seed, another projection" },
};

enum status leverage_part(struct press_round *round, const struct kv_rows *view, int64_t from, int64_t sketch,
                          int64_t seed, float *score, struct err *err)
{
    const struct backend_ops *ops = round->be->ops;
    int64_t count = (int64_t)view->heads * view->dim * sketch;
    uint64_t bytes = (uint64_t)count * sizeof(float);
    float *host = press_work_host(round, bytes), *scores;
    void *device = NULL;
    enum status st = press_work_device(round, bytes, &device, err);

    if (st != ST_OK)
        return st;
    scores_normal((uint64_t)seed, (uint64_t)round->in->layer, count, host);
    for (int64_t i = 0; i < count; i++)
        host[i] /= sqrtf((float)sketch);
    ops->upload(round->be, LANE_PRESS, device, host, bytes);
    ops->score_leverage(round->be, view, &round->in->rope, from, device, (int32_t)sketch, score);
    scores = press_scores_get(round, view, score);
    scores_standardize(view, scores);
    press_scores_put(round, view, score, scores);
    return ST_OK;
}

static enum status leverage_score(const struct press_stage *stage, struct press_round *round,
                                  const struct kv_rows *view, float *score, struct err *err)
{
    const struct leverage_options *o = stage->options;

    return leverage_part(round, view, round->part_begin, o->sketch, o->seed, score, err);
}

enum status leverage_admit(const struct press_stage *stage, const struct press_door *door, struct err *err)
{
    return press_admit_op(stage, door, door->ops->score_leverage != NULL, "score_leverage", err);
}

const struct press press_leverage = {
    .name = "leverage",
    .kind = PRESS_SCORE,
    .summary = "keeps keys that others cannot stand in for",
    .source = "arXiv:2507.08143",
    .reference = "LeverageScorePress",
    .cost = "T G D sketch",
    .differs = "Draws its own random projection, the same on every device.",
    .options = leverage_table,
    .option_count = ARRAY_LEN(leverage_table),
    .options_bytes = sizeof(struct leverage_options),
    .prefill_only = true,
    .admit = leverage_admit,
    .score = leverage_score,
};
