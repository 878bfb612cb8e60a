/* SPDX-License-Identifier: Apache-2.0 */
/*
 * check_codecs.c - packing into codes: bit for bit what common/kv/codec.h says where keys stay as they are, within its
 * bounds where they are turned; rows of zeros, of one number, of the smallest and the largest, and such as are no numbers.
 */
#include "common/kv/block.h"
#include "tests/ops/ops.h"
#include "tests/ops/reference.h"

#include <math.h>
#include <string.h>

enum { HEADS = 3, DIM_MAX = 128, TOKENS = 260 };

/* A dense layer, the rows that are chosen of it, and the block that they become. */
struct layer {
    struct ops *o;
    struct kv_rows rows;
    float *k, *v; /* [HEADS][TOKENS][dim] */
    int32_t *index;
    struct pack_args args;
    struct kv_block block;
    int32_t channel[HEADS * DIM_MAX];
};

/* Rows that codes find hard: each 16th row of K and V is one of these. */
static void strange_row(struct ops *o, float *row, int32_t dim, int64_t kind)
{
    const float small = ldexpf(1, -120), big = ldexpf(1, 100);

    for (int32_t c = 0; c < dim; c++)
        row[c] = kind == 0   ? 0.0f
                 : kind == 1 ? -3.0f
                 : kind == 2 ? row[c] * small
                 : kind == 3 ? row[c] * big
                 : kind == 4 ? (float)(c % 17) - 8.0f
                             : row[c];
    if (kind == 5)
        row[dim / 2] = INFINITY;
    if (kind == 6)
        row[1] = NAN;
    for (int32_t c = 0; c < dim && o->dtype == DT_BF16; c++)
        row[c] = bf16_to_f32(f32_to_bf16(row[c]));
}

static float *some_rows(struct ops *o, int32_t dim, bool strange)
{
    float *x = ops_random(o, HEADS * TOKENS * dim, 1.0f);

    for (int64_t r = 0; r < HEADS * TOKENS; r++) {
        for (int32_t c = 0; c < dim; c++)
            x[r * dim + c] *= c % 11 == 3 ? 16.0f : 1.0f;
        if (strange && r % 16 == 7)
            strange_row(o, x + r * dim, dim, r / 16 % 7);
    }
    return x;
}

static void choose_rows(struct layer *l)
{
    int64_t total = 0;

    for (int32_t g = 0; g < HEADS; g++) {
        l->rows.first[g] = l->rows.at[g] = (int64_t)g * TOKENS;
        l->rows.rows[g] = TOKENS;
        for (int32_t t = 0; t < TOKENS; t++)
            if (g == 0 || ops_below(l->o, 4) > g)
                l->index[total++] = t;
        l->args.first[g + 1] = l->block.first[g + 1] = total;
    }
    l->rows.at[HEADS] = HEADS * TOKENS;
    l->args.index = ops_up_bytes(l->o, l->index, (uint64_t)total * sizeof *l->index);
}

static void choose_channels(struct layer *l, int32_t k_dim)
{
    l->block.k_dim = k_dim;
    for (int32_t g = 0; g < HEADS; g++)
        for (int32_t c = 0, at = 0; c < l->block.dim; c++)
            if (at < k_dim && ops_below(l->o, l->block.dim - c) < k_dim - at)
                l->channel[g * k_dim + at++] = c;
    l->args.channel = l->channel;
}

static void layer_make(struct layer *l, struct ops *o, enum kv_codec codec, int32_t dim, int32_t k_dim, bool strange)
{
    *l = (struct layer){ .o = o, .rows = { .dtype = o->be->kv, .heads = HEADS, .dim = dim } };
    l->block = (struct kv_block){ .heads = HEADS, .dim = dim, .k_dim = dim, .dtype = o->be->kv, .codec = codec };
    l->index = arena_array(&o->arena, HEADS * TOKENS, sizeof *l->index);
    l->k = some_rows(o, dim, strange);
    l->v = some_rows(o, dim, strange);
    l->rows.k = ops_up_kv(o, l->k, (int64_t)HEADS * TOKENS * dim);
    l->rows.v = ops_up_kv(o, l->v, (int64_t)HEADS * TOKENS * dim);
    choose_rows(l);
    if (k_dim < dim)
        choose_channels(l, k_dim);
    l->args.rows = &l->rows;
    ops_true(o, "the block is planned", kv_block_plan(&l->block, NULL) == ST_OK);
}

