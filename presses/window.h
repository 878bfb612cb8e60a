/* SPDX-License-Identifier: Apache-2.0 */
/* window.h - the attention of the last tokens, which snapkv, tova, finch, simlayer and adakv's paper rule share
 * (PRESSES: the common window attention). */
#ifndef PLATEN_PRESSES_WINDOW_H
#define PLATEN_PRESSES_WINDOW_H

#include "presses/press.h"

#ifdef __cplusplus
extern "C" {
#endif

struct snapkv_options {
    int64_t window, kernel;
};

struct window_args {
    int64_t window;          /* last rows: whose queries count, and which get the pad */
    int32_t kernel;          /* pooling; 1: none */
    const float *row_weight; /* host [window], or NULL: every query counts 1 */
};

/* The queries of the last `window` tokens are needed. */
void window_need(struct chain_needs *needs, int64_t window);

/* Scores the view: the group's mean of the pooled mean over the window; the last `window` rows of every head get 1 + the
 * largest score. Heads with no more rows than the window are all window. */
enum status window_score(struct press_round *round, const struct kv_rows *view, const struct window_args *args,
                         float *score, struct err *err);

#ifdef __cplusplus
}
#endif
#endif
