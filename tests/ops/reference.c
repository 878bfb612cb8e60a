/* SPDX-License-Identifier: Apache-2.0 */
/* reference.c - each operation in double precision, as its contract says it, with no thought of speed. */
#include "tests/ops/reference.h"

#include <math.h>
#include <stdlib.h>

void ref_matmul(const float *in, const float *w, int64_t rows, int64_t n, int64_t k, double *out, double *bound)
{
    for (int64_t r = 0; r < rows; r++)
        for (int64_t c = 0; c < n; c++) {
            double sum = 0, size = 0;

            for (int64_t i = 0; i < k; i++) {
                double product = (double)in[r * k + i] * (double)w[c * k + i];

                sum += product;
                size += fabs(product);
            }
            out[r * n + c] = sum;
            bound[r * n + c] = size;
        }
}

void ref_rms_norm(const double *x, const float *w, double eps, int32_t dim, double *out)
{
    double sum = 0;

    for (int32_t i = 0; i < dim; i++)
        sum += x[i] * x[i];
    for (int32_t i = 0; i < dim; i++)
        out[i] = x[i] / sqrt(sum / dim + eps) * (double)w[i];
}

double ref_activation(enum activation kind, double x)
{
    if (kind == ACT_SILU)
        return x / (1 + exp(-x));
    /* 0.5 x (1 + tanh y), written without the difference of near numbers */
    return x / (1 + exp(-2 * sqrt(2 / 3.14159265358979323846) * (x + 0.044715 * x * x * x)));
}

void ref_rotate(double *x, const float *inv_freq, int32_t pairs, int64_t position, double scale)
{
    for (int32_t i = 0; i < pairs; i++) {
        float angle = (float)position * inv_freq[i];
        double c = cos((double)angle) * scale, s = sin((double)angle) * scale, a = x[i], b = x[i + pairs];

        x[i] = a * c - b * s;
        x[i + pairs] = b * c + a * s;
    }
}

void ref_attend(const double *q, const double *k, const double *v, int64_t from, int64_t rows, int32_t dim,
                double scale, double *out, double *lse)
{
    double *score = malloc((size_t)(rows + 1) * sizeof *score), max = -INFINITY, sum = 0;

    for (int32_t i = 0; i < dim; i++)
        out[i] = 0;
    for (int64_t r = from; r < rows; r++) {
        score[r] = 0;
        for (int32_t i = 0; i < dim; i++)
            score[r] += q[i] * k[r * dim + i];
        score[r] *= scale;
        max = score[r] > max ? score[r] : max;
    }
    for (int64_t r = from; r < rows; r++)
        sum += exp(score[r] - max);
    for (int64_t r = from; r < rows; r++)
        for (int32_t i = 0; i < dim; i++)
            out[i] += exp(score[r] - max) / sum * v[r * dim + i];
    if (lse)
        *lse = max + log(sum);
    free(score);
}

/* One row of one head, as it competes. */
struct rival {
    float score;
    bool is_nan;
    bool newest;
    int64_t row;
    int32_t head;
};

static int better_first(const void *a, const void *b)
{
    const struct rival *x = a, *y = b;

    if (x->is_nan != y->is_nan)
        return x->is_nan ? -1 : 1;
    if (!x->is_nan && x->score != y->score)
        return x->score > y->score ? -1 : 1;
    if (x->row != y->row)
        return (x->row < y->row) == x->newest ? 1 : -1;
    return x->head < y->head ? -1 : x->head > y->head;
}

static void choose_best(const struct kv_rows *in, const struct select_args *args, const float *score, int32_t from,
                        int32_t to, int64_t count, uint8_t *chosen)
{
    struct rival *rivals = malloc((size_t)(in->at[in->heads] + 1) * sizeof *rivals);
    int64_t rivals_count = 0;

    for (int32_t g = from; g < to; g++)
        for (int64_t row = 0; row < in->rows[g]; row++) {
            const float s = score[in->at[g] + row];
            const bool newest = !isinf(args->protected_score) && (isnan(s) || s >= args->protected_score);

            if (!chosen[in->at[g] + row])
                rivals[rivals_count++] = (struct rival){ s, isnan(s), newest, row, g };
        }
    qsort(rivals, (size_t)rivals_count, sizeof *rivals, better_first);
    for (int64_t i = 0; i < count && i < rivals_count; i++)
        chosen[in->at[rivals[i].head] + rivals[i].row] = 1;
    free(rivals);
}

void ref_select(const struct kv_rows *in, const struct select_args *args, const float *score, uint8_t *chosen)
{
    int64_t left = args->total;

    for (int64_t i = 0; i < in->at[in->heads]; i++)
        chosen[i] = 0;
    for (int32_t g = 0; g < in->heads; g++) {
        int64_t wanted = args->total < 0 ? args->keep[g] : args->safe[g];

        choose_best(in, args, score, g, g + 1, wanted, chosen);
        left -= wanted < in->rows[g] ? wanted : in->rows[g];
    }
    if (args->total >= 0)
        choose_best(in, args, score, 0, in->heads, left, chosen);
}
