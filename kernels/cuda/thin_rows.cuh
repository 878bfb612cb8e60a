/* SPDX-License-Identifier: Apache-2.0 */
/*
 * thin_rows.cuh - what becomes of a row of a tile of thin.cu or wide_wgmma.cu: a warp takes its TILE sums from shared memory, multiplies by
 * 1 / rms of the row of `in` where that was normed, adds the bias, and
 *
 *   plain        writes them, or adds them to x and leaves what the next norm of x reads
 *   gated        takes the first half as gates of the second
 *   q, k, v      norms and turns each head of the tile and puts it where attention wants it
 */
#ifndef PLATEN_KERNELS_CUDA_THIN_ROWS_CUH
#define PLATEN_KERNELS_CUDA_THIN_ROWS_CUH

#include "kernels/cuda/place.cuh"

enum { TILE = THIN_TILE };
enum thin_out { OUT_PLAIN, OUT_GATED, OUT_QKV };

/* What the end of a row takes from memory, asked for while weights are read: nothing that this launch writes. */

/* A lane's part of the squares of a row of `in`. */
struct squares {
    enum { EACH = THIN_WIDTH_MAX / THIN_TILE / 32 };
    float part[EACH];
};
__device__ __forceinline__ struct squares squares_read(const struct skinny_args &a, int32_t m, int lane)
{
    struct squares s = {};

    if (!a.square || m >= a.rows)
        return s;
    const int32_t row = a.index ? a.index[m] : m;
#pragma unroll
    for (int i = 0; i < squares::EACH; i++)
        if (lane + 32 * i < a.square_parts)
            s.part[i] = __ldcg(a.square + (lane + 32 * i) * WIDE_ROWS_MAX + row);
    return s;
}
/* 1 / rms of the row, or 1. */
__device__ __forceinline__ float factor_of(const struct skinny_args &a, const struct squares &s)
{
    float sum = 0.0f;

    if (!a.square)
        return 1.0f;
#pragma unroll
    for (int i = 0; i < squares::EACH; i++)
        sum += s.part[i];
    return rsqrtf(warp_sum(sum) / (float)a.k + a.eps);
}

template <int OUT> struct ready {
    __device__ void read(const struct skinny_args &, const struct rotate_args &, int32_t, int32_t, int)
    {
    }
};
/* x and the next norm's weights where x is added to. */
template <> struct ready<OUT_PLAIN> {
    float x[TILE / 32], norm[TILE / 32];
    __device__ void read(const struct skinny_args &a, const struct rotate_args &, int32_t tile, int32_t m, int lane)
    {
#pragma unroll
        for (int i = 0; i < TILE / 32; i++) {
            const int32_t o = tile * TILE + lane + 32 * i;
            const bool there = a.accumulate && m < a.rows && o < a.n;
            x[i] = there ? __ldcg((const float *)a.out + (int64_t)m * a.n + o) : 0.0f;
            norm[i] = there && a.next.norm ? a.next.norm[o] : 0.0f;
        }
    }
};
/* By how much channel c of row m turns: cosine, sine. */
__device__ __forceinline__ float2 turn_of(const struct rotate_args &t, int32_t m, int32_t c)
{
    float sine, cosine;

    sincosf((float)t.position[m] * table_at(t, m)[c], &sine, &cosine);
    return make_float2(cosine * t.rope_scale, sine * t.rope_scale);
}
/* How a row turns and where it goes, of any tile: a lane's channels are c = lane + 32 i of each half. */
template <> struct ready<OUT_QKV> {
    enum { EACH = TILE / 2 / 32 };
    float2 turn[EACH];
    bf16 *first; /* K of head 0; NULL: nowhere */
    __device__ void read_place(const struct skinny_args &a, const struct rotate_args &t, int32_t m)
    {
        first = m < a.rows ? tail_place<bf16>(t, m) : NULL;
    }
    __device__ void read(const struct skinny_args &a, const struct rotate_args &t, int32_t, int32_t m, int lane)
    {
        read_place(a, t, m);
#pragma unroll
        for (int i = 0; i < EACH; i++)
            turn[i] = m < a.rows && t.inv_freq && lane + 32 * i < t.rope_dims / 2 ? turn_of(t, m, lane + 32 * i)
                                                                                  : make_float2(1.0f, 0.0f);
    }
};

__device__ __forceinline__ float biased(const struct skinny_args &a, float x, int32_t n)
{
    return a.bias ? x + a.bias[n] : x;
}