static uint8_t *packed(struct layer *l)
{
    l->args.rows = &l->rows;
    l->block.data = ops_poisoned(l->o, l->block.bytes);
    l->o->be->ops->pack(l->o->be, &l->args, &l->block);
    return ops_down_bytes(l->o, LANE_PRESS, l->block.data, l->block.bytes);
}

/* The chosen rows as they are coded: k [rows][k_dim], v [rows][dim]. */
static void chosen(const struct layer *l, float *k, float *v)
{
    const int32_t dim = l->block.dim, k_dim = l->block.k_dim;

    for (int32_t g = 0; g < HEADS; g++)
        for (int64_t at = l->block.first[g]; at < l->block.first[g + 1]; at++) {
            const int64_t row = (int64_t)g * TOKENS + l->index[at];

            for (int32_t c = 0; c < k_dim; c++)
                k[at * k_dim + c] = l->k[row * dim + (k_dim < dim ? l->channel[g * k_dim + c] : c)];
            memcpy(v + at * dim, l->v + row * dim, (size_t)dim * sizeof *v);
        }
}

/* A NaN may be any NaN. */
static void one_nan(const struct kv_block *b, uint8_t *data)
{
    struct kv_parts parts;

    kv_block_parts(b, &parts);
    for (int p = KV_PART_K_SCALE; p <= KV_PART_V_SCALE; p++)
        for (uint64_t i = 0; i < parts.bytes[p] / 4; i++) {
            uint8_t *at = data + parts.offset[p] + 4 * i;
            float x;
            uint16_t step;

            memcpy(&x, at, 4);
            memcpy(&step, at, 2);
            if (b->codec == KV_INT4 ? isnan(bf16_to_f32(step)) : isnan(x))
                memset(at, 0xff, 4);
        }
    for (int p = KV_PART_K_WHOLE; p <= KV_PART_V_WHOLE; p++)
        for (uint64_t i = 0; b->dtype == DT_BF16 && i < parts.bytes[p] / 2; i++) {
            uint8_t *at = data + parts.offset[p] + 2 * i;
            uint16_t x;

            memcpy(&x, at, 2);
            if (isnan(bf16_to_f32(x)))
                memset(at, 0xff, 2);
        }
}

static void check_bits(struct ops *o, enum kv_codec codec, int32_t dim, int32_t k_dim)
{
    struct layer l;
    const char *const what[KV_PARTS] = { "K codes", "V codes", "K scales", "V scales",
                                         "K whole", "V whole", "masks",    "scores" };
    struct kv_parts parts;
    float *k, *v;
    uint8_t *got, *want;

    layer_make(&l, o, codec, dim, k_dim, true);
    k = arena_array(&o->arena, (size_t)(HEADS * TOKENS * k_dim), sizeof *k);
    v = arena_array(&o->arena, (size_t)(HEADS * TOKENS * dim), sizeof *v);
    want = arena_alloc(&o->arena, l.block.bytes);
    chosen(&l, k, v);
    ref_block_write(&l.block, k, v, want);
    kv_block_parts(&l.block, &parts);
    for (int32_t g = 0; g < HEADS && k_dim < dim; g++)
        for (int32_t i = 0; i < k_dim; i++) {
            const int32_t c = l.channel[g * k_dim + i];

            want[parts.offset[KV_PART_MASKS] + (uint64_t)(g * ((dim + 7) / 8) + c / 8)] |= (uint8_t)(1 << c % 8);
        }
    got = packed(&l);
    one_nan(&l.block, got);
    one_nan(&l.block, want);
    for (int p = 0; p < KV_PARTS; p++)
        ops_equal_bytes(o, what[p], got + parts.offset[p], want + parts.offset[p], kv_align(parts.bytes[p]));
}

