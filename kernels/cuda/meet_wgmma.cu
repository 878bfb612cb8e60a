/* SPDX-License-Identifier: Apache-2.0 */
/*
 * meet_wgmma.cu - columns and norms of meet.cu on warpgroups (sm_90a).
 *
 * A thread block owns 256 rows of one query head in shared memory, a warpgroup 64 of them; vectors come through a ring, 128
 * at a time, that a fifth warpgroup fills. While the products of one warpgroup are made, others add up their shares: powers
 * of two and products take the same time where heads have 128 channels, and either is the bound. Rows seen first, which meet the
 * most queries, come first. grid: query heads, row blocks. Shared memory: 194 KiB (128 channels).
 *
 * H200, 32 heads x 128, 2026-11-29: columns of 8,192 tokens 574 us (479 TFLOP/s; meet.cu: 1,148), norms of 4,096 rows and
 * vectors 227 us (605 TFLOP/s; meet.cu: 430).
 */
#include "kernels/cuda/numbers.cuh"
#include "kernels/cuda/rowwise.cuh"
#include "kernels/cuda/wgmma.cuh"

enum { GROUPS = 4, SLAB = GROUPS * 64, TILE = MEET_TILE, STAGES = 4, AHEAD = 1 };

template <int D> struct room {
    typedef ring<D, TILE, STAGES> vectors;
    enum {
        rows = vectors::panels * SLAB * 128,
        bytes = rows + vectors::bytes + 1024 /* to begin where panels may */
    };
};

/* What 128 vectors add to two rows of a thread. first: of those vectors, the first that sees the row (MASKED). */
template <int KIND, bool MASKED>
__device__ __forceinline__ void keep_all(const float (&s)[64], const float *offset, float scale2,
                                         const int32_t (&first)[2], int lane, float (&value)[2])
{
#pragma unroll
    for (int i = 0; i < TILE / 8; i++) {
        const int j = i * 8 + 2 * (lane & 3);
        const float2 pair = KIND <= MEET_LARGEST ? *(const float2 *)(offset + j) : make_float2(0.0f, 0.0f);
#pragma unroll
        for (int e = 0; e < 4; e++) {
            const float x = s[i * 4 + e];
            float &to = value[e >> 1];

            if (KIND == MEET_NORM1)
                to += fabsf(x);
            if (KIND == MEET_NORM2)
                to += x * x;
            if (KIND <= MEET_LARGEST) {
                const bool seen = !MASKED || j + (e & 1) >= first[e >> 1];
                const float y = fmaf(x, scale2, !seen ? -CUDART_INF_F : e & 1 ? pair.y : pair.x);
                to = KIND == MEET_LARGEST ? fmaxf(to, y) : to + power2(y);
            }
        }
    }
}

/* s = the 64 rows at `rows` times the 128 vectors at `vectors`; on its way when this returns. */
template <int D> __device__ __forceinline__ void meet_begin(float (&s)[64], uint32_t rows, uint32_t vectors)
{
    pinned(s);
    products_begin();
#pragma unroll
    for (int kk = 0; kk < D / 16; kk++)
        products(s, panel_at(rows + kk / 4 * SLAB * 128 + kk % 4 * 32),
                 panel_at(vectors + kk / 4 * TILE * 128 + kk % 4 * 32), kk > 0);
    products_commit();
}

/* The first vector that sees the row. */
__device__ __forceinline__ int32_t seen_from(const struct rows_view &in, const struct meet_args &a, int32_t g,
                                             int32_t row)
{
    return a.position == INT64_MAX || row >= in.rows[g] ? 0
                                                        : (int32_t)max(token_of(in, g, row) - a.position, (int64_t)0);
}

/* A warpgroup's 64 rows, from row0 on, and vectors from `begin` on. */
template <int D, int KIND>
__device__ __forceinline__ void meet_work(const struct rows_view &in, const struct meet_args &a, int32_t row0,
                                          int32_t begin, int32_t tiles, uint32_t own, uint32_t at, const float *offsets,
                                          float *out)
{
    typedef typename room<D>::vectors R;
    const int lane = threadIdx.x & 31;
    const int32_t h = blockIdx.x, group = a.q_heads / in.heads, g = h / group, rows = in.rows[g];
    const int32_t mine = row0 + (threadIdx.x >> 5 & 3) * 16 + (lane >> 2);
    const int32_t first[2] = { seen_from(in, a, g, mine), seen_from(in, a, g, mine + 8) };
    const int32_t all = __reduce_max_sync(0xffffffffu, max(first[0], first[1]));
    const int32_t blind = /* tiles that see none of the rows */
        row0 >= rows ? tiles : __shfl_sync(0xffffffffu, (seen_from(in, a, g, row0) - begin) / TILE, 0);
    float value[2], s[64];
    ring_place<STAGES> place;

    value[0] = value[1] = KIND == MEET_LARGEST ? -CUDART_INF_F : 0.0f;
    for (int32_t t = 0; t < tiles; t++, place.next()) {
        const float *offset = offsets + place.stage * TILE;
        const int32_t v = begin + t * TILE, seen[2] = { first[0] - v, first[1] - v };

        gate_wait(R::full(at, place.stage), place.round);
        if (t >= blind) {
            meet_begin<D>(s, own, at + place.stage * R::stage);
            products_wait<0>();
            pinned(s);
            if (KIND <= MEET_LARGEST && v < all)
                keep_all<KIND, true>(s, offset, a.scale * LOG2E, seen, lane, value);
            else
                keep_all<KIND, false>(s, offset, a.scale * LOG2E, seen, lane, value);
            __syncwarp();
        }
        if (lane == 0)
            gate_arrive(R::empty(at, place.stage));
    }
#pragma unroll
    for (int half = 0; half < 2; half++) {
        float x = value[half];

        for (int d = 1; d < 4; d <<= 1) {
            const float other = __shfl_xor_sync(0xffffffffu, x, d);
            x = KIND == MEET_LARGEST ? fmaxf(x, other) : x + other;
        }
        if ((lane & 3) == 0 && mine + half * 8 < rows)
            out[(int64_t)(a.by_group ? h % group : h) * a.out_stride + in.at[g] + mine + half * 8] =
                KIND == MEET_LARGEST ? power2(x)
                : KIND == MEET_NORM2 ? sqrtf(x)
                                     : x;
    }
}

