/* SPDX-License-Identifier: Apache-2.0 */
/*
 * rope.c - inverse frequencies of the rotary embedding, with the five scalings that stretch it.
 *
 *   plain      f_j = 1 / theta^(2j / dims)
 *   linear     f_j / factor
 *   dynamic    theta grows with the length (NTK)
 *   llama3     long wavelengths divided by factor, short ones kept, a smooth step between
 *   yarn       the same idea with a linear ramp over channels; cos and sin grow a little
 *   longrope   every channel divided by a number of the file's own, one list for short and one for long sequences
 *
 * Source: transformers 5.2, modeling_rope_utils.py, whose order of fp32 operations is kept. Powers are taken in double
 * and rounded once, which is what the reference's vector library gives but for a unit in the last place.
 */
#include "common/model/rope.h"

#include "common/base/arena.h"

#include <math.h>
#include <stdlib.h>

#define TWO_PI 6.283185307179586

static float power(double base, float exponent)
{
    return (float)pow(base, (double)exponent);
}

static void freqs_plain(const struct rope_params *r, double theta, float *out)
{
    for (int32_t j = 0; j < r->dims / 2; j++)
        out[j] = 1.0f / power(theta, (float)(2 * j) / (float)r->dims);
}

static void freqs_linear(const struct rope_params *r, float *out)
{
    freqs_plain(r, r->theta, out);
    for (int32_t j = 0; j < r->dims / 2; j++)
        out[j] /= (float)r->factor;
}

/* The reference computes the new theta in fp32, because the length is a tensor there. */
static void freqs_dynamic(const struct rope_params *r, int64_t length, float *out)
{
    const int64_t max_positions = r->original_positions;
    float stretch, theta;

    if (length <= max_positions) {
        freqs_plain(r, r->theta, out);
        return;
    }
    stretch = (float)r->factor * (float)length / (float)max_positions - (float)(r->factor - 1);
    theta = (float)r->theta * power((double)stretch, (float)((double)r->dims / (double)(r->dims - 2)));
    freqs_plain(r, (double)theta, out);
}

static void freqs_llama3(const struct rope_params *r, float *out)
{
    double original = (double)r->original_positions;
    float long_wave = (float)(original / r->low_freq_factor);
    float short_wave = (float)(original / r->high_freq_factor);
    float low = (float)r->low_freq_factor, span = (float)(r->high_freq_factor - r->low_freq_factor);
    float factor = (float)r->factor;

    freqs_plain(r, r->theta, out);
    for (int32_t j = 0; j < r->dims / 2; j++) {
        float f = out[j];
        float wave = (float)TWO_PI / f;
        if (wave > long_wave) {
            out[j] = f / factor;
        } else if (!(wave < short_wave)) {
            float smooth = ((float)original / wave - low) / span;
            out[j] = (1.0f - smooth) * f / factor + smooth * f;
        }
    }
}

/* The channel whose wave turns `turns` times within the original length. */
static double yarn_channel(const struct rope_params *r, double turns)
{
    return (double)r->dims * log((double)r->original_positions / (turns * TWO_PI)) / (2 * log(r->theta));
}

static void freqs_yarn(const struct rope_params *r, float *out)
{
    double low = yarn_channel(r, r->beta_fast);
    double high = yarn_channel(r, r->beta_slow);

    if (r->truncate) {
        low = floor(low);
        high = ceil(high);
    }
    low = fmax(low, 0);
    high = fmin(high, (double)(r->dims - 1));
    if (low == high)
        high += 0.001;
    for (int32_t j = 0; j < r->dims / 2; j++) {
        float wave = power(r->theta, (float)(2 * j) / (float)r->dims);
        float ramp = fminf(fmaxf(((float)j - (float)low) / (float)(high - low), 0.0f), 1.0f);
        float keep = 1.0f - ramp;
        out[j] = 1.0f / ((float)r->factor * wave) * (1.0f - keep) + 1.0f / wave * keep;
    }
}

