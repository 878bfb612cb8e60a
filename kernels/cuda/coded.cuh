/* SPDX-License-Identifier: Apache-2.0 */
/*
 * coded.cuh - rows of a block that are not plain (common/kv/codec.h): codes to numbers, and which channels K rows have.
 *
 * int8 and e4m3 codes are exact as bf16, so that reading one rounds nothing; scales are multiplied in later.
 */
#ifndef PLATEN_KERNELS_CUDA_CODED_CUH
#define PLATEN_KERNELS_CUDA_CODED_CUH

#include "kernels/cuda/device.cuh"

__device__ __forceinline__ __nv_bfloat162 pair_bits(uint32_t bits)
{
    return *reinterpret_cast<__nv_bfloat162 *>(&bits);
}
__device__ __forceinline__ uint32_t bits_of(__nv_bfloat162 pair)
{
    return *reinterpret_cast<uint32_t *>(&pair);
}

/* Bytes LOW and HIGH of a word of codes as a pair of bf16.
 *
 *   int8   128 + the low 7 bits, less 128 + 128 times the sign
 *   e4m3   sign, exponent and mantissa where bf16 has them are the number / 2^120 (subnormal ones too) */
template <int LOW, int HIGH> __device__ __forceinline__ uint32_t codes_pair(uint32_t word, int32_t codec)
{
    if (codec == KV_INT8) {
        const uint32_t bytes = __byte_perm(word, 0, 0x4040 | LOW | HIGH << 8);
        return bits_of(
            __hsub2(pair_bits((bytes & 0x007f007fu) | 0x43004300u), pair_bits((bytes & 0x00800080u) | 0x43004300u)));
    }
    const uint32_t bytes = __byte_perm(word, 0, 0x0404 | LOW << 4 | HIGH << 12);
    return bits_of(__hmul2(pair_bits((bytes & 0x80008000u) | (bytes >> 4 & 0x07f007f0u)), pair_bits(0x7b807b80u)));
}

/* One code as a number, without its row's scale. */
__device__ __forceinline__ float code_number(uint8_t code, int32_t codec)
{
    if (codec == KV_INT8)
        return (float)(int8_t)code;
    return __uint_as_float((uint32_t)(code & 0x80) << 24 | (uint32_t)(code & 0x7f) << 20) * 0x1p120f;
}

/* Number `at` of rows: plain ones of T, or coded ones without their scale. */
template <typename T> __device__ __forceinline__ float row_number(const void *rows, int32_t codec, int64_t at)
{
    return codec == KV_PLAIN ? number(((const T *)rows)[at]) : code_number(((const uint8_t *)rows)[at], codec);
}

/* kept[i] = the i-th channel that the mask has; by one warp. */
__device__ __forceinline__ void channels_kept(const uint8_t *mask, int32_t dim, int lane, uint8_t *kept)
{
    int32_t before = 0;

    for (int32_t c = lane; c - lane < dim; c += 32) {
        const bool here = c < dim && (mask[c / 8] >> c % 8 & 1);
        const uint32_t all = __ballot_sync(0xffffffffu, here);
        if (here)
            kept[before + __popc(all & ((1u << lane) - 1))] = (uint8_t)c;
        before += __popc(all);
    }
}

/* Where channel c of a head's K rows stands in them; -1: it was dropped. */
__device__ __forceinline__ int32_t channel_place(const uint8_t *mask, int32_t c)
{
    int32_t place = __popc(mask[c / 8] & ((1u << c % 8) - 1));

    if (!(mask[c / 8] >> c % 8 & 1))
        return -1;
    for (int32_t i = 0; i < c / 8; i++)
        place += __popc((uint32_t)mask[i]);
    return place;
}

/* x, whose magnitude times `factor` is at most the largest code, as the nearest code. */
__device__ __forceinline__ uint8_t code_of(float x, float factor, int32_t codec)
{
    const float y = __fmul_rn(x, factor);

    if (codec == KV_INT8)
        return (uint8_t)__float2int_rn(y);
    const uint32_t bits = __float_as_uint(y), size = bits & 0x7fffffffu;
    const uint32_t normal = ((size + 0x7ffffu + (size >> 20 & 1)) >> 20) - (120u << 3);
    const uint32_t tiny = (uint32_t)__float2int_rn(__uint_as_float(size) * 512.0f); /* steps of 2^-9 below 2^-6 */
    const uint32_t code = __uint_as_float(size) < 0.015625f ? tiny : normal;
    return (uint8_t)(min(code, 0x7eu) | (bits >> 24 & 0x80u));
}

#endif
