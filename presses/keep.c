/* SPDX-License-Identifier: Apache-2.0 */
/*
 * keep.c - how many rows stay: the arithmetic that all keeps share.
 *
 * The budget of n rows at ratio r (the fraction removed) is max(1, trunc((double)n * (1 - r))), in doubles and in exactly
 * this order, as the reference computes it: 10 rows at 0.9 give trunc(0.99999...) = 0, so 1, and 1000 rows give 99.
 */
#include "presses/press.h"

int64_t press_keep_raw(const struct press_keep *keep, int64_t n)
{
    if (keep->rows > 0)
        return keep->rows < n ? keep->rows : n;
    return (int64_t)((double)n * (1.0 - keep->ratio));
}

int64_t press_keep_rows(const struct press_keep *keep, int64_t n)
{
    int64_t raw = press_keep_raw(keep, n);

    return n > 0 && raw < 1 ? 1 : raw;
}

double press_keep_ratio(const struct press_keep *keep, int64_t n)
{
    if (keep->rows > 0)
        return keep->rows < n ? 1.0 - (double)keep->rows / (double)n : 0.0;
    return keep->ratio;
}
