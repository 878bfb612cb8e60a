/* SPDX-License-Identifier: Apache-2.0 */
/*
 * meet_scores.cu - numbers per query head, as meet.cu leaves them, become one score per row.
 *
 *   group     mean or largest of the group's columns                                a thread owns a row of a head
 *   softmax   of a query head's column, in place (expected attention)               a thread block owns a column
 *   weigh     (score + eps) * |v|; rows before `from` get the largest + 1           a thread owns a row of a head
 *   share     the mean over heads; the last rows get the largest + 1                a thread owns a row of all heads
 *
 * Neighbouring threads read neighbouring rows. Shared memory: 128 bytes and what block_sum takes, in softmax alone.
 */
#include "kernels/cuda/numbers.cuh"

enum { THREADS = 256 };

/* grid: rows, heads */
__global__ void group_kernel(const __grid_constant__ struct rows_view in, const __grid_constant__ struct group_args a,
                             float *score)
{
    const int32_t g = blockIdx.y, row = blockIdx.x * THREADS + threadIdx.x;
    float sum = 0.0f, most = 0.0f;

    if (row >= in.rows[g] || row < a.from)
        return;
    const int64_t at = in.at[g] + row;
    for (int32_t i = 0; i < a.group; i++) {
        float x = a.column[(int64_t)(g * a.group + i) * a.stride + at];
        if (a.column_weight)
            x *= a.column_weight[(int64_t)i * a.stride + at];
        sum += x;
        most = fmaxf(most, x);
    }
    sum = a.largest ? most : sum / (float)a.group;
    score[at] = a.update ? fmaxf(score[at], sum) : sum;
}

/* Softmax of rows [from, rows) of a query head, in place. A block owns a head. */
__global__ void __launch_bounds__(1024) softmax_kernel(const __grid_constant__ struct rows_view in, int32_t group,
                                                       int32_t from, int64_t stride, float *column)
{
    __shared__ float part[32];
    const int32_t h = blockIdx.x, g = h / group, rows = in.rows[g], lane = threadIdx.x & 31, warp = threadIdx.x >> 5;
    float *x = column + (int64_t)h * stride + in.at[g], top = -CUDART_INF_F, sum = 0.0f;

    for (int32_t r = from + (int32_t)threadIdx.x; r < rows; r += 1024)
        top = fmaxf(top, x[r]);
    top = warp_max(top);
    if (lane == 0)
        part[warp] = top;
    __syncthreads();
    top = warp_max(part[lane]);
    for (int32_t r = from + (int32_t)threadIdx.x; r < rows; r += 1024)
        sum += expf(x[r] - top);
    sum = block_sum(sum);
    for (int32_t r = from + (int32_t)threadIdx.x; r < rows; r += 1024)
        x[r] = expf(x[r] - top) / sum;
}

/* The largest of the scores that `bits` was the largest of; 0: there were none. */
__device__ __forceinline__ float largest_of(uint32_t bits)
{
    return bits == 0 ? -CUDART_INF_F : unordered(bits);
}

/* score_weigh, rows from `from` on; *largest becomes their largest. grid: rows, heads */
__global__ void __launch_bounds__(THREADS) weigh_kernel(const __grid_constant__ struct rows_view in, int32_t from,
                                                        const float *v2, float eps, uint32_t *largest, float *score)
{
    const int32_t g = blockIdx.y, row = from + blockIdx.x * THREADS + threadIdx.x;
    const int64_t at = in.at[g] + row;
    float x = -CUDART_INF_F;

    if (row < in.rows[g]) {
        x = score[at];
        if (v2)
            score[at] = x = (x + eps) * sqrtf(v2[at]);
    }
    x = warp_max(x);
    if ((threadIdx.x & 31) == 0)
        atomicMax(largest, ordered(x));
}

