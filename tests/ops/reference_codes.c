/* SPDX-License-Identifier: Apache-2.0 */
/*
 * reference_codes.c - the bytes of a block, written and read as common/kv/codec.h says it, a number at a time.
 *
 * Codes are found by search: of all numbers that a code can stand for, the nearest one.
 */
#include "tests/ops/reference.h"

#include "common/base/bytes.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* Where a row of the block is. */
struct place {
    bool whole;
    int64_t row;   /* number among the coded, or the whole, rows of all heads */
    int64_t group; /* of K's pairs */
};

static struct place place_of(const struct kv_block *b, int32_t head, int64_t row)
{
    const int64_t before = kv_coded_first(b, head), coded = kv_coded_first(b, head + 1) - before;

    if (row < coded)
        return (struct place){ false, before + row, (before + row) / KV_GROUP_ROWS };
    return (struct place){ true, b->first[head] - before + row - coded, 0 };
}

double ref_e4m3(int code)
{
    const int power = code >> 3 & 15, fraction = code & 7;
    const double size = power == 0 ? ldexp(fraction, -9) : ldexp(8 + fraction, power - 10);

    return code & 0x80 ? -size : size;
}

/* The code of 0 .. `last` whose number is nearest to x >= 0; of two as near, the even one. */
static int nearest(double x, double (*number)(int), int last)
{
    int best = 0;

    for (int code = 1; code <= last; code++) {
        const double far = fabs(x - number(code)), least = fabs(x - number(best));

        if (far < least || (far == least && code % 2 == 0))
            best = code;
    }
    return best;
}

static double as_it_is(int code)
{
    return code;
}

static float scaled_row(enum kv_codec codec, const float *x, int32_t count, uint8_t *out)
{
    const size_t bytes = count > 0 ? (size_t)count : 0;
    const float most = codec == KV_INT8 ? 127.0f : 448.0f;
    float largest = 0.0f;
    bool finite = true;

    for (int32_t i = 0; i < count; i++) {
        finite = finite && isfinite(x[i]);
        largest = fabsf(x[i]) > largest ? fabsf(x[i]) : largest;
    }
    memset(out, 0, bytes);
    if (!finite || largest < ldexpf(1, -100))
        return finite ? 0.0f : NAN;
    for (int32_t i = 0; i < count; i++) {
        const float factor = most / largest, y = x[i] * factor;
        const int code =
            codec == KV_INT8 ? nearest(fabs((double)y), as_it_is, 127) : nearest(fabs((double)y), ref_e4m3, 0x7e);

        out[i] = codec == KV_INT8 ? (uint8_t)(signbit(y) ? -code : code) : (uint8_t)(code | (signbit(y) ? 0x80 : 0));
    }
    return largest / most;
}

static float to_bf16_side(float x, bool up)
{
    float y = bf16_to_f32(f32_to_bf16(x));

    while (up ? y < x : y > x)
        y = bf16_to_f32((uint16_t)(f32_to_bf16(y) + ((y < 0) == up ? -1 : 1)));
    return y;
}

/* Values x[0], x[stride], ... share a pair; codes to code[0], code[stride], ... */
static void int4_values(const float *x, int32_t count, int32_t stride, uint8_t *code, uint8_t *pair)
{
    float low = x[0], high = x[0], least, step = 0.0f;
    bool finite = true;

    for (int32_t i = 0; i < count; i++) {
        finite = finite && isfinite(x[i * stride]);
        low = x[i * stride] < low ? x[i * stride] : low;
        high = x[i * stride] > high ? x[i * stride] : high;
        code[i * stride] = 0;
    }
    if (!finite) {
        store_u32(pair, 0x7fc0);
        return;
    }
    least = to_bf16_side(low, false);
    if (high - least >= ldexpf(1, -100))
        step = to_bf16_side((high - least) / 15.0f, true);
    store_u32(pair, f32_to_bf16(step) | (uint32_t)f32_to_bf16(least) << 16);
    for (int32_t i = 0; i < count && step > 0.0f; i++) {
        const float factor = 1.0f / step, y = (x[i * stride] - least) * factor;

        code[i * stride] = (uint8_t)nearest((double)y, as_it_is, 15);
    }
}

static void halves(const uint8_t *code, int32_t channels, uint8_t *out)
{
    const int32_t half = (channels + 1) / 2;

    for (int32_t j = 0; j < half; j++)
        out[j] = (uint8_t)(code[j] + 16 * (j + half < channels ? code[j + half] : 0));
}

static void store_f32(uint8_t *p, float x)
{
    memcpy(p, &x, sizeof x);
}

static float load_f32(const uint8_t *p)
{
    float x;

    memcpy(&x, p, sizeof x);
    return x;
}

struct parts {
    const struct kv_block *b;
    struct kv_parts parts;
    uint8_t *data;
};

