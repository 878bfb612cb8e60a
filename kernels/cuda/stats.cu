/* SPDX-License-Identifier: Apache-2.0 */
/*
 * stats.cu - mean and covariance of the queries of each head, and the small sums that presses take over rows.
 *
 *   mean   [H][D]       a block owns a head and a stretch of 512 rows, f64 sums; a second launch adds the stretches
 *   both   [H][D][D]    rows are read once, 64 at a time: their sum and x' x on the tensor cores, less mean' mean in the
 *                       end. Products of bf16 are exact and sums in f32, so that the difference keeps what it needs.
 *                       Stretches leave partial sums that are added in order, so that two runs agree bit by bit
 *
 * Where a card has warpgroups' instructions, stats_wgmma.cu makes both.
 *
 * Devoto et al. 2025, arXiv:2510.00636. f32 and other head sizes: mean, then a thread owns an entry of the matrix.
 */
#include "kernels/cuda/stats.cuh"

enum { STRETCH = STATS_STRETCH, TILE = 64, THREADS = 256, ROWS = 64 };

/* grid: stretches, heads */
template <typename T> __global__ void mean_kernel(const T *q, int32_t heads, int32_t dim, int64_t rows, double *partial)
{
    __shared__ double part[THREADS];
    const int32_t h = blockIdx.y, lanes = THREADS / dim > 0 ? THREADS / dim : 1;
    const int64_t begin = (int64_t)blockIdx.x * STRETCH, end = min(begin + STRETCH, rows);

    for (int32_t c0 = 0; c0 < dim; c0 += THREADS) {
        const int32_t c = c0 + (int32_t)threadIdx.x % min(dim, (int32_t)THREADS),
                      turn = threadIdx.x / min(dim, (int32_t)THREADS);
        double sum = 0.0;

        if (turn < lanes && c < dim)
            for (int64_t r = begin + turn; r < end; r += lanes)
                sum += number(q[(r * heads + h) * dim + c]);
        part[threadIdx.x] = sum;
        __syncthreads();
        if (turn == 0 && c < dim) {
            for (int32_t k = 1; k < lanes; k++)
                sum += part[threadIdx.x + k * dim];
            partial[((int64_t)h * gridDim.x + blockIdx.x) * dim + c] = sum;
        }
        __syncthreads();
    }
}

__global__ void mean_join_kernel(const double *partial, int32_t stretches, int32_t dim, int64_t rows, float *mean)
{
    const int32_t h = blockIdx.x;

    for (int32_t c = threadIdx.x; c < dim; c += blockDim.x) {
        double sum = 0.0;
        for (int32_t s = 0; s < stretches; s++)
            sum += partial[((int64_t)h * stretches + s) * dim + c];
        mean[h * dim + c] = (float)(sum / (double)rows);
    }
}

/* Sums of x and of x x' over a stretch of rows. A warp owns 16 channels; of its products with the others it makes those
 * with its own block of 16 and the next W / 2, around the circle of the W blocks, so that each pair of blocks meets once.
 * Sums of 64 rows are added to the whole in f32, rounded to nearest, as the tensor cores only cut off.
 * grid: splits, heads. partial f32 [H][splits][D][D] and [D] behind each. */
template <int D> struct moments {
    enum {
        row = D * 2 + 16,
        stage = TILE * row,
        stages = 3,
        bytes = stages * stage,
        warps = D / 16,
        floats = D * D + D
    };
};

template <int D>
__device__ __forceinline__ void moments_fetch(const bf16 *q, int32_t heads, int32_t h, int64_t at, int64_t end,
                                              uint32_t to)
{
    for (int unit = threadIdx.x; unit < TILE * D / 8; unit += D * 2) {
        const int r = unit / (D / 8), c = unit % (D / 8);
        const bool there = at + r < end;
        copy16_async(to + r * moments<D>::row + c * 16, q + ((there ? at + r : 0) * heads + h) * D + c * 8, there);
    }
    copies_commit();
}

