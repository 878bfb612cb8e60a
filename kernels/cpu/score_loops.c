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
 *      rows of K or V    norms, products with few vectors, sums and spans by channel
 *      doubles           small dense algebra, the inner loop always along a row
 *
 * Sums run in a fixed order, so a block gives the same bits on any thread. Nothing here is parallel.
 */
#include "kernels/cpu/isa.h"

#include "kernels/cpu/vector.h"

#include <assert.h>
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

/* ---- rows ------------------------------------------------------------------------------------------------------------- */

static void squares(const float *x, int64_t rows, int32_t dim, float *out)
{
    for (int64_t r = 0; r < rows; r++)
        out[r] = vf_dot(x + r * dim, x + r * dim, dim);
}

static void dots(const float *x, int64_t rows, int32_t dim, const float *vector, int32_t vectors, int64_t stride,
                 float *out)
{
    for (int64_t r = 0; r < rows; r++)
        for (int32_t v = 0; v < vectors; v++)
            out[v * stride + r] = vf_dot(x + r * dim, vector + v * dim, dim);
}

/* Channels of a vector wait for the row before; AT_ONCE vectors of them hide that. */
enum { AT_ONCE = 4 };

INLINE void weigh_channels(const float *x, int64_t rows, int32_t dim, const float *weight, int vectors, float *sum)
{
    vf part[AT_ONCE];

#pragma GCC unroll 4
    for (int i = 0; i < vectors; i++)
        part[i] = vf_load(sum + i * LANES);
    for (int64_t r = 0; r < rows; r++)
#pragma GCC unroll 4
        for (int i = 0; i < vectors; i++) {
            vf v = vf_load(x + r * dim + i * LANES);

            part[i] += v * (weight ? vf_set(weight[r]) : v);
        }
#pragma GCC unroll 4
    for (int i = 0; i < vectors; i++)
        vf_store(sum + i * LANES, part[i]);
}

/* sum[d] += x[r][d] times weight[r], or times itself. */
INLINE void sum_channels(const float *x, int64_t rows, int32_t dim, const float *weight, float *sum)
{
    int32_t d = 0;

    for (; d + AT_ONCE * LANES <= dim; d += AT_ONCE * LANES)
        weigh_channels(x + d, rows, dim, weight, AT_ONCE, sum + d);
    for (; d + LANES <= dim; d += LANES)
        weigh_channels(x + d, rows, dim, weight, 1, sum + d);
    for (; d < dim; d++)
        for (int64_t r = 0; r < rows; r++)
            sum[d] += x[r * dim + d] * (weight ? weight[r] : x[r * dim + d]);
}

static void weighted_sum(const float *x, int64_t rows, int32_t dim, const float *weight, float *sum)
{
    sum_channels(x, rows, dim, weight, sum);
}

static void channel_squares(const float *x, int64_t rows, int32_t dim, float *sum)
{
    sum_channels(x, rows, dim, NULL, sum);
}

INLINE void range_channels(const float *x, int64_t rows, int32_t dim, int vectors, float *least, float *most)
{
    vf low[AT_ONCE], high[AT_ONCE];

#pragma GCC unroll 4
    for (int i = 0; i < vectors; i++) {
        low[i] = vf_load(least + i * LANES);
        high[i] = vf_load(most + i * LANES);
    }
    for (int64_t r = 0; r < rows; r++)
#pragma GCC unroll 4
        for (int i = 0; i < vectors; i++) {
            vf v = vf_load(x + r * dim + i * LANES);

            low[i] = vf_min(v, low[i]);
            high[i] = vf_max(v, high[i]);
        }
#pragma GCC unroll 4
    for (int i = 0; i < vectors; i++) {
        vf_store(least + i * LANES, low[i]);
        vf_store(most + i * LANES, high[i]);
    }
}

