/* SPDX-License-Identifier: Apache-2.0 */
/*
 * tile.c - c (+)= a . b for a few rows and whole panels; compiled once per instruction set (CPU_ISA).
 *
 *          b: one panel, VECS vectors wide            accumulators stay in registers for the whole depth:
 *          u0 [ v v ]                                      ROWS x VECS of them, at most ACCS
 *      a   u1 [ v v ]   c[r][v] += a[r][u] * b[u][v]
 *      r   ...
 *
 * A step of the depth is a unit: one f32, or a pair of bf16. With AVX512-BF16 a pair is one instruction; elsewhere the
 * two halves are widened to f32 and multiplied one after the other. Few rows take several panels at once, so that enough
 * sums run beside each other to hide the latency; that changes no sum's order.
 */
#include "kernels/cpu/isa.h"

#include "kernels/cpu/vector.h"

#if defined(__x86_64__)
#include <immintrin.h>
#endif

#if LANES == 16
enum { ACCS = 24, STRIP = 12 };
#elif LANES == 8
enum { ACCS = 12, STRIP = 6 };
#else
enum { ACCS = 8, STRIP = 4 };
#endif
enum { PANEL = 2 * LANES };

enum unit { UNIT_F32, UNIT_BF16 };

#if defined(__AVX512BF16__)
enum { BF16_OPERAND_BYTES = 4 };

INLINE vf pair_step(vf acc, const char *a, vu b)
{
    int32_t pair;

    memcpy(&pair, a, sizeof pair);
    return (vf)_mm512_dpbf16_ps((__m512)acc, (__m512bh)_mm512_set1_epi32(pair), (__m512bh)b);
}

static void operand_bf16(const float *in, int64_t count, void *out)
{
    uint16_t *to = out;
    int64_t i = 0;

    for (; i + LANES <= count; i += LANES) {
        __m256bh h = _mm512_cvtneps_pbh((__m512)vf_load(in + i));
        memcpy(to + i, &h, sizeof h);
    }
    for (; i < count; i++)
        to[i] = f32_to_bf16(in[i]);
}
#else
enum { BF16_OPERAND_BYTES = 8 };

INLINE vf pair_step(vf acc, const char *a, vu b)
{
    float even, odd;

    memcpy(&even, a, sizeof even);
    memcpy(&odd, a + 4, sizeof odd);
    acc = (vf)(b << 16) * even + acc;
    return (vf)(b & 0xffff0000u) * odd + acc;
}

/* Rounded as bf16, kept as f32: it saves the widening of a in the inner loop. */
static void operand_bf16(const float *in, int64_t count, void *out)
{
    float *to = out;
    int64_t i = 0;

    for (; i + LANES <= count; i += LANES)
        vf_store(to + i, (vf)(vf_round_bits(vf_load(in + i)) & 0xffff0000u));
    for (; i < count; i++)
        to[i] = bf16_to_f32(f32_to_bf16(in[i]));
}
#endif

INLINE vf unit_step(enum unit unit, vf acc, const char *a, vu b)
{
    float x;

    if (unit == UNIT_BF16)
        return pair_step(acc, a, b);
    memcpy(&x, a, sizeof x);
    return (vf)b * x + acc;
}

/* `rows` and `vecs` are constants where this is inlined; vector v belongs to panel p + v / 2. */
INLINE void tile_panels(const struct tile *t, enum unit unit, int rows, int vecs, int32_t p)
{
    const int64_t a_unit = unit == UNIT_F32 ? 4 : BF16_OPERAND_BYTES;
    const char *a = t->a, *b = (const char *)t->b + p * t->b_panel;
    float *c = t->c + (int64_t)p * PANEL;
    vf acc[STRIP][8];

#pragma GCC unroll 16
    for (int r = 0; r < rows; r++)
#pragma GCC unroll 16
        for (int v = 0; v < vecs; v++)
            acc[r][v] = t->add ? vf_load(c + r * t->c_stride + v * LANES) : vf_set(0.0f);
    for (int32_t u = 0; u < t->units; u++) {
        vu col[8];

#pragma GCC unroll 16
        for (int v = 0; v < vecs; v++)
            col[v] = vu_load(b + v / 2 * t->b_panel + v % 2 * LANES * 4);
#pragma GCC unroll 16
        for (int r = 0; r < rows; r++)
#pragma GCC unroll 16
            for (int v = 0; v < vecs; v++)
                acc[r][v] = unit_step(unit, acc[r][v], a + r * t->a_stride, col[v]);
        a += a_unit;
        b += t->b_stride;
    }
#pragma GCC unroll 16
    for (int r = 0; r < rows; r++)
#pragma GCC unroll 16
        for (int v = 0; v < vecs; v++)
            vf_store(c + r * t->c_stride + v * LANES, acc[r][v]);
}

