/* SPDX-License-Identifier: Apache-2.0 */
/*
 * finch - what the question looks at; the question is pressed with the context and stays.
 *
 *      A [H][w][n - w], w = tokens of the query      normalize=on: row i times the tokens it sees, less one
 *      score = mean over rows and group, no pooling         chunk=C: the best of every C rows instead of the best of all
 *
 * Corallo and Papotti 2024, TACL 10.1162/tacl_a_00716. The paper's own order of work re-rotates: `finch | ratio | rerotate`.
 */
#include "common/base/bytes.h"
#include "presses/parts.h"
#include "presses/window.h"

struct finch_options {
    int64_t window;
    bool normalize;
    int64_t chunk;
};

static const struct opt finch_table[] = {
    { .name = "window",
      .type = OPT_INT,
      .offset = offsetof(struct finch_options, window),
      .min = 0,
      .max = 65536,
      .fallback = "0",
      .help = "last tokens whose attention counts; 0: the query's" },
    { .name = "normalize",
      .type = OPT_FLAG,
      .offset = offsetof(struct finch_options, normalize),
      .fallback = "on",
      .help = "weigh queries by what they see" },
    { .name = "chunk",
      .type = OPT_INT,
      .offset = offsetof(struct finch_options, chunk),
      .min = 0,
      .max = INT32_MAX,
      .fallback = "0",
      .help = "rows of a chunk that is chosen from alone; 0: no chunks" },
};

static int64_t finch_tail(const struct press_stage *stage, int64_t query_tokens)
{
    const struct finch_options *o = stage->options;

    return o->window > 0 ? o->window : query_tokens;
}

static void finch_needs(const struct press_stage *stage, int64_t query_tokens, struct chain_needs *needs)
{
    window_need(needs, finch_tail(stage, query_tokens));
}

static enum status finch_admit(const struct press_stage *stage, const struct press_door *door, struct err *err)
{
    if (finch_tail(stage, door->query_tokens) == 0)
        return err_set(err, ST_EINVAL,
                       "finch needs a query: give one with the context, or window= and a number of tokens");
    return press_admit_op(stage, door, door->ops->score_window != NULL, "score_window", err);
}

static enum status finch_score(const struct press_stage *stage, struct press_round *round, const struct kv_rows *view,
                               float *score, struct err *err)
{
    const struct finch_options *o = stage->options;
    struct window_args w = { .window = finch_tail(stage, round->in->query_tokens), .kernel = 1 };
    float *weight = press_work_host(round, (uint64_t)w.window * sizeof *weight);

    for (int64_t i = 0; i < w.window; i++)
        weight[i] = (float)(view->rows[0] - w.window + i);
    w.row_weight = o->normalize ? weight : NULL;
    return window_score(round, view, &w, score, err);
}

static enum status finch_choose(const struct press_stage *stage, struct press_round *round, int32_t *index,
                                int64_t *first, struct err *err)
{
    const struct finch_options *o = stage->options;

    if (o->chunk == 0) {
        round->be->ops->select(round->be, &round->view, &round->budget, index, first);
        return ST_OK;
    }
    return parts_select(round, o->chunk, index, first, err);
}

static int64_t finch_rows_max(const struct press_stage *stage, const struct press_keep *keep, int32_t place,
                              int32_t places, int64_t n)
{
    const struct finch_options *o = stage->options;

    (void)place;
    (void)places;
    return o->chunk > 0 ? parts_rows(keep, o->chunk, n) : press_keep_rows(keep, n);
}

const struct press press_finch = {
    .name = "finch",
    .kind = PRESS_SCORE,
    .summary = "keeps what the query attends to, and the query",
    .source = "doi:10.1162/tacl_a_00716",
    .reference = "FinchPress",
    .cost = "w T H D",
    .differs =
        "The query is given with the request instead of behind a delimiter token; without rerotate no position is "
        "skipped.",
    .options = finch_table,
    .option_count = ARRAY_LEN(finch_table),
    .options_bytes = sizeof(struct finch_options),
    .prefill_only = true,
    .needs = finch_needs,
    .admit = finch_admit,
    .tail = finch_tail,
    .score = finch_score,
    .choose = finch_choose,
    .rows_max = finch_rows_max,
};
