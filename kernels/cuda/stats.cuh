/* SPDX-License-Identifier: Apache-2.0 */
/* stats.cuh - how stats.cu and stats_wgmma.cu end: sums of stretches of rows become mean and covariance. */
#ifndef PLATEN_KERNELS_CUDA_STATS_CUH
#define PLATEN_KERNELS_CUDA_STATS_CUH

#include "kernels/cuda/device.cuh"

/* mean = sum x / rows, cov = sum x x' / rows - mean mean' of entry i D + j of head h. partial f32 [H][splits] of sums x x' [D][D]
 * and x [D]; `from` is where they have the entry: (i, j) or, as it is symmetric, (j, i). */
template <int D>
__device__ __forceinline__ void stats_join(const float *partial, int32_t splits, int64_t rows, int32_t h, int32_t entry,
                                           int32_t from, float *mean, float *cov)
{
    enum { FLOATS = D * D + D };
    const int32_t i = entry / D, j = entry % D;
    const float *part = partial + (int64_t)h * splits * FLOATS;
    double product = 0.0, x = 0.0, y = 0.0;

    for (int32_t s = 0; s < splits; s++, part += FLOATS) {
        product += part[from];
        x += part[D * D + i];
        y += part[D * D + j];
    }
    x /= (double)rows, y /= (double)rows;
    cov[(int64_t)h * D * D + entry] = (float)(product / (double)rows - x * y);
    if (i == j)
        mean[h * D + i] = (float)x;
}

#endif
