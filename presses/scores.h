/* SPDX-License-Identifier: Apache-2.0 */
/* scores.h - small loops over scores on the host that several presses share. Inside presses/ only. */
#ifndef PLATEN_PRESSES_SCORES_H
#define PLATEN_PRESSES_SCORES_H

#include "presses/press.h"

#ifdef __cplusplus
extern "C" {
#endif

/* First and last rows of a head that a score sets apart, cut to the head's rows. */
struct span {
    int64_t begin, end;
};
static inline struct span scores_body(const struct kv_rows *view, int32_t head, int64_t sink, int64_t tail)
{
    int64_t n = view->rows[head], begin = sink < n ? sink : n, end = n - tail > begin ? n - tail : begin;
    struct span s;

    s.begin = begin;
    s.end = end;
    return s;
}

/* The largest score of all heads' rows [sink, n - tail); -INFINITY where there are none. */
float scores_largest(const struct kv_rows *view, const float *score, int64_t sink, int64_t tail);

/* The first `sink` and the last `tail` rows of every head get `value`. */
void scores_set_ends(const struct kv_rows *view, float *score, int64_t sink, int64_t tail, float value);

/* The same with 1 + the largest of the others, as the reference protects rows; 1 where there are no others. */
void scores_protect(const struct kv_rows *view, float *score, int64_t sink, int64_t tail);

/* Minus the mean, by the standard deviation (divisor count - 1, at least 1e-6) of all heads' rows together. */
void scores_standardize(const struct kv_rows *view, float *score);

/* Mean of three neighbours, zeros outside, divisor 3; `room` [at[G]]. */
void scores_pool3(const struct kv_rows *view, float *score, float *room);

/* Every head gets the mean of all heads, row by row; heads are equally long. */
void scores_share(const struct kv_rows *view, float *score);

/* Rows of one head in order of score, best first, equal ones by row. order [count]. */
void scores_order(const float *score, int64_t count, int32_t *order);

/* `count` numbers, normal(0, 1), from (seed, stream) alone. */
void scores_normal(uint64_t seed, uint64_t stream, int64_t count, float *out);

#ifdef __cplusplus
}
#endif
#endif
