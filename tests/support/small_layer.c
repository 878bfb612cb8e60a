/* SPDX-License-Identifier: Apache-2.0 */
/* small_layer.c - the small layer of press_vectors.json, computed in doubles and stored as f32. */
#include "tests/support/small_layer.h"

#include <assert.h>
#include <math.h>
#include <string.h>

enum { STRIDE = SMALL_TOKENS * 2 };

double small_value(uint64_t seed, uint64_t i)
{
    uint64_t z = seed + (i + 1) * 0x9E3779B97F4A7C15u;

    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
    z ^= z >> 31;
    return 2.0 * ((double)(z >> 40) / 16777216.0) - 1.0;
}

void small_fill(uint64_t seed, int64_t count, float *out)
{
    for (int64_t i = 0; i < count; i++)
        out[i] = (float)small_value(seed, (uint64_t)i);
}

uint64_t small_offset(int32_t layer)
{
    static const uint64_t offsets[SMALL_LAYERS] = { 300, 0, 100, 200 };

    return offsets[layer];
}

static float *device_floats(struct backend *be, int64_t count)
{
    void *out = NULL;
    enum status st = be->ops->alloc(be, (uint64_t)count * sizeof(float), "tests", &out, NULL);

    assert(st == ST_OK && be->ops->host_is_device);
    memset(out, 0, (size_t)count * sizeof(float));
    return out;
}

/* out[n] = row . W[n] + b[n], W [outputs][16] of seed, b of seed + 1. */
static void project(const float *row, uint64_t seed, int32_t outputs, double *out)
{
    for (int32_t n = 0; n < outputs; n++) {
        out[n] = (float)small_value(seed + 1, (uint64_t)n);
        for (int32_t c = 0; c < SMALL_X; c++)
            out[n] += (double)row[c] * small_value(seed, (uint64_t)(n * SMALL_X + c));
    }
}

static void rotate(const float *inv_freq, double *head, int64_t position)
{
    for (int32_t j = 0; j < SMALL_D / 2; j++) {
        float angle = (float)position * inv_freq[j];
        double c = cos(angle), s = sin(angle), a = head[j], b = head[j + SMALL_D / 2];

        head[j] = a * c - b * s;
        head[j + SMALL_D / 2] = b * c + a * s;
    }
}

static void store(const double *from, int32_t count, float *to)
{
    for (int32_t i = 0; i < count; i++)
        to[i] = (float)from[i];
}

void small_project(struct small_layer *s, const float *x, int64_t rows, int64_t position, int64_t at, float *out,
                   float *plain)
{
    uint64_t seed = small_offset(s->in.layer);
    double q[SMALL_H * SMALL_D], k[SMALL_G * SMALL_D], v[SMALL_G * SMALL_D];

    for (int64_t t = 0; t < rows; t++) {
        project(x + t * SMALL_X, seed + 2, SMALL_H * SMALL_D, q);
        project(x + t * SMALL_X, seed + 4, SMALL_G * SMALL_D, k);
        project(x + t * SMALL_X, seed + 6, SMALL_G * SMALL_D, v);
        if (plain)
            store(q, SMALL_H * SMALL_D, plain + t * SMALL_H * SMALL_D);
        for (int32_t h = 0; h < SMALL_H; h++)
            rotate(s->inv_freq, q + h * SMALL_D, position + t);
        store(q, SMALL_H * SMALL_D, out + t * SMALL_H * SMALL_D);
        for (int32_t g = 0; g < SMALL_G; g++) {
            rotate(s->inv_freq, k + g * SMALL_D, position + t);
            store(k + g * SMALL_D, SMALL_D, s->k + (g * STRIDE + at + t) * SMALL_D);
            store(v + g * SMALL_D, SMALL_D, s->v + (g * STRIDE + at + t) * SMALL_D);
        }
    }
}

