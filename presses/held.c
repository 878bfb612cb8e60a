/* SPDX-License-Identifier: Apache-2.0 */
/*
 * held.c - competition over layers: how much of what must go, goes where.
 *
 *      scores of all layers ──k-th largest──▶ cut ──▶ rows above the cut per layer; of rows at the cut the smaller position
 *                                                     stays, then the lower layer, then the lower head
 */
#include "presses/held.h"
#include "common/base/arena.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

int64_t held_kept(const struct press_keep *keep, int64_t n, int64_t rows)
{
    if (keep->rows > 0)
        return keep->rows < n ? rows / n * keep->rows : rows;
    return rows - (int64_t)((double)rows * keep->ratio);
}

/* Quickselect, the middle of three as pivot; equal numbers stop both ends, so that many of them cost nothing extra. */
float held_kth_largest(float *x, int64_t count, int64_t k)
{
    int64_t low = 0, high = count - 1, want = k - 1;

    while (low < high) {
        float a = x[low], b = x[low + (high - low) / 2], c = x[high];
        float pivot = a > b ? (b > c ? b : a > c ? c : a) : (a > c ? a : b > c ? c : b);
        int64_t i = low, j = high;

        while (i <= j) {
            while (x[i] > pivot)
                i++;
            while (x[j] < pivot)
                j--;
            if (i <= j) {
                float t = x[i];

                x[i++] = x[j];
                x[j--] = t;
            }
        }
        if (want <= j)
            high = j;
        else if (want >= i)
            low = i;
        else
            break;
    }
    return x[want];
}

/* Gives `ties` rows with exactly the score `cut` to the layers, by position. */
static void share_ties(struct press_held *h, float cut, int64_t ties)
{
    for (int64_t t = 0; t < h->tokens && ties > 0; t++)
        for (int32_t p = 0; p < h->places && ties > 0; p++)
            for (int32_t g = 0; g < h->heads && ties > 0; g++)
                if (held_scores(h, p)[g * h->tokens + t] == cut) {
                    h->total[p]++;
                    ties--;
                }
}

void held_compete(struct press_held *h, const struct press_keep *keep)
{
    int64_t layer = h->heads * h->tokens, all = layer * h->places, kept = held_kept(keep, h->tokens, all);
    float *copy, cut;

    for (int32_t p = 0; p < h->places; p++)
        h->total[p] = kept == all ? layer : 0;
    if (kept == all || kept <= 0)
        return;
    copy = mem_alloc((size_t)all * sizeof *copy);
    memcpy(copy, h->score, (size_t)all * sizeof *copy);
    cut = held_kth_largest(copy, all, kept);
    free(copy);
    for (int64_t i = 0; i < all; i++)
        if (h->score[i] > cut) {
            h->total[i / layer]++;
            kept--;
        }
    share_ties(h, cut, kept);
}

void held_layerwise(struct press_round *round)
{
    int64_t rows = round->view.at[round->view.heads];

    for (int32_t g = 0; g < round->view.heads; g++)
        round->budget.safe[g] = 0;
    round->budget.total = held_kept(&round->keep, round->view.rows[0], rows);
    round->budget.protected_score = INFINITY;
}
