/* SPDX-License-Identifier: Apache-2.0 */
/*
 * skinny.cuh - what products of few rows share (skinny.cu, thin.cu): 16 outputs to a tile, weights read once, and what
 * becomes of an output.
 */
#ifndef PLATEN_KERNELS_CUDA_SKINNY_CUH
#define PLATEN_KERNELS_CUDA_SKINNY_CUH

#include "kernels/cuda/place.cuh"

enum { WARPS = 8, STEP = 32 };
enum skinny_out { OUT_PLAIN, OUT_GATED, OUT_QKV };

__device__ __forceinline__ uint64_t once_only()
{
    uint64_t policy;
    asm("createpolicy.fractional.L2::evict_first.b64 %0, 1.0;\n" : "=l"(policy));
    return policy;
}

__device__ __forceinline__ uint4 load_streaming(const void *p, uint64_t policy)
{
    uint4 x;
    asm volatile("ld.global.nc.L1::no_allocate.L2::cache_hint.L2::256B.v4.u32 {%0,%1,%2,%3}, [%4], %5;\n"
                 : "=r"(x.x), "=r"(x.y), "=r"(x.z), "=r"(x.w)
                 : "l"(p), "l"(policy));
    return x;
}

/* Calls `bytes` bytes (of 16) into the L2. */
__device__ __forceinline__ void call_ahead(const void *p, uint32_t bytes)
{
#if __CUDA_ARCH__ >= 900
    asm volatile("cp.async.bulk.prefetch.L2.global [%0], %1;\n" ::"l"(p), "r"(bytes) : "memory");
#endif
}

/* Two runs of 8 outputs each that make tile `tile` of 16. */
struct tile_runs {
    int32_t first, second;
    int32_t head, channel; /* OUT_QKV */
    bool turned;
};

template <int OUT>
__device__ __forceinline__ struct tile_runs tile_at(const struct skinny_args &a, const struct rotate_args &t,
                                                    int32_t tile)
{
    if constexpr (OUT == OUT_PLAIN)
        return { tile * 16, tile * 16 + 8, 0, 0, false };
    if constexpr (OUT == OUT_GATED)
        return { tile * 8, a.n / 2 + tile * 8, 0, 0, false };
    const int32_t half = t.inv_freq ? t.rope_dims / 2 : 0, head = tile / (t.dim / 16), j = tile % (t.dim / 16);
    const bool key = head < t.q_heads + t.kv_heads, turned = key && j * 8 < half;
    const int32_t channel = !key ? j * 16 : turned ? j * 8 : 2 * half + (j - half / 8) * 16;
    const int32_t first = head * t.dim + channel;
    return { first, first + (turned ? half : 8), head, channel, turned };
}

/* 8 numbers of a row times the norm's weight, in bf16; their squares are added to `square`. */
__device__ __forceinline__ uint4 weighed(const float4 (&x)[2], const float4 (&w)[2], float &square)
{
#pragma unroll
    for (int i = 0; i < 2; i++)
        square += x[i].x * x[i].x + x[i].y * x[i].y + x[i].z * x[i].z + x[i].w * x[i].w;
    return make_uint4(bf16_pair(x[0].x * w[0].x, x[0].y * w[0].y), bf16_pair(x[0].z * w[0].z, x[0].w * w[0].w),
                      bf16_pair(x[1].x * w[1].x, x[1].y * w[1].y), bf16_pair(x[1].z * w[1].z, x[1].w * w[1].w));
}

/* A pair of channels of q, k or v of row m goes where attention wants it. */
__device__ __forceinline__ void pair_place(const struct rotate_args &t, const struct tile_runs &tile, int32_t m,
                                           int32_t o, float x, float y, const float *angle)
{
    const int32_t a = tile.channel + o, b = a + (tile.second - tile.first);
    bf16 *to, *k, *v;

    if (tile.turned) {
        const float cosine = angle[0], sine = angle[1], turned = x * cosine - y * sine;
        y = y * cosine + x * sine;
        x = turned;
    }
    if (tile.head < t.q_heads) {
        to = (bf16 *)t.q + ((int64_t)m * t.q_heads + tile.head) * t.dim;
    } else {
        const int32_t g = (tile.head - t.q_heads) % t.kv_heads;
        if (!place<bf16>(t, m, g, &k, &v))
            return;
        to = tile.head < t.q_heads + t.kv_heads ? k : v;
    }
    to[a] = rounded<bf16>(x);
    to[b] = rounded<bf16>(y);
}

#endif
