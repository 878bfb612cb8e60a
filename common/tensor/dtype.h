/* SPDX-License-Identifier: Apache-2.0 */
/* dtype.h - element types, their sizes, and the conversions that everything agrees on. Host only; nothing waits. */
#ifndef PLATEN_TENSOR_DTYPE_H
#define PLATEN_TENSOR_DTYPE_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#ifdef __cplusplus
extern "C" {
#endif

enum dtype {
#define DTYPE(name, number, word, values, bytes) name = number,
#include "common/tensor/dtype.def"
#undef DTYPE
};

const char *dtype_word(enum dtype t);

/* The dtype called `word`, or -1. */
int dtype_parse(const char *word);

/* Bytes of `values` values; values must be whole blocks (asserted). */
uint64_t dtype_bytes(enum dtype t, uint64_t values);
int dtype_block_values(enum dtype t);
int dtype_block_bytes(enum dtype t);

/* bfloat16: the upper half of a float, rounded to nearest even; NaN stays NaN. */
static inline float bf16_to_f32(uint16_t h)
{
    uint32_t u = (uint32_t)h << 16;
    float f;
    memcpy(&f, &u, sizeof f);
    return f;
}

static inline uint16_t f32_to_bf16(float f)
{
    uint32_t u;
    memcpy(&u, &f, sizeof u);
    if ((u & 0x7fffffffu) > 0x7f800000u)
        return (uint16_t)(u >> 16 | 0x40u);
    u += 0x7fffu + (u >> 16 & 1u);
    return (uint16_t)(u >> 16);
}

/* IEEE half. */
float f16_to_f32(uint16_t h);
uint16_t f32_to_f16(float f);

/* fp8 e4m3 (OCP: no infinities, 448 is the largest; out-of-range saturates, NaN stays NaN). */
float f8_to_f32(uint8_t b);
uint8_t f32_to_f8(float f);

/* Turns `values` values of any type above (whole blocks) into f32. src needs no alignment. */
void dtype_to_f32(float *dst, const void *src, enum dtype t, uint64_t values);

/* f32 into DT_F32, DT_BF16 or DT_F16. */
void dtype_from_f32(void *dst, enum dtype t, const float *src, uint64_t values);

#ifdef __cplusplus
}
#endif
#endif
