/* SPDX-License-Identifier: Apache-2.0 */
/*
 * qfilter - keys that a learned direction of the queries does not look at matter least.
 *
 *      score = -f[layer][head] . k
 *
 * File: tensor `q_filters` [L][G][D]. Godey et al. 2025, arXiv:2503.02812, section 3.
 */
#include "common/base/bytes.h"
#include "presses/params.h"
#include "presses/press.h"

#include <stdlib.h>

struct qfilter_options {
    const char *file;
};

static const struct opt qfilter_table[] = {
    { .name = "file",
      .type = OPT_TEXT,
      .offset = offsetof(struct qfilter_options, file),
      .value = "F",
      .help = "the operator's name of the parameter file",
      .required = true },
};

static enum status qfilter_file_open(void **out, const char *path, const struct hparams *hp, struct err *err)
{
    const int64_t shape[] = { hp->layers, hp->kv_heads, hp->head_dim };
    struct params *p;
    float *filters = NULL;
    enum status st = params_open(&p, path, err);

    if (st != ST_OK)
        return st;
    st = params_read(p, "q_filters", shape, 3, &filters, err);
    params_close(p);
    *out = filters;
    return st;
}

static enum status qfilter_score(const struct press_stage *stage, struct press_round *round, const struct kv_rows *view,
                                 float *score, struct err *err)
{
    uint64_t count = (uint64_t)view->heads * (uint64_t)view->dim;
    const void *filter;
    enum status st = press_to_device(round, (const float *)stage->file + (uint64_t)round->in->layer * count,
                                     count * sizeof(float), &filter, err);

    if (st == ST_OK)
        round->be->ops->score_key_dot(round->be, view, filter, -1.0f, score);
    return st;
}

static enum status qfilter_admit(const struct press_stage *stage, const struct press_door *door, struct err *err)
{
    return press_admit_op(stage, door, door->ops->score_key_dot != NULL, "score_key_dot", err);
}

const struct press press_qfilter = {
    .name = "qfilter",
    .kind = PRESS_SCORE,
    .summary = "keeps the keys that lie along a learned direction of the queries",
    .source = "arXiv:2503.02812",
    .reference = "QFilterPress",
    .cost = "T G D",
    .differs = "",
    .options = qfilter_table,
    .option_count = ARRAY_LEN(qfilter_table),
    .options_bytes = sizeof(struct qfilter_options),
    .admit = qfilter_admit,
    .score = qfilter_score,
    .file_open = qfilter_file_open,
    .file_close = free,
    .row_alone = 1,
};