template <int D>
__global__ void __launch_bounds__(D * 2, 2)
    moments_kernel(const bf16 *q, int32_t heads, int64_t rows, int64_t split_rows, float *partial)
{
    enum { ROW = moments<D>::row, W = moments<D>::warps, STAGES = moments<D>::stages, ONES = 0x3f803f80 };
    extern __shared__ __align__(128) char shared[];
    const int warp = threadIdx.x >> 5, lane = threadIdx.x & 31;
    const int32_t h = blockIdx.y;
    const int64_t begin = (int64_t)blockIdx.x * split_rows, end = min(begin + split_rows, rows);
    const uint32_t base = shared_address(shared);
    float sum[W / 2 + 1][2][4] = {}, mean[2] = {};
    int stage = 0;

#pragma unroll
    for (int u = 0; u < STAGES - 1; u++)
        moments_fetch<D>(q, heads, h, begin + u * TILE, end, base + u * moments<D>::stage);
    for (int64_t at = begin; at < end; at += TILE) {
        uint32_t left[TILE / 16][4];
        float ones[4] = {};
        copies_wait<STAGES - 2>();
        __syncthreads();
        moments_fetch<D>(q, heads, h, at + (STAGES - 1) * TILE, end,
                         base + (stage == 0 ? STAGES - 1 : stage - 1) * moments<D>::stage);
        const uint32_t here = base + stage * moments<D>::stage;
#pragma unroll
        for (int kk = 0; kk < TILE / 16; kk++) {
            load_matrices_turned(left[kk], here + (kk * 16 + (lane >> 4) * 8 + (lane & 7)) * ROW + warp * 32 +
                                               ((lane >> 3) & 1) * 16);
            multiply(ones, left[kk], ONES, ONES);
        }
        mean[0] += ones[0], mean[1] += ones[2];
#pragma unroll
        for (int d = 0; d <= W / 2; d++) {
            const int n = warp + d < W ? warp + d : warp + d - W;
            float more[2][4] = {};

            if (d == W / 2 && warp >= W / 2)
                break;
#pragma unroll
            for (int kk = 0; kk < TILE / 16; kk++) {
                uint32_t right[4];
                load_matrices_turned(right, here + (kk * 16 + ((lane >> 3) & 1) * 8 + (lane & 7)) * ROW + n * 32 +
                                                (lane >> 4) * 16);
                multiply(more[0], left[kk], right[0], right[1]);
                multiply(more[1], left[kk], right[2], right[3]);
            }
#pragma unroll
            for (int i = 0; i < 8; i++)
                sum[d][i / 4][i % 4] += more[i / 4][i % 4];
        }
        stage = stage == STAGES - 1 ? 0 : stage + 1;
    }
    float *to = partial + ((int64_t)h * gridDim.x + blockIdx.x) * moments<D>::floats;
#pragma unroll
    for (int d = 0; d <= W / 2; d++) {
        const int n = warp + d < W ? warp + d : warp + d - W;
        float *block = to + (warp * 16 + (lane >> 2)) * D + n * 16 + 2 * (lane & 3);
        if (d == W / 2 && warp >= W / 2)
            break;
#pragma unroll
        for (int eight = 0; eight < 2; eight++) {
            *(float2 *)(block + eight * 8) = make_float2(sum[d][eight][0], sum[d][eight][1]);
            *(float2 *)(block + 8 * D + eight * 8) = make_float2(sum[d][eight][2], sum[d][eight][3]);
        }
    }
    if ((lane & 3) == 0) {
        to[D * D + warp * 16 + (lane >> 2)] = mean[0];
        to[D * D + warp * 16 + (lane >> 2) + 8] = mean[1];
    }
}

/* grid: THREADS entries of the matrix, heads */
template <int D>
__global__ void moments_join_kernel(const float *partial, int32_t splits, int64_t rows, float *mean, float *cov)
{
    enum { W = moments<D>::warps };
    const int32_t h = blockIdx.y, entry = blockIdx.x * THREADS + threadIdx.x, i = entry / D, j = entry % D;
    const int32_t d = (j / 16 - i / 16 + W) % W;
    const bool own = d < W / 2 || (d == W / 2 && i / 16 < W / 2); /* else the block lies on the other side */

    stats_join<D>(partial, splits, rows, h, entry, own ? i * D + j : j * D + i, mean, cov);
}