static uint8_t *at(const struct parts *p, enum kv_part part, int64_t item)
{
    return p->data + p->parts.offset[part] + (uint64_t)item * kv_part_item_bytes(p->b, part);
}

static void write_group(const struct parts *p, int32_t head, int64_t row, const float *k)
{
    const int32_t channels = p->b->k_dim;
    const struct place to = place_of(p->b, head, row);
    uint8_t code[KV_GROUP_ROWS * KV_HEAD_DIM_MAX];

    for (int32_t c = 0; c < channels; c++)
        int4_values(k + c, KV_GROUP_ROWS, channels, code + c, at(p, KV_PART_K_SCALE, to.group) + 4 * c);
    for (int32_t r = 0; r < KV_GROUP_ROWS; r++)
        halves(code + r * channels, channels, at(p, KV_PART_K, to.row + r));
}

static void write_row(const struct parts *p, int32_t head, int64_t row, const float *k, const float *v)
{
    const struct kv_block *b = p->b;
    const struct place to = place_of(b, head, row);
    uint8_t code[KV_HEAD_DIM_MAX];

    if (to.whole || b->codec == KV_PLAIN) {
        dtype_from_f32(at(p, to.whole ? KV_PART_K_WHOLE : KV_PART_K, to.row), b->dtype, k, (uint64_t)b->k_dim);
        dtype_from_f32(at(p, to.whole ? KV_PART_V_WHOLE : KV_PART_V, to.row), b->dtype, v, (uint64_t)b->dim);
    } else if (b->codec == KV_INT4) {
        if (row % KV_GROUP_ROWS == 0)
            write_group(p, head, row, k);
        int4_values(v, b->dim, 1, code, at(p, KV_PART_V_SCALE, to.row));
        halves(code, b->dim, at(p, KV_PART_V, to.row));
    } else {
        store_f32(at(p, KV_PART_K_SCALE, to.row), scaled_row(b->codec, k, b->k_dim, at(p, KV_PART_K, to.row)));
        store_f32(at(p, KV_PART_V_SCALE, to.row), scaled_row(b->codec, v, b->dim, at(p, KV_PART_V, to.row)));
    }
}

void ref_block_write(const struct kv_block *b, const float *k, const float *v, uint8_t *data)
{
    struct parts p = { .b = b, .data = data };

    kv_block_parts(b, &p.parts);
    memset(data, 0, b->bytes);
    for (int32_t g = 0; g < b->heads; g++)
        for (int64_t row = 0; row < b->first[g + 1] - b->first[g]; row++)
            write_row(&p, g, row, k + (b->first[g] + row) * b->k_dim, v + (b->first[g] + row) * b->dim);
}

static double scaled_value(enum kv_codec codec, uint8_t code, const uint8_t *scale)
{
    return (codec == KV_INT8 ? (double)(int8_t)code : ref_e4m3(code)) * (double)load_f32(scale);
}

static double int4_value(const uint8_t *codes, int32_t channel, int32_t channels, const uint8_t *pair)
{
    const int32_t half = (channels + 1) / 2;
    const int code = channel < half ? codes[channel] & 15 : codes[channel - half] >> 4;

    return (double)bf16_to_f32(load_u16(pair + 2)) + code * (double)bf16_to_f32(load_u16(pair));
}

void ref_block_row(const struct kv_block *b, uint8_t *data, int32_t head, int64_t row, double *k, double *v)
{
    const struct place from = place_of(b, head, row);
    struct parts q = { .b = b, .data = data };
    float room[KV_HEAD_DIM_MAX];

    kv_block_parts(b, &q.parts);
    if (from.whole || b->codec == KV_PLAIN) {
        dtype_to_f32(room, at(&q, from.whole ? KV_PART_K_WHOLE : KV_PART_K, from.row), b->dtype, (uint64_t)b->k_dim);
        for (int32_t c = 0; c < b->k_dim; c++)
            k[c] = (double)room[c];
        dtype_to_f32(room, at(&q, from.whole ? KV_PART_V_WHOLE : KV_PART_V, from.row), b->dtype, (uint64_t)b->dim);
        for (int32_t c = 0; c < b->dim; c++)
            v[c] = (double)room[c];
        return;
    }
    for (int32_t c = 0; c < b->k_dim; c++)
        k[c] = b->codec == KV_INT4
                   ? int4_value(at(&q, KV_PART_K, from.row), c, b->k_dim, at(&q, KV_PART_K_SCALE, from.group) + 4 * c)
                   : scaled_value(b->codec, at(&q, KV_PART_K, from.row)[c], at(&q, KV_PART_K_SCALE, from.row));
    for (int32_t c = 0; c < b->dim; c++)
        v[c] = b->codec == KV_INT4
                   ? int4_value(at(&q, KV_PART_V, from.row), c, b->dim, at(&q, KV_PART_V_SCALE, from.row))
                   : scaled_value(b->codec, at(&q, KV_PART_V, from.row)[c], at(&q, KV_PART_V_SCALE, from.row));
}
