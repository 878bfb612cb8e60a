/* SPDX-License-Identifier: Apache-2.0 */
/*
 * loops.c - norms, rotations, activations, softmax: loops over one row; compiled once per instruction set (CPU_ISA).
 *
 * Every sum runs in LANES partial sums that are added in one fixed order, so a row gives the same bits wherever it
 * stands. Nothing here is parallel; the callers deal rows out to the pool.
 */
#include "kernels/cpu/isa.h"

#include "kernels/cpu/vector.h"

#include <math.h>

static void to_bf16(const float *in, int64_t count, uint16_t *out)
{
    int64_t i = 0;

    for (; i + LANES <= count; i += LANES) {
        vh h = vf_to_bf16(vf_load(in + i));
        memcpy(out + i, &h, sizeof h);
    }
    for (; i < count; i++)
        out[i] = f32_to_bf16(in[i]);
}

static void from_bf16(const uint16_t *in, int64_t count, float *out)
{
    int64_t i = 0;

    for (; i + LANES <= count; i += LANES)
        vf_store(out + i, vf_from_bf16(vh_load(in + i)));
    for (; i < count; i++)
        out[i] = bf16_to_f32(in[i]);
}

static void add(float *x, const float *y, int64_t count)
{
    for (int64_t i = 0; i < count; i++)
        x[i] += y[i];
}

static void scale(float *x, float factor, int64_t count)
{
    for (int64_t i = 0; i < count; i++)
        x[i] *= factor;
}

static float square_sum(const float *x, int32_t count)
{
    vf part = { 0 };
    float sum;
    int32_t i = 0;

    for (; i + LANES <= count; i += LANES) {
        vf v = vf_load(x + i);
        part += v * v;
    }
    sum = vf_sum(part);
    for (; i < count; i++)
        sum += x[i] * x[i];
    return sum;
}

static float dot(const float *x, const float *y, int32_t count)
{
    return vf_dot(x, y, count);
}

static void rms_norm(const float *x, const float *w, float eps, int32_t dim, float *out)
{
    float factor = 1.0f / sqrtf(square_sum(x, dim) / (float)dim + eps);

    for (int32_t i = 0; i < dim; i++)
        out[i] = x[i] * factor * w[i];
}

/* x / (1 + e^-x) */
INLINE vf silu(vf x)
{
    return x / (vf_exp(-x) + 1.0f);
}

/* x (1 + tanh(y)) / 2 = x / (1 + e^-2y), y = sqrt(2 / pi) (x + 0.044715 x^3): no difference of near numbers. */
INLINE vf gelu_tanh(vf x)
{
    vf y = 0.7978845608f * (x + 0.044715f * x * x * x);

    return x / (vf_exp(-2.0f * y) + 1.0f);
}

INLINE void gated_loop(vf (*act)(vf), const float *gate, const float *up, int64_t count, float *out)
{
    int64_t i = 0;

    for (; i + LANES <= count; i += LANES)
        vf_store(out + i, act(vf_load(gate + i)) * vf_load(up + i));
    if (i < count) {
        float g[LANES] = { 0 }, u[LANES] = { 0 }, o[LANES];
        size_t bytes = (size_t)(count - i) * sizeof *out;

        memcpy(g, gate + i, bytes);
        memcpy(u, up + i, bytes);
        vf_store(o, act(vf_load(g)) * vf_load(u));
        memcpy(out + i, o, bytes);
    }
}

static void gated(enum activation kind, const float *gate, const float *up, int64_t count, float *out)
{
    if (kind == ACT_SILU)
        gated_loop(silu, gate, up, count, out);
    else
        gated_loop(gelu_tanh, gate, up, count, out);
}

static void finish(const float *c, const float *bias, bool add_out, int64_t count, float *out)
{
    if (bias && add_out)
        for (int64_t i = 0; i < count; i++)
            out[i] += c[i] + bias[i];
    else if (bias)
        for (int64_t i = 0; i < count; i++)
            out[i] = c[i] + bias[i];
    else if (add_out)
        for (int64_t i = 0; i < count; i++)
            out[i] += c[i];
    else
        memcpy(out, c, (size_t)count * sizeof *out);
}

/* Sine and cosine of f32 angles, correct to the last bit but for rare halves: reduced and summed in double, where a
 * position of 10^7 still leaves 10 digits. */