/* grid: 16 x 16 tiles of the matrix, heads */
template <typename T>
__global__ void cov_plain_kernel(const T *q, int32_t heads, int32_t dim, int64_t rows, const float *mean, float *cov)
{
    __shared__ float left[ROWS][16], right[ROWS][16];
    const int32_t h = blockIdx.y, tiles = (dim + 15) / 16, i0 = blockIdx.x / tiles * 16, j0 = blockIdx.x % tiles * 16;
    const int32_t i = threadIdx.x / 16, j = threadIdx.x % 16;
    double sum = 0.0;

    for (int64_t at = 0; at < rows; at += ROWS) {
        float part = 0.0f;
        __syncthreads();
        for (int k = threadIdx.x; k < ROWS * 16; k += THREADS) {
            const int64_t r = at + k / 16;
            const int32_t c = k % 16;
            const T *row = q + (r * heads + h) * dim;
            left[k / 16][c] = r < rows && i0 + c < dim ? number(row[i0 + c]) - mean[h * dim + i0 + c] : 0.0f;
            right[k / 16][c] = r < rows && j0 + c < dim ? number(row[j0 + c]) - mean[h * dim + j0 + c] : 0.0f;
        }
        __syncthreads();
        for (int r = 0; r < ROWS; r++)
            part += left[r][i] * right[r][j];
        sum += part;
    }
    if (i0 + i < dim && j0 + j < dim)
        cov[((int64_t)h * dim + i0 + i) * dim + j0 + j] = (float)(sum / (double)rows);
}

/* ---- turned to positions to come ---- */

/* turn = means of cos and sin of a pair of channels. A block owns a pair. */
__global__ void __launch_bounds__(THREADS) turn_means_kernel(const __grid_constant__ struct turn_args a)
{
    __shared__ double cosines[THREADS], sines[THREADS];
    const int32_t j = blockIdx.x, pairs = a.rope_dims / 2;
    double c = 0.0, s = 0.0;

    for (int64_t p = a.from + threadIdx.x; p < a.from + a.count; p += THREADS) {
        float sine, cosine;
        sincosf((float)p * a.inv_freq[j], &sine, &cosine);
        c += cosine;
        s += sine;
    }
    cosines[threadIdx.x] = c;
    sines[threadIdx.x] = s;
    for (int half = THREADS / 2; half > 0; half /= 2) {
        __syncthreads();
        if (threadIdx.x < half) {
            cosines[threadIdx.x] += cosines[threadIdx.x + half];
            sines[threadIdx.x] += sines[threadIdx.x + half];
        }
    }
    if (threadIdx.x == 0) {
        a.turn[j] = cosines[0] * a.scale / (double)a.count;
        a.turn[pairs + j] = sines[0] * a.scale / (double)a.count;
    }
}

/* Unit u of a head's channels: a pair that turns, or one channel alone. */
struct turned_unit {
    int32_t low, high; /* high: low where it is alone */
    double c, s;
};
__device__ __forceinline__ struct turned_unit unit_of(const struct turn_args &a, int32_t u)
{
    const int32_t pairs = a.rope_dims / 2;
    struct turned_unit t;

    t.low = u < pairs ? u : u + pairs;
    t.high = u < pairs ? u + pairs : t.low;
    t.c = u < pairs ? a.turn[u] : 1.0;
    t.s = u < pairs ? a.turn[pairs + u] : 0.0;
    return t;
}

/* R mean, and R cov R' two by two entries at a time. grid: units of columns, units of rows and one for the mean, heads */
__global__ void turn_kernel(const __grid_constant__ struct turn_args a)
{
    const int32_t units = a.dim - a.rope_dims / 2, v = blockIdx.x * blockDim.x + threadIdx.x, h = blockIdx.z;

    if (v >= units)
        return;
    const struct turned_unit y = unit_of(a, v);
    if (blockIdx.y == 0) {
        float *mean = a.mean + (int64_t)h * a.dim;
        const double low = mean[y.low], high = mean[y.high];
        mean[y.low] = (float)(low * y.c - high * y.s);
        if (y.high != y.low)
            mean[y.high] = (float)(high * y.c + low * y.s);
        return;
    }
    const struct turned_unit x = unit_of(a, blockIdx.y - 1);
    float *low = a.cov + ((int64_t)h * a.dim + x.low) * a.dim, *high = a.cov + ((int64_t)h * a.dim + x.high) * a.dim;
    const double ll = low[y.low], lh = low[y.high], hl = high[y.low], hh = high[y.high];
    const double ll2 = ll * y.c - lh * y.s, lh2 = lh * y.c + ll * y.s; /* the low row, turned */
    const double hl2 = hl * y.c - hh * y.s, hh2 = hh * y.c + hl * y.s;
    low[y.low] = (float)(ll2 * x.c - hl2 * x.s);
    if (y.high != y.low)
        low[y.high] = (float)(lh2 * x.c - hh2 * x.s);
    if (x.high == x.low)
        return;
    high[y.low] = (float)(hl2 * x.c + ll2 * x.s);
    if (y.high != y.low)
        high[y.high] = (float)(hh2 * x.c + lh2 * x.s);
}

