/* SPDX-License-Identifier: Apache-2.0 */
/*
 * lukv - budgets per head from curves that were learned for the model.
 *
 *      keep rate of head g = 1 - curve[round(100 ratio) - 1][layer][g]      rows = rate * n, rounded so that the sum is too
 *
 * The first `sink` and the last `window` rows stay. File: npy [99][L][G] of prune ratios. arXiv:2602.08585.
 */
#include "common/base/bytes.h"
#include "presses/params.h"
#include "presses/scores.h"

#include <math.h>
#include <stdlib.h>

enum { RATIOS = 99 };

struct lukv_options {
    const char *file;
    int64_t sink, window;
};

static const struct opt lukv_table[] = {
    { .name = "file",
      .type = OPT_TEXT,
      .offset = offsetof(struct lukv_options, file),
      .value = "F",
      .help = "the operator's name of the parameter file",
      .required = true },
    { .name = "sink",
      .type = OPT_INT,
      .offset = offsetof(struct lukv_options, sink),
      .min = 0,
      .max = 65536,
      .fallback = "4",
      .help = "rows at the beginning that stay" },
    { .name = "window",
      .type = OPT_INT,
      .offset = offsetof(struct lukv_options, window),
      .min = 0,
      .max = 65536,
      .fallback = "1",
      .help = "rows at the end that stay" },
};

static enum status lukv_open(void **out, const char *path, const struct hparams *hp, struct err *err)
{
    const int64_t shape[] = { RATIOS, hp->layers, hp->kv_heads };
    struct params *p;
    float *curves = NULL;
    enum status st = params_open(&p, path, err);

    if (st != ST_OK)
        return st;
    st = params_read(p, "curve", shape, 3, &curves, err);
    params_close(p);
    *out = curves;
    return st;
}

/* Rows per head whose sum is the rounded sum of what each should have: the largest fractions get what is over. */
static void round_rows(const float *ideal, const int64_t *n, int32_t heads, int64_t *rows)
{
    float sum = 0, part[KV_HEADS_MAX];
    int32_t order[KV_HEADS_MAX];
    int64_t total, most = 0, base = 0;

    for (int32_t g = 0; g < heads; g++) {
        sum += ideal[g];
        most += n[g];
        rows[g] = (int64_t)floorf(ideal[g]);
        part[g] = ideal[g] - (float)rows[g];
        base += rows[g];
    }
    total = (int64_t)rintf(sum);
    total = total < heads ? heads : total;
    total = total > most ? most : total;
    scores_order(part, heads, order);
    for (int32_t i = 0; i < heads && i < total - base; i++)
        rows[order[i]]++;
    for (int32_t g = 0; g < heads; g++) {
        rows[g] = rows[g] < 1 ? 1 : rows[g];
        rows[g] = rows[g] > n[g] ? n[g] : rows[g];
    }
}

static enum status lukv_budget(const struct press_stage *stage, struct press_round *round, struct err *err)
{
    const struct lukv_options *o = stage->options;
    const struct kv_rows *view = &round->view;
    const float *curves = stage->file;
    double ratio = press_keep_ratio(&round->keep, view->rows[0]);
    int64_t at = (int64_t)rint(100.0 * ratio) - 1;
    float ideal[KV_HEADS_MAX], *host;

    (void)err;
    at = at < 0 ? 0 : at > RATIOS - 1 ? RATIOS - 1 : at;
    for (int32_t g = 0; g < view->heads; g++) {
        float rate = 1.0f - curves[(at * round->in->hp->layers + round->in->layer) * view->heads + g];

        ideal[g] = fminf(fmaxf(rate, 0.0f), 1.0f) * (float)view->rows[g];
    }
    round_rows(ideal, view->rows, view->heads, round->budget.keep);
    host = press_scores_get(round, view, round->score);
    scores_protect(view, host, o->sink, o->window);
    press_scores_put(round, view, round->score, host);
    round->budget.total = -1;
    round->budget.protected_score = INFINITY;
    return ST_OK;
}

static int64_t lukv_rows_max(const struct press_stage *stage, const struct press_keep *keep, int32_t place,
                             int32_t places, int64_t n)
{
    (void)stage;
    (void)keep;
    (void)place;
    (void)places;
    return n; /* the curves decide */
}

const struct press press_lukv = {
    .name = "lukv",
    .kind = PRESS_REFINE,
    .summary = "shares rows out by learned curves per head",
    .source = "arXiv:2602.08585",
    .reference = "LUKVPress",
    .cost = "T G",
    .differs = "The rows that lose really leave; the reference masks them.",
    .options = lukv_table,
    .option_count = ARRAY_LEN(lukv_table),
    .options_bytes = sizeof(struct lukv_options),
    .uneven = true,
    .hides_keep = true,
    .budget = lukv_budget,
    .rows_max = lukv_rows_max,
    .file_open = lukv_open,
    .file_close = free,
};