INLINE void angles_block(float at, const float *inv_freq, float factor, float *cos, float *sin)
{
    const double two_over_pi = 0.63661977236758134308, half_pi_hi = 1.57079632679489655800,
                 half_pi_lo = 6.12323399573676603587e-17, magic = 6755399441055744.0;
    vd x = vd_from_floats(vd_floats_load(inv_freq) * at), t = x * two_over_pi + magic, n = t - magic, r, r2, s, c;
    vl quarter = (vl)t, odd = -(quarter & 1);

    r = x - n * half_pi_hi - n * half_pi_lo;
    r2 = r * r;
    s = r + r * r2 * (-1.0 / 6 + r2 * (1.0 / 120 + r2 * (-1.0 / 5040 + r2 * (1.0 / 362880 - r2 * (1.0 / 39916800)))));
    c = 1.0 + r2 * (-0.5 + r2 * (1.0 / 24 + r2 * (-1.0 / 720 + r2 * (1.0 / 40320 +
                                                                     r2 * (-1.0 / 3628800 + r2 * (1.0 / 479001600))))));
    /* Negative where bit 1 says so. */
    x = (vd)((vl)vd_select(odd, s, c) ^ ((quarter + 1) & 2) << 62);
    vd_floats_store(cos, vd_to_floats(x) * factor);
    x = (vd)((vl)vd_select(odd, c, s) ^ (quarter & 2) << 62);
    vd_floats_store(sin, vd_to_floats(x) * factor);
}

static void angles(int64_t position, const float *inv_freq, int32_t pairs, float factor, float *cos, float *sin)
{
    const float at = (float)position;
    int32_t i = 0;

    for (; i + DOUBLES <= pairs; i += DOUBLES)
        angles_block(at, inv_freq + i, factor, cos + i, sin + i);
    if (i < pairs) {
        float rest[3][DOUBLES] = { { 0 } };
        size_t bytes = (size_t)(pairs - i) * sizeof *cos;

        memcpy(rest[0], inv_freq + i, bytes);
        angles_block(at, rest[0], factor, rest[1], rest[2]);
        memcpy(cos + i, rest[1], bytes);
        memcpy(sin + i, rest[2], bytes);
    }
}

static void rotate(float *x, const float *cos, const float *sin, int32_t pairs)
{
    float *y = x + pairs;

    for (int32_t i = 0; i < pairs; i++) {
        float a = x[i], b = y[i];
        x[i] = a * cos[i] - b * sin[i];
        y[i] = b * cos[i] + a * sin[i];
    }
}

INLINE vi vi_iota(int32_t from)
{
    vi v = { 0 };

    for (int i = 0; i < LANES; i++)
        v[i] = from + i;
    return v;
}

static int64_t argmax(const float *x, int64_t count, float *largest)
{
    vf best = vf_set(-INFINITY);
    vi at = { 0 }, here = vi_iota(0);
    float value[LANES];
    int32_t index[LANES];
    int64_t i = 0, found;

    for (; i + LANES <= count; i += LANES, here += LANES) {
        vf v = vf_load(x + i);
        vi more = (vi)(v > best);
        best = vf_select(more, v, best);
        at = (here & more) | (at & ~more);
    }
    memcpy(value, &best, sizeof value);
    memcpy(index, &at, sizeof index);
    *largest = value[0];
    found = index[0];
    for (int l = 1; l < LANES; l++)
        if (value[l] > *largest || (value[l] == *largest && index[l] < found)) {
            *largest = value[l];
            found = index[l];
        }
    for (; i < count; i++)
        if (x[i] > *largest) {
            *largest = x[i];
            found = i;
        }
    return found;
}

INLINE float exp_one(float x)
{
    return vf_exp(vf_set(x))[0];
}

/* s[0 .. width) outside [from, to) = -infinity. */
INLINE void mask_row(float *s, int32_t width, int32_t from, int32_t to)
{
    for (int32_t i = 0; i < width; i += LANES) {
        vi here = vi_iota(i);
        vi seen = (vi)(here >= from) & (vi)(here < to);
        vf_store(s + i, vf_select(seen, vf_load(s + i), vf_set(-INFINITY)));
    }
}