/* As many panels at once as the accumulators allow. */
INLINE void tile_rows(const struct tile *t, enum unit unit, int rows)
{
    int32_t p = 0;

    if (rows * 8 <= ACCS)
        for (; p + 4 <= t->panels; p += 4)
            tile_panels(t, unit, rows, 8, p);
    if (rows * 4 <= ACCS)
        for (; p + 2 <= t->panels; p += 2)
            tile_panels(t, unit, rows, 4, p);
    for (; p < t->panels; p++)
        tile_panels(t, unit, rows, 2, p);
}

INLINE void tile_any(const struct tile *t, enum unit unit)
{
    switch (t->rows) {
#define ROWS(n)                \
    case n:                    \
        tile_rows(t, unit, n); \
        break;
        ROWS(1)
        ROWS(2)
        ROWS(3)
        ROWS(4)
#if LANES >= 8
        ROWS(5)
        ROWS(6)
#endif
#if LANES == 16
        ROWS(7)
        ROWS(8)
        ROWS(9)
        ROWS(10)
        ROWS(11)
        ROWS(12)
#endif
#undef ROWS
    }
}

static void tile_f32(const struct tile *t)
{
    tile_any(t, UNIT_F32);
}

static void tile_bf16(const struct tile *t)
{
    tile_any(t, UNIT_BF16);
}

/* LANES rows of LANES units, transposed in registers: at each step neighbours at distance `half` trade halves. */
INLINE void transpose(vu m[LANES])
{
#pragma GCC unroll 4
    for (int half = LANES / 2; half > 0; half /= 2) {
        vu low, high;

#pragma GCC unroll 16
        for (int i = 0; i < LANES; i++) {
            low[i] = (uint32_t)((i & half) ? LANES + (i ^ half) : i);
            high[i] = (uint32_t)((i & half) ? LANES + i : (i ^ half));
        }
#pragma GCC unroll 16
        for (int i = 0; i < LANES; i++) {
            if (i & half)
                continue;
            vu x = m[i], y = m[i + half];
#if defined(__clang__)
            for (int k = 0; k < LANES; k++) {
                m[i][k] = (low[k] < LANES ? x : y)[low[k] % LANES];
                m[i + half][k] = (high[k] < LANES ? x : y)[high[k] % LANES];
            }
#else
            m[i] = __builtin_shuffle(x, y, low);
            m[i + half] = __builtin_shuffle(x, y, high);
#endif
        }
    }
}

/* Columns [col, col + LANES) of the panel, from as many rows. */
INLINE void panel_columns(const char *rows, int64_t stride, int32_t count, int32_t units, int32_t panel, int32_t col,
                          uint32_t *out)
{
    int32_t u = 0;

    for (; u + LANES <= units; u += LANES) {
        vu m[LANES] = { 0 };

#pragma GCC unroll 16
        for (int i = 0; i < LANES; i++)
            if (col + i < count)
                m[i] = vu_load(rows + (col + i) * stride + u * 4);
        transpose(m);
#pragma GCC unroll 16
        for (int i = 0; i < LANES; i++)
            memcpy(out + (int64_t)(u + i) * panel + col, &m[i], sizeof m[i]);
    }
    for (; u < units; u++)
        for (int i = 0; i < LANES; i++) {
            uint32_t x = 0;
            if (col + i < count)
                memcpy(&x, rows + (col + i) * stride + u * 4, 4);
            out[(int64_t)u * panel + col + i] = x;
        }
}

static void panel_rows(const void *rows, int64_t stride, int32_t count, int32_t units, int32_t panel, void *out)
{
    for (int32_t col = 0; col < panel; col += LANES)
        panel_columns(rows, stride, count, units, panel, col, out);
}

static void pair_rows(const uint16_t *rows, int64_t stride, int32_t count, int32_t count_out, int32_t width,
                      int32_t width_out, void *out)
{
    for (int32_t t = 0; t < count_out; t += 2) {
        const uint16_t *even = rows + t * stride, *odd = even + stride;
        uint32_t *to = (uint32_t *)out + (int64_t)(t / 2) * width_out;
        int32_t i = 0;

        for (; t + 1 < count && i + LANES <= width; i += LANES) {
            vu pair = __builtin_convertvector(vh_load(even + i), vu) | __builtin_convertvector(vh_load(odd + i), vu)
                                                                           << 16;
            memcpy(to + i, &pair, sizeof pair);
        }
        for (; i < width && t < count; i++)
            to[i] = even[i] | (t + 1 < count ? (uint32_t)odd[i] << 16 : 0);
        memset(to + i, 0, (size_t)(width_out - i) * 4);
    }
}

#define NAMED2(isa) cpu_tile_##isa
#define NAMED(isa) NAMED2(isa)

const struct cpu_tile NAMED(CPU_ISA) = {
    .f32 = { .panel = PANEL, .strip = STRIP, .operand_bytes = 4, .units_align = 1, .tile = tile_f32 },
    .bf16 = { .panel = PANEL,
              .strip = STRIP,
              .operand_bytes = BF16_OPERAND_BYTES,
              .units_align = 1,
              .tile = tile_bf16,
              .operand = operand_bf16 },
    .panel_rows = panel_rows,
    .pair_rows = pair_rows,
};
