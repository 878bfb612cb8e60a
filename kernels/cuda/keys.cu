/* SPDX-License-Identifier: Apache-2.0 */
/*
 * keys.cu - scores from K and V rows alone: squares, distance from the mean key, filters, lags, channels, small layers.
 *
 * A warp owns a row and holds its channels, lane by lane, in registers. Sums over rows are made per stretch of 256 rows
 * and then added in order. PRESSES 2.1 (KeyDiff, LagKV, CUR), 2.2 (ThinK), 2.3 (Q-filters), 2.5 (KVzap, Fast-KVzip).
 */
#include "kernels/cuda/rowwise.cuh"

enum { THREADS = 256, WARPS = THREADS / 32, STRETCH = KEYS_STRETCH, OUTS = 8 };

/* Sum over the sketch's columns of (row . column)^2. */
__device__ __forceinline__ float sketched(const float *row, const float *sketch, int32_t columns, int32_t dim, int lane)
{
    float sum = 0.0f;

    for (int32_t j = lane; j < columns; j += 32) {
        float y = 0.0f;
        for (int32_t d = 0; d < dim; d++)
            y += row[d] * sketch[d * columns + j];
        sum += y * y;
    }
    return warp_sum(sum);
}

template <typename T>
__global__ void sketched_kernel(const __grid_constant__ struct rows_view in, const float *sketch, int32_t columns,
                                float *k2, float *v2)
{
    __shared__ float held[WARPS][KV_HEAD_DIM_MAX];
    const int warp = threadIdx.x >> 5, lane = threadIdx.x & 31;
    const int32_t g = blockIdx.y;

    for (int32_t row = blockIdx.x * STRETCH + warp; row < min(((int32_t)blockIdx.x + 1) * STRETCH, in.rows[g]);
         row += WARPS)
        for (int which = 0; which < 2; which++) {
            float *out = which ? v2 : k2;
            if (!out)
                continue;
            const channels<T> x(which ? value_row<T>(in, g, row) : key_row<T>(in, g, row), in.dim, lane);
            __syncwarp();
#pragma unroll
            for (int i = 0; i < CHANNELS; i++)
                held[warp][lane + 32 * i] = x.x[i];
            __syncwarp();
            const float sum = sketched(held[warp], sketch, columns, in.dim, lane);
            if (lane == 0)
                out[in.at[g] + row] = sum;
        }
}

/* partial [G][stretches][dim]: sum of the stretch's keys made unit length */
template <typename T> __global__ void anchor_kernel(const __grid_constant__ struct rows_view in, float *partial)
{
    __shared__ float held[WARPS][KV_HEAD_DIM_MAX];
    const int warp = threadIdx.x >> 5, lane = threadIdx.x & 31;
    const int32_t g = blockIdx.y;
    float sum[CHANNELS] = {};

    for (int32_t row = blockIdx.x * STRETCH + warp; row < min(((int32_t)blockIdx.x + 1) * STRETCH, in.rows[g]);
         row += WARPS) {
        const channels<T> x(key_row<T>(in, g, row), in.dim, lane);
        const float factor = 1.0f / fmaxf(sqrtf(x.square()), 1e-12f);
#pragma unroll
        for (int i = 0; i < CHANNELS; i++)
            sum[i] += x.x[i] * factor;
    }
#pragma unroll
    for (int i = 0; i < CHANNELS; i++)
        held[warp][lane + 32 * i] = sum[i];
    __syncthreads();
    for (int32_t c = threadIdx.x; c < in.dim; c += THREADS) {
        float all = 0.0f;
        for (int k = 0; k < WARPS; k++)
            all += held[k][c];
        partial[((int64_t)g * gridDim.x + blockIdx.x) * in.dim + c] = all;
    }
}

/* anchor [G][dim] */
__global__ void anchor_join_kernel(const __grid_constant__ struct rows_view in, const float *partial, int32_t stretches,
                                   float *anchor)
{
    const int32_t g = blockIdx.x;

    for (int32_t c = threadIdx.x; c < in.dim; c += blockDim.x) {
        float sum = 0.0f;
        for (int32_t s = 0; s < stretches; s++)
            sum += partial[((int64_t)g * stretches + s) * in.dim + c];
        anchor[g * in.dim + c] = in.rows[g] > 0 ? sum / (float)in.rows[g] : 0.0f;
    }
}

