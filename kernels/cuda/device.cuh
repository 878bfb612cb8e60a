/* SPDX-License-Identifier: Apache-2.0 */
/*
 * device.cuh - what every kernel family uses: numbers of a dtype, sums over a warp or block, matrix instructions,
 * asynchronous copies, and launches that overlap their neighbours.
 */
#ifndef PLATEN_KERNELS_CUDA_DEVICE_CUH
#define PLATEN_KERNELS_CUDA_DEVICE_CUH

#include "kernels/cuda/launch.h"

#include <cuda_bf16.h>
#include <cuda_runtime.h>
#include <math_constants.h>
#include <utility>

typedef __nv_bfloat16 bf16;

__device__ __forceinline__ float number(float x)
{
    return x;
}
__device__ __forceinline__ float number(bf16 x)
{
    return __bfloat162float(x);
}
template <typename T> __device__ __forceinline__ T rounded(float x);
template <> __device__ __forceinline__ float rounded<float>(float x)
{
    return x;
}
template <> __device__ __forceinline__ bf16 rounded<bf16>(float x)
{
    return __float2bfloat16_rn(x);
}

/* 16 bytes of T. */
template <typename T> struct pack16 {
    enum { count = 16 / sizeof(T) };
    union {
        uint4 bits;
        T at[count];
    };
    __device__ pack16()
    {
    }
};
template <typename T> __device__ __forceinline__ pack16<T> load16(const T *p)
{
    pack16<T> x;
    x.bits = *reinterpret_cast<const uint4 *>(p);
    return x;
}
template <typename T> __device__ __forceinline__ void store16(T *p, const pack16<T> &x)
{
    *reinterpret_cast<uint4 *>(p) = x.bits;
}

__device__ __forceinline__ float warp_sum(float x)
{
#pragma unroll
    for (int d = 16; d > 0; d >>= 1)
        x += __shfl_xor_sync(0xffffffffu, x, d);
    return x;
}
__device__ __forceinline__ float warp_max(float x)
{
#pragma unroll
    for (int d = 16; d > 0; d >>= 1)
        x = fmaxf(x, __shfl_xor_sync(0xffffffffu, x, d));
    return x;
}
/* Sum over the block, given to every thread; blockDim.x a multiple of 32. Synchronises. */
__device__ __forceinline__ float block_sum(float x)
{
    __shared__ float part[33];
    int warp = threadIdx.x >> 5, lane = threadIdx.x & 31, warps = blockDim.x >> 5;

    x = warp_sum(x);
    if (lane == 0)
        part[warp] = x;
    __syncthreads();
    if (warp == 0) {
        float y = warp_sum(lane < warps ? part[lane] : 0.0f);
        if (lane == 0)
            part[32] = y;
    }
    __syncthreads();
    x = part[32];
    __syncthreads();
    return x;
}

/* A barrier of some warps of the thread block; ID from 1. */
template <int ID, int THREADS> __device__ __forceinline__ void warps_sync()
{
    asm volatile("bar.sync %0, %1;\n" ::"n"(ID), "n"(THREADS) : "memory");
}

/* ---- asynchronous copies to shared memory (sm_80) ---- */
__device__ __forceinline__ uint32_t shared_address(const void *p)
{
    return (uint32_t)__cvta_generic_to_shared(p);
}
/* 16 bytes, or zeros where !valid (`from` is not read then). */
__device__ __forceinline__ void copy16_async(uint32_t to, const void *from, bool valid)
{
    int bytes = valid ? 16 : 0;
    asm volatile("cp.async.cg.shared.global.L2::128B [%0], [%1], 16, %2;\n" ::"r"(to), "l"(from), "r"(bytes)
                 : "memory");
}
/* 4 bytes, or zeros. */
__device__ __forceinline__ void copy4_async(uint32_t to, const void *from, bool valid)
{
    int bytes = valid ? 4 : 0;
    asm volatile("cp.async.ca.shared.global [%0], [%1], 4, %2;\n" ::"r"(to), "l"(from), "r"(bytes) : "memory");
}
__device__ __forceinline__ void copies_commit()
{
    asm volatile("cp.async.commit_group;\n" ::: "memory");
}
template <int LEFT> __device__ __forceinline__ void copies_wait()
{
    asm volatile("cp.async.wait_group %0;\n" ::"n"(LEFT) : "memory");
}

/* What is read once leaves the L2 first: a policy for loads. */
__device__ __forceinline__ uint64_t once_only()
{
    uint64_t policy;
    asm("createpolicy.fractional.L2::evict_first.b64 %0, 1.0;\n" : "=l"(policy));
    return policy;
}
/* Calls `bytes` bytes (of 16) into the L2. */
__device__ __forceinline__ void call_ahead(const void *p, uint32_t bytes)
{
#if __CUDA_ARCH__ >= 900
    asm volatile("cp.async.bulk.prefetch.L2.global [%0], %1;\n" ::"l"(p), "r"(bytes) : "memory");
#endif
}

