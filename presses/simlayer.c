/* SPDX-License-Identifier: Apache-2.0 */
/*
 * simlayer - layers that only look at the first and the most recent tokens keep only those.
 *
 *      A [H][last][n - last] averaged over heads and rows      lazy: its first `initial` and last `recent` sum up to more
 *      than the threshold; a lazy layer keeps rows [0, initial) and the last recent - last, any other layer all
 *
 * Zhang et al. 2024, arXiv:2410.13846, section 3. Recommended thresholds: Llama 3 0.9, Llama 2 0.65, Mistral 0.8, Qwen 0.85.
 */
#include "common/base/bytes.h"
#include "presses/press.h"
#include "presses/window.h"

#include <string.h>

struct simlayer_options {
    double threshold;
    int64_t last, recent, initial;
};

static const struct opt simlayer_table[] = {
    { .name = "threshold",
      .type = OPT_FLOAT,
      .offset = offsetof(struct simlayer_options, threshold),
      .min = 0,
      .max = 1,
      .fallback = "1",
      .help = "share of the attention that makes a layer lazy; 1: none is" },
    { .name = "last",
      .type = OPT_INT,
      .offset = offsetof(struct simlayer_options, last),
      .min = 1,
      .max = 65536,
      .fallback = "1",
      .help = "last tokens whose attention counts" },
    { .name = "recent",
      .type = OPT_INT,
      .offset = offsetof(struct simlayer_options, recent),
      .min = 1,
      .max = INT32_MAX,
      .fallback = "1024",
      .help = "recent rows of a lazy layer" },
    { .name = "initial",
      .type = OPT_INT,
      .offset = offsetof(struct simlayer_options, initial),
      .min = 0,
      .max = INT32_MAX,
      .fallback = "4",
      .help = "first rows of a lazy layer" },
};

static enum status simlayer_check(const struct press_stage *stage, const struct opt **at, struct err *err)
{
    const struct simlayer_options *o = stage->options;

    if (o->recent > o->last)
        return ST_OK;
    *at = &simlayer_table[2];
    return err_set(err, ST_EINVAL, "simlayer: recent is more than last (%lld), not \"%lld\"", (long long)o->last,
                   (long long)o->recent);
}

static void simlayer_needs(const struct press_stage *stage, int64_t query_tokens, struct chain_needs *needs)
{
    (void)query_tokens;
    window_need(needs, ((const struct simlayer_options *)stage->options)->last);
}

/* Share of the attention on the first and the recent rows. */
static enum status laziness(const struct simlayer_options *o, struct press_round *round, double *out, struct err *err)
{
    const struct kv_rows *view = &round->view;
    struct window_args w = { .window = o->last, .kernel = 1 };
    enum status st = window_score(round, view, &w, round->score, err);
    const float *score;
    double sum = 0;

    if (st != ST_OK)
        return st;
    score = press_scores_get(round, view, round->score);
    for (int32_t g = 0; g < view->heads; g++) {
        int64_t body = view->rows[g] - o->last;

        for (int64_t r = 0; r < body; r++)
            if (r < o->initial || r >= body - o->recent)
                sum += score[view->at[g] + r];
    }
    *out = sum / view->heads;
    return ST_OK;
}

static enum status simlayer_choose(const struct press_stage *stage, struct press_round *round, int32_t *index,
                                   int64_t *first, struct err *err)
{
    const struct simlayer_options *o = stage->options;
    const struct kv_rows *view = &round->view;
    int32_t *host = press_work_host(round, (uint64_t)view->at[view->heads] * sizeof *host);
    bool lazy = o->threshold < 1 && view->rows[0] > o->initial + o->recent + o->last;
    int64_t count = 0;
    double share = 0;
    enum status st = lazy ? laziness(o, round, &share, err) : ST_OK;

    if (st != ST_OK)
        return st;
    lazy = lazy && share > o->threshold;
    for (int32_t g = 0; g < view->heads; g++) {
        first[g] = count;
        for (int64_t r = 0; r < view->rows[g]; r++)
            if (!lazy || r < o->initial || r >= view->rows[g] - (o->recent - o->last))
                host[count++] = (int32_t)r;
    }
    first[view->heads] = count;
    press_index_put(round, index, host, count);
    return ST_OK;
}

static enum status simlayer_admit(const struct press_stage *stage, const struct press_door *door, struct err *err)
{
    return press_admit_op(stage, door, door->ops->score_window != NULL, "score_window", err);
}

const struct press press_simlayer = {
    .name = "simlayer",
    .kind = PRESS_CHOOSE,
    .summary = "cuts layers that attend to first and recent tokens only down to those",
    .source = "arXiv:2410.13846",
    .reference = "SimLayerKVPress",
    .cost = "last T H D",
    .differs = "recent = last, with which the reference keeps everything and the first rows twice, is refused.",
    .options = simlayer_table,
    .option_count = ARRAY_LEN(simlayer_table),
    .options_bytes = sizeof(struct simlayer_options),
    .even_only = true,
    .check = simlayer_check,
    .needs = simlayer_needs,
    .admit = simlayer_admit,
    .choose = simlayer_choose,
};