INLINE float row_largest(const float *s, int32_t width, float factor)
{
    vf top = vf_set(-INFINITY);

    for (int32_t i = 0; i < width; i += LANES)
        top = vf_max(vf_load(s + i) * factor, top);
    return vf_largest(top);
}

/* s = exp(s factor - largest); the lanes' sums. */
INLINE vf row_exp(float *s, int32_t width, float factor, float largest)
{
    vf part = { 0 };

    for (int32_t i = 0; i < width; i += LANES) {
        vf p = vf_exp(vf_load(s + i) * factor - largest);
        part += p;
        vf_store(s + i, p);
    }
    return part;
}

/* The row's *max is `largest` from now on: what was summed before it shrinks. */
INLINE void row_add(float part, float largest, float *max, float *sum, float *o, int32_t o_width)
{
    float correction;

    if (largest == *max) {
        *sum += part;
        return;
    }
    correction = exp_one(*max - largest);
    *max = largest;
    *sum = *sum * correction + part;
    for (int32_t i = 0; i < o_width; i += LANES)
        vf_store(o + i, vf_load(o + i) * correction);
}

INLINE int32_t clamp(int64_t x, int32_t limit)
{
    return x < 0 ? 0 : x > limit ? limit : (int32_t)x;
}

/* Masks a row; false: it sees nothing, and its weights are zero. */
INLINE bool row_sees(float *row, int32_t cols, int32_t width, int32_t r, const struct score_mask *mask)
{
    int64_t end = mask->seen + (mask->row + r) / mask->group;
    int32_t to = clamp(end, cols), from = mask->window > 0 ? clamp(end - mask->window, cols) : 0;

    if (from >= to)
        memset(row, 0, (size_t)width * sizeof *row);
    else if (from > 0 || to < width)
        mask_row(row, width, from, to);
    return from < to;
}

/* Several rows go through each step together: one alone would wait between its steps for the sum over its lanes. */
static void softmax(float *s, int64_t s_stride, int32_t rows, int32_t cols, float factor, const struct score_mask *mask,
                    float *max, float *sum, float *o, int32_t o_width)
{
    enum { AT_ONCE = 8 };
    int32_t width = (cols + 31) / 32 * 32;

    for (int32_t begin = 0; begin < rows; begin += AT_ONCE) {
        int32_t end = begin + AT_ONCE < rows ? begin + AT_ONCE : rows;
        float largest[AT_ONCE];
        vf part[AT_ONCE];
        bool sees[AT_ONCE];

        for (int32_t r = begin, i = 0; r < end; r++, i++) {
            float top;

            sees[i] = row_sees(s + r * s_stride, cols, width, r, mask);
            top = row_largest(s + r * s_stride, width, factor);
            largest[i] = top > max[r] ? top : max[r];
        }
        for (int32_t r = begin, i = 0; r < end; r++, i++)
            if (sees[i])
                part[i] = row_exp(s + r * s_stride, width, factor, largest[i]);
        for (int32_t r = begin, i = 0; r < end; r++, i++)
            if (sees[i])
                row_add(vf_sum(part[i]), largest[i], max + r, sum + r, o + (int64_t)r * o_width, o_width);
    }
}

static void softmax_sum(const float *s, int32_t count, float factor, float lse, float weight, float *p)
{
    int32_t i = 0;

    for (; i + LANES <= count; i += LANES)
        vf_store(p + i, vf_load(p + i) + vf_exp(vf_load(s + i) * factor - lse) * weight);
    for (; i < count; i++)
        p[i] += exp_one(s[i] * factor - lse) * weight;
}

static void blend(float *o, float a, const float *p, float b, int32_t count)
{
    for (int32_t i = 0; i < count; i++)
        o[i] = a * o[i] + b * p[i];
}

#define NAMED2(isa) cpu_loops_##isa
#define NAMED(isa) NAMED2(isa)

const struct cpu_loops NAMED(CPU_ISA) = {
    .to_bf16 = to_bf16,
    .from_bf16 = from_bf16,
    .add = add,
    .scale = scale,
    .rms_norm = rms_norm,
    .gated = gated,
    .finish = finish,
    .angles = angles,
    .rotate = rotate,
    .argmax = argmax,
    .softmax = softmax,
    .softmax_sum = softmax_sum,
    .blend = blend,
    .square_sum = square_sum,
    .dot = dot,
};
