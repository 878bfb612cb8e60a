/* SPDX-License-Identifier: Apache-2.0 */
/*
 * reference.h - what each operation means, in double precision and the plainest loops there are.
 *
 * Host memory only. Where rounding is part of the meaning (a product's inputs in bf16), the caller rounds first. The
 * bounds say how large the numbers that were added up are in sum: tolerances are a rounding error times that.
 */
#ifndef PLATEN_TESTS_OPS_REFERENCE_H
#define PLATEN_TESTS_OPS_REFERENCE_H

#include "kernels/backend.h"

/* out[r][n] = sum_k in[r][k] w[n][k]; bound the same of magnitudes. */
void ref_matmul(const float *in, const float *w, int64_t rows, int64_t n, int64_t k, double *out, double *bound);

void ref_rms_norm(const double *x, const float *w, double eps, int32_t dim, double *out);

double ref_activation(enum activation kind, double x);

/* Half-split rotation of x[0 .. 2 pairs) by the f32 angle position * inv_freq[j]. */
void ref_rotate(double *x, const float *inv_freq, int32_t pairs, int64_t position, double scale);

/* One query over rows k, v [rows][dim]: out[dim]; *lse = log of the sum of exp; *bound the largest |v|. `from`: the
 * first row it sees. */
void ref_attend(const double *q, const double *k, const double *v, int64_t from, int64_t rows, int32_t dim,
                double scale, double *out, double *lse);

/* A planned block's bytes (all b->bytes) of rows k [rows][k_dim] and v [rows][dim]; masks stay zero. */
void ref_block_write(const struct kv_block *b, const float *k, const float *v, uint8_t *data);

/* The values of row `row` of a head: k [k_dim], v [dim]. */
void ref_block_row(const struct kv_block *b, uint8_t *data, int32_t head, int64_t row, double *k, double *v);

/* What an e4m3 code stands for. */
double ref_e4m3(int code);

/* Rows of scores that stay, as select_args says; keep[head][row] = 1. Scores of head g at score[at[g]]. */
void ref_select(const struct kv_rows *in, const struct select_args *args, const float *score, uint8_t *chosen);

#endif
