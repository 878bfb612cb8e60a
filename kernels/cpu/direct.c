/* SPDX-License-Identifier: Apache-2.0 */
/*
 * direct.c - attention of few query rows on bf16 rows of the cache where they stand, with AVX512-BF16.
 *
 * The panels of tile.c pay when many query rows share them. The few of a step do not: laying K and V out would cost twice
 * what the products do. Here a row of the cache is read once, straight into the products.
 *
 *   scores   16 cache rows at a time, 64 channels of them. Halves of two rows meet a half of q, twice:
 *
 *                row 0  [ a0 | a1 ]        [ a0 | b0 ] x [ q0 | q0 ]
 *                row 4  [ b0 | b1 ]  ──▶   [ a1 | b1 ] x [ q1 | q1 ]        8 partial sums for each row, which are added
 *                                          ...                              at the end, 16 rows side by side
 *
 *            q stays in registers; the only shuffles are those of the last sums.
 *
 *   values   two cache rows at a time are woven into pairs (row t, row t + 1) of a channel, as the pair product takes
 *            them; weaving works inside 16-byte blocks, so sums stand in another order until they are stored.
 *
 * A score, and an output, is one sum in one order, however many query rows are computed beside it.
 */
#include "kernels/cpu/isa.h"

#include "kernels/cpu/vector.h"

enum { VECTOR_BYTES = 64, VECTOR_CHANNELS = 32, HALF_BYTES = 32, SLICE_BYTES = 128, ROWS = 16, FEW = 4 };

INLINE vf pair_product(vf acc, vu a, vu b)
{
    return (vf)_mm512_dpbf16_ps((__m512)acc, (__m512bh)a, (__m512bh)b);
}

INLINE vu halves(const char *low, const char *high)
{
    return (vu)_mm512_inserti64x4(_mm512_castsi256_si512(_mm256_loadu_si256((const void *)low)),
                                  _mm256_loadu_si256((const void *)high), 1);
}

INLINE vf add_neighbours(vf a, vf b)
{
    return (vf)_mm512_add_ps(_mm512_unpacklo_ps((__m512)a, (__m512)b), _mm512_unpackhi_ps((__m512)a, (__m512)b));
}

INLINE vf add_pairs(vf a, vf b)
{
    return (vf)_mm512_add_ps(_mm512_shuffle_ps((__m512)a, (__m512)b, 0x44),
                             _mm512_shuffle_ps((__m512)a, (__m512)b, 0xee));
}

INLINE vf add_blocks(vf a, vf b)
{
    return (vf)_mm512_add_ps(_mm512_shuffle_f32x4((__m512)a, (__m512)b, 0x88),
                             _mm512_shuffle_f32x4((__m512)a, (__m512)b, 0xdd));
}

/* Partial sums of `few` query rows with rows 0 and 4 behind `rows`. Constants where these are inlined: `few`, `parts`
 * (halves in a slice), and `bytes` from row to row in the common case. */
INLINE void two_rows(const char *rows, int64_t bytes, int64_t ahead, vu q[FEW][4], int few, int parts, vf sum[FEW])
{
#pragma GCC unroll 4
    for (int i = 0; i < parts; i++) {
        vu both = halves(rows + i * HALF_BYTES, rows + 4 * bytes + i * HALF_BYTES);

        if (i % 2 == 0) {
            __builtin_prefetch(rows + i * HALF_BYTES + ahead);
            __builtin_prefetch(rows + 4 * bytes + i * HALF_BYTES + ahead);
        }
#pragma GCC unroll 4
        for (int h = 0; h < few; h++)
            sum[h] = pair_product(i == 0 ? vf_set(0.0f) : sum[h], q[h][i], both);
    }
}

/* The same with rows 0 to 7: sum[h] has four lanes of rows 0 to 3 (their first four partial sums, added), four of the
 * rest of those, then rows 4 to 7. */
INLINE void eight_rows(const char *rows, int64_t bytes, int64_t ahead, vu q[FEW][4], int few, int parts, vf sum[FEW])
{
    vf part[2][2][FEW];

#pragma GCC unroll 4
    for (int g = 0; g < 4; g++)
        two_rows(rows + g * bytes, bytes, ahead, q, few, parts, part[g / 2][g % 2]);
#pragma GCC unroll 4
    for (int h = 0; h < few; h++)
        sum[h] = add_pairs(add_neighbours(part[0][0][h], part[0][1][h]), add_neighbours(part[1][0][h], part[1][1][h]));
}

