/* SPDX-License-Identifier: Apache-2.0 */
/*
 * coded.cuh - rows of a block that are not plain (common/kv/codec.h): codes to numbers, and which channels K rows have.
 *
 * int8 and e4m3 codes are exact as bf16, so that reading one rounds nothing; scales are multiplied in later. int4 codes are
 * read with their pair.
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

/* int4: the step and the least value of a pair, and channel c of a row of `channels`. */
__device__ __forceinline__ float pair_step(uint32_t pair)
{
    return __uint_as_float(pair << 16);
}
__device__ __forceinline__ float pair_least(uint32_t pair)
{
    return __uint_as_float(pair & 0xffff0000u);
}
__device__ __forceinline__ float pair_number(const void *codes, int32_t c, int32_t channels, uint32_t pair)
{
    const int32_t half = (channels + 1) / 2;
    const uint32_t byte = ((const uint8_t *)codes)[c < half ? c : c - half];

    return (float)(c < half ? byte & 15 : byte >> 4) * pair_step(pair) + pair_least(pair);
}

/* Coded rows of the heads before g in an int4 block. */
__device__ __forceinline__ int32_t coded_before(const struct slot_block *b, int32_t heads, int32_t g)
{
    return b->first[heads + 1 + g];
}

/* Whether a scale is multiplied in after rows of codes were read. */
__device__ __forceinline__ bool has_scales(int32_t codec)
{
    return codec == KV_INT8 || codec == KV_FP8;
}

/* Bytes of a row; `plain`: of a number that is not coded. */
__device__ __forceinline__ int64_t coded_bytes(int32_t codec, int32_t channels, int32_t plain)
{
    return codec == KV_PLAIN ? channels * plain : codec == KV_INT4 ? (channels + 1) / 2 : channels;
}

/* One row of a head's block, wherever it stands. */
struct block_row {
    const void *k, *v;
    const uint32_t *k_pair; /* int4: per channel */
    uint32_t v_pair;
    float k_scale, v_scale; /* int8, e4m3; else 1 */
    int32_t codec;          /* of this row: the whole rows of int4 are plain */
};

template <typename T>
__device__ struct block_row block_row_of(const struct slot_block *b, int32_t heads, int32_t dim, int32_t g, int64_t row)
{
    struct block_row r = { NULL, NULL, NULL, 0, 1.0f, 1.0f, b->codec };
    const char *k = (const char *)b->k, *v = (const char *)b->v;
    int64_t at = b->first[g] + row;

    if (b->codec == KV_INT4) {
        const int32_t before = coded_before(b, heads, g), coded = coded_before(b, heads, g + 1) - before;
        if (row < coded) {
            at = before + row;
            r.k_pair = (const uint32_t *)b->k_scale + at / KV_GROUP_ROWS * b->k_dim;
            r.v_pair = ((const uint32_t *)b->v_scale)[at];
        } else {
            at -= before + coded;
            r.codec = KV_PLAIN;
            k = (const char *)b->k_whole;
            v = (const char *)b->v_whole;
        }
    } else if (b->codec != KV_PLAIN) {
        r.k_scale = b->k_scale[at];
        r.v_scale = b->v_scale[at];
    }
    r.k = k + at * coded_bytes(r.codec, b->k_dim, sizeof(T));
    r.v = v + at * coded_bytes(r.codec, dim, sizeof(T));
    return r;
}

/* Number c of a row's K (of k_dim) and V (of dim), without its scale. */
template <typename T> __device__ __forceinline__ float key_number(const struct block_row &r, int32_t c, int32_t k_dim)
{
    return r.codec == KV_INT4 ? pair_number(r.k, c, k_dim, r.k_pair[c]) : row_number<T>(r.k, r.codec, c);
}
template <typename T>
__device__ __forceinline__ float value_number(const void *v, int32_t codec, uint32_t pair, int32_t c, int32_t dim)
{
    return codec == KV_INT4 ? pair_number(v, c, dim, pair) : row_number<T>(v, codec, c);
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
