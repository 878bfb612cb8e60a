/* SPDX-License-Identifier: Apache-2.0 */
/*
 * quant.c - GGUF's quantised blocks, read back into f32.
 *
 *      q8_0   [d f16][32 x i8]                                    y = d q
 *      q4_0   [d f16][16 bytes: low nibbles, then high]           y = d (q - 8)
 *      q4_1   [d f16][m f16][16 bytes: as q4_0]                   y = d q + m
 *      q4_k   [d f16][min f16][12 bytes: 8 x (scale, min) of 6 bits][128 bytes of nibbles]
 *                                                                 y = (d s) q - (min m), in 8 groups of 32
 *      q5_k   as q4_k with [32 bytes of fifth bits] before the nibbles
 *      q6_k   [128 bytes of low nibbles][64 bytes of upper pairs][16 x i8 scale][d f16]
 *                                                                 y = (d s) (q - 32), in 16 groups of 16
 *
 * The products are rounded in the order of the parentheses, as in the reference, so the values are equal bit for bit.
 *
 * Source: ggml, src/ggml-quants.c (dequantize_row_*) and gguf-py, gguf/quants.py.
 */
#include "common/tensor/quant.h"
#include "common/base/bytes.h"

#include <assert.h>

enum { SMALL_VALUES = 32, SUPER_VALUES = 256 };

static float half_at(const uint8_t *p)
{
    return f16_to_f32(load_u16(p));
}

static void block_q8_0(float *y, const uint8_t *b)
{
    float d = half_at(b);

    for (int i = 0; i < SMALL_VALUES; i++)
        y[i] = d * (float)(int8_t)b[2 + i];
}

static void block_q4_0(float *y, const uint8_t *b)
{
    float d = half_at(b);

    for (int i = 0; i < SMALL_VALUES / 2; i++) {
        y[i] = d * (float)((b[2 + i] & 15) - 8);
        y[i + SMALL_VALUES / 2] = d * (float)((b[2 + i] >> 4) - 8);
    }
}

static void block_q4_1(float *y, const uint8_t *b)
{
    float d = half_at(b), m = half_at(b + 2);

    for (int i = 0; i < SMALL_VALUES / 2; i++) {
        y[i] = d * (float)(b[4 + i] & 15) + m;
        y[i + SMALL_VALUES / 2] = d * (float)(b[4 + i] >> 4) + m;
    }
}

/* The 6-bit scale and min of one group out of the 12 bytes: groups 0..3 have theirs whole in bytes 0..3 and 4..7;
 * groups 4..7 have the low four bits in bytes 8..11 and the upper two on top of those of groups 0..3. */
static void scale_of(const uint8_t s[12], int group, uint8_t *scale, uint8_t *min)
{
    if (group < 4) {
        *scale = s[group] & 63;
        *min = s[group + 4] & 63;
    } else {
        *scale = (uint8_t)((s[group + 4] & 15) | s[group - 4] >> 6 << 4);
        *min = (uint8_t)(s[group + 4] >> 4 | s[group] >> 6 << 4);
    }
}

/* q4_k and q5_k: `fifth` is NULL or the 32 bytes whose bit `group` is the fifth bit of that group's values. */
static void block_k(float *y, const uint8_t *b, const uint8_t *fifth, const uint8_t *nibbles)
{
    float d = half_at(b), d_min = half_at(b + 2);

    for (int group = 0; group < 8; group++) {
        const uint8_t *q = nibbles + group / 2 * 32;
        int shift = group % 2 * 4;
        uint8_t scale, min;

        scale_of(b + 4, group, &scale, &min);
        float ds = d * (float)scale, dm = d_min * (float)min;
        for (int i = 0; i < 32; i++) {
            int v = (q[i] >> shift & 15) + (fifth ? (fifth[i] >> group & 1) * 16 : 0);
            *y++ = ds * (float)v - dm;
        }
    }
}

static void block_q4_k(float *y, const uint8_t *b)
{
    block_k(y, b, NULL, b + 16);
}

static void block_q5_k(float *y, const uint8_t *b)
{
    block_k(y, b, b + 16, b + 48);
}

static void block_q6_k(float *y, const uint8_t *b)
{
    float d = half_at(b + 208);

    for (int i = 0; i < SUPER_VALUES; i++) {
        int half = i / 128, quarter = i % 128 / 32, lane = i % 32;
        int low = b[half * 64 + quarter % 2 * 32 + lane] >> quarter / 2 * 4 & 15;
        int high = b[128 + half * 32 + lane] >> quarter * 2 & 3;
        float ds = d * (float)(int8_t)b[192 + i / 16];

        y[i] = ds * (float)((low | high << 4) - 32);
    }
}

bool quant_is(enum dtype t)
{
    return t >= DT_Q8_0 && t <= DT_Q6_K;
}

void quant_to_f32(float *dst, const void *src, enum dtype t, uint64_t blocks)
{
    static void (*const read_block[])(float *y, const uint8_t *b) = {
        [DT_Q8_0] = block_q8_0, [DT_Q4_0] = block_q4_0, [DT_Q4_1] = block_q4_1,
        [DT_Q4_K] = block_q4_k, [DT_Q5_K] = block_q5_k, [DT_Q6_K] = block_q6_k,
    };
    const uint8_t *at = src;

    assert(quant_is(t));
    for (uint64_t i = 0; i < blocks; i++) {
        read_block[t](dst, at);
        dst += dtype_block_values(t);
        at += dtype_block_bytes(t);
    }
}
