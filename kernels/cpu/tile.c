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

#if LANES == 16
enum { ACCS = 24, STRIP = 12 };
#elif LANES == 8
enum { ACCS = 12, STRIP = 6 };
#else
enum { ACCS = 8, STRIP = 4 };
#endif
enum { PANEL = 2 * LANES };

enum unit { UNIT_F32, UNIT_BF16 };

/* One number of every row, with whole vectors of b. */
INLINE void number_steps(vf acc[STRIP][8], int rows, int vecs, const char *a, int64_t a_stride, const vf *col)
{
#pragma GCC unroll 16
    for (int r = 0; r < rows; r++) {
        float x;

        memcpy(&x, a + r * a_stride, sizeof x);
#pragma GCC unroll 16
        for (int v = 0; v < vecs; v++)
            acc[r][v] = col[v] * x + acc[r][v];
    }
}

#if defined(__AVX512BF16__)
enum { BF16_OPERAND_BYTES = 4 };

INLINE void pair_steps(vf acc[STRIP][8], int rows, int vecs, const char *a, int64_t a_stride, const vu *col)
{
#pragma GCC unroll 16
    for (int r = 0; r < rows; r++) {
        int32_t pair;

        memcpy(&pair, a + r * a_stride, sizeof pair);
#pragma GCC unroll 16
        for (int v = 0; v < vecs; v++)
            acc[r][v] = (vf)_mm512_dpbf16_ps((__m512)acc[r][v], (__m512bh)_mm512_set1_epi32(pair), (__m512bh)col[v]);
    }
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

/* All first halves, then all second ones: with both of a row at once there are not enough of AVX2's 16 registers. */
INLINE void pair_steps(vf acc[STRIP][8], int rows, int vecs, const char *a, int64_t a_stride, const vu *col)
{
    vf half[8];

#pragma GCC unroll 16
    for (int v = 0; v < vecs; v++)
        half[v] = (vf)(col[v] << 16);
    number_steps(acc, rows, vecs, a, a_stride, half);
#pragma GCC unroll 16
    for (int v = 0; v < vecs; v++)
        half[v] = (vf)(col[v] & 0xffff0000u);
    number_steps(acc, rows, vecs, a + 4, a_stride, half);
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
        for (int v = 0; v < vecs; v++)
            __builtin_prefetch(b + v / 2 * t->b_panel + t->ahead[v % 2], 0, 3);
        if (unit == UNIT_BF16) {
            pair_steps(acc, rows, vecs, a, t->a_stride, col);
        } else {
            vf number[8];

#pragma GCC unroll 16
            for (int v = 0; v < vecs; v++)
                number[v] = (vf)col[v];
            number_steps(acc, rows, vecs, a, t->a_stride, number);
        }
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

/* Rows at distance `half` trade halves: lanes with that bit of the lower row against lanes without it of the upper. LOW
 * and HIGH say where lane l of each comes from (upper row's lanes count on from LANES). */
#define LOW(l, half) ((l) & (half) ? LANES + ((l) ^ (half)) : (l))
#define HIGH(l, half) ((l) & (half) ? LANES + (l) : ((l) ^ (half)))
#define FOUR(f, l, half) f(l, half), f(l + 1, half), f(l + 2, half), f(l + 3, half)
#if LANES == 16
#define EACH(f, half) FOUR(f, 0, half), FOUR(f, 4, half), FOUR(f, 8, half), FOUR(f, 12, half)
#elif LANES == 8
#define EACH(f, half) FOUR(f, 0, half), FOUR(f, 4, half)
#else
#define EACH(f, half) FOUR(f, 0, half)
#endif
#if defined(__clang__)
#define TRADE(f, half, x, y) __builtin_shufflevector(x, y, EACH(f, half))
#else
#define TRADE(f, half, x, y) __builtin_shuffle(x, y, (vu){ EACH(f, half) })
#endif
#define STEP(half)                                   \
    for (int i = 0; i < LANES; i++)                  \
        if (!(i & (half))) {                         \
            vu x = m[i], y = m[i + (half)];          \
            m[i] = TRADE(LOW, half, x, y);           \
            m[i + (half)] = TRADE(HIGH, half, x, y); \
        }

/* LANES rows of LANES units, transposed in registers. */
INLINE void transpose(vu m[LANES])
{
#if LANES == 16
#pragma GCC unroll 16
    STEP(8)
#endif
#if LANES >= 8
#pragma GCC unroll 16
    STEP(4)
#endif
#pragma GCC unroll 16
    STEP(2)
#pragma GCC unroll 16
    STEP(1)
}

/* LANES rows of which the last may be missing (then zero) become LANES columns; `full`: none is. A constant where this is
 * inlined: the test would cost more than the rows. */
INLINE void panel_columns(const char *rows, int64_t stride, int32_t count, int32_t units, int32_t panel, bool full,
                          int64_t ahead, uint32_t *out)
{
    int32_t u = 0;

    for (; u + LANES <= units; u += LANES) {
        vu m[LANES];

#pragma GCC unroll 16
        for (int i = 0; i < LANES; i++)
            m[i] = full || i < count ? vu_load(rows + i * stride + u * 4) : (vu){ 0 };
#pragma GCC unroll 16
        for (int i = 0; i < LANES; i++)
            __builtin_prefetch(rows + i * stride + u * 4 + ahead);
        transpose(m);
#pragma GCC unroll 16
        for (int i = 0; i < LANES; i++)
            memcpy(out + (int64_t)(u + i) * panel, &m[i], sizeof m[i]);
    }
    for (; u < units; u++)
        for (int i = 0; i < LANES; i++) {
            uint32_t x = 0;

            if (full || i < count)
                memcpy(&x, rows + i * stride + u * 4, 4);
            out[(int64_t)u * panel + i] = x;
        }
}

static void panel_rows(const void *rows, int64_t stride, int32_t count, int32_t units, int32_t panel, int64_t ahead,
                       void *out)
{
    for (int32_t col = 0; col < panel; col += LANES) {
        const char *from = (const char *)rows + col * stride;
        uint32_t *to = (uint32_t *)out + col;

        if (col + LANES <= count)
            panel_columns(from, stride, LANES, units, panel, true, ahead, to);
        else
            panel_columns(from, stride, count - col, units, panel, false, ahead, to);
    }
}

INLINE uint32_t pair_of(const uint16_t *even, const uint16_t *odd, bool two, int32_t i)
{
    return even[i] | (two ? (uint32_t)odd[i] << 16 : 0);
}

static void pair_rows(const uint16_t *rows, int64_t stride, int32_t count, int32_t count_out, int32_t width,
                      int32_t width_out, int64_t ahead, void *out)
{
    const size_t pad = (size_t)(width_out - width) * 4;
    uint32_t *to = out;

    for (int32_t t = 0; t < count; t += 2, to += width_out) {
        const bool two = t + 1 < count; /* of an odd count the last is alone */
        const uint16_t *even = rows + t * stride, *odd = two ? even + stride : even;
        int32_t i = 0;

        for (; two && i + LANES <= width; i += LANES) {
            vu low = vu_widen(vh_load(even + i)), high = vu_widen(vh_load(odd + i));
            vu pair = low | high << 16;

            __builtin_prefetch((const char *)(even + i) + ahead);
            __builtin_prefetch((const char *)(odd + i) + ahead);
            memcpy(to + i, &pair, sizeof pair);
        }
        for (; i < width; i++)
            to[i] = pair_of(even, odd, two, i);
        if (pad)
            memset(to + width, 0, pad);
    }
    memset(to, 0, (size_t)((count_out - (count + 1) / 2 * 2) / 2) * (size_t)width_out * 4);
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
