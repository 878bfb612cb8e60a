/* SPDX-License-Identifier: Apache-2.0 */
/*
 * tile_amx.c - c (+)= a . b in bf16 with AMX: up to 32 rows by one panel of 32 columns at a time.
 *
 *              B0 (tile 6)   B1 (tile 7)        16 units x 16 columns each; a panel's row of 32 units is 128 bytes
 *   A0 (4)     C00 (0)       C01 (1)            rows 0..15
 *   A1 (5)     C10 (2)       C11 (3)            rows 16..31, where there are that many
 *
 * A tile product adds 16 units at a time, in one order for every row: what a row gives does not depend on how many
 * others stand beside it. The tile configuration is set and released in each call, so that a thread that leaves here has
 * no tile state for the kernel to save.
 */
#include "kernels/cpu/isa.h"

#include <immintrin.h>
#include <string.h>

enum { TILE_ROWS = 16, TILE_COLS = 16, TILE_UNITS = 16, PANEL = 32, STRIP = 32 };

struct tile_config {
    uint8_t palette, start_row, reserved[14];
    uint16_t row_bytes[16];
    uint8_t rows[16];
};

_Static_assert(sizeof(struct tile_config) == 64, "as the processor reads it");

static void configure(int32_t rows)
{
    int32_t low = rows < TILE_ROWS ? rows : TILE_ROWS, high = rows > TILE_ROWS ? rows - TILE_ROWS : 1;
    struct tile_config config = { .palette = 1 };

    for (int i = 0; i < 8; i++) {
        config.row_bytes[i] = 64;
        config.rows[i] = TILE_UNITS;
    }
    config.rows[0] = config.rows[1] = config.rows[4] = (uint8_t)low;
    config.rows[2] = config.rows[3] = config.rows[5] = (uint8_t)high;
    __asm__ volatile("" ::"m"(config)); /* the intrinsic tells the compiler of its first 8 bytes alone */
    _tile_loadconfig(&config);
}

/* One step's share of what will be read soon. */
static inline void fetch_ahead(const struct tile *t, const char *b)
{
    for (int i = 0; i < TILE_UNITS; i++) {
        __builtin_prefetch(b + i * t->b_stride + t->ahead[0], 0, 2);
        __builtin_prefetch(b + i * t->b_stride + t->ahead[1], 0, 2);
    }
}

static void panel_low(const struct tile *t, const char *b, float *c)
{
    const char *a = t->a;
    const size_t c_bytes = (size_t)t->c_stride * sizeof *c;

    if (t->add) {
        _tile_loadd(0, c, c_bytes);
        _tile_loadd(1, c + TILE_COLS, c_bytes);
    } else {
        _tile_zero(0);
        _tile_zero(1);
    }
    for (int32_t u = 0; u < t->units; u += TILE_UNITS, a += TILE_UNITS * 4, b += TILE_UNITS * t->b_stride) {
        if (t->ahead[0] | t->ahead[1])
            fetch_ahead(t, b);
        _tile_loadd(4, a, (size_t)t->a_stride);
        _tile_loadd(6, b, (size_t)t->b_stride);
        _tile_loadd(7, b + 64, (size_t)t->b_stride);
        _tile_dpbf16ps(0, 4, 6);
        _tile_dpbf16ps(1, 4, 7);
    }
    _tile_stored(0, c, c_bytes);
    _tile_stored(1, c + TILE_COLS, c_bytes);
}

static void panel_both(const struct tile *t, const char *b, float *c)
{
    const char *a = t->a, *a_high = a + TILE_ROWS * t->a_stride;
    const size_t c_bytes = (size_t)t->c_stride * sizeof *c;
    float *c_high = c + TILE_ROWS * t->c_stride;

    if (t->add) {
        _tile_loadd(0, c, c_bytes);
        _tile_loadd(1, c + TILE_COLS, c_bytes);
        _tile_loadd(2, c_high, c_bytes);
        _tile_loadd(3, c_high + TILE_COLS, c_bytes);
    } else {
        _tile_zero(0);
        _tile_zero(1);
        _tile_zero(2);
        _tile_zero(3);
    }
    for (int32_t u = 0; u < t->units; u += TILE_UNITS, b += TILE_UNITS * t->b_stride) {
        if (t->ahead[0] | t->ahead[1])
            fetch_ahead(t, b);
        _tile_loadd(4, a + (int64_t)u * 4, (size_t)t->a_stride);
        _tile_loadd(5, a_high + (int64_t)u * 4, (size_t)t->a_stride);
        _tile_loadd(6, b, (size_t)t->b_stride);
        _tile_loadd(7, b + 64, (size_t)t->b_stride);
        _tile_dpbf16ps(0, 4, 6);
        _tile_dpbf16ps(1, 4, 7);
        _tile_dpbf16ps(2, 5, 6);
        _tile_dpbf16ps(3, 5, 7);
    }
    _tile_stored(0, c, c_bytes);
    _tile_stored(1, c + TILE_COLS, c_bytes);
    _tile_stored(2, c_high, c_bytes);
    _tile_stored(3, c_high + TILE_COLS, c_bytes);
}

static void tile_amx(const struct tile *t)
{
    configure(t->rows);
    for (int32_t p = 0; p < t->panels; p++) {
        const char *b = (const char *)t->b + p * t->b_panel;
        float *c = t->c + (int64_t)p * PANEL;

        if (t->rows > TILE_ROWS)
            panel_both(t, b, c);
        else
            panel_low(t, b, c);
    }
    _tile_release();
}

static void operand_bf16(const float *in, int64_t count, void *out)
{
    uint16_t *to = out;
    int64_t i = 0;

    for (; i + 16 <= count; i += 16) {
        __m256bh h = _mm512_cvtneps_pbh(_mm512_loadu_ps(in + i));
        memcpy(to + i, &h, sizeof h);
    }
    for (; i < count; i++)
        to[i] = f32_to_bf16(in[i]);
}

const struct cpu_math cpu_math_amx_bf16 = {
    .panel = PANEL,
    .strip = STRIP,
    .operand_bytes = 4,
    .units_align = TILE_UNITS,
    .tile = tile_amx,
    .operand = operand_bf16,
};