static void channel_ranges(const float *x, int64_t rows, int32_t dim, float *least, float *most)
{
    int32_t d = 0;

    for (; d + AT_ONCE * LANES <= dim; d += AT_ONCE * LANES)
        range_channels(x + d, rows, dim, AT_ONCE, least + d, most + d);
    for (; d + LANES <= dim; d += LANES)
        range_channels(x + d, rows, dim, 1, least + d, most + d);
    for (; d < dim; d++)
        for (int64_t r = 0; r < rows; r++) {
            least[d] = x[r * dim + d] < least[d] ? x[r * dim + d] : least[d];
            most[d] = x[r * dim + d] > most[d] ? x[r * dim + d] : most[d];
        }
}

/* One row's: of (x - least) * inverse, first its mean, then what is left. */
INLINE float deviation_of(const float *x, int32_t dim, const float *least, const float *inverse)
{
    vf part = { 0 };
    float mean = 0, sum = 0;
    int32_t d = 0;

    for (; d + LANES <= dim; d += LANES)
        part += (vf_load(x + d) - vf_load(least + d)) * vf_load(inverse + d);
    for (; d < dim; d++)
        mean += (x[d] - least[d]) * inverse[d];
    mean = (mean + vf_sum(part)) / (float)dim;
    part = vf_set(0.0f);
    for (d = 0; d + LANES <= dim; d += LANES) {
        vf z = (vf_load(x + d) - vf_load(least + d)) * vf_load(inverse + d) - mean;

        part += z * z;
    }
    for (; d < dim; d++) {
        float z = (x[d] - least[d]) * inverse[d] - mean;

        sum += z * z;
    }
    return dim > 1 ? sqrtf((sum + vf_sum(part)) / (float)(dim - 1)) : 0.0f;
}

static void deviations(const float *x, int64_t rows, int32_t dim, const float *least, const float *most, float *out)
{
    float inverse[KV_HEAD_DIM_MAX];

    for (int32_t d = 0; d < dim; d++)
        inverse[d] = most[d] != least[d] ? 1.0f / (most[d] - least[d]) : 0.0f;
    for (int64_t r = 0; r < rows; r++)
        out[r] = deviation_of(x + r * dim, dim, least, inverse);
}

/* ---- columns of products ---------------------------------------------------------------------------------------------- */

static void add_power(const float *s, int64_t rows, int32_t width, int32_t power, float *parts)
{
    for (int64_t r = 0; r < rows; r++) {
        vf part = vf_load(parts + r * 16);

        for (int32_t c = 0; c < width; c += LANES) {
            vf v = vf_load(s + r * width + c);

            part += power == 1 ? vf_max(v, -v) : v * v;
        }
        vf_store(parts + r * 16, part);
    }
}

/* best and at [rows][16]: a lane keeps the first of its largest. */
static void best_columns(const float *s, int64_t rows, int32_t width, int32_t column, float *best, int32_t *at)
{
    vi first, here, lane_at;

    for (int l = 0; l < LANES; l++)
        first[l] = column + l;
    for (int64_t r = 0; r < rows; r++) {
        vf most = vf_load(best + r * 16);

        memcpy(&lane_at, at + r * 16, sizeof lane_at);
        here = first;
        for (int32_t c = 0; c < width; c += LANES, here += LANES) {
            vf v = vf_load(s + r * width + c);
            vi more = (vi)(v > most);

            most = vf_max(v, most);
            lane_at = (here & more) | (lane_at & ~more);
        }
        vf_store(best + r * 16, most);
        memcpy(at + r * 16, &lane_at, sizeof lane_at);
    }
}

static void best_end(const float *best, const int32_t *at, int64_t rows, float *value, int32_t *column)
{
    for (int64_t r = 0; r < rows; r++, best += 16, at += 16) {
        vf lanes = vf_load(best), most = vf_set(vf_largest(lanes));
        vi equal = (vi)(lanes == most), lane_at;
        int32_t first = INT32_MAX;

        memcpy(&lane_at, at, sizeof lane_at);
        lane_at = (lane_at & equal) | (INT32_MAX & ~equal);
        for (int l = 0; l < LANES; l++)
            first = lane_at[l] < first ? lane_at[l] : first;
        value[r] = most[0];
        column[r] = first;
    }
}

