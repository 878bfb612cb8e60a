/* SPDX-License-Identifier: Apache-2.0 */
/*
 * cur - rows with much leverage in K and V, measured against their neighbours.
 *
 *      k2, v2 = squared norms (random=on: after one random projection to 20 channels)
 *      local=on: each divided by the sum of its window of rows        score = k2, v2, their mean or their product
 *
 * Sengupta et al. 2025, arXiv:2509.15038, algorithm 1.
 */
#include "common/base/bytes.h"
#include "presses/press.h"
#include "presses/scores.h"

#include <math.h>

enum { BY_KEY, BY_VALUE, BY_MEAN, BY_PRODUCT };
enum { SKETCH = 20 };

struct cur_options {
    int64_t sink, leverage;
    bool random, local;
    int64_t window;
};

static const struct opt cur_table[] = {
    { .name = "sink",
      .type = OPT_INT,
      .offset = offsetof(struct cur_options, sink),
      .min = 0,
      .max = 65536,
      .fallback = "4",
      .help = "rows at the beginning that stay" },
    { .name = "leverage",
      .type = OPT_WORD,
      .offset = offsetof(struct cur_options, leverage),
      .words = "key|value|kv_avg|kv_product",
      .fallback = "kv_product",
      .help = "what is measured" },
    { .name = "random",
      .type = OPT_FLAG,
      .offset = offsetof(struct cur_options, random),
      .fallback = "off",
      .help = "measure after a random projection" },
    { .name = "local",
      .type = OPT_FLAG,
      .offset = offsetof(struct cur_options, local),
      .fallback = "on",
      .help = "measure against the window" },
    { .name = "window",
      .type = OPT_INT,
      .offset = offsetof(struct cur_options, window),
      .min = 1,
      .max = 65536,
      .fallback = "16",
      .help = "rows of a window" },
};

/* x[r] by the sum of its window; windows of zeros stay zero. */
static void by_window(float *x, int64_t n, int64_t window)
{
    for (int64_t r = 0; r < n; r += window) {
        int64_t end = r + window < n ? r + window : n;
        float sum = 0;

        for (int64_t i = r; i < end; i++)
            sum += x[i];
        for (int64_t i = r; i < end && sum > 0; i++)
            x[i] /= sum;
    }
}

static void combine(const struct cur_options *o, float *k2, float *v2, int64_t n)
{
    float sum = 0;

    if (o->local) {
        by_window(k2, n, o->window);
        by_window(v2, n, o->window);
    }
    for (int64_t r = 0; r < n; r++) {
        float both = o->leverage == BY_MEAN ? (k2[r] + v2[r]) / 2.0f : k2[r] * v2[r];

        k2[r] = o->leverage == BY_KEY ? k2[r] : o->leverage == BY_VALUE ? v2[r] : both;
        sum += k2[r];
    }
    for (int64_t r = 0; r < n && sum > 0; r++)
        k2[r] /= sum;
    for (int64_t r = 0; r < n && r < o->sink; r++)
        k2[r] = 1.0f;
}

/* A fresh normal D x 20 matrix by sqrt(20), on the device; *out stays NULL without random=on. */
static enum status sketch_of(const struct cur_options *o, struct press_round *round, int32_t dim, void **out,
                             struct err *err)
{
    uint64_t bytes = (uint64_t)dim * SKETCH * sizeof(float);
    float *host;
    enum status st;

    if (!o->random)
        return ST_OK;
    st = press_work_device(round, bytes, out, err);
    if (st != ST_OK)
        return st;
    host = press_work_host(round, bytes);
    scores_normal(0, (uint64_t)round->in->layer, dim * SKETCH, host);
    for (int32_t i = 0; i < dim * SKETCH; i++)
        host[i] /= sqrtf(SKETCH);
    round->be->ops->upload(round->be, LANE_PRESS, *out, host, bytes);
    round->be->ops->wait(round->be, LANE_PRESS);
    return ST_OK;
}

static enum status cur_score(const struct press_stage *stage, struct press_round *round, const struct kv_rows *view,
                             float *score, struct err *err)
{
    const struct cur_options *o = stage->options;
    void *v2 = NULL, *sketch = NULL;
    float *host_k, *host_v;
    enum status st = press_work_device(round, (uint64_t)view->at[view->heads] * sizeof(float), &v2, err);

    if (st == ST_OK)
        st = sketch_of(o, round, view->dim, &sketch, err);
    if (st != ST_OK)
        return st;
    round->be->ops->row_squares(round->be, view, sketch, SKETCH, score, v2);
    host_k = press_scores_get(round, view, score);
    host_v = press_scores_get(round, view, v2);
    for (int32_t g = 0; g < view->heads; g++)
        combine(o, host_k + view->at[g], host_v + view->at[g], view->rows[g]);
    press_scores_put(round, view, score, host_k);
    return ST_OK;
}

static enum status cur_admit(const struct press_stage *stage, const struct press_door *door, struct err *err)
{
    return press_admit_op(stage, door, door->ops->row_squares != NULL, "row_squares", err);
}

const struct press press_cur = {
    .name = "cur",
    .kind = PRESS_SCORE,
    .summary = "keeps rows with high leverage in K and V against their neighbours",
    .source = "arXiv:2509.15038",
    .reference = "CURPress",
    .cost = "T G D",
    .differs = "Windows of zeros count 0; the reference divides by zero. random=on draws its own numbers.",
    .options = cur_table,
    .option_count = ARRAY_LEN(cur_table),
    .options_bytes = sizeof(struct cur_options),
    .admit = cur_admit,
    .score = cur_score,
};
