/* SPDX-License-Identifier: Apache-2.0 */
/*
 * criticaladakv - heads compete by score as in adakv; within a head's budget rows are chosen as in critical.
 *
 *      counts B_g of the best G m rows over all heads (every head's best m alpha for sure)
 *      head g: its best max(m alpha, trunc(B_g first)) by score, then by (score + eps) |v Wo|_1 up to B_g
 *
 * Feng et al. 2025, arXiv:2502.03805, algorithm 2.
 */
#include "common/base/bytes.h"
#include "presses/critical.h"

#include <math.h>

struct criticaladakv_options {
    double alpha, eps, first;
};

static const struct opt criticaladakv_table[] = {
    { .name = "alpha",
      .type = OPT_FLOAT,
      .offset = offsetof(struct criticaladakv_options, alpha),
      .min = 0,
      .max = 1,
      .fallback = "0.2",
      .help = "share of the budget that every head has for sure" },
    { .name = "eps",
      .type = OPT_FLOAT,
      .offset = offsetof(struct criticaladakv_options, eps),
      .min = 0,
      .max = 1e6,
      .fallback = "1e-4",
      .help = "added to the score" },
    { .name = "first",
      .type = OPT_FLOAT,
      .offset = offsetof(struct criticaladakv_options, first),
      .min = 0,
      .max = 1,
      .fallback = "0.5",
      .help = "share of a head's budget that the score alone decides" },
};

static enum status criticaladakv_budget(const struct press_stage *stage, struct press_round *round, struct err *err)
{
    const struct criticaladakv_options *o = stage->options;
    const struct kv_rows *view = &round->view;
    int64_t first[KV_HEADS_MAX + 1], sure[KV_HEADS_MAX], total = 0;
    void *index;
    enum status st = press_work_device(round, (uint64_t)view->at[view->heads] * sizeof(int32_t), &index, err);

    if (st != ST_OK)
        return st;
    for (int32_t g = 0; g < view->heads; g++) {
        int64_t m = round->budget.keep[g], safe = (int64_t)((double)m * o->alpha);

        round->budget.safe[g] = o->alpha > 0 && m > 0 && safe < 1 ? 1 : safe;
        total += m;
    }
    round->budget.total = total;
    round->be->ops->select(round->be, view, &round->budget, index, first);
    for (int32_t g = 0; g < view->heads; g++) {
        int64_t count = first[g + 1] - first[g];

        round->budget.keep[g] = count;
        sure[g] = (int64_t)((float)count * (float)o->first);
        if (sure[g] < round->budget.safe[g])
            sure[g] = round->budget.safe[g];
    }
    round->budget.total = -1;
    round->budget.protected_score = INFINITY;
    return critical_weigh(round, view, sure, o->eps, round->score, err);
}

const struct press press_criticaladakv = {
    .name = "criticaladakv",
    .kind = PRESS_REFINE,
    .summary = "lets heads compete, and weighs scores by the value after the output projection",
    .source = "arXiv:2502.03805",
    .reference = "CriticalAdaKVPress",
    .cost = "T H D dim",
    .differs = "The rows that lose really leave; the reference masks them.",
    .options = criticaladakv_table,
    .option_count = ARRAY_LEN(criticaladakv_table),
    .options_bytes = sizeof(struct criticaladakv_options),
    .uneven = true,
    .admit = critical_admit,
    .budget = criticaladakv_budget,
};