/* ---- doubles ------------------------------------------------------------------------------------------------------------ */

static void add_floats(double *sum, const float *x, int64_t count)
{
    int64_t i = 0;

    for (; i + DOUBLES <= count; i += DOUBLES)
        vd_store(sum + i, vd_load(sum + i) + vd_from_floats(vd_floats_load(x + i)));
    for (; i < count; i++)
        sum[i] += x[i];
}

/* y += a x */
INLINE void axpy(double *y, double a, const double *x, int64_t count)
{
    int64_t i = 0;

    for (; i + DOUBLES <= count; i += DOUBLES)
        vd_store(y + i, vd_load(y + i) + vd_load(x + i) * a);
    for (; i < count; i++)
        y[i] += x[i] * a;
}

static void multiply(const double *a, int64_t a_row, int64_t a_step, const double *b, int64_t rows, int64_t depth,
                     int64_t cols, double *out)
{
    memset(out, 0, (size_t)(rows * cols) * sizeof *out);
    for (int64_t r = 0; r < rows; r++)
        for (int64_t k = 0; k < depth; k++)
            axpy(out + r * cols, a[r * a_row + k * a_step], b + k * cols, cols);
}

/* a = L L', L in the lower half: row by row, from the rows above. */
static bool cholesky(double *a, int64_t n)
{
    for (int64_t r = 0; r < n; r++) {
        double *row = a + r * n;

        for (int64_t j = 0; j <= r; j++) {
            const double *above = a + j * n;
            vd part = { 0 };
            double sum = row[j];
            int64_t i = 0;

            for (; i + DOUBLES <= j; i += DOUBLES)
                part += vd_load(row + i) * vd_load(above + i);
            for (; i < j; i++)
                sum -= row[i] * above[i];
            for (int l = 0; l < DOUBLES; l++)
                sum -= part[l];
            if (j == r && !(sum > 0))
                return false;
            row[j] = j < r ? sum / above[j] : sqrt(sum);
        }
    }
    return true;
}

/* The lower half becomes its inverse. */
static void invert_lower(double *a, int64_t n)
{
    for (int64_t r = 0; r < n; r++) {
        double *row = a + r * n, sum[KV_HEAD_DIM_MAX] = { 0 };

        for (int64_t i = 0; i < r; i++)
            axpy(sum, row[i], a + i * n, i + 1);
        for (int64_t i = 0; i < r; i++)
            row[i] = -sum[i] / row[r];
        row[r] = 1.0 / row[r];
    }
}

static bool spd_inverse(double *a, int64_t n, double *inverse)
{
    assert(n <= KV_HEAD_DIM_MAX);
    if (!cholesky(a, n))
        return false;
    invert_lower(a, n);
    memset(inverse, 0, (size_t)(n * n) * sizeof *inverse);
    for (int64_t r = 0; r < n; r++) /* (L^-1)' L^-1 */
        for (int64_t i = 0; i <= r; i++)
            axpy(inverse + i * n, a[r * n + i], a + r * n, i + 1);
    for (int64_t i = 0; i < n; i++)
        for (int64_t j = 0; j < i; j++)
            inverse[j * n + i] = inverse[i * n + j];
    return true;
}

#define NAMED2(isa) cpu_score_loops_##isa
#define NAMED(isa) NAMED2(isa)

const struct cpu_score_loops NAMED(CPU_ISA) = {
    .columns_exp = columns_exp,
    .columns_join = columns_join,
    .rows_dot = rows_dot,
    .squares = squares,
    .dots = dots,
    .weighted_sum = weighted_sum,
    .channel_squares = channel_squares,
    .channel_ranges = channel_ranges,
    .deviations = deviations,
    .add_power = add_power,
    .best_columns = best_columns,
    .best_end = best_end,
    .add_floats = add_floats,
    .multiply = multiply,
    .spd_inverse = spd_inverse,
};
