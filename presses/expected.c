/* SPDX-License-Identifier: Apache-2.0 */
/*
 * expected - the attention that future queries will pay, if they are distributed as the context's own.
 *
 *      queries ~ normal(mean, cov), rotated to the next positions on average
 *      e = k.mean / sqrt(D) + k' cov k / (2 D)     score = (mean over the group of softmax(e) + eps) |v|      sinks stay
 *
 * Devoto et al. 2025, arXiv:2510.00636, section 3.
 */
#include "common/base/bytes.h"
#include "presses/queries.h"

static const struct opt expected_table[] = {
    { .name = "future",
      .type = OPT_INT,
      .offset = offsetof(struct expected_options, future),
      .min = 1,
      .max = 65536,
      .fallback = "512",
      .help = "positions to come that count" },
    { .name = "sink",
      .type = OPT_INT,
      .offset = offsetof(struct expected_options, sink),
      .min = 0,
      .max = 65536,
      .fallback = "4",
      .help = "rows at the beginning that stay" },
    { .name = "cov",
      .type = OPT_FLAG,
      .offset = offsetof(struct expected_options, cov),
      .fallback = "on",
      .help = "use the covariance" },
    { .name = "vnorm",
      .type = OPT_FLAG,
      .offset = offsetof(struct expected_options, vnorm),
      .fallback = "on",
      .help = "times the norm of the value" },
    { .name = "eps",
      .type = OPT_FLOAT,
      .offset = offsetof(struct expected_options, eps),
      .min = 0,
      .max = 1e6,
      .fallback = "0",
      .help = "added before that" },
};

static void expected_needs(const struct press_stage *stage, int64_t query_tokens, struct chain_needs *needs)
{
    (void)stage;
    (void)query_tokens;
    needs->q_plain = true;
}

static enum status expected_score(const struct press_stage *stage, struct press_round *round,
                                  const struct kv_rows *view, float *score, struct err *err)
{
    const struct expected_options *o = stage->options;
    struct query_stats stats;
    enum status st;

    if (query_count(round) <= o->sink) { /* nothing but sinks */
        round->be->ops->score_weigh(round->be, view, INT64_MAX, NULL, 0.0f, score);
        return ST_OK;
    }
    st = query_stats_of(round, o->sink, o->future, o->cov, &stats, err);
    return st == ST_OK ? expected_score_with(round, view, &stats, o, score, err) : st;
}

static enum status expected_admit(const struct press_stage *stage, const struct press_door *door, struct err *err)
{
    enum status st = query_admit(stage, door, err);

    if (st == ST_OK)
        st = press_admit_op(stage, door, door->ops->query_stats != NULL, "query_stats", err);
    if (st == ST_OK)
        st = press_admit_op(stage, door, door->ops->score_expected != NULL, "score_expected", err);
    return st == ST_OK ? press_admit_op(stage, door, door->ops->row_squares != NULL, "row_squares", err) : st;
}

const struct press press_expected = {
    .name = "expected",
    .kind = PRESS_SCORE,
    .summary = "keeps what future queries are expected to attend to",
    .source = "arXiv:2510.00636",
    .reference = "ExpectedAttentionPress",
    .cost = "T H D D",
    .differs = "A context of sinks alone keeps its first rows; the reference refuses it.",
    .options = expected_table,
    .option_count = ARRAY_LEN(expected_table),
    .options_bytes = sizeof(struct expected_options),
    .needs = expected_needs,
    .admit = expected_admit,
    .score = expected_score,
};