/* ---- matrix instructions ---- */
__device__ __forceinline__ void load_matrices(uint32_t (&r)[4], uint32_t at)
{
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];\n"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(at)
                 : "memory");
}
__device__ __forceinline__ void load_matrices_turned(uint32_t (&r)[4], uint32_t at)
{
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];\n"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(at)
                 : "memory");
}
__device__ __forceinline__ void load_two_turned(uint32_t (&r)[2], uint32_t at)
{
    asm volatile("ldmatrix.sync.aligned.m8n8.x2.trans.shared.b16 {%0,%1}, [%2];\n"
                 : "=r"(r[0]), "=r"(r[1])
                 : "r"(at)
                 : "memory");
}
/* c[16][8] += a[16][16] . b[16][8], bf16 in, f32 out */
__device__ __forceinline__ void multiply(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1)
{
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, "
                 "{%0,%1,%2,%3};\n"
                 : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}
__device__ __forceinline__ uint32_t bf16_pair(float low, float high)
{
    __nv_bfloat162 p = __floats2bfloat162_rn(low, high);
    return *reinterpret_cast<uint32_t *>(&p);
}

/* 2^x by one instruction; results below 2^-126 are 0. */
__device__ __forceinline__ float power2(float x)
{
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;\n" : "=f"(y) : "f"(x));
    return y;
}

__device__ __forceinline__ float activate(float x, int kind)
{
    if (kind == ACT_SILU)
        return x / (1.0f + __expf(-x));
    /* x (1 + tanh u) / 2 = x / (1 + exp(-2 u)), which loses nothing for negative x */
    return x / (1.0f + __expf(-1.5957691216057308f * (x + 0.044715f * x * x * x)));
}

/* Row `row` of x, by the whole thread block: launch_embed. */
template <typename T>
__device__ __forceinline__ void embed_row(const T *table, int32_t vocab, const int32_t *ids, const int32_t *slot_token,
                                          int32_t dim, float scale, int64_t row, float *x)
{
    int32_t id = ids[row];

    if (id < 0)
        id = slot_token[-1 - id];
    id = id < 0 ? 0 : id < vocab ? id : vocab - 1; /* refused long before; never a read outside the table */
    for (int32_t c = threadIdx.x; c < dim; c += blockDim.x)
        x[row * dim + c] = number(table[(int64_t)id * dim + c]) * scale;
}

/* Counts one more arrival and returns how many there were: what this thread block wrote before its last barrier is seen
 * by whoever counts later, and what was written before earlier arrivals is seen here. */
__device__ __forceinline__ uint32_t arrive(uint32_t *count)
{
    uint32_t before;
    asm volatile("atom.add.acq_rel.gpu.global.u32 %0, [%1], 1;\n" : "=r"(before) : "l"(count) : "memory");
    return before;
}

/* ---- order within a chain of launches ----
 * A kernel that calls chain_next only after chain_wait promises its follower: when you start, everything before me is
 * done. So the follower may read before its own chain_wait what older kernels wrote, but not what this one writes. */
__device__ __forceinline__ void chain_wait()
{
#if __CUDA_ARCH__ >= 900
    cudaGridDependencySynchronize();
#endif
}
__device__ __forceinline__ void chain_next()
{
#if __CUDA_ARCH__ >= 900
    cudaTriggerProgrammaticLaunchCompletion();
#endif
}
__device__ __forceinline__ void chain_begin()
{
    chain_wait();
    chain_next();
}

/* Every kernel launched so must call chain_wait before it touches memory that others write. */
template <typename... P, typename... A>
static cudaError_t launch_chained(const struct cuda_queue &q, dim3 grid, dim3 block, size_t shared,
                                  void (*kernel)(P...), A &&...args)
{
    cudaLaunchAttribute attribute;
    cudaLaunchConfig_t config = {};

    attribute.id = cudaLaunchAttributeProgrammaticStreamSerialization;
    attribute.val.programmaticStreamSerializationAllowed = 1;
    config.gridDim = grid;
    config.blockDim = block;
    config.dynamicSmemBytes = shared;
    config.stream = q.stream;
    config.attrs = &attribute;
    config.numAttrs = q.chained ? 1 : 0;
    return cudaLaunchKernelEx(&config, kernel, std::forward<A>(args)...);
}

/* Lets a kernel use more shared memory than 48 KiB, what it declares itself included. */
template <typename K> static cudaError_t allow_shared(K kernel, size_t bytes)
{
    if (bytes <= 32 * 1024)
        return cudaSuccess;
    return cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, (int)bytes);
}

/* All of a multiprocessor's memory as shared memory: kernels that ask for the same can stand beside each other. */
template <typename K> static cudaError_t all_shared(K kernel)
{
    return cudaFuncSetAttribute(kernel, cudaFuncAttributePreferredSharedMemoryCarveout, cudaSharedmemCarveoutMaxShared);
}

static inline int32_t int_ceil(int64_t a, int64_t b)
{
    return (int32_t)((a + b - 1) / b);
}

#endif