/* A slice of 16 rows: out[h][16] = their scores, or (add) += them. */
INLINE void sixteen_rows(const char *rows, int64_t bytes, int64_t ahead, vu q[FEW][4], int few, int parts, bool add,
                         float *out, int64_t out_stride)
{
    vf low[FEW], high[FEW];

    eight_rows(rows, bytes, ahead, q, few, parts, low);
    eight_rows(rows + 8 * bytes, bytes, ahead, q, few, parts, high);
#pragma GCC unroll 4
    for (int h = 0; h < few; h++) {
        vf sum = add_blocks(low[h], high[h]);

        vf_store(out + h * out_stride, add ? vf_load(out + h * out_stride) + sum : sum);
    }
}

/* The last rows, fewer than 16: filled up with zeros. */
INLINE void last_rows(const char *rows, int32_t count, int64_t bytes, vu q[FEW][4], int few, int parts, bool add,
                      float *out, int64_t out_stride)
{
    char room[ROWS * SLICE_BYTES] = { 0 };

    for (int32_t r = 0; r < count; r++)
        memcpy(room + r * SLICE_BYTES, rows + r * bytes, (size_t)parts * HALF_BYTES);
    sixteen_rows(room, SLICE_BYTES, 0, q, few, parts, add, out, out_stride);
}

/* Channels [at, at + 16 parts) of all cache rows. */
INLINE void scores_slice(const struct direct_rows *k, int32_t at, const char *q_rows, int64_t q_stride, int few,
                         int parts, float *out, int64_t out_stride)
{
    const int64_t bytes = (int64_t)k->dim * 2;
    const char *rows = (const char *)(k->rows + at);
    int32_t row = 0;
    vu q[FEW][4];

#pragma GCC unroll 4
    for (int h = 0; h < few; h++)
#pragma GCC unroll 4
        for (int i = 0; i < parts; i++) {
            const char *half = q_rows + h * q_stride + at * 2 + i * HALF_BYTES;

            q[h][i] = halves(half, half);
        }
    if (bytes == SLICE_BYTES)
        for (; row + ROWS <= k->count; row += ROWS)
            sixteen_rows(rows + row * bytes, SLICE_BYTES, k->ahead, q, few, parts, false, out + row, out_stride);
    for (; row + ROWS <= k->count; row += ROWS)
        sixteen_rows(rows + row * bytes, bytes, k->ahead, q, few, parts, at > 0, out + row, out_stride);
    if (row < k->count)
        last_rows(rows + row * bytes, k->count - row, bytes, q, few, parts, at > 0, out + row, out_stride);
}

INLINE void scores_few(const struct direct_rows *k, const char *q, int64_t q_stride, int few, float *out,
                       int64_t out_stride)
{
    int32_t at = 0;

    for (; at + 64 <= k->dim; at += 64)
        scores_slice(k, at, q, q_stride, few, 4, out, out_stride);
    if (at < k->dim)
        scores_slice(k, at, q, q_stride, few, 2, out, out_stride);
}

/* 32 sums of neighbouring channels, in the order in which weaving leaves them, and back. */
INLINE void sums_load(const float *from, vf sum[2])
{
    __m512 a = (__m512)vf_load(from), b = (__m512)vf_load(from + LANES);

    sum[0] = (vf)_mm512_shuffle_f32x4(a, b, 0x88);
    sum[1] = (vf)_mm512_shuffle_f32x4(a, b, 0xdd);
}

INLINE void sums_store(const vf sum[2], float *to)
{
    __m512 a = _mm512_shuffle_f32x4((__m512)sum[0], (__m512)sum[1], 0x44),
           b = _mm512_shuffle_f32x4((__m512)sum[0], (__m512)sum[1], 0xee);

    vf_store(to, (vf)_mm512_shuffle_f32x4(a, a, 0xd8));
    vf_store(to + LANES, (vf)_mm512_shuffle_f32x4(b, b, 0xd8));
}

