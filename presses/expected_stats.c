/* SPDX-License-Identifier: Apache-2.0 */
/*
 * expected_stats - expected attention with query statistics learned beforehand.
 *
 * As `expected`, but mean and covariance of the queries come from a file: tensors `query_mean` [L][H][D] and `query_cov`
 * [L][H][D][D], before the rotation. Needs only K and V. Devoto et al. 2025, arXiv:2510.00636.
 */
#include "common/base/bytes.h"
#include "presses/params.h"
#include "presses/queries.h"

#include <stdlib.h>

struct expected_stats_options {
    const char *file;
    struct expected_options expected;
};

#define AT(member) offsetof(struct expected_stats_options, member)
static const struct opt expected_stats_table[] = {
    { .name = "file",
      .type = OPT_TEXT,
      .offset = AT(file),
      .value = "F",
      .help = "the operator's name of the parameter file",
      .required = true },
    { .name = "future",
      .type = OPT_INT,
      .offset = AT(expected.future),
      .min = 1,
      .max = 65536,
      .fallback = "512",
      .help = "positions to come that count" },
    { .name = "sink",
      .type = OPT_INT,
      .offset = AT(expected.sink),
      .min = 0,
      .max = 65536,
      .fallback = "4",
      .help = "rows at the beginning that stay" },
    { .name = "cov", .type = OPT_FLAG, .offset = AT(expected.cov), .fallback = "on", .help = "use the covariance" },
    { .name = "vnorm",
      .type = OPT_FLAG,
      .offset = AT(expected.vnorm),
      .fallback = "on",
      .help = "times the norm of the value" },
    { .name = "eps",
      .type = OPT_FLOAT,
      .offset = AT(expected.eps),
      .min = 0,
      .max = 1e6,
      .fallback = "0",
      .help = "added before that" },
};
#undef AT

struct stats_file {
    float *mean, *cov;
};

static void stats_close(void *file)
{
    struct stats_file *f = file;

    if (!f)
        return;
    free(f->mean);
    free(f->cov);
    free(f);
}

static enum status stats_open(void **out, const char *path, const struct hparams *hp, struct err *err)
{
    const int64_t shape[] = { hp->layers, hp->q_heads, hp->head_dim, hp->head_dim };
    struct stats_file *f;
    struct params *p;
    enum status st = params_open(&p, path, err);

    if (st != ST_OK)
        return st;
    f = calloc(1, sizeof *f);
    st = params_read(p, "query_mean", shape, 3, &f->mean, err);
    if (st == ST_OK)
        st = params_read(p, "query_cov", shape, 4, &f->cov, err);
    params_close(p);
    if (st == ST_OK)
        *out = f;
    else
        stats_close(f);
    return st;
}

static enum status stats_score(const struct press_stage *stage, struct press_round *round, const struct kv_rows *view,
                               float *score, struct err *err)
{
    const struct expected_stats_options *o = stage->options;
    const struct stats_file *f = stage->file;
    int64_t count = (int64_t)round->in->hp->q_heads * round->in->hp->head_dim, layer = round->in->layer;
    struct query_stats stats;
    enum status st = query_stats_given(round, f->mean + layer * count,
                                       o->expected.cov ? f->cov + layer * count * round->in->hp->head_dim : NULL,
                                       o->expected.future, &stats, err);

    return st == ST_OK ? expected_score_with(round, view, &stats, &o->expected, score, err) : st;
}

static enum status stats_admit(const struct press_stage *stage, const struct press_door *door, struct err *err)
{
    enum status st = query_admit(stage, door, err);

    if (st == ST_OK)
        st = press_admit_op(stage, door, door->ops->score_expected != NULL, "score_expected", err);
    return st == ST_OK ? press_admit_op(stage, door, door->ops->row_squares != NULL, "row_squares", err) : st;
}

const struct press press_expected_stats = {
    .name = "expected-stats",
    .kind = PRESS_SCORE,
    .summary = "keeps what future queries are expected to attend to, by statistics from a file",
    .source = "arXiv:2510.00636",
    .reference = "ExpectedAttentionStatsPress",
    .cost = "T H D D",
    .differs = "",
    .options = expected_stats_table,
    .option_count = ARRAY_LEN(expected_stats_table),
    .options_bytes = sizeof(struct expected_stats_options),
    .admit = stats_admit,
    .score = stats_score,
    .file_open = stats_open,
    .file_close = stats_close,
};
