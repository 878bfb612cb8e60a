/* SPDX-License-Identifier: Apache-2.0 */
/*
 * score.cu - scores that need one row only: norms, squares, ranges of tokens, counter-based random numbers.
 *
 * grid: rows, heads. Norms: 8 or 16 lanes share a row, and each has its
 * 16-byte loads of several rows in flight; the bound is reading K once. The others: a thread owns a row.
 */
#include "kernels/cuda/rowwise.cuh"
#include "kernels/random.h"

enum { THREADS = 256, NORM_ROWS = 64 };

/* Of K rows or V rows: the squares, or factor times their root. */
struct norm_args {
    float factor;
    bool values, squares;
};

/* LANES lanes share a row; PARTS pieces of 16 bytes to a lane and row. */
template <typename T, int LANES, int PARTS>
__global__ void __launch_bounds__(THREADS)
    norm_kernel(const __grid_constant__ struct rows_view in, const __grid_constant__ struct norm_args a, float *score)
{
    enum { N = pack16<T>::count, AT_ONCE = THREADS / LANES, DEEP = NORM_ROWS / AT_ONCE };
    const int32_t g = blockIdx.y, sub = threadIdx.x % LANES, rows = in.rows[g], units = in.dim / N;
    const int32_t row0 = blockIdx.x * NORM_ROWS + threadIdx.x / LANES;
    const T *k = (const T *)(a.values ? in.v : in.k) + in.first[g] * in.dim;
    pack16<T> p[DEEP][PARTS];

    if (blockIdx.x * NORM_ROWS >= rows)
        return;
#pragma unroll
    for (int d = 0; d < DEEP; d++)
#pragma unroll
        for (int i = 0; i < PARTS; i++) {
            p[d][i].bits = make_uint4(0, 0, 0, 0);
            if (row0 + d * AT_ONCE < rows && sub + i * LANES < units)
                p[d][i] = load16(k + (int64_t)(row0 + d * AT_ONCE) * in.dim + (sub + i * LANES) * N);
        }
#pragma unroll
    for (int d = 0; d < DEEP; d++) {
        float sum = 0.0f;
#pragma unroll
        for (int i = 0; i < PARTS; i++)
#pragma unroll
            for (int j = 0; j < N; j++)
                sum += number(p[d][i].at[j]) * number(p[d][i].at[j]);
#pragma unroll
        for (int s = LANES / 2; s > 0; s >>= 1)
            sum += __shfl_xor_sync(0xffffffffu, sum, s);
        if (sub == 0 && row0 + d * AT_ONCE < rows)
            score[in.at[g] + row0 + d * AT_ONCE] = a.squares ? sum : a.factor * sqrtf(sum);
    }
}

template <typename T>
__global__ void norm_plain_kernel(const __grid_constant__ struct rows_view in,
                                  const __grid_constant__ struct norm_args a, float *score)
{
    const int32_t g = blockIdx.y, row = blockIdx.x * THREADS + threadIdx.x;
    float sum = 0.0f;

    if (row >= in.rows[g])
        return;
    const T *k = (const T *)(a.values ? in.v : in.k) + (in.first[g] + row) * in.dim;
    for (int32_t c = 0; c < in.dim; c++)
        sum += number(k[c]) * number(k[c]);
    score[in.at[g] + row] = a.squares ? sum : a.factor * sqrtf(sum);
}

__global__ void ranges_kernel(const __grid_constant__ struct rows_view in,
                              const __grid_constant__ struct score_ranges r, float *score)
{
    const int32_t g = blockIdx.y, row = blockIdx.x * THREADS + threadIdx.x;
    int32_t low = 0, high = r.count;

    if (row >= in.rows[g])
        return;
    int64_t token = token_of(in, g, row);
    while (high - low > 1) {
        int32_t middle = (low + high) / 2;
        if (r.begin[middle] <= token)
            low = middle;
        else
            high = middle;
    }
    score[in.at[g] + row] = r.value[low];
}

__global__ void random_score_kernel(const __grid_constant__ struct rows_view in, uint64_t seed, int32_t layer,
                                    float *score)
{
    const int32_t g = blockIdx.y, row = blockIdx.x * THREADS + threadIdx.x;

    if (row < in.rows[g])
        score[in.at[g] + row] = random_unit(seed, layer, g, token_of(in, g, row));
}

/* ---- launchers ---- */

template <typename T>
static cudaError_t norms(const struct cuda_queue &q, const struct rows_view *in, const struct norm_args &a,
                         float *score)
{
    dim3 grid(int_ceil(in->rows_longest, NORM_ROWS), (unsigned)in->heads);
    size_t row = (size_t)in->dim * sizeof(T);

    if (in->rows_longest == 0)
        return cudaSuccess;
    if (row % 16 != 0)
        norm_plain_kernel<T>
            <<<dim3(int_ceil(in->rows_longest, THREADS), (unsigned)in->heads), THREADS, 0, q.stream>>>(*in, a, score);
    else if (row <= 128)
        norm_kernel<T, 8, 1><<<grid, THREADS, 0, q.stream>>>(*in, a, score);
    else if (row <= 256)
        norm_kernel<T, 16, 1><<<grid, THREADS, 0, q.stream>>>(*in, a, score);
    else
        norm_kernel<T, 16, 4><<<grid, THREADS, 0, q.stream>>>(*in, a, score);
    return cudaGetLastError();
}

cudaError_t launch_key_norm(struct cuda_queue q, enum dtype t, const struct rows_view *in, float factor, float *score)
{
    const struct norm_args a = { factor, false, false };

    return t == DT_F32 ? norms<float>(q, in, a, score) : norms<bf16>(q, in, a, score);
}

cudaError_t launch_squares(struct cuda_queue q, enum dtype t, const struct rows_view *in, bool values, float *out)
{
    const struct norm_args a = { 1.0f, values, true };

    return t == DT_F32 ? norms<float>(q, in, a, out) : norms<bf16>(q, in, a, out);
}

cudaError_t launch_score_ranges(struct cuda_queue q, const struct rows_view *in, const struct score_ranges *r,
                                float *score)
{
    if (in->rows_longest == 0)
        return cudaSuccess;
    ranges_kernel<<<dim3(int_ceil(in->rows_longest, THREADS), (unsigned)in->heads), THREADS, 0, q.stream>>>(*in, *r,
                                                                                                            score);
    return cudaGetLastError();
}

cudaError_t launch_score_random(struct cuda_queue q, const struct rows_view *in, uint64_t seed, int32_t layer,
                                float *score)
{
    if (in->rows_longest == 0)
        return cudaSuccess;
    random_score_kernel<<<dim3(int_ceil(in->rows_longest, THREADS), (unsigned)in->heads), THREADS, 0, q.stream>>>(
        *in, seed, layer, score);
    return cudaGetLastError();
}