/* Channels [32 at, 32 (at + vecs)) of `few` query rows. Both are constants where this is inlined. */
INLINE void values_of(const struct direct_rows *v, int32_t at, int vecs, const char *weights, int64_t weights_stride,
                      int few, float *out, int64_t out_stride)
{
    const int64_t bytes = (int64_t)v->dim * 2;
    const char *even = (const char *)v->rows + (int64_t)at * VECTOR_BYTES;
    vf sum[FEW][2][2];

#pragma GCC unroll 4
    for (int h = 0; h < few; h++)
#pragma GCC unroll 2
        for (int z = 0; z < vecs; z++)
            sums_load(out + h * out_stride + (at + z) * VECTOR_CHANNELS, sum[h][z]);
    for (int32_t t = 0; t < v->count; t += 2, even += 2 * bytes, weights += 4) {
        vu low[2], high[2];

#pragma GCC unroll 2
        for (int z = 0; z < vecs; z++) {
            const char *here = even + z * VECTOR_BYTES;
            __m512i x = (__m512i)vu_load(here),
                    y = t + 1 < v->count ? (__m512i)vu_load(here + bytes) : _mm512_setzero_si512();

            __builtin_prefetch(here + v->ahead);
            __builtin_prefetch(here + bytes + v->ahead);
            low[z] = (vu)_mm512_unpacklo_epi16(x, y);
            high[z] = (vu)_mm512_unpackhi_epi16(x, y);
        }
#pragma GCC unroll 4
        for (int h = 0; h < few; h++) {
            int32_t pair;
            vu both;

            memcpy(&pair, weights + h * weights_stride, sizeof pair);
            both = (vu)_mm512_set1_epi32(pair);
#pragma GCC unroll 2
            for (int z = 0; z < vecs; z++) {
                sum[h][z][0] = pair_product(sum[h][z][0], both, low[z]);
                sum[h][z][1] = pair_product(sum[h][z][1], both, high[z]);
            }
        }
    }
#pragma GCC unroll 4
    for (int h = 0; h < few; h++)
#pragma GCC unroll 2
        for (int z = 0; z < vecs; z++)
            sums_store(sum[h][z], out + h * out_stride + (at + z) * VECTOR_CHANNELS);
}

INLINE void values_few(const struct direct_rows *v, const char *weights, int64_t weights_stride, int few, float *out,
                       int64_t out_stride)
{
    int32_t at = 0;

    for (; (at + 2) * VECTOR_CHANNELS <= v->dim; at += 2)
        values_of(v, at, 2, weights, weights_stride, few, out, out_stride);
    if (at * VECTOR_CHANNELS < v->dim)
        values_of(v, at, 1, weights, weights_stride, few, out, out_stride);
}

/* `from` are query rows for scores and weights for values. A constant where it is inlined: `values`. */
INLINE void some_rows(bool values, const struct direct_rows *rows, const char *from, int64_t stride, int few,
                      float *out, int64_t out_stride)
{
    if (values)
        values_few(rows, from, stride, few, out, out_stride);
    else
        scores_few(rows, from, stride, few, out, out_stride);
}

INLINE void all_rows(bool values, const struct direct_rows *rows, const char *from, int64_t stride, int32_t q_rows,
                     float *out, int64_t out_stride)
{
    for (; q_rows > 0; q_rows -= FEW, from += FEW * stride, out += FEW * out_stride)
        switch (q_rows) {
        case 1:
            some_rows(values, rows, from, stride, 1, out, out_stride);
            break;
        case 2:
            some_rows(values, rows, from, stride, 2, out, out_stride);
            break;
        case 3:
            some_rows(values, rows, from, stride, 3, out, out_stride);
            break;
        default:
            some_rows(values, rows, from, stride, 4, out, out_stride);
        }
}

static void direct_scores(const struct direct_rows *k, const void *q, int64_t q_stride, int32_t q_rows, float *out,
                          int64_t out_stride)
{
    all_rows(false, k, q, q_stride, q_rows, out, out_stride);
}

static void direct_values(const struct direct_rows *v, const void *weights, int64_t weights_stride, int32_t q_rows,
                          float *out, int64_t out_stride)
{
    all_rows(true, v, weights, weights_stride, q_rows, out, out_stride);
}

const struct cpu_direct cpu_direct_avx512_bf16 = { .scores = direct_scores, .values = direct_values };
