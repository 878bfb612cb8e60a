/* SPDX-License-Identifier: Apache-2.0 */
/* critical.h - scores weighed by what a row's value becomes after the output projection. Inside presses/ only. */
#ifndef PLATEN_PRESSES_CRITICAL_H
#define PLATEN_PRESSES_CRITICAL_H

#include "presses/press.h"

#ifdef __cplusplus
extern "C" {
#endif

/* For both presses that weigh so: the back end has norms of values after the output projection. */
enum status critical_admit(const struct press_stage *stage, const struct press_door *door, struct err *err);

/* The best sure[g] rows of every head get FLT_MAX, the others (score + eps) times their norm. */
enum status critical_weigh(struct press_round *round, const struct kv_rows *view, const int64_t *sure, double eps,
                           float *score, struct err *err);

#ifdef __cplusplus
}
#endif
#endif
