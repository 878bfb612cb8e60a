/* SPDX-License-Identifier: Apache-2.0 */
/*
 * dtype.c - element types: sizes from the one list, and conversions by their bits.
 *
 *      f16   1 sign, 5 exponent (bias 15), 10 fraction         bf16  the upper half of an f32
 *      fp8   1 sign, 4 exponent (bias 7),  3 fraction; no infinities, 0x7f is NaN, 448 the largest
 *
 * Narrowing rounds to nearest, ties to even. Source of fp8: OCP 8-bit floating point specification, revision 1.0.
 */
#include "common/tensor/dtype.h"
#include "common/base/bytes.h"
#include "common/tensor/quant.h"

#include <assert.h>

struct dtype_row {
    enum dtype type;
    const char *word;
    int block_values, block_bytes;
};

static const struct dtype_row rows[] = {
#define DTYPE(name, number, word, values, bytes) { name, word, values, bytes },
#include "common/tensor/dtype.def"
#undef DTYPE
};

static const struct dtype_row *row_of(enum dtype t)
{
    for (size_t i = 0; i < ARRAY_LEN(rows); i++)
        if (rows[i].type == t)
            return &rows[i];
    assert(!"a dtype from the list");
    return NULL;
}

const char *dtype_word(enum dtype t)
{
    return row_of(t)->word;
}

int dtype_parse(const char *word)
{
    for (size_t i = 0; i < ARRAY_LEN(rows); i++)
        if (strcmp(rows[i].word, word) == 0)
            return (int)rows[i].type;
    return -1;
}

uint64_t dtype_bytes(enum dtype t, uint64_t values)
{
    const struct dtype_row *row = row_of(t);

    assert(values % (uint64_t)row->block_values == 0);
    return values / (uint64_t)row->block_values * (uint64_t)row->block_bytes;
}

int dtype_block_values(enum dtype t)
{
    return row_of(t)->block_values;
}

int dtype_block_bytes(enum dtype t)
{
    return row_of(t)->block_bytes;
}

static uint32_t bits_of(float f)
{
    uint32_t u;

    memcpy(&u, &f, sizeof u);
    return u;
}

static float float_of(uint32_t u)
{
    float f;

    memcpy(&f, &u, sizeof f);
    return f;
}

float f16_to_f32(uint16_t h)
{
    uint32_t sign = (uint32_t)(h & 0x8000u) << 16, rest = h & 0x7fffu;

    if (rest >= 0x7c00u) /* infinity, NaN */
        return float_of(sign | 0x7f800000u | (rest & 0x3ffu) << 13);
    if (rest >= 0x0400u)
        return float_of(sign | ((rest << 13) + ((127u - 15u) << 23)));
    return float_of(sign | bits_of((float)rest * 0x1p-24f)); /* subnormal: exact */
}

uint16_t f32_to_f16(float f)
{
    uint32_t u = bits_of(f), sign = u >> 16 & 0x8000u, rest = u & 0x7fffffffu;

    if (rest > 0x7f800000u)
        return (uint16_t)(sign | 0x7e00u | (rest >> 13 & 0x3ffu));
    if (rest >= 0x477ff000u) /* 65520 and more round to infinity */
        return (uint16_t)(sign | 0x7c00u);
    if (rest < 0x38800000u) /* below 2^-14: adding 0.5 leaves the rounded fraction in the low bits */
        return (uint16_t)(sign | (bits_of(float_of(rest) + 0.5f) - 0x3f000000u));
    rest += 0xfffu + (rest >> 13 & 1u);
    return (uint16_t)(sign | (rest - ((127u - 15u) << 23)) >> 13);
}

float f8_to_f32(uint8_t b)
{
    uint32_t sign = (uint32_t)(b & 0x80u) << 24, rest = b & 0x7fu;

    if (rest == 0x7fu)
        return float_of(sign | 0x7fc00000u);
    if (rest >= 0x08u)
        return float_of(sign | ((rest << 20) + ((127u - 7u) << 23)));
    return float_of(sign | bits_of((float)rest * 0x1p-9f));
}

uint8_t f32_to_f8(float f)
{
    uint32_t u = bits_of(f), sign = u >> 24 & 0x80u, rest = u & 0x7fffffffu;

    if (rest > 0x7f800000u)
        return (uint8_t)(sign | 0x7fu);
    if (rest >= 0x43e00000u) /* 448 and more */
        return (uint8_t)(sign | 0x7eu);
    if (rest < 0x3c800000u) /* below 2^-6: multiples of 2^-9, rounded by adding 2^14 */
        return (uint8_t)(sign | (bits_of(float_of(rest) + 0x1p14f) - bits_of(0x1p14f)));
    rest += 0x7ffffu + (rest >> 20 & 1u);
    return (uint8_t)(sign | (rest - ((127u - 7u) << 23)) >> 20);
}

void dtype_to_f32(float *dst, const void *src, enum dtype t, uint64_t values)
{
    const uint8_t *at = src;

    if (quant_is(t)) {
        quant_to_f32(dst, src, t, dtype_bytes(t, values) / (uint64_t)dtype_block_bytes(t));
        return;
    }
    switch (t) {
    case DT_F32:
        memcpy(dst, src, values * sizeof *dst);
        return;
    case DT_BF16:
        for (uint64_t i = 0; i < values; i++)
            dst[i] = bf16_to_f32(load_u16(at + 2 * i));
        return;
    case DT_F16:
        for (uint64_t i = 0; i < values; i++)
            dst[i] = f16_to_f32(load_u16(at + 2 * i));
        return;
    case DT_I32:
        for (uint64_t i = 0; i < values; i++)
            dst[i] = (float)(int32_t)load_u32(at + 4 * i);
        return;
    case DT_I8:
        for (uint64_t i = 0; i < values; i++)
            dst[i] = (float)(int8_t)at[i];
        return;
    case DT_F8E4M3:
        for (uint64_t i = 0; i < values; i++)
            dst[i] = f8_to_f32(at[i]);
        return;
    case DT_U4:
        assert(values % 2 == 0);
        for (uint64_t i = 0; i < values; i++) /* the low nibble first */
            dst[i] = (float)(at[i / 2] >> i % 2 * 4 & 15);
        return;
    default:
        assert(!"a dtype from the list");
    }
}

void dtype_from_f32(void *dst, enum dtype t, const float *src, uint64_t values)
{
    uint16_t *half = dst;

    assert(t == DT_F32 || t == DT_BF16 || t == DT_F16);
    if (t == DT_F32)
        memcpy(dst, src, values * sizeof *src);
    for (uint64_t i = 0; i < values && t == DT_BF16; i++)
        half[i] = f32_to_bf16(src[i]);
    for (uint64_t i = 0; i < values && t == DT_F16; i++)
        half[i] = f32_to_f16(src[i]);
}
