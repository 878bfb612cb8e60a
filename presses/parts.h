/* SPDX-License-Identifier: Apache-2.0 */
/* parts.h - choosing from consecutive chunks of rows, each for itself (chunk, finch). Inside presses/ only. */
#ifndef PLATEN_PRESSES_PARTS_H
#define PLATEN_PRESSES_PARTS_H

#include "presses/press.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Rows [from, from + length) of every head, their scores in the places of the whole. */
struct kv_rows parts_view(const struct kv_rows *view, int64_t from, int64_t length);

/* The best rows of every chunk of `length` rows, by round->score and the round's keep for that many rows. */
enum status parts_select(struct press_round *round, int64_t length, int32_t *index, int64_t *first, struct err *err);

/* How many rows of n that gives in a head. */
int64_t parts_rows(const struct press_keep *keep, int64_t length, int64_t n);

#ifdef __cplusplus
}
#endif
#endif
