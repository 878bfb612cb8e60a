/* SPDX-License-Identifier: Apache-2.0 */
/* held.h - what is remembered of every pressed layer while all of them are held. Inside presses/ only. */
#ifndef PLATEN_PRESSES_HELD_H
#define PLATEN_PRESSES_HELD_H

#include "presses/press.h"

#ifdef __cplusplus
extern "C" {
#endif

/* On devices, rows of K and V that a press lays out for a second pass have room for a multiple of so many in each head. */
enum { HELD_STRIDE = 512 };

/* Host memory, owned by the run. P pressed layers. */
struct press_held {
    int32_t places, heads;
    bool settled;
    int64_t tokens;
    float *score;       /* [P][G][T]; NULL until a press wants it */
    float *head_scores; /* [P][G], for presses that judge heads */
    int64_t *keep;      /* [P][G] rows per head; or, where total[p] >= 0, what heads compete for */
    int64_t *total;     /* [P] */
};

static inline float *held_scores(const struct press_held *h, int32_t place)
{
    return h->score + (int64_t)place * h->heads * h->tokens;
}

/* All heads of all layers compete: trunc(P G T ratio) of the lowest go; total[] says how many stay in each layer. */
void held_compete(struct press_held *h, const struct press_keep *keep);

/* The heads of one layer compete: trunc(G T ratio) go. */
void held_layerwise(struct press_round *round);

/* How many rows stay of `rows` when the fraction that goes is truncated. */
int64_t held_kept(const struct press_keep *keep, int64_t n, int64_t rows);

/* The k-th largest of count numbers; they are reordered. */
float held_kth_largest(float *x, int64_t count, int64_t k);

#ifdef __cplusplus
}
#endif
#endif
