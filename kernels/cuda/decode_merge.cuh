/* SPDX-License-Identifier: Apache-2.0 */
/*
 * decode_merge.cuh - how an item's output is put together: of the warps of a thread block, and of the thread blocks that
 * shared the item.
 *
 * Everyone leaves (max, sum, out) per query row. Warps meet in shared memory, 4 query rows at a time (WARPS x 4 x (D + 2)
 * floats); then a thread owns 4 channels of a query row. Thread blocks meet in device memory (hole.cuh): the one with an
 * item's last tile puts the pieces together once its own tiles are done. It waits for thread blocks that were started
 * before it alone, so none waits for room that it takes.
 */
#ifndef PLATEN_KERNELS_CUDA_DECODE_MERGE_CUH
#define PLATEN_KERNELS_CUDA_DECODE_MERGE_CUH

#include "kernels/cuda/decode_rows.cuh"
#include "kernels/cuda/hole.cuh"

enum { MERGED = 4 }; /* query rows that the warps put together at once */

/* What becomes of an item's rows in a thread block: its output; a piece; a piece that stays in shared memory, as the others
 * are about to be added to it. */
enum ending { WHOLE, PIECE, LAST };

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

/* What is known of 4 channels of a query row: the largest exponent, the sum of weights, the weighted sums. */
struct share {
    float top, sum, value[4];
};

template <int D>
__device__ __forceinline__ struct share warps_share(const struct merging<D> *merging, int32_t q, int32_t c)
{
    struct share x = { -CUDART_INF_F, 0.0f, {} };

#pragma unroll
    for (int k = 0; k < WARPS; k++)
        x.top = fmaxf(x.top, merging[k].max[q]);
#pragma unroll
    for (int k = 0; k < WARPS; k++) {
        const float f = fraction(merging[k].max[q], x.top);
        const float4 more = *(const float4 *)&merging[k].out[q][c];
        x.sum += f * merging[k].sum[q];
        x.value[0] += f * more.x, x.value[1] += f * more.y;
        x.value[2] += f * more.z, x.value[3] += f * more.w;
    }
    return x;
}

template <int D>
__device__ __forceinline__ void share_out(const struct decode_shape &s, int32_t unit_row, int32_t head, int32_t group,
                                          const struct share &x, int32_t q, int32_t c, bf16 *out)
{
    const float f = x.sum > 0.0f ? 1.0f / x.sum : 0.0f;

    *(uint2 *)(out + ((int64_t)(unit_row + q / group) * s.q_heads + head * group + q % group) * D + c) =
        make_uint2(bf16_pair(x.value[0] * f, x.value[1] * f), bf16_pair(x.value[2] * f, x.value[3] * f));
}

/* ---- pieces in device memory ---- */

/* Numbers of a piece before its pairs (top, sum), of which each thread has its own: it resets what it alone has read. */
template <int D> __device__ __forceinline__ int32_t pair_at(int32_t q, int32_t c)
{
    return CUDA_UNIT_QUERIES * D + (q * D + c) / 2;
}

template <int D> __device__ __forceinline__ void share_leave(const struct share &x, int32_t q, int32_t c, float *piece)
{
    relaxed_store(piece + q * D + c,
                  make_uint4(filled(x.value[0]), filled(x.value[1]), filled(x.value[2]), filled(x.value[3])));
    relaxed_store(piece + pair_at<D>(q, c), make_uint2(filled(x.top), filled(x.sum)));
}

/* A thread's part of some pieces. */
template <int COUNT> struct parts {
    uint4 value[COUNT];
    uint2 pair[COUNT]; /* top, sum */
};
template <int COUNT> __device__ __forceinline__ bool has_hole(const struct parts<COUNT> &p, int d)
{
    return p.value[d].x == CUDA_HOLE || p.value[d].y == CUDA_HOLE || p.value[d].z == CUDA_HOLE ||
           p.value[d].w == CUDA_HOLE || p.pair[d].x == CUDA_HOLE || p.pair[d].y == CUDA_HOLE;
}

/* Adds `pieces` pieces to x, many at once, as soon as all of these are there. Piece 0 stands at `first`, piece p at base +
 * 2 p pieces; they become holes. */
