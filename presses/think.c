/* SPDX-License-Identifier: Apache-2.0 */
/*
 * think - keys keep only the channels that the last queries make use of.
 *
 *      score[g][c] = (mean over the last w queries and the group of q^2) * (mean over kept rows of k^2)
 *      the trunc(D ratio) lowest channels of each head go: K rows become shorter, V rows stay as they are
 *
 * What comes after it sees zeros in their place (run.c). Xu et al. 2024, arXiv:2407.21018, section 3.
 */
#include "common/base/bytes.h"
#include "common/base/order.h"
#include "presses/scores.h"
#include "presses/window.h"

#include <stdlib.h>
#include <string.h>

struct think_options {
    double ratio;
    int64_t window;
};

static const struct opt think_table[] = {
    { .name = "ratio",
      .type = OPT_FLOAT,
      .offset = offsetof(struct think_options, ratio),
      .min = 0,
      .max = 0x1.fffffffffffffp-1,
      .value = "a number from 0 to below 1",
      .fallback = "0.5",
      .help = "fraction of the channels that goes" },
    { .name = "window",
      .type = OPT_INT,
      .offset = offsetof(struct think_options, window),
      .min = 1,
      .max = 65536,
      .fallback = "32",
      .help = "last tokens whose queries count" },
};

static void think_needs(const struct press_stage *stage, int64_t query_tokens, struct chain_needs *needs)
{
    (void)query_tokens;
    window_need(needs, ((const struct think_options *)stage->options)->window);
}

/* squares[G][D] = mean over the last w queries and the group of q^2, host. */
static void query_squares(const struct press_stage *stage, struct press_round *round, float *squares)
{
    const struct press_layer *in = round->in;
    const int32_t heads = in->hp->q_heads, dim = in->hp->head_dim, group = heads / in->hp->kv_heads;
    int64_t window = ((const struct think_options *)stage->options)->window;
    int64_t rows = window < in->q_tail_rows ? window : in->q_tail_rows, width = (int64_t)heads * dim;
    uint64_t bytes = dtype_bytes(round->be->act, (uint64_t)width);
    char *raw = press_work_host(round, (uint64_t)rows * bytes);
    float *q = press_work_host(round, (uint64_t)width * sizeof *q);

    round->be->ops->download(round->be, LANE_PRESS, raw,
                             (const char *)in->q_tail + (uint64_t)(in->q_tail_rows - rows) * bytes,
                             (uint64_t)rows * bytes);
    round->be->ops->wait(round->be, LANE_PRESS);
    memset(squares, 0, (size_t)in->hp->kv_heads * (size_t)dim * sizeof *squares);
    for (int64_t i = 0; i < rows; i++) {
        dtype_to_f32(q, raw + (uint64_t)i * bytes, round->be->act, (uint64_t)width);
        for (int32_t a = 0; a < heads; a++)
            for (int32_t c = 0; c < dim; c++)
                squares[a / group * dim + c] += q[a * dim + c] * q[a * dim + c];
    }
    for (int64_t i = 0; i < (int64_t)in->hp->kv_heads * dim; i++)
        squares[i] /= (float)(rows * group);
}

static enum status think_edit(const struct press_stage *stage, struct press_round *round, const int32_t *index,
                              const int64_t *first, struct err *err)
{
    const struct kv_rows *view = &round->view;
    int32_t dim = view->dim, gone = (int32_t)(dim * ((const struct think_options *)stage->options)->ratio);
    uint64_t bytes = (uint64_t)view->heads * (uint64_t)dim * sizeof(float);
    struct kv_rows flat = { .heads = 1 };
    int32_t order[KV_HEAD_DIM_MAX];
    float *squares = press_work_host(round, bytes);
    const float *keys;
    void *device;
    enum status st = press_work_device(round, bytes, &device, err);

    if (st != ST_OK || gone == 0)
        return st;
    query_squares(stage, round, squares);
    round->be->ops->channel_squares(round->be, view, index, first, device);
    flat.at[1] = (int64_t)view->heads * dim;
    keys = press_scores_get(round, &flat, device);
    round->channels = dim - gone;
    for (int32_t g = 0; g < view->heads; g++) {
        for (int32_t c = 0; c < dim; c++)
            squares[g * dim + c] *= keys[g * dim + c];
        scores_order(squares + g * dim, dim, order);
        qsort(order, (size_t)round->channels, sizeof *order, order_i32);
        memcpy(round->channel + g * round->channels, order, (size_t)round->channels * sizeof *order);
    }
    return ST_OK;
}

static enum status think_admit(const struct press_stage *stage, const struct press_door *door, struct err *err)
{
    enum status st = press_admit_op(stage, door, door->ops->keep_channels != NULL, "keep_channels", err);

    if (st != ST_OK)
        return st;
    return press_admit_op(stage, door, door->ops->channel_squares != NULL, "channel_squares", err);
}

const struct press press_think = {
    .name = "think",
    .kind = PRESS_EDIT,
    .summary = "drops key channels that the last queries make little use of",
    .source = "arXiv:2407.21018",
    .reference = "ThinKPress",
    .cost = "kept G D",
    .differs = "The channels are dropped, not set to zero: rows get shorter on the wire and in the cache. The class "
               "drops none "
               "by default.",
    .options = think_table,
    .option_count = ARRAY_LEN(think_table),
    .options_bytes = sizeof(struct think_options),
    .edits_keys = true,
    .needs = think_needs,
    .admit = think_admit,
    .edit = think_edit,
};
