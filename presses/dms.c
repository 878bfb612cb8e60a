/* SPDX-License-Identifier: Apache-2.0 */
/*
 * dms - rows below a threshold go, as many as there are; the last ones always stay.
 *
 *      row r of n goes when r < n - window and score[r] < threshold
 *
 * How much stays is the outcome. With decoding=on the same goes on after every call, for scores that look at each row alone.
 * One that looks at keys and values decides again what it decided once, so nothing needs to be remembered between calls; one
 * that looks at hidden states (kvzap) is taken as the rows come, and kept until they have left the window.
 *
 * Lancucki et al. 2025, arXiv:2506.05345; with kvzap arXiv:2601.07891.
 */
#include "common/base/bytes.h"
#include "common/base/text.h"
#include "presses/chain.h"
#include "presses/compactor.h"

#include <math.h>
#include <string.h>

struct dms_options {
    double threshold;
    int64_t window;
    bool decoding;
};

static const struct opt dms_table[] = {
    { .name = "threshold",
      .type = OPT_FLOAT,
      .offset = offsetof(struct dms_options, threshold),
      .min = -1e30,
      .max = 1e30,
      .value = "a number",
      .help = "rows with a smaller score go",
      .required = true },
    { .name = "window",
      .type = OPT_INT,
      .offset = offsetof(struct dms_options, window),
      .min = 1,
      .max = INT32_MAX,
      .fallback = "128",
      .help = "last rows that stay whatever their score" },
    { .name = "decoding",
      .type = OPT_FLAG,
      .offset = offsetof(struct dms_options, decoding),
      .fallback = "off",
      .help = "go on while tokens are generated" },
};

static bool looks_at_rows_alone(const struct press *score)
{
    return score->row_alone || score->token_alone;
}

/* "knorm, qfilter, kvzap": the scores that look at each row alone. */
static void list_row_alone(struct text *out)
{
    const struct press *p;

    for (size_t i = 0; (p = press_at(i)) != NULL; i++)
        if (looks_at_rows_alone(p))
            text_printf(out, "%s%s", out->bytes > 0 ? ", " : "", p->name);
}

static enum status refuse_score(const struct press *score, struct err *err)
{
    struct text names = { 0 };
    enum status st;

    list_row_alone(&names);
    st = err_set(
        err, ST_EINVAL,
        "dms: decoding=on asks about each row alone; expected a score that looks at a row's key and value, or at "
        "its token's hidden state, alone (%s), not %s",
        text_str(&names), score->name);
    text_fini(&names);
    return st;
}

static enum status dms_follows(const struct press_stage *stage, const struct press_stage *score, struct err *err)
{
    if (((const struct dms_options *)stage->options)->decoding && !looks_at_rows_alone(score->press))
        return refuse_score(score->press, err);
    if (score->press->settle)
        return err_set(err, ST_EINVAL, "%s lets layers compete; expected ratio or rows, not dms", score->press->name);
    if (compactor_follows_ratio(score))
        return err_set(err, ST_EINVAL,
                       "compactor: blend=auto is the round's ratio, and dms has none; give blend= a number");
    return ST_OK;
}

static enum status dms_choose(const struct press_stage *stage, struct press_round *round, int32_t *index,
                              int64_t *first, struct err *err)
{
    const struct dms_options *o = stage->options;
    const struct kv_rows *view = &round->view;
    const float *score = press_scores_get(round, view, round->score);
    int32_t *host = press_work_host(round, (uint64_t)view->at[view->heads] * sizeof *host);
    int64_t count = 0;

    (void)err;
    for (int32_t g = 0; g < view->heads; g++) {
        first[g] = count;
        for (int64_t r = 0; r < view->rows[g]; r++)
            if (r >= view->rows[g] - o->window || !((double)score[view->at[g] + r] < o->threshold))
                host[count++] = (int32_t)r;
    }
    first[view->heads] = count;
    press_index_put(round, index, host, count);
    return ST_OK;
}

/* Every call: whatever has left the window goes. */
static void dms_decode(const struct press_stage *stage, struct chain_decode *out)
{
    const struct dms_options *o = stage->options;

    if (!o->decoding)
        return;
    out->every = 1;
    out->scored = o->window;
    out->below = o->threshold;
}

const struct press press_dms = {
    .name = "dms",
    .kind = PRESS_CHOOSE,
    .summary = "drops rows whose score is below a threshold",
    .source = "arXiv:2506.05345",
    .reference = "DMSPress",
    .cost = "T G",
    .differs = "The rows really leave; the reference masks them. decoding=on goes by scores that look at each row "
               "alone (knorm, qfilter, kvzap), over several questions too; the reference takes any score and sees only "
               "the new rows. By knorm and qfilter the context's rows are judged again as the cache holds them: coded "
               "(kv=) or without channels (think), one near the threshold may fare otherwise than when it was whole.",
    .options = dms_table,
    .option_count = ARRAY_LEN(dms_table),
    .options_bytes = sizeof(struct dms_options),
    .uneven = true,
    .wants_score = true,
    .follows = dms_follows,
    .choose = dms_choose,
    .decode = dms_decode,
};
