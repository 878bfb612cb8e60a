/* SPDX-License-Identifier: Apache-2.0 */
/*
 * thin_rows.cuh - what becomes of a row of a tile of thin.cu: a warp takes its TILE sums from shared memory, multiplies by
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

/* 1 / rms of a row of `in`, or 1. */
__device__ __forceinline__ float factor_of(const struct skinny_args &a, int32_t m, int lane)
{
    float sum = 0.0f;

    if (!a.square || m >= a.rows)
        return 1.0f;
    const int32_t row = a.index ? a.index[m] : m;
    for (int32_t p = lane; p < a.square_parts; p += 32)
        sum += __ldcg(a.square + p * THIN_ROWS_MAX + row);
    return rsqrtf(warp_sum(sum) / (float)a.k + a.eps);
}

__device__ __forceinline__ float biased(const struct skinny_args &a, float x, int32_t n)
{
    return a.bias ? x + a.bias[n] : x;
}

/* x += row, and what the next norm of x wants to know. */
__device__ __forceinline__ void row_add(const struct skinny_args &a, int32_t tile, int32_t m, const float *row,
                                        int lane)
{
    float *x = (float *)a.out + (int64_t)m * a.n + tile * TILE, before[TILE / 32], norm[TILE / 32], square = 0.0f;
    const int32_t outputs = a.n - tile * TILE;

#pragma unroll
    for (int i = 0; i < TILE / 32; i++) {
        const int32_t o = lane + 32 * i;
        before[i] = o < outputs ? __ldcg(x + o) : 0.0f;
        norm[i] = o < outputs && a.next.norm ? a.next.norm[tile * TILE + o] : 0.0f;
    }
#pragma unroll
    for (int i = 0; i < TILE / 32; i++) {
        const int32_t o = lane + 32 * i;
        if (o >= outputs)
            continue;
        const float sum = before[i] + biased(a, row[o], tile * TILE + o);
        x[o] = sum;
        square += sum * sum;
        if (a.next.norm)
            ((bf16 *)a.next.row)[(int64_t)m * a.n + tile * TILE + o] = rounded<bf16>(sum * norm[i]);
    }
    square = warp_sum(square);
    if (a.next.norm && lane == 0)
        a.next.square[tile * THIN_ROWS_MAX + m] = square;
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
__device__ __forceinline__ void head_place(const struct skinny_args &a, const struct rotate_args &t, int32_t head,
                                           int32_t m, const float *row, float factor, int lane)
{
    const bool query = head < t.q_heads, key = !query && head < t.q_heads + t.kv_heads;
    const float *norm = query ? t.q_norm : key ? t.k_norm : NULL;
    const int32_t half = (query || key) && t.inv_freq ? t.rope_dims / 2 : 0, n = head * t.dim;
    float normed = 1.0f;
    bf16 *to, *k, *v;

    if (query) {
        to = (bf16 *)t.q + ((int64_t)m * t.q_heads + head) * t.dim;
    } else {
        if (!place<bf16>(t, m, (head - t.q_heads) % t.kv_heads, &k, &v))
            return;
        to = key ? k : v;
    }
    if (norm) {
        float sum = 0.0f;
        for (int32_t c = lane; c < t.dim; c += 32) {
            const float x = biased(a, row[c] * factor, n + c);
            sum += x * x;
        }
        normed = rsqrtf(warp_sum(sum) / (float)t.dim + t.norm_eps);
    }
    const auto value = [&](int32_t c) { return biased(a, row[c] * factor, n + c) * (norm ? normed * norm[c] : 1.0f); };
    for (int32_t c = lane; c < half; c += 32) {
        const float x = value(c), y = value(c + half);
        float sine, cosine;
        sincosf((float)t.position[m] * table_at(t, m)[c], &sine, &cosine);
        cosine *= t.rope_scale;
        sine *= t.rope_scale;
        to[c] = rounded<bf16>(x * cosine - y * sine);
        to[c + half] = rounded<bf16>(y * cosine + x * sine);
    }
    for (int32_t c = 2 * half + lane; c < t.dim; c += 32)
        to[c] = rounded<bf16>(value(c));
}

template <int OUT>
__device__ __noinline__ void row_end(const struct skinny_args &a, const struct rotate_args &t, int32_t tile, int32_t m,
                                     const float *row, float factor, int lane)
{
    if constexpr (OUT == OUT_PLAIN) {
        if (a.accumulate)
            row_add(a, tile, m, row, lane);
        else
            row_write(a, tile, m, row, factor, lane);
    } else if constexpr (OUT == OUT_GATED) {
        row_gate(a, tile, m, row, factor, lane);
    } else {
        const int32_t heads = TILE / t.dim, all = t.q_heads + 2 * t.kv_heads;
        for (int32_t h = 0; h < heads && tile * heads + h < all; h++)
            head_place(a, t, tile * heads + h, m, row + h * t.dim, factor, lane);
    }
}

#endif
