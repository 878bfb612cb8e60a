/* SPDX-License-Identifier: Apache-2.0 */
/* probe.c - the register peak of products; compiled once per instruction set (CPU_ISA). */
#include "tests/bench/probe.h"

#include "kernels/cpu/vector.h"

#if defined(__x86_64__)
#include <immintrin.h>
#endif

#define NAMED2(what, isa) probe_##what##_##isa
#define NAMED(what, isa) NAMED2(what, isa)

enum { ACCS = LANES == 16 ? 24 : 12, SPINS = 1000 };

/* Keeps the compiler from seeing through a value. */
#define OPAQUE(v) __asm__ volatile("" : "+m"(v))

double NAMED(f32, CPU_ISA)(int64_t rounds)
{
    vf acc[ACCS], x = vf_set(1.0000001f), y = vf_set(1e-9f), sum = { 0 };

    OPAQUE(x);
    OPAQUE(y);
#pragma GCC unroll 24
    for (int i = 0; i < ACCS; i++)
        acc[i] = vf_set((float)i);
    for (int64_t n = 0; n < rounds * SPINS; n++)
#pragma GCC unroll 24
        for (int i = 0; i < ACCS; i++)
            acc[i] = x * y + acc[i];
#pragma GCC unroll 24
    for (int i = 0; i < ACCS; i++)
        sum += acc[i];
    OPAQUE(sum);
    return (double)rounds * SPINS * ACCS * LANES * 2;
}

#if defined(__AMX_BF16__)
double NAMED(bf16, CPU_ISA)(int64_t rounds)
{
    struct {
        uint8_t palette, start_row, reserved[14];
        uint16_t row_bytes[16];
        uint8_t rows[16];
    } config = { .palette = 1 };
    float zeros[256] = { 0 };

    for (int i = 0; i < 8; i++) {
        config.row_bytes[i] = 64;
        config.rows[i] = 16;
    }
    __asm__ volatile("" ::"m"(config), "m"(zeros)); /* the intrinsics do not say that they read all of them */
    _tile_loadconfig(&config);
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
    _tile_loadd(4, zeros, 64);
    _tile_loadd(5, zeros, 64);
    _tile_loadd(6, zeros, 64);
    _tile_loadd(7, zeros, 64);
    for (int64_t n = 0; n < rounds * SPINS; n++) {
        _tile_dpbf16ps(0, 4, 6);
        _tile_dpbf16ps(1, 4, 7);
        _tile_dpbf16ps(2, 5, 6);
        _tile_dpbf16ps(3, 5, 7);
    }
    _tile_release();
    return (double)rounds * SPINS * 4 * 16 * 16 * 32 * 2;
}
#elif defined(__AVX512BF16__)
double NAMED(bf16, CPU_ISA)(int64_t rounds)
{
    vf acc[ACCS], sum = { 0 };
    vu x = (vu)vf_set(1.0f), y = (vu)vf_set(1e-9f);

    OPAQUE(x);
    OPAQUE(y);
#pragma GCC unroll 24
    for (int i = 0; i < ACCS; i++)
        acc[i] = vf_set((float)i);
    for (int64_t n = 0; n < rounds * SPINS; n++)
#pragma GCC unroll 24
        for (int i = 0; i < ACCS; i++)
            acc[i] = (vf)_mm512_dpbf16_ps((__m512)acc[i], (__m512bh)x, (__m512bh)y);
#pragma GCC unroll 24
    for (int i = 0; i < ACCS; i++)
        sum += acc[i];
    OPAQUE(sum);
    return (double)rounds * SPINS * ACCS * LANES * 4;
}
#else
double NAMED(bf16, CPU_ISA)(int64_t rounds)
{
    return NAMED(f32, CPU_ISA)(rounds);
}
#endif
