/* SPDX-License-Identifier: Apache-2.0 */
/*
 * adakv - heads compete: the best G * m rows over all heads of a layer stay, so that heads that need more get more.
 *
 *      m = budget per head        every head's best max(1, trunc(m * alpha)) rows stay in any case
 *
 *   rule=kvpress   as above
 *   rule=branch    the head-specific notebook: trunc(n (1 - r) alpha) rows per head besides the score's window
 *   rule=paper     the AdaKV repository: capacities c_h (1 - alpha) + trunc(B alpha) besides the window, rounded half to
 *                  even, B = m - window; after snapkv the group's mean is pooled by its largest neighbour
 *
 * Feng et al. 2024, arXiv:2407.11550, algorithm 1; PRESSES 2.5, 3.2, 3.3.
 */
#include "common/base/bytes.h"
#include "presses/press.h"
#include "presses/window.h"

#include <math.h>
#include <string.h>

enum { RULE_KVPRESS, RULE_BRANCH, RULE_PAPER };

struct adakv_options {
    double alpha;
    int64_t rule;
};

static const struct opt adakv_table[] = {
    { .name = "alpha",
      .type = OPT_FLOAT,
      .offset = offsetof(struct adakv_options, alpha),
      .min = 0,
      .max = 1,
      .fallback = "0.2",
      .help = "share of the budget that every head has for sure" },
    { .name = "rule",
      .type = OPT_WORD,
      .offset = offsetof(struct adakv_options, rule),
      .words = "kvpress|branch|paper",
      .fallback = "kvpress",
      .help = "whose arithmetic" },
};

