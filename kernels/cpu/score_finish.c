/* SPDX-License-Identifier: Apache-2.0 */
/*
 * score_finish.c - statistics turned to the positions to come, and what makes a score of shares the press's score.
 *
 * R mixes channel j with j + D/2 only: [c -s; s c] with c, s the means of cos and sin over those positions.
 * PRESSES 2.3; Devoto et al. 2025, arXiv:2510.00636.
 */
#include "kernels/cpu/product.h"

#include <math.h>

struct turning {
    const struct rope_table *rope;
    int32_t dim;
    float *mean, *cov;
    double c[KV_HEAD_DIM_MAX / 2], s[KV_HEAD_DIM_MAX / 2];
};

/* Means of cos and sin per pair of channels over positions [from, from + count). */
static void mean_rotation(struct turning *t, int64_t from, int64_t count)
{
    for (int32_t j = 0; j < t->rope->dims / 2; j++) {
        for (int64_t p = from; p < from + count; p++) {
            float angle = (float)p * t->rope->inv_freq[j];

            t->c[j] += (double)cosf(angle);
            t->s[j] += (double)sinf(angle);
        }
        t->c[j] *= (double)t->rope->scale / (double)count;
        t->s[j] *= (double)t->rope->scale / (double)count;
    }
}

/* x = R x for a vector whose channels stand `stride` apart. */
static void turn(const struct turning *t, float *x, int64_t stride)
{
    const int32_t pairs = t->rope->dims / 2;

    for (int32_t j = 0; j < pairs; j++) {
        double a = x[j * stride], b = x[(j + pairs) * stride];

        x[j * stride] = (float)(a * t->c[j] - b * t->s[j]);
        x[(j + pairs) * stride] = (float)(b * t->c[j] + a * t->s[j]);
    }
}

static void turn_task(void *arg, int64_t head, int worker)
{
    const struct turning *t = arg;
    const int64_t dim = t->dim;

    (void)worker;
    turn(t, t->mean + head * dim, 1);
    for (int64_t i = 0; t->cov && i < dim; i++)
        turn(t, t->cov + (head * dim + i) * dim, 1);
    for (int64_t i = 0; t->cov && i < dim; i++)
        turn(t, t->cov + head * dim * dim + i, dim);
}

void cpu_rotate_stats(struct backend *be, const struct rope_table *rope, int64_t from, int64_t count, int32_t q_heads,
                      int32_t dim, float *mean, float *cov)
{
    struct turning t = { .rope = rope, .dim = dim, .mean = mean, .cov = cov };

    if (!rope->inv_freq)
        return;
    mean_rotation(&t, from, count);
    pool_run(cpu_of(be)->pool, q_heads, turn_task, &t);
}

void cpu_score_weigh(struct backend *be, const struct kv_rows *in, int64_t from, const float *v2, float eps,
                     float *score)
{
    float most = -INFINITY;

    (void)be;
    for (int32_t g = 0; g < in->heads; g++)
        for (int64_t r = from; r < in->rows[g]; r++) {
            float *x = &score[in->at[g] + r];

            if (v2)
                *x = (*x + eps) * sqrtf(v2[in->at[g] + r]);
            most = *x > most ? *x : most;
        }
    for (int32_t g = 0; g < in->heads; g++)
        for (int64_t r = 0; r < from && r < in->rows[g]; r++)
            score[in->at[g] + r] = isinf(most) ? 1.0f : most + 1.0f;
}

void cpu_score_share(struct backend *be, const struct kv_rows *in, int64_t tail, float *score)
{
    const int64_t rows = in->rows[0], body = rows > tail ? rows - tail : 0;
    float most = -INFINITY;

    (void)be;
    for (int64_t r = 0; r < rows; r++) {
        float sum = 0.0f;

        for (int32_t g = 0; g < in->heads; g++)
            sum += score[in->at[g] + r];
        sum /= (float)in->heads;
        most = r < body && sum > most ? sum : most;
        for (int32_t g = 0; g < in->heads; g++)
            score[in->at[g] + r] = r < body ? sum : isinf(most) ? 1.0f : most + 1.0f;
    }
}
