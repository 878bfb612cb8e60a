/* SPDX-License-Identifier: Apache-2.0 */
/* compactor.h - the two scores that compactor blends, on a part of the rows. Inside presses/ only. */
#ifndef PLATEN_PRESSES_COMPACTOR_H
#define PLATEN_PRESSES_COMPACTOR_H

#include "presses/press.h"

#ifdef __cplusplus
extern "C" {
#endif

/* `from`: the token of the view's row 0, where the view has no token map (its place among the part's queries, where block
 * has made some). behind: rows of the part after the view's last. */
enum status noncausal_part(struct press_round *round, const struct kv_rows *view, int64_t from, int64_t behind,
                           int64_t chunk, float *score, struct err *err);
enum status leverage_part(struct press_round *round, const struct kv_rows *view, int64_t from, int64_t sketch,
                          int64_t seed, float *score, struct err *err);
/* Whether a stage is a compactor whose blend is the round's ratio. */
bool compactor_follows_ratio(const struct press_stage *stage);
void noncausal_needs(struct chain_needs *needs);
enum status noncausal_admit(const struct press_stage *stage, const struct press_door *door, struct err *err);
enum status leverage_admit(const struct press_stage *stage, const struct press_door *door, struct err *err);

#ifdef __cplusplus
}
#endif
#endif