static int64_t least(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

/* Sum of the heads' budgets, and no head with more in safe than its share of a small total. */
static void share_out(struct press_round *round, int64_t total)
{
    struct select_args *b = &round->budget;
    int64_t left = total;

    b->total = total;
    for (int32_t g = 0; g < round->view.heads; g++) {
        b->safe[g] = least(b->safe[g], least(round->view.rows[g], left));
        left -= b->safe[g];
    }
}

static void rule_kvpress(struct press_round *round, double alpha)
{
    int64_t total = 0;

    for (int32_t g = 0; g < round->view.heads; g++) {
        int64_t m = round->budget.keep[g], safe = (int64_t)((double)m * alpha);

        round->budget.safe[g] = alpha > 0 && m > 0 && safe < 1 ? 1 : safe;
        total += m;
    }
    share_out(round, total);
}

static void rule_branch(struct press_round *round, double alpha)
{
    double total = 0;

    for (int32_t g = 0; g < round->view.heads; g++) {
        int64_t n = round->view.rows[g];
        double m = round->keep.rows > 0 ? (double)least(round->keep.rows, n) : (double)n * (1.0 - round->keep.ratio);

        round->budget.safe[g] = (int64_t)(m * alpha) + round->tail;
        total += m;
    }
    share_out(round, total < 1 ? 1 : (int64_t)total);
}

/* out[r] = the largest of the `kernel` values around r, within [0, n). */
static void pool_largest(const float *in, int64_t n, int64_t kernel, float *out)
{
    for (int64_t r = 0; r < n; r++) {
        int64_t from = r - kernel / 2 < 0 ? 0 : r - kernel / 2, to = least(n, r + kernel / 2 + 1);

        out[r] = in[from];
        for (int64_t j = from + 1; j < to; j++)
            out[r] = in[j] > out[r] ? in[j] : out[r];
    }
}

/* Scores for the paper's rule: after a bare snapkv pooled by the largest neighbour, else as they are. */
static enum status paper_scores(struct press_round *round, const struct press_stage *self, struct err *err)
{
    const struct press_stage *score = &round->stages[round->begin];
    const struct snapkv_options *o = score->options;
    const struct kv_rows *view = &round->view;
    struct window_args w = { .kernel = 1 };
    float *host, *pooled;
    enum status st;

    if (score + 1 != self || strcmp(score->press->name, "snapkv") != 0)
        return ST_OK;
    w.window = o->window;
    st = window_score(round, view, &w, round->score, err);
    if (st != ST_OK)
        return st;
    host = press_scores_get(round, view, round->score);
    pooled = press_work_host(round, (uint64_t)view->at[view->heads] * sizeof *pooled);
    for (int32_t g = 0; g < view->heads; g++) {
        int64_t n = view->rows[g] > o->window ? view->rows[g] - o->window : 0;

        pool_largest(host + view->at[g], n, o->kernel, pooled + view->at[g]);
        memcpy(host + view->at[g], pooled + view->at[g], (size_t)n * sizeof *host);
    }
    press_scores_put(round, view, round->score, host);
    return ST_OK;
}

/* Counts, per head, its entries among the `total` best of all heads' first n rows (`tail` rows at the end left out). */
static enum status count_best(struct press_round *round, int64_t total, int64_t *count, struct err *err)
{
    struct kv_rows body = round->view;
    struct select_args args = { 0 };
    int64_t first[KV_HEADS_MAX + 1];
    void *index;
    enum status st = press_work_device(round, (uint64_t)body.at[body.heads] * sizeof(int32_t), &index, err);

    if (st != ST_OK)
        return st;
    for (int32_t g = 0; g < body.heads; g++)
        body.rows[g] = body.rows[g] > round->tail ? body.rows[g] - round->tail : 0;
    args.score = round->score;
    args.total = total;
    args.protected_score = INFINITY;
    round->be->ops->select(round->be, &body, &args, index, first);
    for (int32_t g = 0; g < body.heads; g++)
        count[g] = first[g + 1] - first[g];
    return ST_OK;
}

static enum status rule_paper(struct press_round *round, const struct press_stage *self, double alpha, struct err *err)
{
    int32_t heads = round->view.heads;
    int64_t total = 0, count[KV_HEADS_MAX] = { 0 }, body = INT64_MAX;
    enum status st;

    for (int32_t g = 0; g < heads; g++) {
        total += round->budget.keep[g] - round->tail;
        body = least(body, round->view.rows[g] - round->tail);
    }
    if (total <= 0)
        return ST_OK; /* no more than the window: its newest rows */
    if (total / heads > body) {
        for (int32_t g = 0; g < heads; g++)
            round->budget.keep[g] = round->view.rows[g];
        return ST_OK;
    }
    st = paper_scores(round, self, err);
    if (st == ST_OK)
        st = count_best(round, total, count, err);
    for (int32_t g = 0; g < heads && st == ST_OK; g++) {
        int64_t sure = (int64_t)((double)(round->budget.keep[g] - round->tail) * alpha);
        float cap = rintf((float)count[g] * (float)(1.0 - alpha) + (float)sure);

        round->budget.keep[g] = least(round->view.rows[g], (int64_t)cap + round->tail);
    }
    return st;
}

static enum status adakv_budget(const struct press_stage *stage, struct press_round *round, struct err *err)
{
    const struct adakv_options *o = stage->options;

    if (o->rule == RULE_PAPER)
        return rule_paper(round, stage, o->alpha, err);
    if (o->rule == RULE_BRANCH)
        rule_branch(round, o->alpha);
    else
        rule_kvpress(round, o->alpha);
    return ST_OK;
}

const struct press press_adakv = {
    .name = "adakv",
    .kind = PRESS_REFINE,
    .summary = "lets the heads of a layer compete for its rows",
    .source = "arXiv:2407.11550",
    .reference = "AdaKVPress",
    .cost = "T G (the selection)",
    .differs = "The rows that lose really leave; the reference masks them.",
    .options = adakv_table,
    .option_count = ARRAY_LEN(adakv_table),
    .options_bytes = sizeof(struct adakv_options),
    .uneven = true,
    .budget = adakv_budget,
};
