/* SPDX-License-Identifier: Apache-2.0 */
/*
 * snapkv - what the last tokens look at matters.
 *
 *      A [H][w][n - w]   softmax attention of the last w queries, window columns dropped
 *      score = mean over the group of avgpool(mean over w)      the window itself: 1 + the largest score
 *
 * With a query the last tokens are the query's. In a later round the queries are still the context's last ones, while the
 * window and the causal mask count survivors.
 *
 * Li et al. 2024, arXiv:2404.14469, section 4.
 */
#include "common/base/bytes.h"
#include "presses/press.h"
#include "presses/window.h"

static const struct opt snapkv_table[] = {
    { .name = "window",
      .type = OPT_INT,
      .offset = offsetof(struct snapkv_options, window),
      .min = 1,
      .max = 65536,
      .fallback = "64",
      .help = "last tokens whose attention counts; they stay" },
    { .name = "kernel",
      .type = OPT_INT,
      .offset = offsetof(struct snapkv_options, kernel),
      .min = 1,
      .max = 255,
      .value = "an odd whole number from 1 to 255",
      .fallback = "5",
      .help = "width of the pooling" },
};

static const struct snapkv_options *options_of(const struct press_stage *stage)
{
    return stage->options;
}

static enum status snapkv_check(const struct press_stage *stage, const struct opt **at, struct err *err)
{
    if (options_of(stage)->kernel % 2 == 1)
        return ST_OK;
    *at = &snapkv_table[1];
    return err_set(err, ST_EINVAL, "snapkv: kernel is an odd whole number from 1 to 255, not \"%lld\"",
                   (long long)options_of(stage)->kernel);
}

static void snapkv_needs(const struct press_stage *stage, int64_t query_tokens, struct chain_needs *needs)
{
    (void)query_tokens;
    window_need(needs, options_of(stage)->window);
}

static int64_t snapkv_tail(const struct press_stage *stage, int64_t query_tokens)
{
    (void)query_tokens;
    return options_of(stage)->window;
}

static enum status snapkv_score(const struct press_stage *stage, struct press_round *round, const struct kv_rows *view,
                                float *score, struct err *err)
{
    struct window_args w = { .window = options_of(stage)->window, .kernel = (int32_t)options_of(stage)->kernel };

    return window_score(round, view, &w, score, err);
}

static enum status snapkv_admit(const struct press_stage *stage, const struct press_door *door, struct err *err)
{
    return press_admit_op(stage, door, door->ops->score_window != NULL, "score_window", err);
}

const struct press press_snapkv = {
    .name = "snapkv",
    .kind = PRESS_SCORE,
    .summary = "keeps what the last tokens attend to, and those tokens",
    .source = "arXiv:2404.14469",
    .reference = "SnapKVPress",
    .cost = "w T H D",
    .differs = "A context no longer than the window is kept by age, newest first; the reference refuses it.",
    .options = snapkv_table,
    .option_count = ARRAY_LEN(snapkv_table),
    .options_bytes = sizeof(struct snapkv_options),
    .check = snapkv_check,
    .needs = snapkv_needs,
    .admit = snapkv_admit,
    .tail = snapkv_tail,
    .score = snapkv_score,
};
