/* SPDX-License-Identifier: Apache-2.0 */
/*
 * hole.cuh - how thread blocks hand each other numbers in device memory without a fence, a counter or a lock.
 *
 * Where a number will stand there is a hole, a pattern that is written as no number. Each number on its own says whether it
 * is there, so nothing is ordered: whoever waits reads until it is one, and leaves a hole behind for the next time. Thread
 * blocks wait for those that were started before them alone.
 */
#ifndef PLATEN_KERNELS_CUDA_HOLE_CUH
#define PLATEN_KERNELS_CUDA_HOLE_CUH

#include "kernels/cuda/device.cuh"
#include "kernels/cuda/launch.h"

__device__ __forceinline__ uint32_t filled(float x)
{
    const uint32_t bits = __float_as_uint(x);
    return bits == CUDA_HOLE ? 0x7fffffffu : bits; /* both are NaN */
}

__device__ __forceinline__ uint4 four_holes()
{
    return make_uint4(CUDA_HOLE, CUDA_HOLE, CUDA_HOLE, CUDA_HOLE);
}
template <typename T> __device__ __forceinline__ void relaxed_store(T *to, uint4 x)
{
    asm volatile("st.relaxed.gpu.global.v4.u32 [%0], {%1,%2,%3,%4};\n" ::"l"(to), "r"(x.x), "r"(x.y), "r"(x.z), "r"(x.w)
                 : "memory");
}
template <typename T> __device__ __forceinline__ void relaxed_store(T *to, uint2 x)
{
    asm volatile("st.relaxed.gpu.global.v2.u32 [%0], {%1,%2};\n" ::"l"(to), "r"(x.x), "r"(x.y) : "memory");
}
template <typename T> __device__ __forceinline__ void relaxed_load(const T *from, uint4 &x)
{
    asm volatile("ld.relaxed.gpu.global.v4.u32 {%0,%1,%2,%3}, [%4];\n"
                 : "=r"(x.x), "=r"(x.y), "=r"(x.z), "=r"(x.w)
                 : "l"(from)
                 : "memory");
}
template <typename T> __device__ __forceinline__ void relaxed_load(const T *from, uint2 &x)
{
    asm volatile("ld.relaxed.gpu.global.v2.u32 {%0,%1}, [%2];\n" : "=r"(x.x), "=r"(x.y) : "l"(from) : "memory");
}

#endif
