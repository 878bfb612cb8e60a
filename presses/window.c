/* SPDX-License-Identifier: Apache-2.0 */
/*
 * window.c - the attention of the last tokens, which several scores share.
 *
 *      q [w][H][D]  the context's last queries     rows r of head g: their place among the survivors counts, not the
 *      k rows       survivors, in order            token they came from (view without its token map)
 *
 * When a part of the context is scored alone (chunk, block), the part's last queries are rotated to the context's last
 * positions, as the reference does it.
 */
#include "presses/window.h"

#include <math.h>

void window_need(struct chain_needs *needs, int64_t window)
{
    if (needs->q_tail < window)
        needs->q_tail = window;
}

/* Every row is window: all the same, so that the newest stay. */
static void all_window(struct press_round *round, const struct kv_rows *view, float *score)
{
    float *host = press_scores_get(round, view, score);

    for (int32_t g = 0; g < view->heads; g++)
        for (int64_t r = 0; r < view->rows[g]; r++)
            host[view->at[g] + r] = 1.0f;
    press_scores_put(round, view, score, host);
}

/* The queries of tokens [end - window, end), rotated as if they were the last of the context. */
static enum status part_queries(struct press_round *round, int64_t window, const void **q, struct err *err)
{
    const struct press_layer *in = round->in;
    uint64_t row = dtype_bytes(round->be->act, (uint64_t)in->hp->q_heads * (uint64_t)in->hp->head_dim);
    const char *plain = (const char *)in->q_plain + (uint64_t)(round->part_end - window) * row;
    void *out;
    enum status st = press_work_device(round, (uint64_t)window * row, &out, err);

    if (st != ST_OK)
        return st;
    round->be->ops->rotate_rows(round->be, plain, in->hp->q_heads, in->hp->head_dim, &in->rope, in->tokens - window, 1,
                                window, out);
    *q = out;
    return ST_OK;
}

enum status window_score(struct press_round *round, const struct kv_rows *view, const struct window_args *args,
                         float *score, struct err *err)
{
    const struct press_layer *in = round->in;
    uint64_t row = dtype_bytes(round->be->act, (uint64_t)in->hp->q_heads * (uint64_t)in->hp->head_dim);
    struct kv_rows plain = *view;
    int64_t longest = 0, shortest = INT64_MAX;
    const void *q;
    enum status st = ST_OK;

    for (int32_t g = 0; g < view->heads; g++) {
        longest = view->rows[g] > longest ? view->rows[g] : longest;
        shortest = view->rows[g] < shortest ? view->rows[g] : shortest;
    }
    if (longest <= args->window) {
        all_window(round, view, score);
        return ST_OK;
    }
    if (round->part_end >= 0)
        st = part_queries(round, args->window, &q, err);
    else
        q = (const char *)in->q_tail + (uint64_t)(in->q_tail_rows - args->window) * row;
    if (st != ST_OK)
        return st;
    plain.token = NULL;
    round->be->ops->score_window(round->be, &plain, q, in->hp->q_heads, (int32_t)args->window,
                                 longest == shortest ? longest : 0, args->row_weight, args->kernel, INFINITY, score);
    return ST_OK;
}
