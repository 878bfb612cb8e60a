/* SPDX-License-Identifier: Apache-2.0 */
/*
 * own_budget.c - level 3: budgets per head of one's own. `whole-heads:heads=2 | ratio=0.5` keeps heads 0 and 1 whole; the
 * others share what is left of the layer's rows and keep first and recent ones, as StreamingLLM does.
 *
 *      21 tokens, 8 heads, ratio 0.5: trunc(21 * 0.5 * 8) = 84 rows       head lengths 21 21 7 7 7 7 7 7
 *
 * A press may have several hooks. Here `score` says which rows a head prefers, and `budget` how many it gets; the selection
 * itself is the back end's. Rows that go are really gone: the layer's block holds 84 rows, not 168 with a mask.
 */
#include "presses/press.h"

struct whole_options {
    int64_t heads, sink;
};

static const struct opt whole_table[] = {
    { .name = "heads",
      .type = OPT_INT,
      .offset = offsetof(struct whole_options, heads),
      .min = 0,
      .max = KV_HEADS_MAX,
      .fallback = "2",
      .help = "heads, from the first on, that keep everything" },
    { .name = "sink",
      .type = OPT_INT,
      .offset = offsetof(struct whole_options, sink),
      .min = 0,
      .max = 65536,
      .fallback = "4",
      .help = "rows at the beginning that the others keep" },
};

/* The later a row, the better; the first ones are better than all. */
static enum status whole_score(const struct press_stage *stage, struct press_round *round, const struct kv_rows *view,
                               float *score, struct err *err)
{
    int64_t sink = ((const struct whole_options *)stage->options)->sink;
    float *host = press_scores_get(round, view, score);

    (void)err;
    for (int32_t g = 0; g < view->heads; g++)
        for (int64_t r = 0; r < view->rows[g]; r++)
            host[view->at[g] + r] = r < sink ? (float)(view->rows[g] + sink - r) : (float)r;
    press_scores_put(round, view, score, host);
    return ST_OK;
}

/* Before this hook budget.keep[g] is the same for all heads; afterwards it is what each keeps. */
static enum status whole_budget(const struct press_stage *stage, struct press_round *round, struct err *err)
{
    int64_t whole = ((const struct whole_options *)stage->options)->heads;
    const struct kv_rows *view = &round->view;
    int64_t heads = view->heads, n = view->rows[0], left;

    (void)err;
    whole = whole < heads ? whole : heads;
    left = (int64_t)((double)n * (1.0 - press_keep_ratio(&round->keep, n)) * (double)heads) - whole * n;
    for (int64_t g = 0; g < heads; g++) {
        int64_t share = g < whole ? n : left / (heads - g);

        if (g >= whole)
            left -= share;
        round->budget.keep[g] = share < 1 ? 1 : share > n ? n : share;
    }
    return ST_OK;
}

static int64_t whole_rows_max(const struct press_stage *stage, const struct press_keep *keep, int32_t place,
                              int32_t places, int64_t n)
{
    (void)stage;
    (void)keep;
    (void)place;
    (void)places;
    return n;
}

const struct press press_whole_heads = {
    .name = "whole-heads",
    .kind = PRESS_SCORE,
    .summary = "keeps some heads whole, in the others first and recent rows",
    .source = "",
    .reference = "",
    .cost = "T G",
    .differs = "",
    .options = whole_table,
    .option_count = sizeof whole_table / sizeof whole_table[0],
    .options_bytes = sizeof(struct whole_options),
    .even_only = true, /* every head must come with equally many rows */
    .uneven = true,    /* and they leave with different numbers */
    .score = whole_score,
    .budget = whole_budget,
    .rows_max = whole_rows_max,
};

static const struct press *const presses[] = { &press_whole_heads };

const struct press_plugin platen_press_plugin = {
    .abi = PRESS_ABI,
    .press_bytes = sizeof(struct press),
    .ops_bytes = sizeof(struct backend_ops),
    .count = 1,
    .presses = presses,
};