/* score = factor * k . vector[g], over both lengths where `cosine`. */
template <typename T>
__global__ void dot_kernel(const __grid_constant__ struct rows_view in, const float *vector, float factor, bool cosine,
                           float *score)
{
    __shared__ float held[KV_HEAD_DIM_MAX];
    const int warp = threadIdx.x >> 5, lane = threadIdx.x & 31;
    const int32_t g = blockIdx.y;
    float length = 0.0f;

    for (int32_t c = threadIdx.x; c < in.dim; c += THREADS)
        held[c] = vector[(int64_t)g * in.dim + c];
    __syncthreads();
    for (int32_t c = lane; c < in.dim; c += 32)
        length += held[c] * held[c];
    length = fmaxf(sqrtf(warp_sum(length)), 1e-8f);
    for (int32_t row = blockIdx.x * STRETCH + warp; row < min(((int32_t)blockIdx.x + 1) * STRETCH, in.rows[g]);
         row += WARPS) {
        const channels<T> x(key_row<T>(in, g, row), in.dim, lane);
        float value = factor * x.dot(held, in.dim, lane);
        if (cosine)
            value /= length * fmaxf(sqrtf(x.square()), 1e-8f);
        if (lane == 0)
            score[in.at[g] + row] = value;
    }
}

/* One partition of LagKV to a block. u: [at[G]] room. grid: partitions, heads */
template <typename T>
__global__ void lag_kernel(const __grid_constant__ struct rows_view in, int32_t from, int32_t lag, float *u,
                           float *score)
{
    __shared__ float least[KV_HEAD_DIM_MAX], span[KV_HEAD_DIM_MAX];
    const int warp = threadIdx.x >> 5, lane = threadIdx.x & 31;
    const int32_t g = blockIdx.y, dim = in.dim, row0 = from + blockIdx.x * lag;

    if (row0 + 2 * lag > in.rows[g])
        return;
    u += in.at[g] + row0;
    score += in.at[g] + row0;
    for (int which = 0; which < 2; which++) {
        for (int32_t c = threadIdx.x; c < dim; c += THREADS) {
            float low = CUDART_INF_F, high = -CUDART_INF_F;
            for (int32_t r = row0 + lag; r < row0 + 2 * lag; r++) {
                const float x = number((which ? value_row<T>(in, g, r) : key_row<T>(in, g, r))[c]);
                low = fminf(low, x);
                high = fmaxf(high, x);
            }
            least[c] = low;
            span[c] = high - low;
        }
        __syncthreads();
        float top = -CUDART_INF_F, sum = 0.0f;
        for (int32_t t = warp; t < lag; t += WARPS) {
            const channels<T> x(which ? value_row<T>(in, g, row0 + t) : key_row<T>(in, g, row0 + t), dim, lane);
            float z[CHANNELS], mean = 0.0f, square = 0.0f;
#pragma unroll
            for (int i = 0; i < CHANNELS; i++) {
                const int32_t c = lane + 32 * i;
                z[i] = c < dim && span[c] != 0.0f ? (x.x[i] - least[c]) / span[c] : 0.0f;
                mean += z[i];
            }
            mean = warp_sum(mean) / (float)dim;
#pragma unroll
            for (int i = 0; i < CHANNELS; i++)
                square += lane + 32 * i < dim ? (z[i] - mean) * (z[i] - mean) : 0.0f;
            square = warp_sum(square);
            if (lane == 0)
                u[t] = dim > 1 ? sqrtf(square / (float)(dim - 1)) : 0.0f;
        }
        __syncthreads();
        for (int32_t t = lane; t < lag; t += 32) /* each warp for itself */
            top = fmaxf(top, u[t]);
        top = warp_max(top);
        for (int32_t t = lane; t < lag; t += 32)
            sum += expf(u[t] - top);
        sum = warp_sum(sum);
        for (int32_t t = threadIdx.x; t < lag; t += THREADS)
            score[t] = (which ? score[t] : 0.0f) + 0.5f * (expf(u[t] - top) / sum);
        __syncthreads();
    }
}

