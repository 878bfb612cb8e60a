/* SPDX-License-Identifier: Apache-2.0 */
/*
 * streaming - the first rows (sinks) and the most recent ones.
 *
 * Rows [sink, sink + n - trunc(n (1 - ratio))) go, whatever they hold: score 0 for those, 1 for the others. n counts the
 * rows there are, so in a second round the sinks are the first survivors.
 *
 * Xiao et al. 2023, arXiv:2309.17453, section 3.2.
 */
#include "common/base/bytes.h"
#include "presses/press.h"

struct streaming_options {
    int64_t sink;
};

static const struct opt streaming_table[] = {
    { .name = "sink",
      .type = OPT_INT,
      .offset = offsetof(struct streaming_options, sink),
      .min = 0,
      .max = 65536,
      .fallback = "4",
      .help = "rows at the beginning that stay" },
};

static enum status streaming_score(const struct press_stage *stage, struct press_round *round,
                                   const struct kv_rows *view, float *score, struct err *err)
{
    int64_t sink = ((const struct streaming_options *)stage->options)->sink;
    float *host = press_scores_get(round, view, score);

    (void)err;
    for (int32_t g = 0; g < view->heads; g++) {
        float *s = host + view->at[g];
        int64_t n = view->rows[g], gone = n - press_keep_raw(&round->keep, n);

        for (int64_t r = 0; r < n; r++)
            s[r] = r >= sink && r < sink + gone ? 0.0f : 1.0f;
    }
    press_scores_put(round, view, score, host);
    return ST_OK;
}

const struct press press_streaming = {
    .name = "streaming",
    .kind = PRESS_SCORE,
    .summary = "keeps the first rows and the most recent ones",
    .source = "arXiv:2309.17453",
    .reference = "StreamingLLMPress",
    .cost = "T G",
    .differs = "",
    .options = streaming_table,
    .option_count = ARRAY_LEN(streaming_table),
    .options_bytes = sizeof(struct streaming_options),
    .score = streaming_score,
};
