/* SPDX-License-Identifier: Apache-2.0 */
/*
 * product.h - what the scores of single presses share: rows of a view as f32, and products in f32.
 *
 * Scores are f32 whatever the cache's dtype, so these products always run on the f32 tiles of the instruction set.
 */
#ifndef PLATEN_KERNELS_CPU_PRODUCT_H
#define PLATEN_KERNELS_CPU_PRODUCT_H

#include "kernels/cpu/cpu.h"

#include <stdbool.h>

#ifdef __cplusplus
extern "C" {
#endif

/* K (values: V) rows [row, row + count) of a head as f32 [count][D]: in place, or turned into `room`. */
const float *view_rows(const struct cpu *c, const struct kv_rows *in, bool values, int32_t head, int64_t row,
                       int64_t count, float *room);

/* The longest head. */
int64_t view_longest(const struct kv_rows *in);

/* Columns of out that a product of n columns writes. */
int64_t product_width(const struct cpu *c, int64_t n);

/* Floats of b packed for n columns of depth k. */
int64_t product_floats(const struct cpu *c, int64_t n, int64_t k);

/* b from its n columns as rows [n][k], or from its k rows [k][n]. */
void product_pack_columns(const struct cpu *c, const float *columns, int64_t stride, int64_t n, int64_t k,
                          float *packed);
void product_pack_rows(const struct cpu *c, const float *rows, int64_t stride, int64_t n, int64_t k, float *packed);

/* out[m][product_width(n)] (+)= a[m][k] . b */
void product_run(const struct cpu *c, const float *a, int64_t a_stride, int64_t m, const float *packed, int64_t n,
                 int64_t k, float *out, int64_t out_stride, bool add);

#ifdef __cplusplus
}
#endif
#endif