/* Mean of k^2 over the chosen rows. grid: heads; thread by (turn, channel) */
template <typename T>
__global__ void channel_squares_kernel(const __grid_constant__ struct rows_view in, const int32_t *index,
                                       const __grid_constant__ struct head_firsts first, float *out)
{
    __shared__ double part[1024];
    const int32_t g = blockIdx.x, dim = in.dim, turns = blockDim.x / dim, c = threadIdx.x % dim,
                  turn = threadIdx.x / dim;
    double sum = 0.0;

    if (turn < turns)
        for (int64_t i = first.at[g] + turn; i < first.at[g + 1]; i += turns) {
            const double k = number(key_row<T>(in, g, index[i])[c]);
            sum += k * k;
        }
    part[threadIdx.x] = sum;
    __syncthreads();
    if (turn != 0)
        return;
    for (int32_t k = 1; k < turns; k++)
        sum += part[k * dim + c];
    const int64_t count = first.at[g + 1] - first.at[g];
    out[g * dim + c] = count > 0 ? (float)(sum / (double)count) : 0.0f;
}

/* Zeros in the keys of chosen rows, where the mask has no channel. A warp owns a row. grid: stretches of chosen rows, heads */
template <typename T>
__global__ void keep_channels_kernel(const __grid_constant__ struct rows_view in, const int32_t *index,
                                     const __grid_constant__ struct head_firsts first, const uint8_t *mask)
{
    const int lane = threadIdx.x & 31;
    const int32_t g = blockIdx.y, dim = in.dim;
    const int64_t begin = first.at[g] + (int64_t)blockIdx.x * STRETCH, end = min(begin + STRETCH, first.at[g + 1]);

    mask += g * ((dim + 7) / 8);
    for (int64_t i = begin + (threadIdx.x >> 5); i < end; i += WARPS) {
        T *k = const_cast<T *>(key_row<T>(in, g, index[i]));
        for (int32_t c = lane; c < dim; c += 32)
            if (!(mask[c / 8] >> c % 8 & 1))
                k[c] = rounded<T>(0.0f);
    }
}

/* A warp owns a row of x and OUTS outputs at a time. */
template <typename T>
__global__ void linear_kernel(const T *x, int64_t rows, int64_t cols, const float *w, const float *bias, int32_t outs,
                              float *out)
{
    const int lane = threadIdx.x & 31;
    const int64_t row = (int64_t)blockIdx.x * WARPS + (threadIdx.x >> 5);

    if (row >= rows)
        return;
    for (int32_t o0 = 0; o0 < outs; o0 += OUTS) {
        float sum[OUTS] = {};
        for (int64_t c = lane; c < cols; c += 32) {
            const float value = number(x[row * cols + c]);
#pragma unroll
            for (int o = 0; o < OUTS; o++)
                if (o0 + o < outs)
                    sum[o] += value * w[(o0 + o) * cols + c];
        }
#pragma unroll
        for (int o = 0; o < OUTS; o++) {
            const float all = warp_sum(sum[o]);
            if (lane == 0 && o0 + o < outs)
                out[row * outs + o0 + o] = all + (bias ? bias[o0 + o] : 0.0f);
        }
    }
}

/* ---- launchers ---- */

static dim3 stretches(const struct rows_view *in)
{
    return dim3(int_ceil(in->rows_longest, STRETCH), (unsigned)in->heads);
}

cudaError_t launch_row_squares(struct cuda_queue q, enum dtype t, const struct rows_view *in, const float *sketch,
                               int32_t columns, float *k2, float *v2)
{
    if (in->rows_longest == 0)
        return cudaSuccess;
    if (!sketch) {
        const cudaError_t e = k2 ? launch_squares(q, t, in, false, k2) : cudaSuccess;
        return e == cudaSuccess && v2 ? launch_squares(q, t, in, true, v2) : e;
    }
    if (t == DT_F32)
        sketched_kernel<float><<<stretches(in), THREADS, 0, q.stream>>>(*in, sketch, columns, k2, v2);
    else
        sketched_kernel<bf16><<<stretches(in), THREADS, 0, q.stream>>>(*in, sketch, columns, k2, v2);
    return cudaGetLastError();
}