/* Rows before `from`. grid: rows, heads */
__global__ void protect_kernel(const __grid_constant__ struct rows_view in, int32_t from, const uint32_t *largest,
                               float *score)
{
    const int32_t g = blockIdx.y, row = blockIdx.x * THREADS + threadIdx.x;
    const float most = largest_of(*largest);

    if (row < min(from, in.rows[g]))
        score[in.at[g] + row] = isinf(most) ? 1.0f : most + 1.0f;
}

/* score_share: rows before `body` become their mean over heads, *largest the largest of them; then the others get one more.
 * grid: rows */
__global__ void __launch_bounds__(THREADS)
    share_kernel(const __grid_constant__ struct rows_view in, int32_t body, uint32_t *largest, float *score)
{
    const int32_t row = blockIdx.x * THREADS + threadIdx.x;
    float sum = 0.0f, x = -CUDART_INF_F;

    if (row < body) {
        for (int32_t g = 0; g < in.heads; g++)
            sum += score[in.at[g] + row];
        x = sum / (float)in.heads;
        for (int32_t g = 0; g < in.heads; g++)
            score[in.at[g] + row] = x;
    }
    x = warp_max(x);
    if ((threadIdx.x & 31) == 0)
        atomicMax(largest, ordered(x));
}

/* grid: heads */
__global__ void __launch_bounds__(THREADS)
    tail_kernel(const __grid_constant__ struct rows_view in, int32_t body, const uint32_t *largest, float *score)
{
    const float most = largest_of(*largest);

    for (int32_t row = body + (int32_t)threadIdx.x; row < in.rows[blockIdx.x]; row += THREADS)
        score[in.at[blockIdx.x] + row] = isinf(most) ? 1.0f : most + 1.0f;
}

cudaError_t launch_softmax(struct cuda_queue q, const struct rows_view *in, int32_t q_heads, int32_t from,
                           int64_t stride, float *column)
{
    softmax_kernel<<<(unsigned)q_heads, 1024, 0, q.stream>>>(*in, q_heads / in->heads, from, stride, column);
    return cudaGetLastError();
}

cudaError_t launch_group(struct cuda_queue q, const struct rows_view *in, const struct group_args *a, float *score)
{
    if (in->rows_longest == 0)
        return cudaSuccess;
    group_kernel<<<dim3(int_ceil(in->rows_longest, THREADS), (unsigned)in->heads), THREADS, 0, q.stream>>>(*in, *a,
                                                                                                           score);
    return cudaGetLastError();
}

cudaError_t launch_weigh(struct cuda_queue q, const struct rows_view *in, int32_t from, const float *v2, float eps,
                         uint32_t *largest, float *score)
{
    const unsigned heads = (unsigned)in->heads;
    const cudaError_t e = cudaMemsetAsync(largest, 0, sizeof *largest, q.stream);

    if (e != cudaSuccess)
        return e;
    if (in->rows_longest > from)
        weigh_kernel<<<dim3(int_ceil(in->rows_longest - from, THREADS), heads), THREADS, 0, q.stream>>>(
            *in, from, v2, eps, largest, score);
    if (from > 0)
        protect_kernel<<<dim3(int_ceil(from, THREADS), heads), THREADS, 0, q.stream>>>(*in, from, largest, score);
    return cudaGetLastError();
}

cudaError_t launch_share(struct cuda_queue q, const struct rows_view *in, int64_t tail, uint32_t *largest, float *score)
{
    const int32_t body = in->rows_longest > tail ? (int32_t)(in->rows_longest - tail) : 0;
    const cudaError_t e = cudaMemsetAsync(largest, 0, sizeof *largest, q.stream);

    if (e != cudaSuccess)
        return e;
    if (body > 0)
        share_kernel<<<int_ceil(body, THREADS), THREADS, 0, q.stream>>>(*in, body, largest, score);
    if (tail > 0)
        tail_kernel<<<(unsigned)in->heads, THREADS, 0, q.stream>>>(*in, body, largest, score);
    return cudaGetLastError();
}
