/* SPDX-License-Identifier: Apache-2.0 */
/* scores.c - small loops over scores on the host that several presses share. */
#include "presses/scores.h"
#include "common/base/arena.h"
#include "kernels/random.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

float scores_largest(const struct kv_rows *view, const float *score, int64_t sink, int64_t tail)
{
    float largest = -INFINITY;

    for (int32_t g = 0; g < view->heads; g++) {
        struct span s = scores_body(view, g, sink, tail);

        for (int64_t r = s.begin; r < s.end; r++)
            largest = score[view->at[g] + r] > largest ? score[view->at[g] + r] : largest;
    }
    return largest;
}

void scores_set_ends(const struct kv_rows *view, float *score, int64_t sink, int64_t tail, float value)
{
    for (int32_t g = 0; g < view->heads; g++) {
        struct span s = scores_body(view, g, sink, tail);

        for (int64_t r = 0; r < s.begin; r++)
            score[view->at[g] + r] = value;
        for (int64_t r = s.end; r < view->rows[g]; r++)
            score[view->at[g] + r] = value;
    }
}

void scores_protect(const struct kv_rows *view, float *score, int64_t sink, int64_t tail)
{
    float largest = scores_largest(view, score, sink, tail);

    scores_set_ends(view, score, sink, tail, isinf(largest) ? 1.0f : largest + 1.0f);
}

void scores_standardize(const struct kv_rows *view, float *score)
{
    double sum = 0, squares = 0;
    int64_t count = 0;
    float mean, deviation;

    for (int32_t g = 0; g < view->heads; g++) {
        for (int64_t r = 0; r < view->rows[g]; r++)
            sum += score[view->at[g] + r];
        count += view->rows[g];
    }
    mean = count > 0 ? (float)(sum / (double)count) : 0.0f;
    for (int32_t g = 0; g < view->heads; g++)
        for (int64_t r = 0; r < view->rows[g]; r++)
            squares += ((double)score[view->at[g] + r] - mean) * ((double)score[view->at[g] + r] - mean);
    deviation = count > 1 ? (float)sqrt(squares / (double)(count - 1)) : 0.0f;
    deviation = deviation > 1e-6f ? deviation : 1e-6f;
    for (int32_t g = 0; g < view->heads; g++)
        for (int64_t r = 0; r < view->rows[g]; r++)
            score[view->at[g] + r] = (score[view->at[g] + r] - mean) / deviation;
}

void scores_pool3(const struct kv_rows *view, float *score, float *room)
{
    for (int32_t g = 0; g < view->heads; g++) {
        int64_t n = view->rows[g];
        float *s = score + view->at[g], *old = room + view->at[g];

        memcpy(old, s, (size_t)n * sizeof *s);
        for (int64_t r = 0; r < n; r++)
            s[r] = ((r > 0 ? old[r - 1] : 0.0f) + old[r] + (r + 1 < n ? old[r + 1] : 0.0f)) / 3.0f;
    }
}

void scores_share(const struct kv_rows *view, float *score)
{
    for (int64_t r = 0; r < view->rows[0]; r++) {
        float sum = 0;

        for (int32_t g = 0; g < view->heads; g++)
            sum += score[view->at[g] + r];
        for (int32_t g = 0; g < view->heads; g++)
            score[view->at[g] + r] = sum / (float)view->heads;
    }
}

/* Whether row a stands before row b. */
static bool stands_before(const float *score, int32_t a, int32_t b)
{
    if (score[a] != score[b])
        return !(score[a] < score[b]);
    return a < b;
}

/* Lets the entry at `at` sink until none below it stands later. */
static void sink_down(const float *score, int32_t *order, int64_t at, int64_t count)
{
    int32_t row = order[at];

    for (int64_t below; (below = 2 * at + 1) < count; at = below) {
        if (below + 1 < count && stands_before(score, order[below], order[below + 1]))
            below++;
        if (!stands_before(score, row, order[below]))
            break;
        order[at] = order[below];
    }
    order[at] = row;
}

/* A heap, because it wants no room: this also runs between two steps of a decode node. */
void scores_order(const float *score, int64_t count, int32_t *order)
{
    for (int64_t r = 0; r < count; r++)
        order[r] = (int32_t)r;
    for (int64_t r = count / 2; r-- > 0;)
        sink_down(score, order, r, count);
    for (int64_t left = count - 1; left > 0; left--) {
        int32_t last = order[left];

        order[left] = order[0];
        order[0] = last;
        sink_down(score, order, 0, left);
    }
}

void scores_normal(uint64_t seed, uint64_t stream, int64_t count, float *out)
{
    for (int64_t i = 0; i < count; i++) {
        uint64_t x = random_mix(random_mix(seed ^ random_mix(stream)) ^ (uint64_t)i);
        double a = ((double)(x >> 40) + 0.5) / 16777216.0, b = (double)(x & 0xffffff) / 16777216.0;

        out[i] = (float)(sqrt(-2.0 * log(a)) * cos(6.283185307179586 * b));
    }
}
