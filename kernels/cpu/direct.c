/* SPDX-License-Identifier: Apache-2.0 */
/*
 * direct.c - attention of few query rows on bf16 rows of the cache where they stand, with AVX512-BF16.
 *
 * The panels of tile.c pay when many query rows share them. The few of a step do not: laying K and V out would cost twice
 * what the products do. Here a row of the cache is read once, straight into the products.
 *
 *   scores   16 cache rows at a time. Four of them (0, 4, 8, 12 and so on) trade their 16-byte blocks, so that a vector
 *            holds one block of each and meets that block of q, four times over:
 *
 *                row 0  [ a0 a1 a2 a3 ]        [ a0 | b0 | c0 | d0 ] x [ q0 q0 q0 q0 ]
 *                row 4  [ b0 b1 b2 b3 ]  ──▶   [ a1 | b1 | c1 | d1 ] x [ q1 q1 q1 q1 ]     4 partial sums for each row,
 *                row 8  [ c0 c1 c2 c3 ]        ...                                         which are added at the end
 *                row 12 [ d0 d1 d2 d3 ]
 *
 *   values   two cache rows at a time are woven into pairs (row t, row t + 1) of a channel, as the pair product takes
 *            them; weaving works inside 16-byte blocks, so sums stand in another order until they are stored.
 *
 * A score, and an output, is one sum in one order, however many query rows are computed beside it.
 */
#include "kernels/cpu/isa.h"

#include "kernels/cpu/vector.h"

enum { VECTOR_BYTES = 64, VECTOR_CHANNELS = 32, BLOCK_BYTES = 16, ROWS = 16, FEW = 4 };

INLINE vf pair_product(vf acc, vu a, vu b)
{
    return (vf)_mm512_dpbf16_ps((__m512)acc, (__m512bh)a, (__m512bh)b);
}

/* 16 bytes, four times. */
INLINE vu block_of(const char *p)
{
    return (vu)_mm512_broadcast_i32x4(_mm_loadu_si128((const void *)p));
}

/* Vectors of four rows trade blocks: m[i] becomes block i of each. */
INLINE void trade_blocks(vu m[4])
{
    __m512i low0 = _mm512_shuffle_i32x4((__m512i)m[0], (__m512i)m[1], 0x44),
            low1 = _mm512_shuffle_i32x4((__m512i)m[2], (__m512i)m[3], 0x44),
            high0 = _mm512_shuffle_i32x4((__m512i)m[0], (__m512i)m[1], 0xee),
            high1 = _mm512_shuffle_i32x4((__m512i)m[2], (__m512i)m[3], 0xee);

    m[0] = (vu)_mm512_shuffle_i32x4(low0, low1, 0x88);
    m[1] = (vu)_mm512_shuffle_i32x4(low0, low1, 0xdd);
    m[2] = (vu)_mm512_shuffle_i32x4(high0, high1, 0x88);
    m[3] = (vu)_mm512_shuffle_i32x4(high0, high1, 0xdd);
}

/* Lane 4 r + i of the sum: the four lanes of block r of part[i]. */
INLINE vf add_parts(const vf part[4])
{
    __m512 a = (__m512)part[0], b = (__m512)part[1], c = (__m512)part[2], d = (__m512)part[3];
    __m512 ab = _mm512_add_ps(_mm512_unpacklo_ps(a, b), _mm512_unpackhi_ps(a, b));
    __m512 cd = _mm512_add_ps(_mm512_unpacklo_ps(c, d), _mm512_unpackhi_ps(c, d));

    return (vf)_mm512_add_ps(_mm512_shuffle_ps(ab, cd, 0x44), _mm512_shuffle_ps(ab, cd, 0xee));
}

/* Scores of `few` query rows against cache rows [row, row + 16), of which those past the end are the last one again.
 * `few` and `full`, whether none is past the end, are constants where this is inlined. */
INLINE void scores_of(const struct direct_rows *k, int32_t row, bool full, const char *q, int64_t q_stride, int few,
                      float *out, int64_t out_stride)
{
    const int64_t bytes = (int64_t)k->dim * 2;
    const char *rows = (const char *)k->rows;
    const int32_t last = k->count - 1;
    vf part[FEW][4] = { 0 };

    for (int64_t at = 0; at < bytes; at += VECTOR_BYTES)
#pragma GCC unroll 4
        for (int g = 0; g < 4; g++) {
            vu m[4];

#pragma GCC unroll 4
            for (int i = 0; i < 4; i++) {
                int32_t r = row + 4 * i + g;
                const char *from = rows + (full || r < last ? r : last) * bytes + at;

                m[i] = vu_load(from);
                __builtin_prefetch(from + k->ahead);
            }
            trade_blocks(m);
#pragma GCC unroll 4
            for (int i = 0; i < 4; i++)
#pragma GCC unroll 4
                for (int h = 0; h < few; h++)
                    part[h][g] = pair_product(part[h][g], block_of(q + h * q_stride + at + i * BLOCK_BYTES), m[i]);
        }
#pragma GCC unroll 4
    for (int h = 0; h < few; h++)
        vf_store(out + h * out_stride + row, add_parts(part[h]));
}

INLINE void scores_few(const struct direct_rows *k, const char *q, int64_t q_stride, int few, float *out,
                       int64_t out_stride)
{
    int32_t row = 0;

    for (; row + ROWS <= k->count; row += ROWS)
        scores_of(k, row, true, q, q_stride, few, out, out_stride);
    if (row < k->count)
        scores_of(k, row, false, q, q_stride, few, out, out_stride);
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

static void direct_scores(const struct direct_rows *k, const void *q, int64_t q_stride, int32_t q_rows, float *out,
                          int64_t out_stride)
{
    const char *from = q;

    for (; q_rows > 0; q_rows -= FEW, from += FEW * q_stride, out += FEW * out_stride)
        switch (q_rows) {
        case 1:
            scores_few(k, from, q_stride, 1, out, out_stride);
            break;
        case 2:
            scores_few(k, from, q_stride, 2, out, out_stride);
            break;
        case 3:
            scores_few(k, from, q_stride, 3, out, out_stride);
            break;
        default:
            scores_few(k, from, q_stride, 4, out, out_stride);
        }
}

static void direct_values(const struct direct_rows *v, const void *weights, int64_t weights_stride, int32_t q_rows,
                          float *out, int64_t out_stride)
{
    const char *from = weights;

    for (; q_rows > 0; q_rows -= FEW, from += FEW * weights_stride, out += FEW * out_stride)
        switch (q_rows) {
        case 1:
            values_few(v, from, weights_stride, 1, out, out_stride);
            break;
        case 2:
            values_few(v, from, weights_stride, 2, out, out_stride);
            break;
        case 3:
            values_few(v, from, weights_stride, 3, out, out_stride);
            break;
        default:
            values_few(v, from, weights_stride, 4, out, out_stride);
        }
}

const struct cpu_direct cpu_direct_avx512_bf16 = { .scores = direct_scores, .values = direct_values };
