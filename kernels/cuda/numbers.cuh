/* SPDX-License-Identifier: Apache-2.0 */
/* numbers.cuh - constants and orders of numbers that several kernel families share. */
#ifndef PLATEN_KERNELS_CUDA_NUMBERS_CUH
#define PLATEN_KERNELS_CUDA_NUMBERS_CUH

#include "kernels/cuda/device.cuh"

/* e^x = 2^(x LOG2E): powers are taken of 2 (power2). */
#define LOG2E 1.4426950408889634f

/* A number as one that compares like it, without a sign: what atomics and digits go by. No number but a NaN becomes 0, so that
 * 0 may say that there was none; -0 stands below 0. */
__device__ __forceinline__ uint32_t ordered(float x)
{
    const uint32_t bits = __float_as_uint(x);
    return bits & 0x80000000u ? ~bits : bits | 0x80000000u;
}
__device__ __forceinline__ float unordered(uint32_t bits)
{
    return __uint_as_float(bits & 0x80000000u ? bits & 0x7fffffffu : ~bits);
}

#endif
