/* SPDX-License-Identifier: Apache-2.0 */
/* view.h - a view of random rows for checks of scores, and the comparison of scores. */
#ifndef PLATEN_TESTS_OPS_VIEW_H
#define PLATEN_TESTS_OPS_VIEW_H

#include "tests/ops/ops.h"

/* A dense or ragged view of random rows. */
struct layer_view {
    struct kv_rows rows;
    float *k, *v;
    int32_t *token;
    int64_t scores;
};

/* Dense: `tokens` rows of every head. Ragged: another part of the tokens in each. */
struct layer_view view_make(struct ops *o, int32_t heads, int32_t dim, int64_t tokens, bool ragged);

/* Row `row` of head g of x (the view's k or v), on the host. */
const float *view_row(const struct layer_view *w, const float *x, int32_t g, int64_t row);

double view_dot(const float *x, const float *y, int32_t dim);

/* Compares `count` scores on the device with `want`, within `tolerance` of the largest. */
void view_judge(struct ops *o, const char *what, const void *device, const double *want, int64_t count,
                double tolerance);

/* Poisoned room for scores. */
void *view_scores(struct ops *o, int64_t count);

#endif
