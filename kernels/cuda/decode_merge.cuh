/* SPDX-License-Identifier: Apache-2.0 */
/*
 * decode_merge.cuh - how an item's output is put together: of the four warps of a thread block, and of the thread blocks
 * that shared the item.
 *
 * Everyone leaves (max, sum, out) per query row. Warps meet in shared memory, 4 query rows at a time (4 warps x 4 x (D + 2)
 * floats); thread blocks meet in device memory, and the one that arrives last reads all pieces. Then a thread owns 2 or 4
 * channels of a query row.
 */
#ifndef PLATEN_KERNELS_CUDA_DECODE_MERGE_CUH
#define PLATEN_KERNELS_CUDA_DECODE_MERGE_CUH

#include "kernels/cuda/decode_rows.cuh"

enum { MERGED = 4 }; /* query rows that four warps put together at once */

/* Leaves this warp's max (in exponents of 2), sum and out of query rows [from, from + MERGED) in shared memory. */
template <int D> struct merging {
    float max[MERGED], sum[MERGED], out[MERGED][D];
};

template <int D>
__device__ __forceinline__ void running_leave(const struct running<D> &run, float scale2, int from, int lane,
                                              struct merging<D> &to)
{
#pragma unroll
    for (int half = 0; half < 2; half++) {
        const int q = (lane >> 2) + half * 8 - from;
        float sum = run.sum[half];

        sum += __shfl_xor_sync(0xffffffffu, sum, 1);
        sum += __shfl_xor_sync(0xffffffffu, sum, 2);
        if (q < 0 || q >= MERGED)
            continue;
        if ((lane & 3) == 0) {
            to.max[q] = run.max[half] * scale2;
            to.sum[q] = sum;
        }
#pragma unroll
        for (int n = 0; n < D / 8; n++)
            *(float2 *)&to.out[q][n * 8 + 2 * (lane & 3)] = make_float2(run.out[n][2 * half], run.out[n][2 * half + 1]);
    }
}

__device__ __forceinline__ float fraction(float max, float top)
{
    return max == -CUDART_INF_F ? 0.0f : power2(max - top);
}

/* The thread block that holds tile `tile` of `total`, where `used` blocks share them evenly. */
__device__ __forceinline__ int32_t holder(int32_t tile, int32_t total, int32_t used)
{
    return (int32_t)((((int64_t)tile + 1) * used - 1) / total);
}

__device__ __forceinline__ int64_t piece_floats(int32_t dim)
{
    return CUDA_UNIT_QUERIES * (dim + 2);
}

template <int D>
__device__ __forceinline__ bf16 *out_at(const struct decode_shape &s, const struct work &w, int32_t group, int32_t q,
                                        int32_t c, bf16 *out)
{
    return out + ((int64_t)(w.unit_row + q / group) * s.q_heads + w.head * group + q % group) * D + c;
}

/* All pieces of an item, thread blocks [from, to], become its output: a thread takes 4 channels of a query row and asks
 * for many pieces at once. A piece is its thread block's first, unless the item begins behind another in the block `from`
 * (second). */
template <int D>
__device__ __noinline__ void pieces_merge(const struct decode_shape &s, const struct work &w, int32_t group,
                                          int32_t from, int32_t to, int32_t second, bf16 *out)
{
    enum { PIECES = D <= 128 ? 16 : 8 };
    const int32_t rows = w.unit_rows * group, pieces = to - from + 1;
    const float *base = s.partial + (int64_t)from * 2 * piece_floats(D);

    for (int32_t i = threadIdx.x; i < rows * (D / 4); i += WARPS * 32) {
        const int32_t q = i / (D / 4), c = i % (D / 4) * 4;
        float top = -CUDART_INF_F, sum = 0.0f, value[4] = {};

        for (int32_t p0 = 0; p0 < pieces; p0 += PIECES) {
            float2 weight[PIECES];
            float4 more[PIECES];
            float high = top;
#pragma unroll
            for (int d = 0; d < PIECES; d++) {
                const int32_t p = min(p0 + d, pieces - 1);
                const float *piece = base + (2 * (int64_t)p + (p == 0 ? second : 0)) * piece_floats(D);
                weight[d] = __ldcg((const float2 *)piece + q);
                more[d] = __ldcg((const float4 *)(piece + 2 * ROWS + q * D + c));
            }
#pragma unroll
            for (int d = 0; d < PIECES; d++) {
                if (p0 + d >= pieces)
                    weight[d].x = -CUDART_INF_F;
                high = fmaxf(high, weight[d].x);
            }
            const float less = fraction(top, high);
            top = high;
            sum *= less;
#pragma unroll
            for (int k = 0; k < 4; k++)
                value[k] *= less;
#pragma unroll
            for (int d = 0; d < PIECES; d++) {
                const float f = fraction(weight[d].x, high);
                sum += f * weight[d].y;
                value[0] += f * more[d].x, value[1] += f * more[d].y;
                value[2] += f * more[d].z, value[3] += f * more[d].w;
            }
        }
        const float f = sum > 0.0f ? 1.0f / sum : 0.0f;
        *(uint2 *)out_at<D>(s, w, group, q, c, out) =
            make_uint2(bf16_pair(value[0] * f, value[1] * f), bf16_pair(value[2] * f, value[3] * f));
    }
}

/* What the four warps have of an item becomes its output, or a piece of it. */
template <int D>
__device__ __forceinline__ void item_end(const struct decode_shape &s, const struct work &w,
                                         const struct running<D> &run, int32_t group, float scale2, bool alone,
                                         int warp, int lane, struct merging<D> *merging, float *piece, bf16 *out)
{
    const int32_t rows = w.unit_rows * group;

    for (int32_t from = 0; from < rows; from += MERGED) {
        const int32_t count = min((int32_t)MERGED, rows - from);

        running_leave<D>(run, scale2, from, lane, merging[warp]);
        __syncthreads();
        for (int32_t i = threadIdx.x; i < count * (D / 2); i += WARPS * 32) {
            const int32_t q = i / (D / 2), c = i % (D / 2) * 2;
            float top = -CUDART_INF_F, sum = 0.0f, x = 0.0f, y = 0.0f;
#pragma unroll
            for (int k = 0; k < WARPS; k++)
                top = fmaxf(top, merging[k].max[q]);
#pragma unroll
            for (int k = 0; k < WARPS; k++) {
                const float f = fraction(merging[k].max[q], top);
                const float2 more = *(const float2 *)&merging[k].out[q][c];
                sum += f * merging[k].sum[q];
                x += f * more.x;
                y += f * more.y;
            }
            if (alone) {
                const float f = sum > 0.0f ? 1.0f / sum : 0.0f;
                *(uint32_t *)out_at<D>(s, w, group, from + q, c, out) = bf16_pair(x * f, y * f);
            } else {
                *(float2 *)(piece + 2 * ROWS + (from + q) * D + c) = make_float2(x, y);
                if (c == 0)
                    *(float2 *)(piece + 2 * (from + q)) = make_float2(top, sum);
            }
        }
        __syncthreads();
    }
}

#endif
