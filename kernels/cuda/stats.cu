/* SPDX-License-Identifier: Apache-2.0 */
/*
 * stats.cu - mean and covariance of the queries of each head, and the small sums that presses take over rows.
 *
 *   mean   [H][D]       a block owns a head and a stretch of 512 rows, f64 sums; a second launch adds the stretches
 *   cov    [H][D][D]    centred rows, 64 at a time, x' x on the tensor cores; a warp owns 16 channels against all others.
 *                       Stretches leave partial sums that are added in order, so that two runs agree bit by bit
 *
 * Devoto et al. 2025, arXiv:2510.00636. f32 and other head sizes: a thread owns an entry of the matrix.
 */
#include "kernels/cuda/device.cuh"

enum { STRETCH = STATS_STRETCH, TILE = 64, WARPS = 8, THREADS = 256, ROWS = 64 };

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

/* grid: splits, heads. partial f32 [H][splits][D][D] */
template <int D>
__global__ void __launch_bounds__(D * 2)
    cov_kernel(const bf16 *q, int32_t heads, int64_t rows, int64_t split_rows, const float *mean, float *partial)
{
    enum { ROW = D * 2 + 16 };
    __shared__ __align__(128) char tile[TILE * ROW];
    __shared__ float centre[D];
    const int warp = threadIdx.x >> 5, lane = threadIdx.x & 31; /* D / 16 warps */
    const int32_t h = blockIdx.y;
    const int64_t begin = (int64_t)blockIdx.x * split_rows, end = min(begin + split_rows, rows);
    const uint32_t base = shared_address(tile);
    float sum[D / 8][4] = {};

    for (int i = threadIdx.x; i < D; i += blockDim.x)
        centre[i] = mean[h * D + i];
    for (int64_t at = begin; at < end; at += TILE) {
        __syncthreads();
        for (int unit = threadIdx.x; unit < TILE * D / 8; unit += blockDim.x) {
            const int r = unit / (D / 8), c = unit % (D / 8) * 8;
            pack16<bf16> x;
            x.bits = make_uint4(0, 0, 0, 0);
            if (at + r < end) {
                x = load16(q + ((at + r) * heads + h) * D + c);
#pragma unroll
                for (int j = 0; j < 8; j++)
                    x.at[j] = rounded<bf16>(number(x.at[j]) - centre[c + j]);
            }
            *(uint4 *)(tile + r * ROW + c * 2) = x.bits;
        }
        __syncthreads();
#pragma unroll
        for (int kk = 0; kk < TILE / 16; kk++) {
            uint32_t left[4];
            load_matrices_turned(left, base + (kk * 16 + (lane >> 4) * 8 + (lane & 7)) * ROW + warp * 32 +
                                           ((lane >> 3) & 1) * 16);
#pragma unroll
            for (int n = 0; n < D / 16; n++) {
                uint32_t right[4];
                load_matrices_turned(right, base + (kk * 16 + ((lane >> 3) & 1) * 8 + (lane & 7)) * ROW + n * 32 +
                                                (lane >> 4) * 16);
                multiply(sum[2 * n], left, right[0], right[1]);
                multiply(sum[2 * n + 1], left, right[2], right[3]);
            }
        }
    }
    float *to =
        partial + ((int64_t)h * gridDim.x + blockIdx.x) * D * D + (warp * 16 + (lane >> 2)) * D + 2 * (lane & 3);
#pragma unroll
    for (int n = 0; n < D / 8; n++) {
        *(float2 *)(to + n * 8) = make_float2(sum[n][0], sum[n][1]);
        *(float2 *)(to + 8 * D + n * 8) = make_float2(sum[n][2], sum[n][3]);
    }
}

__global__ void cov_join_kernel(const float *partial, int32_t splits, int32_t numbers, int64_t rows, float *cov)
{
    const int32_t h = blockIdx.y, i = blockIdx.x * THREADS + threadIdx.x;
    float sum = 0.0f;

    if (i >= numbers)
        return;
    for (int32_t s = 0; s < splits; s++)
        sum += partial[((int64_t)h * splits + s) * numbers + i];
    cov[(int64_t)h * numbers + i] = sum / (float)rows;
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
    const int64_t most = (2 * q.sms + heads - 1) / heads, tiles = (rows + TILE - 1) / TILE;

    return tiles < most ? tiles : most;
}

uint64_t query_stats_bytes(struct cuda_queue q, int32_t heads, int32_t dim, int64_t rows)
{
    const uint64_t means = (uint64_t)stretches_of(rows) * (uint64_t)(heads * dim) * 8;
    const uint64_t covs = (uint64_t)splits_for(q, rows, heads) * (uint64_t)heads * (uint64_t)(dim * dim) * 4;

    return means > covs ? means : covs;
}

template <int D>
static cudaError_t cov_fast(const struct cuda_queue &q, const void *x, int32_t heads, int64_t rows, const float *mean,
                            float *cov, void *room)
{
    const int64_t splits = splits_for(q, rows, heads), each = ((rows + splits - 1) / splits + TILE - 1) / TILE * TILE;

    cov_kernel<D><<<dim3((unsigned)splits, (unsigned)heads), D * 2, 0, q.stream>>>((const bf16 *)x, heads, rows, each,
                                                                                   mean, (float *)room);
    cov_join_kernel<<<dim3(int_ceil(D * D, THREADS), (unsigned)heads), THREADS, 0, q.stream>>>(
        (const float *)room, (int32_t)splits, D * D, rows, cov);
    return cudaGetLastError();
}

template <typename T>
static cudaError_t stats(const struct cuda_queue &q, const void *x, int32_t heads, int32_t dim, int64_t rows,
                         float *mean, float *cov, void *room)
{
    const int64_t stretches = stretches_of(rows);
    const int32_t tiles = int_ceil(dim, 16);

    mean_kernel<T><<<dim3((unsigned)stretches, (unsigned)heads), THREADS, 0, q.stream>>>((const T *)x, heads, dim, rows,
                                                                                         (double *)room);
    mean_join_kernel<<<(unsigned)heads, 128, 0, q.stream>>>((const double *)room, (int32_t)stretches, dim, rows, mean);
    if (!cov)
        return cudaGetLastError();
    if (sizeof(T) == 2 && dim == 64)
        return cov_fast<64>(q, x, heads, rows, mean, cov, room);
    if (sizeof(T) == 2 && dim == 96)
        return cov_fast<96>(q, x, heads, rows, mean, cov, room);
    if (sizeof(T) == 2 && dim == 128)
        return cov_fast<128>(q, x, heads, rows, mean, cov, room);
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
