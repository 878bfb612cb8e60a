/* SPDX-License-Identifier: Apache-2.0 */
/*
 * codes.c - rows of numbers to codes and back (int8, fp8, int4); compiled once per instruction set (CPU_ISA).
 *
 * common/kv/codec.h defines every bit of it. No operation is fused with another here (the project's -ffp-contract=off), so
 * all instruction sets write the same bytes. Rounding to the nearest integer is the addition of 1.5 * 2^23, which leaves
 * the integer in the low bits.
 *
 * int8 and e4m3 codes are exact as bf16: attention reads them as numbers and multiplies scores and weights by the scales,
 * so that reading a code rounds nothing. int4's keys have a step per channel, which no score can take later: they are read
 * as values.
 */
#include "kernels/cpu/isa.h"

#include "kernels/cpu/vector.h"

#include <math.h>

typedef uint8_t vb __attribute__((vector_size(LANES)));

static const float magic = 12582912.0f;
enum { MAGIC_BITS = 0x4b400000, LARGEST_FINITE = 0x7f7fffff };

/* ---- vectors of bytes; n of the lanes count -------------------------------------------------------------------------- */

/* A whole vector by its own instruction; only the last of a row by as many bytes as there are. */
INLINE void move(void *to, const void *from, size_t whole, int64_t n, size_t each)
{
    if (n >= LANES)
        memcpy(to, from, whole);
    else
        memcpy(to, from, (size_t)n * each);
}

INLINE vi bytes_widen(vb b)
{
#if LANES == 16
    return (vi)_mm512_cvtepu8_epi32((__m128i)b);
#elif LANES == 8
    return (vi)_mm256_cvtepu8_epi32(_mm_cvtsi64_si128((long long)b));
#else
    return __builtin_convertvector(b, vi);
#endif
}

INLINE vi bytes_load(const uint8_t *p, int64_t n)
{
    vb b = { 0 };

    move(&b, p, sizeof b, n, 1);
    return bytes_widen(b);
}

INLINE void bytes_store(uint8_t *p, vi v, int64_t n)
{
#if LANES == 16
    __m128i b = _mm512_cvtepi32_epi8((__m512i)v);
#else
    vb b = __builtin_convertvector(v, vb);
#endif

    move(p, &b, LANES, n, 1);
}

INLINE vf floats_load(const float *p, int64_t n)
{
    vf v = { 0 };

    move(&v, p, sizeof v, n, 4);
    return v;
}

/* As f32, or as bf16: `exact` where the low half is zero anyway. */
INLINE void numbers_store(void *out, enum dtype to, int64_t at, vf v, bool exact, int64_t n)
{
    if (to == DT_BF16) {
        vh h = exact ? vu_narrow((vu)v >> 16) : vf_to_bf16(v);

        move((uint16_t *)out + at, &h, sizeof h, n, 2);
    } else {
        move((float *)out + at, &v, sizeof v, n, 4);
    }
}

INLINE vi vi_select(vi mask, vi yes, vi no)
{
    return (yes & mask) | (no & ~mask);
}

INLINE vi vi_max(vi a, vi b)
{
    return vi_select(a > b, a, b);
}

INLINE vi nearest(vf v)
{
    return (vi)(v + magic) - MAGIC_BITS;
}

/* ---- int8, fp8 ------------------------------------------------------------------------------------------------------- */

/* Bits of the largest |x|: order of bits is order of magnitude, and NaN is above infinity. */
static int32_t largest_bits(const float *x, int32_t count)
{
    vi top = { 0 };
    int32_t lane[LANES], most = 0;

    for (int32_t i = 0; i < count; i += LANES)
        top = vi_max(top, (vi)floats_load(x + i, count - i) & 0x7fffffff);
    memcpy(lane, &top, sizeof lane);
    for (int i = 0; i < LANES; i++)
        most = lane[i] > most ? lane[i] : most;
    return most;
}

/* |y| <= 448 and a little to the code of the nearest e4m3. */
INLINE vi to_e4m3(vf y)
{
    vi bits = (vi)y, sign = (bits >> 24) & 0x80, size = bits & 0x7fffffff;
    vi normal = ((size + 0x7ffff + ((size >> 20) & 1)) >> 20) - (120 << 3);
    vi tiny = nearest((vf)size * 512.0f); /* steps of 2^-9 below 2^-6 */
    vi code = vi_select((vi)((vf)size < 0.015625f), tiny, normal);

    return vi_select(code > 0x7e, (vi)(vu){ 0 } + 0x7e, code) | sign;
}

INLINE vf from_e4m3(vi code)
{
    vi sign = (code & 0x80) << 24, size = code & 0x7f;
    vf tiny = __builtin_convertvector(size, vf) * 0x1p-9f;
    vi normal = (size << 20) + (120 << 23);

    return (vf)((vi)vf_select(size < 8, tiny, (vf)normal) | sign);
}

