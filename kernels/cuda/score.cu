/* SPDX-License-Identifier: Apache-2.0 */
/*
 * score.cu - scores that need one row only: norms of keys, ranges of tokens, counter-based random numbers.
 *
 * grid: rows, heads. Norms: a warp owns a row and reads it in 16-byte loads (4 rows at once where rows are 128 bytes);
 * the bound is reading K once. The others: a thread owns a row.
 */
#include "kernels/cuda/device.cuh"
#include "kernels/random.h"

enum { THREADS = 256, NORM_ROWS = 64 };

/* LANES lanes share a row. */
template <typename T, int LANES>
__global__ void key_norm_kernel(const __grid_constant__ struct rows_view in, float factor, float *score)
{
    enum { N = pack16<T>::count, AT_ONCE = THREADS / LANES };
    const int32_t g = blockIdx.y, sub = threadIdx.x % LANES;
    const T *k = (const T *)in.k + in.first[g] * in.dim;

    for (int32_t i = 0; i < NORM_ROWS; i += AT_ONCE) {
        int32_t row = blockIdx.x * NORM_ROWS + i + threadIdx.x / LANES;
        float sum = 0.0f;

        if (row < in.rows[g])
            for (int32_t c = sub * N; c < in.dim; c += LANES * N) {
                pack16<T> p = load16(k + (int64_t)row * in.dim + c);
#pragma unroll
                for (int j = 0; j < N; j++)
                    sum += number(p.at[j]) * number(p.at[j]);
            }
#pragma unroll
        for (int d = LANES / 2; d > 0; d >>= 1)
            sum += __shfl_xor_sync(0xffffffffu, sum, d);
        if (sub == 0 && row < in.rows[g])
            score[in.at[g] + row] = factor * sqrtf(sum);
    }
}

template <typename T>
__global__ void key_norm_plain_kernel(const __grid_constant__ struct rows_view in, float factor, float *score)
{
    const int32_t g = blockIdx.y, row = blockIdx.x * THREADS + threadIdx.x;
    float sum = 0.0f;

    if (row >= in.rows[g])
        return;
    const T *k = (const T *)in.k + (in.first[g] + row) * in.dim;
    for (int32_t c = 0; c < in.dim; c++)
        sum += number(k[c]) * number(k[c]);
    score[in.at[g] + row] = factor * sqrtf(sum);
}

__device__ __forceinline__ int64_t token_of(const struct rows_view &in, int32_t g, int32_t row)
{
    return in.token ? in.token[in.at[g] + row] : row;
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
static cudaError_t key_norm(const struct cuda_queue &q, const struct rows_view *in, float factor, float *score)
{
    dim3 grid(int_ceil(in->rows_longest, NORM_ROWS), (unsigned)in->heads);
    size_t row = (size_t)in->dim * sizeof(T);

    if (row % 16 != 0)
        key_norm_plain_kernel<T>
            <<<dim3(int_ceil(in->rows_longest, THREADS), (unsigned)in->heads), THREADS, 0, q.stream>>>(*in, factor,
                                                                                                       score);
    else if (row <= 128)
        key_norm_kernel<T, 8><<<grid, THREADS, 0, q.stream>>>(*in, factor, score);
    else
        key_norm_kernel<T, 16><<<grid, THREADS, 0, q.stream>>>(*in, factor, score);
    return cudaGetLastError();
}

cudaError_t launch_key_norm(struct cuda_queue q, enum dtype t, const struct rows_view *in, float factor, float *score)
{
    if (in->rows_longest == 0)
        return cudaSuccess;
    return t == DT_F32 ? key_norm<float>(q, in, factor, score) : key_norm<bf16>(q, in, factor, score);
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