/* Log of the sum of exp of what query t of head h sees. */
static double lse_of(const struct small_layer *s, int32_t h, int64_t t)
{
    const float *q = s->q + (t * SMALL_H + h) * SMALL_D;
    double sum = 0;

    for (int64_t j = 0; j <= t; j++) {
        const float *k = s->k + (h / (SMALL_H / SMALL_G) * STRIDE + j) * SMALL_D;
        double dot = 0;

        for (int32_t c = 0; c < SMALL_D; c++)
            dot += (double)q[c] * k[c];
        sum += exp(dot / sqrt(SMALL_D));
    }
    return log(sum);
}

static enum status read_o(void *ctx, int64_t row, int64_t rows, float *out, struct err *err)
{
    const struct small_layer *s = ctx;
    int64_t cols = SMALL_H * SMALL_D;

    (void)err;
    for (int64_t i = 0; i < rows * cols; i++)
        out[i] = (float)small_value(small_offset(s->in.layer) + 8, (uint64_t)(row * cols + i));
    return ST_OK;
}

void small_open(struct small_layer *s, struct backend *be, int32_t layer)
{
    struct weight_source source = { .rows = SMALL_X, .cols = SMALL_H * SMALL_D, .read = read_o, .ctx = s };
    enum status st;

    memset(s, 0, sizeof *s);
    s->be = be;
    s->hp = (struct hparams){ .layers = SMALL_LAYERS,
                              .dim = SMALL_X,
                              .q_heads = SMALL_H,
                              .kv_heads = SMALL_G,
                              .head_dim = SMALL_D,
                              .ff_dim = 32,
                              .vocab = 64,
                              .max_positions = 4096,
                              .norm_eps = 1e-6f,
                              .attn_scale = 1.0f / sqrtf(SMALL_D),
                              .embed_scale = 1 };
    s->hp.rope.dims = SMALL_D;
    s->inv_freq = device_floats(be, SMALL_D / 2);
    s->x = device_floats(be, SMALL_TOKENS * SMALL_X);
    s->q = device_floats(be, SMALL_TOKENS * SMALL_H * SMALL_D);
    s->q_plain = device_floats(be, SMALL_TOKENS * SMALL_H * SMALL_D);
    s->k = device_floats(be, SMALL_G * STRIDE * SMALL_D);
    s->v = device_floats(be, SMALL_G * STRIDE * SMALL_D);
    s->lse = device_floats(be, SMALL_H * SMALL_TOKENS);
    for (int32_t j = 0; j < SMALL_D / 2; j++)
        s->inv_freq[j] = (float)(1.0 / pow(10000.0, 2.0 * j / SMALL_D));
    s->in.layer = layer;
    small_fill(small_offset(layer) + 1, SMALL_TOKENS * SMALL_X, s->x);
    small_project(s, s->x, SMALL_TOKENS, 0, 0, s->q, s->q_plain);
    for (int32_t h = 0; h < SMALL_H; h++)
        for (int64_t t = 0; t < SMALL_TOKENS; t++)
            s->lse[h * SMALL_TOKENS + t] = (float)lse_of(s, h, t);
    st = be->ops->weight_open(be, &source, WEIGHT_MATRIX, &s->o, NULL);
    assert(st == ST_OK);
    s->in = (struct press_layer){
        .hp = &s->hp,
        .layer = layer,
        .kv = { s->k, s->v, DT_F32, SMALL_G, SMALL_D, SMALL_TOKENS, STRIDE },
        .tokens = SMALL_TOKENS,
        .q_tail = s->q,
        .q_tail_rows = SMALL_TOKENS,
        .q_plain = s->q_plain,
        .q = s->q,
        .hidden = s->x,
        .lse = s->lse,
        .lse_stride = SMALL_TOKENS,
        .rope = { .inv_freq = s->inv_freq, .dims = SMALL_D, .scale = 1.0f },
        .o = s->o,
    };
}

void small_close(struct small_layer *s)
{
    float *all[] = { s->inv_freq, s->x, s->q, s->q_plain, s->k, s->v, s->lse };

    for (size_t i = 0; i < sizeof all / sizeof all[0]; i++)
        s->be->ops->free(s->be, all[i]);
    s->be->ops->weight_close(s->be, s->o);
}