INLINE void write_scaled_loop(enum kv_codec codec, const float *row, int32_t count, float factor, uint8_t *out)
{
    for (int32_t i = 0; i < count; i += LANES) {
        vf y = floats_load(row + i, count - i) * factor;

        bytes_store(out + i, codec == KV_INT8 ? nearest(y) : to_e4m3(y), count - i);
    }
}

static float write_scaled(enum kv_codec codec, const float *row, int32_t count, uint8_t *out)
{
    const int32_t bits = largest_bits(row, count);
    const float most = codec == KV_INT8 ? 127.0f : 448.0f;
    float largest;

    memcpy(&largest, &bits, sizeof largest);
    if (bits > LARGEST_FINITE || largest < 0x1p-100f) {
        memset(out, 0, (size_t)count);
        return bits > LARGEST_FINITE ? NAN : 0.0f;
    }
    if (codec == KV_INT8)
        write_scaled_loop(KV_INT8, row, count, most / largest, out);
    else
        write_scaled_loop(KV_FP8, row, count, most / largest, out);
    return largest / most;
}

INLINE void read_numbers_loop(enum kv_codec codec, const uint8_t *codes, int64_t count, enum dtype to, void *out)
{
    for (int64_t i = 0; i < count; i += LANES) {
        vi code = bytes_load(codes + i, count - i);
        vf v = codec == KV_INT8 ? __builtin_convertvector((code << 24) >> 24, vf) : from_e4m3(code);

        numbers_store(out, to, i, v, true, count - i);
    }
}

static void read_numbers(enum kv_codec codec, const uint8_t *codes, int64_t count, enum dtype to, void *out)
{
    if (codec == KV_INT8 && to == DT_BF16)
        read_numbers_loop(KV_INT8, codes, count, DT_BF16, out);
    else if (codec == KV_INT8)
        read_numbers_loop(KV_INT8, codes, count, DT_F32, out);
    else if (to == DT_BF16)
        read_numbers_loop(KV_FP8, codes, count, DT_BF16, out);
    else
        read_numbers_loop(KV_FP8, codes, count, DT_F32, out);
}

/* ---- int4 ------------------------------------------------------------------------------------------------------------ */

static float from_bits(uint32_t bits)
{
    float x;

    memcpy(&x, &bits, sizeof x);
    return x;
}

static uint32_t to_bits(float x)
{
    uint32_t bits;

    memcpy(&bits, &x, sizeof bits);
    return bits;
}

/* The bf16 next to x on the side that is asked for, as f32 bits; x itself where it is one. */
static uint32_t bf16_below(float x)
{
    uint32_t bits = to_bits(x);

    return (bits & 0xffff0000u) + ((bits >> 31) && (bits & 0xffffu) ? 0x10000u : 0);
}

static uint32_t bf16_above(float positive)
{
    uint32_t bits = to_bits(positive);

    return (bits & 0xffff0000u) + (bits & 0xffffu ? 0x10000u : 0);
}

/* The pair for values in [smallest, largest], and what codes are computed with. */
static uint32_t pair_of(float smallest, float largest, bool finite, float *least, float *factor)
{
    const uint32_t nan = 0x7fc0;
    uint32_t least_bits = bf16_below(smallest), step_bits;
    float spread;

    *least = from_bits(least_bits);
    *factor = 0.0f;
    spread = largest - *least;
    if (!finite || !isfinite(*least) || !isfinite(spread)) {
        *least = 0.0f;
        return nan;
    }
    if (spread < 0x1p-100f)
        return least_bits;
    step_bits = bf16_above(spread / 15.0f);
    if (step_bits >= 0x7f800000u) {
        *least = 0.0f;
        return nan;
    }
    *factor = 1.0f / from_bits(step_bits);
    return step_bits >> 16 | least_bits;
}

INLINE vi to_int4(vf x, vf least, vf factor)
{
    vi code = nearest((x - least) * factor);

    code = vi_select(code < 0, (vi){ 0 }, code);
    return vi_select(code > 15, (vi){ 0 } + 15, code);
}

static void pack_halves(const uint8_t *code, int32_t channels, uint8_t *out)
{
    const int32_t half = (channels + 1) / 2;

    for (int32_t j = 0; j < half; j++)
        out[j] = (uint8_t)(code[j] | (j + half < channels ? code[j + half] << 4 : 0));
}

/* Smallest, largest, and the largest magnitude as bits. */
struct spread {
    vf low, high;
    vi bits;
};