template <int D>
__device__ __forceinline__ struct share shares_add(struct share x, float *first, float *base, int32_t pieces, int32_t q,
                                                   int32_t c)
{
    enum { COUNT = D <= 128 ? 16 : 8 };

    for (int32_t p0 = 0; p0 < pieces; p0 += COUNT) {
        struct parts<COUNT> got;
        float *place[COUNT];
        float high = x.top;
        bool again = true;

#pragma unroll
        for (int d = 0; d < COUNT; d++) {
            place[d] = p0 + d == 0 ? first : base + (int64_t)(p0 + d) * 2 * DECODE_PIECE_FLOATS(D);
            got.value[d] = four_holes(), got.pair[d] = make_uint2(CUDA_HOLE, CUDA_HOLE);
        }
        while (again) {
#pragma unroll
            for (int d = 0; d < COUNT; d++)
                if (p0 + d < pieces && has_hole(got, d)) {
                    relaxed_load(place[d] + q * D + c, got.value[d]);
                    relaxed_load(place[d] + pair_at<D>(q, c), got.pair[d]);
                }
            again = false;
#pragma unroll
            for (int d = 0; d < COUNT; d++)
                again = again || (p0 + d < pieces && has_hole(got, d));
        }
#pragma unroll
        for (int d = 0; d < COUNT; d++)
            if (p0 + d < pieces)
                high = fmaxf(high, __uint_as_float(got.pair[d].x));
        const float less = fraction(x.top, high);
        x.top = high;
        x.sum *= less;
#pragma unroll
        for (int k = 0; k < 4; k++)
            x.value[k] *= less;
#pragma unroll
        for (int d = 0; d < COUNT; d++) {
            if (p0 + d >= pieces)
                continue;
            const float f = fraction(__uint_as_float(got.pair[d].x), high);
            x.sum += f * __uint_as_float(got.pair[d].y);
            x.value[0] += f * __uint_as_float(got.value[d].x), x.value[1] += f * __uint_as_float(got.value[d].y);
            x.value[2] += f * __uint_as_float(got.value[d].z), x.value[3] += f * __uint_as_float(got.value[d].w);
            relaxed_store(place[d] + q * D + c, four_holes());
            relaxed_store(place[d] + pair_at<D>(q, c), make_uint2(CUDA_HOLE, CUDA_HOLE));
        }
    }
    return x;
}

/* The pieces of this thread block's first item, which ends here, become its output; its own is in `merging` where it was
 * the LAST. */
template <int D>
__device__ __noinline__ void pieces_merge(const struct decode_shape &s, int32_t layer, int32_t group, bool own,
                                          const struct merging<D> *merging, bf16 *out)
{
    const int32_t cta = blockIdx.x;
    const struct decode_start *at = &s.start[(int64_t)layer * s.ctas + cta];
    const int32_t from = at->from, pieces = cta - from + !own, rows = at->first.unit_rows * group;
    float *const base = s.partial + (int64_t)from * 2 * DECODE_PIECE_FLOATS(D);
    float *const first = base + at->second * DECODE_PIECE_FLOATS(D);

    for (int32_t i = threadIdx.x; i < rows * (D / 4); i += WARPS * 32) {
        const int32_t q = i / (D / 4), c = i % (D / 4) * 4;
        struct share x = { -CUDART_INF_F, 0.0f, {} };

        if (own)
            x = warps_share<D>(merging, q, c);
        x = shares_add<D>(x, first, base, pieces, q, c);
        share_out<D>(s, at->first.unit_row, at->first.head, group, x, q, c, out);
    }
}

/* What the warps have of an item becomes its output, or a piece of it. */
template <int D>
__device__ __forceinline__ void item_end(const struct decode_shape &s, const struct work &w,
                                         const struct running<D> &run, int32_t group, float scale2, enum ending ending,
                                         int warp, int lane, struct merging<D> *merging, float *piece, bf16 *out)
{
    const int32_t rows = w.unit_rows * group;

    for (int32_t from = 0; from < rows; from += MERGED) {
        const int32_t count = min((int32_t)MERGED, rows - from);

        running_leave<D>(run, scale2, from, lane, merging[warp]);
        __syncthreads();
        if (ending == LAST)
            break;
        for (int32_t i = threadIdx.x; i < count * (D / 4); i += WARPS * 32) {
            const int32_t q = i / (D / 4), c = i % (D / 4) * 4;
            const struct share x = warps_share<D>(merging, q, c);

            if (ending == PIECE)
                share_leave<D>(x, from + q, c, piece);
            else
                share_out<D>(s, w.unit_row, w.head, group, x, from + q, c, out);
        }
        __syncthreads();
    }
}

#endif
