/* SPDX-License-Identifier: Apache-2.0 */
/* shared.c - choosing one set of rows for all heads. */
#include "presses/shared.h"

float *shared_sum(struct press_round *round)
{
    const struct kv_rows *view = &round->view;
    const float *score = press_scores_get(round, view, round->score);
    float *t = press_work_host(round, (uint64_t)view->rows[0] * sizeof *t);

    for (int64_t r = 0; r < view->rows[0]; r++) {
        t[r] = 0;
        for (int32_t g = 0; g < view->heads; g++)
            t[r] += score[view->at[g] + r];
    }
    return t;
}

void shared_choose(struct press_round *round, const uint8_t *mark, int32_t *index, int64_t *first)
{
    const struct kv_rows *view = &round->view;
    int32_t *host = press_work_host(round, (uint64_t)view->at[view->heads] * sizeof *host);
    int64_t count = 0;

    for (int32_t g = 0; g < view->heads; g++) {
        first[g] = count;
        for (int64_t r = 0; r < view->rows[g]; r++)
            if (mark[r])
                host[count++] = (int32_t)r;
    }
    first[view->heads] = count;
    press_index_put(round, index, host, count);
}