/* The block's rows to shared memory, zeros past the last. By all but the ring's warpgroup; a barrier follows. */
template <int D>
__device__ __forceinline__ void rows_bring(const struct rows_view &in, const struct meet_args &a, int32_t g,
                                           int32_t row0, uint32_t to)
{
    const bf16 *from = (const bf16 *)(a.values ? in.v : in.k) + (in.first[g] + row0) * D;

    for (int unit = threadIdx.x; unit < SLAB * D / 8; unit += GROUPS * 128) {
        const int r = unit / (D / 8), c = unit % (D / 8);
        const bool there = row0 + r < in.rows[g];
        copy16_async(to + c / 8 * SLAB * 128 + panel_unit(r, c % 8), from + (there ? r : 0) * D + c * 8, there);
    }
    copies_commit();
    copies_wait<0>();
    operands_written();
}

template <int D, int KIND>
__global__ void __launch_bounds__((GROUPS + 1) * 128, 1)
    meet_wgmma_kernel(const __grid_constant__ struct rows_view in, const __grid_constant__ struct meet_args a,
                      float *out)
{
    typedef typename room<D>::vectors R;
    extern __shared__ char shared[];
    const uint32_t base = (shared_address(shared) + 1023) & ~1023u, at = base + room<D>::rows;
    const int wg = __shfl_sync(0xffffffffu, threadIdx.x >> 7, 0);
    const int32_t h = blockIdx.x, g = h / (a.q_heads / in.heads), row0 = blockIdx.y * SLAB;

    if (row0 >= in.rows[g])
        return;
    const int32_t begin = __shfl_sync(0xffffffffu, seen_from(in, a, g, row0) / TILE * TILE, 0);
    const int32_t tiles = __shfl_sync(0xffffffffu, ((int32_t)max(a.count - begin, (int64_t)0) + TILE - 1) / TILE, 0);
    if (threadIdx.x == 0)
        R::init(at, GROUPS * 4);
    if (wg < GROUPS)
        rows_bring<D>(in, a, g, row0, base);
    __syncthreads();
    if (wg == GROUPS) {
        const struct ring_source source = { (const bf16 *)a.vectors + (int64_t)h * a.head_stride, a.row_stride, begin,
                                            a.count, KIND <= MEET_LARGEST ? a.offset + h * a.offset_stride : NULL };
        registers_less<32>();
        ring_bring<D, TILE, STAGES, AHEAD>(source, tiles, at);
    } else {
        registers_more<112>();
        meet_work<D, KIND>(in, a, row0 + wg * 64, begin, tiles, base + wg * 64 * 128, at,
                           (const float *)(shared + (at + R::beside - shared_address(shared))), out);
    }
}

template <int D, int KIND>
static cudaError_t launch(const struct cuda_queue &q, const struct rows_view *in, const struct meet_args *a, float *out)
{
    const dim3 grid((unsigned)a->q_heads, (unsigned)int_ceil(in->rows_longest, SLAB));
    const cudaError_t e = allow_shared(meet_wgmma_kernel<D, KIND>, room<D>::bytes);

    if (e != cudaSuccess)
        return e;
    meet_wgmma_kernel<D, KIND><<<grid, (GROUPS + 1) * 128, room<D>::bytes, q.stream>>>(*in, *a, out);
    return cudaGetLastError();
}

template <int KIND>
static cudaError_t meet(const struct cuda_queue &q, const struct rows_view *in, const struct meet_args *a, float *out)
{
    return in->dim == 64   ? launch<64, KIND>(q, in, a, out)
           : in->dim == 96 ? launch<96, KIND>(q, in, a, out)
                           : launch<128, KIND>(q, in, a, out);
}

cudaError_t launch_meet_wgmma(struct cuda_queue q, enum meet_kind kind, const struct rows_view *in,
                              const struct meet_args *a, float *out)
{
    switch (kind) {
    case MEET_SUM:
        return meet<MEET_SUM>(q, in, a, out);
    case MEET_LARGEST:
        return meet<MEET_LARGEST>(q, in, a, out);
    case MEET_NORM1:
        return meet<MEET_NORM1>(q, in, a, out);
    default:
        return meet<MEET_NORM2>(q, in, a, out);
    }
}
