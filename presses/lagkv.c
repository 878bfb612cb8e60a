/* SPDX-License-Identifier: Apache-2.0 */
/*
 * lagkv - rows that stand out when measured by the rows that follow them.
 *
 *      | sink | partition 0 | partition 1 | ... | last partition and rest |
 *               measured by ──▶ the next one       always stay
 *
 * A context shorter than sink + 2 lag keeps its sinks and its newest rows. cross=off ranks the rows within their partition,
 * so that every partition gives equally many; cross=on compares the measures themselves.
 *
 * Liang et al. 2025, arXiv:2504.04704, section 3.
 */
#include "common/base/bytes.h"
#include "presses/press.h"
#include "presses/scores.h"

#include <math.h>

struct lagkv_options {
    int64_t sink, lag;
    bool cross;
};

static const struct opt lagkv_table[] = {
    { .name = "sink",
      .type = OPT_INT,
      .offset = offsetof(struct lagkv_options, sink),
      .min = 0,
      .max = 65536,
      .fallback = "4",
      .help = "rows at the beginning that stay" },
    { .name = "lag",
      .type = OPT_INT,
      .offset = offsetof(struct lagkv_options, lag),
      .min = 2,
      .max = 65536,
      .fallback = "128",
      .help = "rows of a partition" },
    { .name = "cross",
      .type = OPT_FLAG,
      .offset = offsetof(struct lagkv_options, cross),
      .fallback = "off",
      .help = "compare over partitions" },
};

/* Every row's rank within its partition, ascending, by the partition's size; equal ones: the earlier row ranks higher. */
static void rank_partition(float *s, int64_t lag, int32_t *order, float *room)
{
    for (int64_t t = 0; t < lag; t++)
        room[t] = s[t];
    scores_order(room, lag, order);
    for (int64_t t = 0; t < lag; t++)
        s[order[t]] = (float)(lag - 1 - t) / (float)lag;
}

/* Scores of one head: `s` holds the partitions' measures. */
static void finish_head(const struct lagkv_options *o, float *s, int64_t n, int32_t *order, float *room)
{
    int64_t partitions = n > o->sink ? (n - o->sink) / o->lag : 0, sinks = o->sink < n ? o->sink : n;
    int64_t body = sinks + (partitions - 1) * o->lag;

    if (n < o->sink + 2 * o->lag) {
        for (int64_t r = sinks; r < n; r++)
            s[r] = (float)(r - sinks) / (float)(n - sinks);
        body = n;
    }
    for (int64_t p = 0; !o->cross && n >= o->sink + 2 * o->lag && p < partitions - 1; p++)
        rank_partition(s + sinks + p * o->lag, o->lag, order, room);
    for (int64_t r = body; r < n; r++)
        s[r] = 1.0f;
    for (int64_t r = 0; r < sinks; r++) /* above the tail, the first one first */
        s[r] = 1.0f + (float)(sinks - r) * 0x1p-20f;
}

static enum status lagkv_score(const struct press_stage *stage, struct press_round *round, const struct kv_rows *view,
                               float *score, struct err *err)
{
    const struct lagkv_options *o = stage->options;
    int32_t *order = press_work_host(round, (uint64_t)o->lag * sizeof *order);
    float *room = press_work_host(round, (uint64_t)o->lag * sizeof *room), *host;

    (void)err;
    round->be->ops->score_lag(round->be, view, o->sink, o->lag, score);
    host = press_scores_get(round, view, score);
    for (int32_t g = 0; g < view->heads; g++)
        finish_head(o, host + view->at[g], view->rows[g], order, room);
    press_scores_put(round, view, score, host);
    return ST_OK;
}

static int64_t lagkv_tail(const struct press_stage *stage, int64_t query_tokens)
{
    (void)query_tokens;
    return ((const struct lagkv_options *)stage->options)->lag;
}

static enum status lagkv_admit(const struct press_stage *stage, const struct press_door *door, struct err *err)
{
    return press_admit_op(stage, door, door->ops->score_lag != NULL, "score_lag", err);
}

const struct press press_lagkv = {
    .name = "lagkv",
    .kind = PRESS_SCORE,
    .summary = "keeps rows that stand out against the rows after them",
    .source = "arXiv:2504.04704",
    .reference = "LagKVPress",
    .cost = "T G D",
    .differs =
        "Channels that are constant over a partition count 0; the reference divides by zero. Equal ranks of different "
        "partitions: the smaller position.",
    .options = lagkv_table,
    .option_count = ARRAY_LEN(lagkv_table),
    .options_bytes = sizeof(struct lagkv_options),
    .admit = lagkv_admit,
    .tail = lagkv_tail,
    .score = lagkv_score,
};
