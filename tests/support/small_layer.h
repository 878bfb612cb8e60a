/* SPDX-License-Identifier: Apache-2.0 */
/*
 * small_layer.h - the small layer by a formula that tests/golden/press_vectors.json speaks of, as a press sees it.
 *
 *   64 tokens, 4 query heads, 2 KV heads of 8, width 16, 4 layers; f32; every tensor is value(seed, i), i = 0, 1, ...
 */
#ifndef PLATEN_TESTS_SMALL_LAYER_H
#define PLATEN_TESTS_SMALL_LAYER_H

#include "presses/press.h"

enum { SMALL_TOKENS = 64, SMALL_MORE = 16, SMALL_LAYERS = 4, SMALL_H = 4, SMALL_G = 2, SMALL_D = 8, SMALL_X = 16 };

struct small_layer {
    struct backend *be;
    struct hparams hp;
    struct press_layer in; /* everything set: all queries, the whole tail, hidden, lse */
    struct weight *o;
    float *inv_freq, *x, *q, *q_plain, *k, *v, *lse; /* k, v have room for 64 more rows per head */
};

/* The i-th number of the formula, in [-1, 1). */
double small_value(uint64_t seed, uint64_t i);

/* `count` of them into out. */
void small_fill(uint64_t seed, int64_t count, float *out);

/* What layer l adds to every seed. */
uint64_t small_offset(int32_t layer);

/* The layer over X(64 tokens) with everything a press may need. Asserts that the back end gives what it asks for. */
void small_open(struct small_layer *s, struct backend *be, int32_t layer);
void small_close(struct small_layer *s);

/* q, K and V rows of the inputs x [rows][16] at positions from `position` on: K, V are written at row `at` of every head,
 * q rotated to out [rows][H][D] (and before the rotation to plain, where not NULL). */
void small_project(struct small_layer *s, const float *x, int64_t rows, int64_t position, int64_t at, float *out,
                   float *plain);

#endif
