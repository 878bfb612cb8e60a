/* SPDX-License-Identifier: Apache-2.0 */
/* shared.h - choosing one set of rows for all heads from the sum of their scores (chunkkv, egchunkkv). Inside presses/ only. */
#ifndef PLATEN_PRESSES_SHARED_H
#define PLATEN_PRESSES_SHARED_H

#include "presses/press.h"

#ifdef __cplusplus
extern "C" {
#endif

/* t[r] = sum over heads of the scores, on the host, in scratch. */
float *shared_sum(struct press_round *round);

/* Rows whose mark is set stay in every head. */
void shared_choose(struct press_round *round, const uint8_t *mark, int32_t *index, int64_t *first);

#ifdef __cplusplus
}
#endif
#endif
