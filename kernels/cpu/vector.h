/* SPDX-License-Identifier: Apache-2.0 */
/*
 * vector.h - one vector of the widest kind that the file is compiled for, in the compiler's own vector types.
 *
 * Files that include it are built once per instruction set (kernels/CMakeLists.txt); everything here is static, so that
 * no code for a newer processor is reached from an older path. Lanes: 16 with AVX-512, 8 with AVX2, else 4.
 *
 * The typedefs are an exception to the style: the vector_size attribute has no other readable form.
 */
#ifndef PLATEN_KERNELS_CPU_VECTOR_H
#define PLATEN_KERNELS_CPU_VECTOR_H

#include <stdint.h>
#include <string.h>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

#if defined(__AVX512F__)
#define LANES 16
#elif defined(__AVX2__)
#define LANES 8
#else
#define LANES 4
#endif

typedef float vf __attribute__((vector_size(LANES * 4)));
typedef int32_t vi __attribute__((vector_size(LANES * 4)));
typedef uint32_t vu __attribute__((vector_size(LANES * 4)));
typedef uint16_t vh __attribute__((vector_size(LANES * 2))); /* half as wide: bf16 in memory */

/* Half as many doubles, the integers of their size, and the floats that they come from. */
enum { DOUBLES = LANES / 2 };
typedef double vd __attribute__((vector_size(LANES * 4)));
typedef int64_t vl __attribute__((vector_size(LANES * 4)));
typedef float vd_floats __attribute__((vector_size(LANES * 2)));

#define INLINE static inline __attribute__((always_inline, unused))

INLINE vf vf_load(const float *p)
{
    vf v;
    memcpy(&v, p, sizeof v);
    return v;
}

INLINE void vf_store(float *p, vf v)
{
    memcpy(p, &v, sizeof v);
}

INLINE vu vu_load(const void *p)
{
    vu v;
    memcpy(&v, p, sizeof v);
    return v;
}

INLINE vh vh_load(const uint16_t *p)
{
    vh v;
    memcpy(&v, p, sizeof v);
    return v;
}

INLINE vf vf_set(float x)
{
    vf v = { 0 };
    return v + x;
}

INLINE vf vf_select(vi mask, vf yes, vf no)
{
    return (vf)(((vi)yes & mask) | ((vi)no & ~mask));
}

/* b where one of them is NaN. One instruction; the compiler makes three of a comparison and a choice. */
INLINE vf vf_max(vf a, vf b)
{
#if LANES == 16
    return (vf)_mm512_max_ps((__m512)a, (__m512)b);
#elif LANES == 8
    return (vf)_mm256_max_ps((__m256)a, (__m256)b);
#else
    return vf_select((vi)(a > b), a, b);
#endif
}

INLINE vf vf_min(vf a, vf b)
{
#if LANES == 16
    return (vf)_mm512_min_ps((__m512)a, (__m512)b);
#elif LANES == 8
    return (vf)_mm256_min_ps((__m256)a, (__m256)b);
#else
    return vf_select((vi)(a < b), a, b);
#endif
}

INLINE vd vd_load(const double *p)
{
    vd v;
    memcpy(&v, p, sizeof v);
    return v;
}

INLINE void vd_store(double *p, vd v)
{
    memcpy(p, &v, sizeof v);
}

INLINE vd_floats vd_floats_load(const float *p)
{
    vd_floats v;
    memcpy(&v, p, sizeof v);
    return v;
}

INLINE void vd_floats_store(float *p, vd_floats v)
{
    memcpy(p, &v, sizeof v);
}

INLINE vd vd_from_floats(vd_floats v)
{
    return __builtin_convertvector(v, vd);
}

INLINE vd_floats vd_to_floats(vd v)
{
    return __builtin_convertvector(v, vd_floats);
}

INLINE vd vd_select(vl mask, vd yes, vd no)
{
    return (vd)(((vl)yes & mask) | ((vl)no & ~mask));
}

/* Lane sums in a fixed order: halves are added until one lane is left. */
INLINE float vf_sum(vf v)
{
#if LANES == 16
    return _mm512_reduce_add_ps((__m512)v);
#else
    float x[LANES];

    memcpy(x, &v, sizeof x);
#pragma GCC unroll 4
    for (int half = LANES / 2; half > 0; half /= 2)
        for (int i = 0; i < half; i++)
            x[i] += x[i + half];
    return x[0];
#endif
}

INLINE float vf_dot(const float *x, const float *y, int32_t count)
{
    vf part = { 0 };
    float sum;
    int32_t i = 0;

    for (; i + LANES <= count; i += LANES)
        part += vf_load(x + i) * vf_load(y + i);
    sum = vf_sum(part);
    for (; i < count; i++)
        sum += x[i] * y[i];
    return sum;
}

INLINE float vf_largest(vf v)
{
#if LANES == 16
    return _mm512_reduce_max_ps((__m512)v);
#else
    float x[LANES];

    memcpy(x, &v, sizeof x);
#pragma GCC unroll 4
    for (int half = LANES / 2; half > 0; half /= 2)
        for (int i = 0; i < half; i++)
            x[i] = x[i] > x[i + half] ? x[i] : x[i + half];
    return x[0];
#endif
}

/* Half words to words and back. The compiler's own conversion goes by halves of a vector, at three times the cost. */
INLINE vu vu_widen(vh h)
{
#if LANES == 16
    return (vu)_mm512_cvtepu16_epi32((__m256i)h);
#elif LANES == 8
    return (vu)_mm256_cvtepu16_epi32((__m128i)h);
#else
    return __builtin_convertvector(h, vu);
#endif
}

INLINE vh vu_narrow(vu v)
{
#if LANES == 16
    return (vh)_mm512_cvtepi32_epi16((__m512i)v);
#else
    return __builtin_convertvector(v, vh);
#endif
}

/* bf16 and back; rounds to nearest even, NaN stays NaN. */
INLINE vf vf_from_bf16(vh h)
{
    return (vf)(vu_widen(h) << 16);
}

INLINE vu vf_round_bits(vf v)
{
    vu u = (vu)v;
    vi nan = (vi)(v != v);
    vu rounded = u + 0x7fffu + ((u >> 16) & 1u);

    return (rounded & ~(vu)nan) | ((u | 0x400000u) & (vu)nan);
}

INLINE vh vf_to_bf16(vf v)
{
    return vu_narrow(vf_round_bits(v) >> 16);
}

/* e^x, 2 ulp; 0 below -87 (and for -infinity), large values saturate near e^88. Cephes' polynomial. */
INLINE vf vf_exp(vf x)
{
    const float log2e = 1.44269504088896341f, ln2_hi = 0.693359375f, ln2_lo = -2.12194440e-4f;
    const float magic = 12582912.0f; /* 1.5 * 2^23: adding it rounds to an integer in the low bits */
    vi tiny = (vi)(x < -87.0f);
    vf t, n, r, p;
    vu e;

    x = vf_max(vf_set(-87.0f), vf_min(vf_set(88.0f), x)); /* NaN stays */
    t = x * log2e + magic;
    e = (vu)t << 23;
    n = t - magic;
    r = x - n * ln2_hi - n * ln2_lo;
    p = r * 1.9875691500e-4f + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = p * (r * r) + r + 1.0f;
    p = (vf)((vu)p + e);
    return vf_select(tiny, vf_set(0.0f), p);
}

#endif
