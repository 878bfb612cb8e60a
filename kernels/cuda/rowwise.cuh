/* SPDX-License-Identifier: Apache-2.0 */
/* rowwise.cuh - a row of a view: where it lies, which token it is, and its channels in a warp's registers. */
#ifndef PLATEN_KERNELS_CUDA_ROWWISE_CUH
#define PLATEN_KERNELS_CUDA_ROWWISE_CUH

#include "kernels/cuda/device.cuh"

enum { CHANNELS = KV_HEAD_DIM_MAX / 32 };

template <typename T> __device__ __forceinline__ const T *key_row(const struct rows_view &in, int32_t g, int32_t row)
{
    return (const T *)in.k + (in.first[g] + row) * in.dim;
}
template <typename T> __device__ __forceinline__ const T *value_row(const struct rows_view &in, int32_t g, int32_t row)
{
    return (const T *)in.v + (in.first[g] + row) * in.dim;
}
__device__ __forceinline__ int64_t token_of(const struct rows_view &in, int32_t g, int32_t row)
{
    return in.token ? in.token[in.at[g] + row] : row;
}

/* A row's channels lane, lane + 32, ...; zeros past the last. */
template <typename T> struct channels {
    float x[CHANNELS];
    __device__ channels(const T *row, int32_t dim, int lane)
    {
#pragma unroll
        for (int i = 0; i < CHANNELS; i++)
            x[i] = lane + 32 * i < dim ? number(row[lane + 32 * i]) : 0.0f;
    }
    __device__ float square() const
    {
        float sum = 0.0f;
#pragma unroll
        for (int i = 0; i < CHANNELS; i++)
            sum += x[i] * x[i];
        return warp_sum(sum);
    }
    __device__ float dot(const float *y, int32_t dim, int lane) const
    {
        float sum = 0.0f;
#pragma unroll
        for (int i = 0; i < CHANNELS; i++)
            if (lane + 32 * i < dim)
                sum += x[i] * y[lane + 32 * i];
        return warp_sum(sum);
    }
};

#endif
