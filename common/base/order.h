/* SPDX-License-Identifier: Apache-2.0 */
/* order.h - ascending order of numbers, for qsort. NaN has no place in it. */
#ifndef PLATEN_BASE_ORDER_H
#define PLATEN_BASE_ORDER_H

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

static inline int order_i32(const void *a, const void *b)
{
    const int32_t x = *(const int32_t *)a, y = *(const int32_t *)b;

    return (x > y) - (x < y);
}

static inline int order_f32(const void *a, const void *b)
{
    const float x = *(const float *)a, y = *(const float *)b;

    return (x > y) - (x < y);
}

static inline int order_f64(const void *a, const void *b)
{
    const double x = *(const double *)a, y = *(const double *)b;

    return (x > y) - (x < y);
}

#ifdef __cplusplus
}
#endif
#endif