static void freqs_longrope(const struct rope_params *r, int64_t length, float *out)
{
    const float *by = length > r->original_positions ? r->long_factor : r->short_factor;

    for (int32_t j = 0; j < r->dims / 2; j++)
        out[j] = 1.0f / (by[j] * power(r->theta, (float)(2 * j) / (float)r->dims));
}

static double yarn_mscale(double scale, double mscale)
{
    return scale <= 1 ? 1.0 : 0.1 * mscale * log(scale) + 1.0;
}

static double attention_factor_of(const struct rope_params *r)
{
    if (r->kind != ROPE_YARN && r->kind != ROPE_LONGROPE)
        return 1.0;
    if (r->attention_factor > 0)
        return r->attention_factor;
    if (r->kind == ROPE_LONGROPE)
        return r->factor <= 1 ? 1.0 : sqrt(1 + log(r->factor) / log((double)r->original_positions));
    if (r->mscale > 0 && r->mscale_all_dim > 0)
        return yarn_mscale(r->factor, r->mscale) / yarn_mscale(r->factor, r->mscale_all_dim);
    return yarn_mscale(r->factor, 1);
}

const struct rope_params *rope_of_layer(const struct hparams *h, int32_t layer)
{
    return h->rope_is_local[layer] ? &h->rope_local : &h->rope;
}

bool rope_varies(const struct rope_params *rope)
{
    return rope->kind == ROPE_DYNAMIC || (rope->kind == ROPE_LONGROPE && rope->long_factor != rope->short_factor);
}

void rope_freqs(const struct hparams *h, int32_t layer, int64_t length, float *inv_freq, float *attention_factor)
{
    const struct rope_params *r = rope_of_layer(h, layer);

    switch (r->kind) {
    case ROPE_DEFAULT:
        freqs_plain(r, r->theta, inv_freq);
        break;
    case ROPE_LINEAR:
        freqs_linear(r, inv_freq);
        break;
    case ROPE_DYNAMIC:
        freqs_dynamic(r, length, inv_freq);
        break;
    case ROPE_LLAMA3:
        freqs_llama3(r, inv_freq);
        break;
    case ROPE_YARN:
        freqs_yarn(r, inv_freq);
        break;
    case ROPE_LONGROPE:
        freqs_longrope(r, length, inv_freq);
        break;
    }
    *attention_factor = (float)attention_factor_of(r);
}

/* Longrope has two tables; dynamic scaling one for every length past the original. */
static int32_t tables_of(const struct rope_params *r, int64_t length_max)
{
    int64_t more = length_max - r->original_positions;

    if (!rope_varies(r) || more <= 0)
        return 1;
    if (r->kind == ROPE_LONGROPE)
        return 2;
    return more < ROPE_TABLES_MAX ? (int32_t)more + 1 : ROPE_TABLES_MAX;
}

static void freqs_open(struct rope_freqs *out, const struct hparams *h, int32_t layer, int64_t length_max)
{
    const struct rope_params *r = rope_of_layer(h, layer);

    out->dims = r->dims;
    out->tables = tables_of(r, length_max);
    out->from = r->original_positions;
    out->inv_freq = mem_alloc((size_t)out->tables * (size_t)r->dims / 2 * sizeof(float));
    for (int32_t i = 0; i < out->tables; i++)
        rope_freqs(h, layer, out->from + i, out->inv_freq + (int64_t)i * (r->dims / 2), &out->scale);
}

void rope_tables_open(struct rope_tables *out, const struct hparams *h, int64_t length_max)
{
    *out = (struct rope_tables){ 0 };
    for (int32_t l = 0; l < h->layers; l++) {
        struct rope_freqs *f = rope_of_layer(h, l) == &h->rope ? &out->full : &out->local;

        if (!f->inv_freq)
            freqs_open(f, h, l, length_max);
    }
}

void rope_tables_close(struct rope_tables *t)
{
    free(t->full.inv_freq);
    free(t->local.inv_freq);
    *t = (struct rope_tables){ 0 };
}
