/* SPDX-License-Identifier: Apache-2.0 */
/*
 * stats_wgmma.cu - mean and covariance of the queries of each head on warpgroups (sm_90a), as stats.cu makes them.
 *
 * A thread block owns a head and a stretch of rows, which a warpgroup brings through a ring in shared memory, 64 at a time.
 * Another owns each block of 64 x 64 channels on or above the diagonal, and those on it the sums of the rows as well: a
 * product with ones. Sums of 64 rows are added to the whole in f32, rounded to nearest, as the tensor cores only cut off.
 * The bound is reading q once. grid: stretches, heads. partial f32 [H][stretches][D][D] and [D] behind each. Shared memory:
 * 165 KiB (128 channels).
 *
 * H200, 32 heads x 128, 32,768 rows, 2026-11-29: 98 us, 2.75 TB/s (stats.cu: 135); with 4 tiles on their way, not 7: 125.
 */
#include "kernels/cuda/stats.cuh"
#include "kernels/cuda/wgmma.cuh"

enum { ROWS = 64, STAGES = 10, AHEAD = 7, THREADS = 256 };

template <int D> struct room {
    typedef ring<D, ROWS, STAGES> rows;
    enum {
        panels = (D + 63) / 64,
        groups = panels * (panels + 1) / 2,
        ones = (rows::bytes + 15) & ~15,
        bytes = ones + 1024 + 1024, /* to begin where panels may */
        floats = D * D + D
    };
};

/* A block's sums of 64 x 64 products, and of its rows, to where the head's and stretch's belong. */
template <int D>
__device__ __forceinline__ void stats_store(const float (&sum)[32], const float (&mean)[2], int up, int across,
                                            float *to)
{
    const int warp = threadIdx.x >> 5 & 3, lane = threadIdx.x & 31;

#pragma unroll
    for (int half = 0; half < 2; half++) {
        const int i = up * 64 + warp * 16 + half * 8 + (lane >> 2);

        if (i >= D)
            break;
#pragma unroll
        for (int n = 0; n < 8; n++) {
            const int j = across * 64 + n * 8 + 2 * (lane & 3);
            if (j < D)
                *(float2 *)(to + i * D + j) = make_float2(sum[n * 4 + half * 2], sum[n * 4 + half * 2 + 1]);
        }
        if ((lane & 3) == 0 && up == across)
            to[D * D + i] = mean[half];
    }
}

template <int D> __device__ __forceinline__ void stats_work(int wg, int32_t tiles, uint32_t at, float *to)
{
    typedef typename room<D>::rows R;
    const int lane = threadIdx.x & 31, up = wg == 2, across = wg > 0; /* panels */
    const uint64_t ones = (uint64_t)((at + room<D>::ones) >> 4 & 0x3fff) | (uint64_t)8 << 16 | (uint64_t)8 << 32;
    float sum[32] = {}, mean[2] = {};
    ring_place<STAGES> place;

    for (int32_t t = 0; t < tiles; t++, place.next()) {
        const uint32_t here = at + place.stage * R::stage;
        float s[32], m[4];

        gate_wait(R::full(at, place.stage), place.round);
        pinned(s);
        pinned(m);
        products_begin();
#pragma unroll
        for (int kk = 0; kk < ROWS / 16; kk++) {
            const uint64_t left = panel_at(here + up * R::panel + kk * 2048);
            products_turned(s, left, panel_at(here + across * R::panel + kk * 2048), kk > 0);
            products_turned(m, left, ones, kk > 0);
        }
        products_commit();
        products_wait<0>();
        pinned(s);
        pinned(m);
        if (lane == 0)
            gate_arrive(R::empty(at, place.stage));
#pragma unroll
        for (int i = 0; i < 32; i++)
            sum[i] += s[i];
        mean[0] += m[0], mean[1] += m[2];
    }
    stats_store<D>(sum, mean, up, across, to);
}

template <int D>
__global__ void __launch_bounds__((room<D>::groups + 1) * 128)
    stats_wgmma_kernel(const bf16 *q, int32_t heads, int64_t rows, int64_t split_rows, float *partial)
{
    typedef room<D> R;
    extern __shared__ char shared[];
    const uint32_t at = (shared_address(shared) + 1023) & ~1023u;
    char *const panels = shared + (at - shared_address(shared));
    const int wg = __shfl_sync(0xffffffffu, threadIdx.x >> 7, 0);
    const int32_t h = blockIdx.y;
    const int64_t begin = (int64_t)blockIdx.x * split_rows, end = min(begin + split_rows, rows);
    const int32_t tiles = __shfl_sync(0xffffffffu, (int32_t)((max(end - begin, (int64_t)0) + ROWS - 1) / ROWS), 0);

    if (threadIdx.x < 256)
        ((uint32_t *)(panels + R::ones))[threadIdx.x] = 0x3f803f80;
    if (D % 64 != 0) /* channels that are not there */
        for (int i = threadIdx.x; i < R::rows::beside / 16; i += blockDim.x)
            ((uint4 *)panels)[i] = make_uint4(0, 0, 0, 0);
    operands_written();
    if (threadIdx.x == 0)
        R::rows::init(at, R::groups * 4);
    __syncthreads();
    if (wg == R::groups) {
        const struct ring_source source = { q + h * D, (int64_t)heads * D, begin, end, NULL };
        ring_bring<D, ROWS, STAGES, AHEAD>(source, tiles, at);
    } else {
        stats_work<D>(wg, tiles, at, partial + ((int64_t)h * gridDim.x + blockIdx.x) * R::floats);
    }
}

/* grid: THREADS entries of the matrix, heads */
template <int D>
__global__ void __launch_bounds__(THREADS)
    stats_join_kernel(const float *partial, int32_t splits, int64_t rows, float *mean, float *cov)
{
    const int32_t h = blockIdx.y, entry = blockIdx.x * THREADS + threadIdx.x, i = entry / D, j = entry % D;
    const int32_t from = i / 64 <= j / 64 ? i * D + j : j * D + i; /* the block lies on or above the diagonal */

    stats_join<D>(partial, splits, rows, h, entry, from, mean, cov);
}

template <int D>
static cudaError_t stats(const struct cuda_queue &q, const void *x, int32_t heads, int64_t rows, float *mean,
                         float *cov, void *partial)
{
    typedef room<D> R;
    const int64_t tiles = (rows + ROWS - 1) / ROWS, most = heads < q.sms ? q.sms / heads : 1;
    const int64_t splits = tiles < most ? tiles : most, each = (tiles + splits - 1) / splits * ROWS;
    const cudaError_t e = allow_shared(stats_wgmma_kernel<D>, R::bytes);

    if (e != cudaSuccess)
        return e;
    stats_wgmma_kernel<D><<<dim3((unsigned)splits, (unsigned)heads), (R::groups + 1) * 128, R::bytes, q.stream>>>(
        (const bf16 *)x, heads, rows, each, (float *)partial);
    stats_join_kernel<D><<<dim3(D * D / THREADS, (unsigned)heads), THREADS, 0, q.stream>>>(
        (const float *)partial, (int32_t)splits, rows, mean, cov);
    return cudaGetLastError();
}

cudaError_t launch_query_stats_wgmma(struct cuda_queue q, const void *x, int32_t heads, int32_t dim, int64_t rows,
                                     float *mean, float *cov, void *room)
{
    return dim == 64   ? stats<64>(q, x, heads, rows, mean, cov, room)
           : dim == 96 ? stats<96>(q, x, heads, rows, mean, cov, room)
                       : stats<128>(q, x, heads, rows, mean, cov, room);
}