cudaError_t launch_key_diff(struct cuda_queue q, enum dtype t, const struct rows_view *in, float *room, float *score)
{
    const dim3 grid = stretches(in);
    float *anchor = room + (int64_t)grid.x * grid.y * in->dim;

    if (in->rows_longest == 0)
        return cudaSuccess;
    if (t == DT_F32)
        anchor_kernel<float><<<grid, THREADS, 0, q.stream>>>(*in, room);
    else
        anchor_kernel<bf16><<<grid, THREADS, 0, q.stream>>>(*in, room);
    anchor_join_kernel<<<grid.y, 128, 0, q.stream>>>(*in, room, (int32_t)grid.x, anchor);
    if (t == DT_F32)
        dot_kernel<float><<<grid, THREADS, 0, q.stream>>>(*in, anchor, -1.0f, true, score);
    else
        dot_kernel<bf16><<<grid, THREADS, 0, q.stream>>>(*in, anchor, -1.0f, true, score);
    return cudaGetLastError();
}

cudaError_t launch_key_dot(struct cuda_queue q, enum dtype t, const struct rows_view *in, const float *filter,
                           float factor, float *score)
{
    if (in->rows_longest == 0)
        return cudaSuccess;
    if (t == DT_F32)
        dot_kernel<float><<<stretches(in), THREADS, 0, q.stream>>>(*in, filter, factor, false, score);
    else
        dot_kernel<bf16><<<stretches(in), THREADS, 0, q.stream>>>(*in, filter, factor, false, score);
    return cudaGetLastError();
}

cudaError_t launch_lag(struct cuda_queue q, enum dtype t, const struct rows_view *in, int32_t from, int32_t lag,
                       float *room, float *score)
{
    const dim3 grid(int_ceil(in->rows_longest, lag), (unsigned)in->heads);

    if (in->rows_longest == 0)
        return cudaSuccess;
    if (t == DT_F32)
        lag_kernel<float><<<grid, THREADS, 0, q.stream>>>(*in, from, lag, room, score);
    else
        lag_kernel<bf16><<<grid, THREADS, 0, q.stream>>>(*in, from, lag, room, score);
    return cudaGetLastError();
}

cudaError_t launch_channel_squares(struct cuda_queue q, enum dtype t, const struct rows_view *in, const int32_t *index,
                                   const struct head_firsts *first, float *out)
{
    const int threads = 1024 / in->dim * in->dim;

    if (t == DT_F32)
        channel_squares_kernel<float><<<(unsigned)in->heads, threads, 0, q.stream>>>(*in, index, *first, out);
    else
        channel_squares_kernel<bf16><<<(unsigned)in->heads, threads, 0, q.stream>>>(*in, index, *first, out);
    return cudaGetLastError();
}

cudaError_t launch_keep_channels(struct cuda_queue q, enum dtype t, const struct rows_view *in, const int32_t *index,
                                 const struct head_firsts *first, const uint8_t *mask)
{
    int64_t kept = 0;

    for (int32_t g = 0; g < in->heads; g++)
        kept = first->at[g + 1] - first->at[g] > kept ? first->at[g + 1] - first->at[g] : kept;
    if (kept == 0)
        return cudaSuccess;
    const dim3 grid(int_ceil(kept, STRETCH), (unsigned)in->heads);
    if (t == DT_F32)
        keep_channels_kernel<float><<<grid, THREADS, 0, q.stream>>>(*in, index, *first, mask);
    else
        keep_channels_kernel<bf16><<<grid, THREADS, 0, q.stream>>>(*in, index, *first, mask);
    return cudaGetLastError();
}

cudaError_t launch_linear(struct cuda_queue q, enum dtype t, const void *x, int64_t rows, int64_t cols, const float *w,
                          const float *bias, int32_t outs, float *out)
{
    if (rows == 0)
        return cudaSuccess;
    if (t == DT_F32)
        linear_kernel<float>
            <<<int_ceil(rows, WARPS), THREADS, 0, q.stream>>>((const float *)x, rows, cols, w, bias, outs, out);
    else
        linear_kernel<bf16>
            <<<int_ceil(rows, WARPS), THREADS, 0, q.stream>>>((const bf16 *)x, rows, cols, w, bias, outs, out);
    return cudaGetLastError();
}
