/* SPDX-License-Identifier: Apache-2.0 */
/*
 * score_loops.c - loops of the presses' scores over small matrices; compiled once per instruction set (CPU_ISA).
 *
 *      s [rows][width]   a block of scores: a row of the cache meets `width` queries
 *
 *      columns_exp       every column is a query: exp(s - largest), and their sum
 *      columns_join      many blocks' largest and sums become one factor per block and column
 *      rows_dot          a row's share of all these queries
 *
 * Sums run in a fixed order, so a block gives the same bits on any thread. Nothing here is parallel.
 */
#include "kernels/cpu/isa.h"

#include "kernels/cpu/vector.h"

#include <math.h>

/* ---- softmax by columns ---------------------------------------------------------------------------------------------- */

/* The largest of one vector of columns. Four at once: comparing waits for the comparison before. */
INLINE vf columns_largest(const float *s, int64_t rows, int32_t width)
{
    vf top[4] = { vf_set(-INFINITY), vf_set(-INFINITY), vf_set(-INFINITY), vf_set(-INFINITY) };
    int64_t r = 0;

    for (; r + 4 <= rows; r += 4)
        for (int i = 0; i < 4; i++)
            top[i] = vf_max(vf_load(s + (r + i) * width), top[i]);
    for (; r < rows; r++)
        top[0] = vf_max(vf_load(s + r * width), top[0]);
    return vf_max(vf_max(top[0], top[1]), vf_max(top[2], top[3]));
}

/* A number to measure by where all are -infinity. */
INLINE vf vf_finite(vf x)
{
    return vf_select((vi)(x == -INFINITY), vf_set(0.0f), x);
}

static void columns_exp(float *s, int64_t rows, int32_t width, float scale, float *max, float *sum)
{
    for (int32_t c = 0; c < width; c += LANES) {
        vf top = columns_largest(s + c, rows, width) * scale, base = vf_finite(top), part = { 0 };

        for (int64_t r = 0; r < rows; r++) {
            float *at = s + r * width + c;
            vf p = vf_exp(vf_load(at) * scale - base);

            part += p;
            vf_store(at, p);
        }
        vf_store(max + c, top);
        vf_store(sum + c, part);
    }
}

static void columns_join(float *max, const float *sum, int64_t blocks, int32_t width, const float *weight)
{
    for (int32_t c = 0; c < width; c += LANES) {
        vf base = vf_finite(columns_largest(max + c, blocks, width)), all = { 0 }, factor;

        for (int64_t b = 0; b < blocks; b++) {
            float *at = max + b * width + c;
            vf p = vf_exp(vf_load(at) - base);

            all += p * vf_load(sum + b * width + c);
            vf_store(at, p);
        }
        factor = vf_select((vi)(all > 0.0f), vf_load(weight + c) / all, vf_set(0.0f));
        for (int64_t b = 0; b < blocks; b++)
            vf_store(max + b * width + c, vf_load(max + b * width + c) * factor);
    }
}

static void rows_dot(const float *s, int64_t rows, int32_t width, const float *factor, float *out)
{
    for (int64_t r = 0; r < rows; r++) {
        vf part = { 0 };

        for (int32_t c = 0; c < width; c += LANES)
            part += vf_load(s + r * width + c) * vf_load(factor + c);
        out[r] += vf_sum(part);
    }
}

#define NAMED2(isa) cpu_score_loops_##isa
#define NAMED(isa) NAMED2(isa)

const struct cpu_score_loops NAMED(CPU_ISA) = {
    .columns_exp = columns_exp,
    .columns_join = columns_join,
    .rows_dot = rows_dot,
};