/* x += row, and what the next norm of x wants to know. */
__device__ __forceinline__ void row_add(const struct skinny_args &a, const struct ready<OUT_PLAIN> &had, int32_t tile,
                                        int32_t m, const float *row, int lane)
{
    float square = 0.0f;

#pragma unroll
    for (int i = 0; i < TILE / 32; i++) {
        const int32_t o = lane + 32 * i;
        const int64_t at = (int64_t)m * a.n + tile * TILE + o;
        if (tile * TILE + o >= a.n)
            continue;
        const float sum = had.x[i] + biased(a, row[o], tile * TILE + o);
        ((float *)a.out)[at] = sum;
        square += sum * sum;
        if (a.next.norm)
            ((bf16 *)a.next.row)[at] = rounded<bf16>(sum * had.norm[i]);
    }
    square = warp_sum(square);
    if (a.next.norm && lane == 0)
        a.next.square[tile * WIDE_ROWS_MAX + m] = square;
}

__device__ __forceinline__ void row_write(const struct skinny_args &a, int32_t tile, int32_t m, const float *row,
                                          float factor, int lane)
{
    for (int32_t o = lane; o < TILE && tile * TILE + o < a.n; o += 32)
        ((bf16 *)a.out)[(int64_t)m * a.n + tile * TILE + o] =
            rounded<bf16>(biased(a, row[o] * factor, tile * TILE + o));
}

__device__ __forceinline__ void row_gate(const struct skinny_args &a, int32_t tile, int32_t m, const float *row,
                                         float factor, int lane)
{
    const int32_t half = TILE / 2, ff = a.n / 2;

    for (int32_t o = lane; o < half && tile * half + o < ff; o += 32) {
        const int32_t n = tile * half + o;
        const float gate = biased(a, row[o] * factor, n), up = biased(a, row[half + o] * factor, ff + n);
        ((bf16 *)a.out)[(int64_t)m * ff + n] = rounded<bf16>(activate(gate, a.kind) * up);
    }
}

/* A head of q, k or v: its norm, its turn, its place. */
__device__ __forceinline__ void head_place(const struct skinny_args &a, const struct rotate_args &t,
                                           const struct ready<OUT_QKV> &had, int32_t head, int32_t m, const float *row,
                                           float factor, int lane)
{
    const bool query = head < t.q_heads, key = !query && head < t.q_heads + t.kv_heads;
    const float *norm = query ? t.q_norm : key ? t.k_norm : NULL;
    const int32_t half = (query || key) && t.inv_freq ? t.rope_dims / 2 : 0, n = head * t.dim;
    float normed = 1.0f;
    const int64_t head_rows = (int64_t)KV_PAGE_TOKENS * t.dim;
    bf16 *to =
        query ? (bf16 *)t.q + ((int64_t)m * t.q_heads + head) * t.dim : had.first + (head - t.q_heads) * head_rows;

    if (!query && !had.first)
        return;
    if (norm) {
        float sum = 0.0f;
        for (int32_t c = lane; c < t.dim; c += 32) {
            const float x = biased(a, row[c] * factor, n + c);
            sum += x * x;
        }
        normed = rsqrtf(warp_sum(sum) / (float)t.dim + t.norm_eps);
    }
    const auto value = [&](int32_t c) { return biased(a, row[c] * factor, n + c) * (norm ? normed * norm[c] : 1.0f); };
#pragma unroll
    for (int i = 0; i < ready<OUT_QKV>::EACH; i++) {
        const int32_t c = lane + 32 * i;
        if (c >= half)
            continue;
        const float x = value(c), y = value(c + half);
        to[c] = rounded<bf16>(x * had.turn[i].x - y * had.turn[i].y);
        to[c + half] = rounded<bf16>(y * had.turn[i].x + x * had.turn[i].y);
    }
    for (int32_t c = 2 * half + lane; c < t.dim; c += 32)
        to[c] = rounded<bf16>(value(c));
}

template <int OUT>
__device__ __forceinline__ void row_end(const struct skinny_args &a, const struct rotate_args &t,
                                        const struct ready<OUT> &had, int32_t tile, int32_t m, const float *row,
                                        float factor, int lane)
{
    if constexpr (OUT == OUT_PLAIN) {
        if (a.accumulate)
            row_add(a, had, tile, m, row, lane);
        else
            row_write(a, tile, m, row, factor, lane);
    } else if constexpr (OUT == OUT_GATED) {
        row_gate(a, tile, m, row, factor, lane);
    } else {
        const int32_t heads = TILE / t.dim, all = t.q_heads + 2 * t.kv_heads;
        for (int32_t h = 0; h < heads && tile * heads + h < all; h++)
            head_place(a, t, had, tile * heads + h, m, row + h * t.dim, factor, lane);
    }
}

#endif
