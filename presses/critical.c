/* SPDX-License-Identifier: Apache-2.0 */
/*
 * critical - the best rows by score for sure, the others by what they would add to the output.
 *
 *      stage 1: the best trunc((1 - ratio) n first) rows of each head      stage 2: (score + eps) |v Wo|_1, group's mean
 *
 * Feng et al. 2025, arXiv:2502.03805, algorithm 1.
 */
#include "presses/critical.h"
#include "common/base/bytes.h"

#include <float.h>
#include <math.h>

struct critical_options {
    double eps, first;
};

static const struct opt critical_table[] = {
    { .name = "eps",
      .type = OPT_FLOAT,
      .offset = offsetof(struct critical_options, eps),
      .min = 0,
      .max = 1e6,
      .fallback = "1e-4",
      .help = "added to the score" },
    { .name = "first",
      .type = OPT_FLOAT,
      .offset = offsetof(struct critical_options, first),
      .min = 0,
      .max = 1,
      .fallback = "0.5",
      .help = "share of the budget that the score alone decides" },
};

/* The rows of each head that `sure` does not name, ascending: [first[g], first[g + 1]) of *out, host. */
static enum status other_rows(struct press_round *round, const struct kv_rows *view, const int32_t *sure,
                              const int64_t *sure_first, int64_t *first, const int32_t **out, const int32_t **device,
                              struct err *err)
{
    uint64_t bytes = (uint64_t)view->at[view->heads] * sizeof(int32_t);
    int32_t *rows = press_work_host(round, bytes);
    const void *there;
    int64_t count = 0;
    enum status st;

    for (int32_t g = 0; g < view->heads; g++) {
        int64_t at = sure_first[g];

        first[g] = count;
        for (int32_t r = 0; r < view->rows[g]; r++)
            if (at < sure_first[g + 1] && sure[at] == r)
                at++;
            else
                rows[count++] = r;
    }
    first[view->heads] = count;
    st = press_to_device(round, rows, bytes, &there, err);
    *out = rows;
    *device = there;
    return st;
}

/* norms [group][all rows], host; of the named rows only. */
static enum status value_norms(struct press_round *round, const struct kv_rows *view, const int32_t *index,
                               const int64_t *first, const float **out, struct err *err)
{
    int32_t group = round->in->hp->q_heads / view->heads;
    struct kv_rows wide = { .heads = 1 };
    void *device;
    enum status st;

    wide.at[1] = group * view->at[view->heads];
    st = press_work_device(round, (uint64_t)wide.at[1] * sizeof(float), &device, err);
    if (st != ST_OK)
        return st;
    round->be->ops->value_out_norms(round->be, view, index, first, round->in->o, round->in->hp->q_heads, 1, device);
    *out = press_scores_get(round, &wide, device);
    return ST_OK;
}

/* score = (score + eps) times the group's mean norm. */
static void weigh_rows(const struct kv_rows *view, int32_t group, const int32_t *rows, const int64_t *first,
                       const float *norms, float eps, float *score)
{
    for (int32_t g = 0; g < view->heads; g++)
        for (int64_t i = first[g]; i < first[g + 1]; i++) {
            int64_t r = view->at[g] + rows[i];
            float sum = 0;

            for (int32_t h = 0; h < group; h++)
                sum += norms[h * view->at[view->heads] + r];
            score[r] = (score[r] + eps) * (sum / (float)group);
        }
}

enum status critical_weigh(struct press_round *round, const struct kv_rows *view, const int64_t *sure, double eps,
                           float *score, struct err *err)
{
    struct select_args args = { .score = score, .total = -1, .protected_score = press_protected(round, view, score) };
    int64_t first[KV_HEADS_MAX + 1], other_first[KV_HEADS_MAX + 1];
    const int32_t *rows, *others = NULL, *device = NULL;
    const float *norms = NULL;
    float *host;
    void *index;
    enum status st = press_work_device(round, (uint64_t)view->at[view->heads] * sizeof(int32_t), &index, err);

    if (st != ST_OK)
        return st;
    for (int32_t g = 0; g < view->heads; g++)
        args.keep[g] = sure[g];
    round->be->ops->select(round->be, view, &args, index, first);
    rows = press_index_get(round, index, first[view->heads]);
    st = other_rows(round, view, rows, first, other_first, &others, &device, err);
    if (st == ST_OK)
        st = value_norms(round, view, device, other_first, &norms, err);
    if (st != ST_OK)
        return st;
    host = press_scores_get(round, view, score);
    weigh_rows(view, round->in->hp->q_heads / view->heads, others, other_first, norms, (float)eps, host);
    for (int32_t g = 0; g < view->heads; g++)
        for (int64_t i = first[g]; i < first[g + 1]; i++)
            host[view->at[g] + rows[i]] = FLT_MAX;
    press_scores_put(round, view, score, host);
    return ST_OK;
}

static enum status critical_refine(const struct press_stage *stage, struct press_round *round,
                                   const struct kv_rows *view, float *score, struct err *err)
{
    const struct critical_options *o = stage->options;
    int64_t sure[KV_HEADS_MAX] = { 0 };

    for (int32_t g = 0; g < view->heads; g++) {
        int64_t n = view->rows[g];
        double kept = (1.0 - press_keep_ratio(&round->keep, round->view.rows[g])) * (double)n;

        sure[g] = (int64_t)(kept * o->first);
        if (sure[g] < 1 && o->first > 0 && n > 0)
            sure[g] = 1;
    }
    return critical_weigh(round, view, sure, o->eps, score, err);
}

enum status critical_admit(const struct press_stage *stage, const struct press_door *door, struct err *err)
{
    return press_admit_op(stage, door, door->ops->value_out_norms != NULL, "value_out_norms", err);
}

const struct press press_critical = {
    .name = "critical",
    .kind = PRESS_REFINE,
    .summary = "weighs scores by the norm of the row's value after the output projection",
    .source = "arXiv:2502.03805",
    .reference = "CriticalKVPress",
    .cost = "T H D dim",
    .differs = "",
    .options = critical_table,
    .option_count = ARRAY_LEN(critical_table),
    .options_bytes = sizeof(struct critical_options),
    .admit = critical_admit,
    .refine = critical_refine,
};