/* How far the values of one row or, of int4's keys, of one channel in 32 rows may be from x[0], x[stride], ... */
static double bound(enum kv_codec codec, const double *x, int32_t count, int32_t stride, double one)
{
    double low = x[0], high = x[0], most;

    for (int32_t i = 1; i < count; i++) {
        low = x[i * stride] < low ? x[i * stride] : low;
        high = x[i * stride] > high ? x[i * stride] : high;
    }
    most = -low > high ? -low : high;
    if (codec == KV_INT8)
        return most / 127 * 0.5 + most * 1e-5;
    if (codec == KV_FP8)
        return fabs(one) / 16 + most / 448 / 1024 + most * 1e-5;
    return (high - low + fabs(low) / 128) / 15 * (1 + 1.0 / 128) * 0.5 + most * 1e-5;
}

/* want [rows][dim]: the chosen keys, turned to where they now stand. */
static void turn_all(const struct layer *l, const float *freq, double *want)
{
    const int32_t dim = l->block.dim;

    for (int32_t g = 0; g < HEADS; g++)
        for (int64_t at = l->block.first[g]; at < l->block.first[g + 1]; at++) {
            for (int i = 0; i < dim; i++)
                want[at * dim + i] = (double)l->k[((int64_t)g * TOKENS + l->index[at]) * dim + i];
            ref_rotate(want + at * dim, freq, dim / 2, at - l->block.first[g] - l->index[at], 1.0);
        }
}

/* Row `row` of a head: its values against those wanted. */
static void check_turned_row(const struct layer *l, uint8_t *data, int32_t g, int64_t row, const double *want)
{
    const struct kv_block *b = &l->block;
    const int64_t coded = kv_coded_first(b, g + 1) - kv_coded_first(b, g);
    const double *x = want + (b->first[g] + row) * b->dim,
                 *group = want + (b->first[g] + row / KV_GROUP_ROWS * KV_GROUP_ROWS) * b->dim;
    double k[DIM_MAX], v[DIM_MAX];

    ref_block_row(b, data, g, row, k, v);
    for (int32_t c = 0; c < b->dim; c++) {
        double far = row >= coded          ? fabs(x[c]) * 2 * ops_eps_kv(l->o) + 1e-4
                     : b->codec == KV_INT4 ? bound(KV_INT4, group + c, KV_GROUP_ROWS, b->dim, 0)
                                           : bound(b->codec, x, b->dim, 1, x[c]);

        ops_true(l->o, "a turned key is within the codec's bound", fabs(k[c] - x[c]) <= far);
    }
}

static void check_turned(struct ops *o, enum kv_codec codec)
{
    enum { DIM = 64, PAIRS = 32 };
    struct layer l;
    struct rope_table rope = { .dims = 2 * PAIRS, .scale = 1.0f };
    float freq[PAIRS];
    double *want = ops_doubles(o, (int64_t)HEADS * TOKENS * DIM);
    uint8_t *got;

    layer_make(&l, o, codec, DIM, DIM, false);
    for (int i = 0; i < PAIRS; i++)
        freq[i] = powf(10000.0f, -(float)i / PAIRS);
    rope.inv_freq = ops_up_bytes(o, freq, sizeof freq);
    l.args.rerotate = &rope;
    got = packed(&l);
    turn_all(&l, freq, want);
    for (int32_t g = 0; g < HEADS; g++)
        for (int64_t row = 0; row < l.block.first[g + 1] - l.block.first[g]; row++)
            check_turned_row(&l, got, g, row, want);
}

void check_pack_codecs(struct ops *o)
{
    for (int codec = KV_PLAIN + 1; codec < KV_CODECS; codec++) {
        if (!(o->be->ops->codecs >> codec & 1))
            continue;
        check_bits(o, (enum kv_codec)codec, 64, 64);
        check_bits(o, (enum kv_codec)codec, 128, 128);
        check_bits(o, (enum kv_codec)codec, 80, 80);
        check_bits(o, (enum kv_codec)codec, 64, 33);
        check_turned(o, (enum kv_codec)codec);
    }
}