INLINE void spread_add(struct spread *s, vf x)
{
    s->low = vf_select((vi)(x < s->low), x, s->low);
    s->high = vf_max(x, s->high);
    s->bits = vi_max(s->bits, (vi)x & 0x7fffffff);
}

static uint32_t write_int4(const float *row, int32_t channels, uint8_t *out)
{
    float low = row[0], high = row[0], least, factor;
    const bool finite = largest_bits(row, channels) <= LARGEST_FINITE;
    uint8_t code[KV_HEAD_DIM_MAX] = { 0 };
    uint32_t pair;

    for (int32_t c = 1; c < channels; c++) {
        low = row[c] < low ? row[c] : low;
        high = row[c] > high ? row[c] : high;
    }
    pair = pair_of(low, high, finite, &least, &factor);
    if (factor == 0.0f)
        memset(code, 0, (size_t)channels);
    else
        for (int32_t c = 0; c < channels; c += LANES)
            bytes_store(code + c, to_int4(floats_load(row + c, channels - c), vf_set(least), vf_set(factor)),
                        channels - c);
    pack_halves(code, channels, out);
    return pair;
}

/* Pairs of channels [c, c + n) of a group. */
static void group_pairs(const float *rows, int32_t channels, int32_t c, int32_t n, uint32_t *pair, float *least,
                        float *factor)
{
    vf first = floats_load(rows + c, n);
    struct spread s = { first, first, { 0 } };
    float low[LANES], high[LANES];
    int32_t bits[LANES];

    for (int32_t r = 0; r < KV_GROUP_ROWS; r++)
        spread_add(&s, floats_load(rows + r * channels + c, n));
    memcpy(low, &s.low, sizeof low);
    memcpy(high, &s.high, sizeof high);
    memcpy(bits, &s.bits, sizeof bits);
    for (int32_t i = 0; i < n && i < LANES; i++)
        pair[c + i] = pair_of(low[i], high[i], bits[i] <= LARGEST_FINITE, &least[c + i], &factor[c + i]);
}

static void write_group(const float *rows, int32_t channels, uint8_t *out, uint32_t *pair)
{
    float least[KV_HEAD_DIM_MAX], factor[KV_HEAD_DIM_MAX];
    uint8_t code[KV_HEAD_DIM_MAX] = { 0 };

    for (int32_t c = 0; c < channels; c += LANES)
        group_pairs(rows, channels, c, channels - c, pair, least, factor);
    for (int32_t r = 0; r < KV_GROUP_ROWS; r++, rows += channels, out += (channels + 1) / 2) {
        for (int32_t c = 0; c < channels; c += LANES) {
            const int32_t n = channels - c;
            vf f = floats_load(factor + c, n);
            vi codes = to_int4(floats_load(rows + c, n), floats_load(least + c, n), f);

            bytes_store(code + c, codes & (vi)(f > 0.0f), n); /* NaN rows too have codes 0 */
        }
        pack_halves(code, channels, out);
    }
}

INLINE void read_int4_half(const uint8_t *codes, int32_t shift, int32_t channels, const uint32_t *pair, bool each,
                           enum dtype to, void *out, int64_t at)
{
    for (int32_t j = 0; j < channels; j += LANES) {
        const int32_t n = channels - j;
        vu p = { 0 };
        vi code = (bytes_load(codes + j, n) >> shift) & 15;

        if (each)
            move(&p, pair + j, sizeof p, n, 4);
        else
            p += pair[0];
        numbers_store(out, to, at + j, __builtin_convertvector(code, vf) * (vf)(p << 16) + (vf)(p & 0xffff0000u), false,
                      n);
    }
}

static void read_int4(const uint8_t *codes, int32_t channels, const uint32_t *pair, bool each, enum dtype to, void *out)
{
    const int32_t half = (channels + 1) / 2, rest = channels - half;
    const uint32_t *high = each ? pair + half : pair;

    if (to == DT_BF16 && each) {
        read_int4_half(codes, 0, half, pair, true, DT_BF16, out, 0);
        read_int4_half(codes, 4, rest, high, true, DT_BF16, out, half);
    } else if (to == DT_BF16) {
        read_int4_half(codes, 0, half, pair, false, DT_BF16, out, 0);
        read_int4_half(codes, 4, rest, high, false, DT_BF16, out, half);
    } else {
        read_int4_half(codes, 0, half, pair, each, DT_F32, out, 0);
        read_int4_half(codes, 4, rest, high, each, DT_F32, out, half);
    }
}

#define NAMED2(isa) cpu_codes_##isa
#define NAMED(isa) NAMED2(isa)

const struct cpu_codes NAMED(CPU_ISA) = {
    .write_scaled = write_scaled,
    .write_int4 = write_int4,
    .write_group = write_group,
    .read_numbers = read_numbers,
    .read_int4 = read_int4,
};