/* ---- launchers ---- */

static int64_t stretches_of(int64_t rows)
{
    return (rows + STRETCH - 1) / STRETCH;
}

static int64_t splits_for(const struct cuda_queue &q, int64_t rows, int32_t heads)
{
    const int64_t most = heads < 2 * q.sms ? 2 * q.sms / heads : 1, tiles = (rows + TILE - 1) / TILE;

    return tiles < most ? tiles : most;
}

uint64_t query_stats_bytes(struct cuda_queue q, int32_t heads, int32_t dim, int64_t rows)
{
    const uint64_t means = (uint64_t)stretches_of(rows) * (uint64_t)(heads * dim) * 8;
    const uint64_t covs = (uint64_t)splits_for(q, rows, heads) * (uint64_t)heads * (uint64_t)(dim * (dim + 1)) * 4;

    return means > covs ? means : covs;
}

template <int D>
static cudaError_t both(const struct cuda_queue &q, const void *x, int32_t heads, int64_t rows, float *mean, float *cov,
                        void *room)
{
    const int64_t splits = splits_for(q, rows, heads), each = ((rows + splits - 1) / splits + TILE - 1) / TILE * TILE;
    const cudaError_t e = allow_shared(moments_kernel<D>, moments<D>::bytes);

    if (e != cudaSuccess)
        return e;
    moments_kernel<D><<<dim3((unsigned)splits, (unsigned)heads), D * 2, moments<D>::bytes, q.stream>>>(
        (const bf16 *)x, heads, rows, each, (float *)room);
    moments_join_kernel<D><<<dim3(D * D / THREADS, (unsigned)heads), THREADS, 0, q.stream>>>(
        (const float *)room, (int32_t)splits, rows, mean, cov);
    return cudaGetLastError();
}

/* bf16, a covariance too, of a head size that the tensor cores take. */
template <int D>
static cudaError_t matrix_stats(const struct cuda_queue &q, const void *x, int32_t heads, int64_t rows, float *mean,
                                float *cov, void *room)
{
    return q.warpgroups ? launch_query_stats_wgmma(q, x, heads, D, rows, mean, cov, room)
                        : both<D>(q, x, heads, rows, mean, cov, room);
}

template <typename T>
static cudaError_t stats(const struct cuda_queue &q, const void *x, int32_t heads, int32_t dim, int64_t rows,
                         float *mean, float *cov, void *room)
{
    const int64_t stretches = stretches_of(rows);
    const int32_t tiles = int_ceil(dim, 16);

    if (sizeof(T) == 2 && cov && dim == 64)
        return matrix_stats<64>(q, x, heads, rows, mean, cov, room);
    if (sizeof(T) == 2 && cov && dim == 96)
        return matrix_stats<96>(q, x, heads, rows, mean, cov, room);
    if (sizeof(T) == 2 && cov && dim == 128)
        return matrix_stats<128>(q, x, heads, rows, mean, cov, room);
    mean_kernel<T><<<dim3((unsigned)stretches, (unsigned)heads), THREADS, 0, q.stream>>>((const T *)x, heads, dim, rows,
                                                                                         (double *)room);
    mean_join_kernel<<<(unsigned)heads, 128, 0, q.stream>>>((const double *)room, (int32_t)stretches, dim, rows, mean);
    if (cov)
        cov_plain_kernel<T><<<dim3((unsigned)(tiles * tiles), (unsigned)heads), THREADS, 0, q.stream>>>(
            (const T *)x, heads, dim, rows, mean, cov);
    return cudaGetLastError();
}

cudaError_t launch_query_stats(struct cuda_queue q, enum dtype t, const void *x, int32_t heads, int32_t dim,
                               int64_t rows, float *mean, float *cov, void *room)
{
    return t == DT_F32 ? stats<float>(q, x, heads, dim, rows, mean, cov, room)
                       : stats<bf16>(q, x, heads, dim, rows, mean, cov, room);
}

cudaError_t launch_turn_stats(struct cuda_queue q, const struct turn_args *a, int32_t heads)
{
    const int32_t units = a->dim - a->rope_dims / 2;

    turn_means_kernel<<<(unsigned)(a->rope_dims / 2), THREADS, 0, q.stream>>>(*a);
    turn_kernel<<<dim3(int_ceil(units, 64), (unsigned)(a->cov ? units + 1 : 1), (unsigned)heads), 64, 0, q.stream>>>(
        *a);
    return cudaGetLastError();
}
