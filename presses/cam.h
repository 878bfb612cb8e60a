/* SPDX-License-Identifier: Apache-2.0 */
/* cam.h - merging values into kept rows while tokens are generated. Inside presses/ only. */
#ifndef PLATEN_PRESSES_CAM_H
#define PLATEN_PRESSES_CAM_H

#include "presses/run.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Whether a merge with probability p happens; i, head: which. */
typedef bool (*cam_coin)(void *ctx, float p, int32_t layer, int32_t head, int64_t row);

/*
 * Merges the values of rows that go into those that stay, in place, one set of rows for all heads.
 *
 *   score [n]       of the rows, larger stays; order [n]: rows by score, best first
 *   kept            the best `kept` stay; of the others the best `merges` are candidates
 *   sum [G][stride] attention that every row got
 *   v [G][n][D]     f32
 */
struct cam_merge {
    const int32_t *order;
    int64_t n, kept, merges, window;
    const float *sum;
    int64_t stride;
    float *v;
    int32_t heads, dim, layer;
    /* scratch: rows [n] is left with the `kept` rows that stay first, ascending */
    int32_t *rows;
    uint8_t *mark; /* [n] */
    float *old;    /* as v */
    cam_coin coin;
    void *ctx;
};
void cam_merge_values(const struct cam_merge *m);

#ifdef __cplusplus
}
#endif
#endif
