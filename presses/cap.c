/* SPDX-License-Identifier: Apache-2.0 */
/*
 * cap - rows whose values span what the expected query will ask for.
 *
 *      w = exp(tau cos(k, mean query) - largest)      A = I + sum (w + eps) v v'      score = mean over the group of w v' A^-1 v
 *
 * arXiv:2604.25975 (CapKV).
 */
#include "common/base/bytes.h"
#include "presses/queries.h"

struct cap_options {
    double tau;
    int64_t future, sink;
    double eps;
};

static const struct opt cap_table[] = {
    { .name = "tau",
      .type = OPT_FLOAT,
      .offset = offsetof(struct cap_options, tau),
      .min = 0,
      .max = 1000,
      .fallback = "5",
      .help = "sharpness of the weights" },
    { .name = "future",
      .type = OPT_INT,
      .offset = offsetof(struct cap_options, future),
      .min = 1,
      .max = 65536,
      .fallback = "512",
      .help = "positions to come that count" },
    { .name = "sink",
      .type = OPT_INT,
      .offset = offsetof(struct cap_options, sink),
      .min = 0,
      .max = 65536,
      .fallback = "4",
      .help = "rows at the beginning that stay" },
    { .name = "eps",
      .type = OPT_FLOAT,
      .offset = offsetof(struct cap_options, eps),
      .min = 0,
      .max = 1e6,
      .fallback = "1e-6",
      .help = "added to the weights" },
};

static void cap_needs(const struct press_stage *stage, int64_t query_tokens, struct chain_needs *needs)
{
    (void)stage;
    (void)query_tokens;
    needs->q_plain = true;
}

static enum status cap_score(const struct press_stage *stage, struct press_round *round, const struct kv_rows *view,
                             float *score, struct err *err)
{
    const struct cap_options *o = stage->options;
    const struct backend_ops *ops = round->be->ops;
    struct query_stats stats;
    enum status st;

    if (query_count(round) <= o->sink) { /* nothing but sinks */
        ops->score_weigh(round->be, view, INT64_MAX, NULL, 0.0f, score);
        return ST_OK;
    }
    st = query_stats_of(round, o->sink, o->future, false, &stats, err);
    if (st != ST_OK)
        return st;
    ops->score_cap(round->be, view, o->sink, stats.mean, round->in->hp->q_heads, (float)o->tau, (float)o->eps, score);
    ops->score_weigh(round->be, view, o->sink, NULL, 0.0f, score);
    return ST_OK;
}

static enum status cap_admit(const struct press_stage *stage, const struct press_door *door, struct err *err)
{
    enum status st = query_admit(stage, door, err);

    if (st == ST_OK)
        st = press_admit_op(stage, door, door->ops->query_stats != NULL, "query_stats", err);
    return st == ST_OK ? press_admit_op(stage, door, door->ops->score_cap != NULL, "score_cap", err) : st;
}

const struct press press_cap = {
    .name = "cap",
    .kind = PRESS_SCORE,
    .summary = "keeps rows whose values matter most for the expected query",
    .source = "arXiv:2604.25975",
    .reference = "CapPress",
    .cost = "T H D D",
    .differs = "",
    .options = cap_table,
    .option_count = ARRAY_LEN(cap_table),
    .options_bytes = sizeof(struct cap_options),
    .needs = cap_needs,
    .admit = cap_admit,
    .score = cap_score,
};
