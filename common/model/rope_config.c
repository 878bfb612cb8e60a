/* SPDX-License-Identifier: Apache-2.0 */
/*
 * rope_config.c - how a file asks for its rotation.
 *
 *   older directories   "rope_theta": ..., "rope_scaling": {"rope_type" or "type": ..., "factor": ...}
 *   newer ones          "rope_parameters": {"rope_type": ..., "rope_theta": ..., "factor": ...}
 *   GGUF                <arch>.rope.freq_base, <arch>.rope.scaling.*, tensors rope_freqs / rope_factors_{long,short}
 */
#include "common/model/family.h"

#include "common/base/bytes.h"
#include "common/model/gguf.h"

#include <math.h>
#include <string.h>

#define FACTOR_MAX 1e6
#define THETA_MIN 1.5
#define THETA_MAX 1e15

static const struct {
    const char *word;
    enum rope_kind kind;
} kind_words[] = {
    { "default", ROPE_DEFAULT }, { "none", ROPE_DEFAULT }, { "linear", ROPE_LINEAR },     { "dynamic", ROPE_DYNAMIC },
    { "llama3", ROPE_LLAMA3 },   { "yarn", ROPE_YARN },    { "longrope", ROPE_LONGROPE },
};

static enum rope_kind kind_of(const struct keys *k, const char *word)
{
    if (!word)
        return ROPE_DEFAULT;
    for (size_t i = 0; i < ARRAY_LEN(kind_words); i++)
        if (strcmp(kind_words[i].word, word) == 0)
            return kind_words[i].kind;
    keys_fail(k, ST_EUNIMPLEMENTED,
              "rope scaling \"%.64s\" is not built; default, linear, dynamic, llama3, yarn, longrope are", word);
    return ROPE_DEFAULT;
}

struct keys rope_scaling_of(const struct keys *root)
{
    return keys_object(root, keys_has(root, "rope_scaling") ? "rope_scaling" : "rope_parameters");
}

/* dims / 2 positive numbers, as the longrope lists are. */
static const float *read_factors(const struct keys *k, const char *key, int32_t dims)
{
    size_t count;
    const double *from = keys_nums(k, key, (size_t)(dims / 2), &count);
    float *out;

    if (count != (size_t)(dims / 2)) {
        keys_fail(k, ST_EINVAL, "%s has %zu numbers, the rotation has %d channel pairs", key, count, dims / 2);
        return NULL;
    }
    out = arena_array(k->result->arena, count, sizeof out[0]);
    for (size_t i = 0; i < count; i++) {
        out[i] = (float)from[i];
        if (!(out[i] > 0))
            keys_fail(k, ST_EINVAL, "%s: number %zu is not positive", key, i);
    }
    return out;
}

/* Where the file gives no factor, the lengths before and after scaling do. */
static double factor_or_ratio(const struct keys *k, const struct hparams *h, int64_t original)
{
    double ratio = (double)h->max_positions / (double)original;

    return keys_num(k, "factor", 1e-6, FACTOR_MAX, ratio);
}

/* A number that Python's `value or default` replaces also when it is 0. */
static double num_or(const struct keys *k, const char *key, double fallback)
{
    double value = keys_num(k, key, 0, FACTOR_MAX, fallback);

    return value > 0 ? value : fallback;
}

static void read_scaling(struct rope_params *r, const struct hparams *h, const struct keys *k)
{
    switch (r->kind) {
    case ROPE_DEFAULT:
        break;
    case ROPE_LINEAR:
    case ROPE_DYNAMIC:
        r->factor = keys_need_num(k, "factor", 1e-6, FACTOR_MAX);
        if (r->kind == ROPE_DYNAMIC)
            r->original_positions = h->max_positions;
        if (r->kind == ROPE_DYNAMIC && r->dims <= 2)
            keys_fail(k, ST_EINVAL, "dynamic rope scaling needs more than 2 rotated channels");
        break;
    case ROPE_LLAMA3:
        r->factor = keys_need_num(k, "factor", 1e-6, FACTOR_MAX);
        r->low_freq_factor = keys_need_num(k, "low_freq_factor", 1e-6, FACTOR_MAX);
        r->high_freq_factor = keys_need_num(k, "high_freq_factor", 1e-6, FACTOR_MAX);
        if (r->high_freq_factor == r->low_freq_factor)
            keys_fail(k, ST_EINVAL, "high_freq_factor and low_freq_factor are the same");
        break;
    case ROPE_YARN:
        r->factor = factor_or_ratio(k, h, r->original_positions);
        r->beta_fast = num_or(k, "beta_fast", 32);
        r->beta_slow = num_or(k, "beta_slow", 1);
        r->mscale = keys_num(k, "mscale", 0, FACTOR_MAX, 0);
        r->mscale_all_dim = keys_num(k, "mscale_all_dim", 0, FACTOR_MAX, 0);
        r->attention_factor = keys_num(k, "attention_factor", 0, FACTOR_MAX, 0);
        r->truncate = keys_flag(k, "truncate", true);
        break;
    case ROPE_LONGROPE:
        r->factor = factor_or_ratio(k, h, r->original_positions);
        r->attention_factor = keys_num(k, "attention_factor", 0, FACTOR_MAX, 0);
        r->short_factor = read_factors(k, "short_factor", r->dims);
        r->long_factor = read_factors(k, "long_factor", r->dims);
        break;
    }
}

void rope_from_config(struct rope_params *r, const struct hparams *h, const struct keys *root,
                      const struct keys *scaling, double theta, int64_t original_positions)
{
    const char *word = keys_text(scaling, keys_has(scaling, "rope_type") ? "rope_type" : "type");
    double partial = keys_num(root, "partial_rotary_factor", 0, 1, 1);
    bool is_phi = family_at(h->arch)->partial_rotary;

    if (word && is_phi && (strcmp(word, "su") == 0 || strcmp(word, "yarn") == 0))
        word = "longrope";
    r->kind = kind_of(scaling, word);
    r->theta = keys_num(root, "rope_theta", THETA_MIN, THETA_MAX, theta);
    r->theta = keys_num(scaling, "rope_theta", THETA_MIN, THETA_MAX, r->theta);
    partial = keys_num(scaling, "partial_rotary_factor", 0, 1, partial);
    r->dims = (int32_t)((double)h->head_dim * partial);
    if (partial != 1 && !is_phi)
        keys_fail(root, ST_EUNIMPLEMENTED, "partial_rotary_factor is not built for this family");
    r->original_positions = keys_int(scaling, "original_max_position_embeddings", 2, INT32_MAX, original_positions);
    r->original_positions = keys_int(root, "original_max_position_embeddings", 2, INT32_MAX, r->original_positions);
    if (keys_status(root) == ST_OK)
        read_scaling(r, h, scaling);
}

/* A tensor of dims / 2 positive f32 numbers, copied; NULL when it is not there. */
static const float *tensor_factors(const struct keys *k, const char *name, int32_t dims)
{
    const struct tensor_entry *t = tensors_find(&k->gguf->tensors, name);
    float *out;

    if (!t)
        return NULL;
    if (t->dims != 1 || t->shape[0] != dims / 2 || t->dtype != DT_F32) {
        keys_fail(k, ST_EINVAL, "tensor %s is not %d f32 numbers", name, dims / 2);
        return NULL;
    }
    out = arena_alloc(k->result->arena, (size_t)t->bytes);
    memcpy(out, t->data, (size_t)t->bytes);
    for (int32_t j = 0; j < dims / 2; j++)
        if (!(out[j] > 0) || !isfinite(out[j]))
            keys_fail(k, ST_EINVAL, "tensor %s: number %d is not positive", name, j);
    return out;
}

/* Llama 3's scaling stands in GGUF as one divisor for each channel pair, the same for every length. */
static void read_baked_factors(struct rope_params *r, const struct keys *k)
{
    const float *by = tensor_factors(k, "rope_freqs.weight", r->dims);

    if (!by)
        return;
    r->kind = ROPE_LONGROPE;
    r->short_factor = r->long_factor = by;
    r->attention_factor = 1;
}

static void read_long_short(struct rope_params *r, const struct hparams *h, const struct keys *k)
{
    const float *shorter = tensor_factors(k, "rope_factors_short.weight", r->dims);
    const float *longer = tensor_factors(k, "rope_factors_long.weight", r->dims);

    if (!shorter || !longer)
        return;
    r->kind = ROPE_LONGROPE;
    r->short_factor = shorter;
    r->long_factor = longer;
    r->factor = (double)h->max_positions / (double)r->original_positions;
    r->attention_factor = keys_num(k, "rope.scaling.attn_factor", 0, FACTOR_MAX, 0);
}

void rope_from_gguf(struct rope_params *r, const struct hparams *h, const struct keys *k)
{
    r->theta = keys_num(k, "rope.freq_base", THETA_MIN, THETA_MAX, 10000.0);
    r->dims = (int32_t)keys_int(k, "rope.dimension_count", 2, h->head_dim, h->head_dim);
    r->original_positions = keys_int(k, "rope.scaling.original_context_length", 2, INT32_MAX, h->max_positions);
    r->kind = kind_of(k, keys_text(k, "rope.scaling.type"));
    if (r->kind == ROPE_LINEAR || r->kind == ROPE_YARN)
        r->factor = keys_need_num(k, "rope.scaling.factor", 1e-6, FACTOR_MAX);
    if (r->kind == ROPE_YARN) {
        r->beta_fast = keys_num(k, "rope.scaling.yarn_beta_fast", 1e-6, FACTOR_MAX, 32);
        r->beta_slow = keys_num(k, "rope.scaling.yarn_beta_slow", 1e-6, FACTOR_MAX, 1);
        r->truncate = 1;
    } else if (r->kind == ROPE_DYNAMIC || r->kind == ROPE_LLAMA3 || r->kind == ROPE_LONGROPE) {
        r->kind = ROPE_DEFAULT; /* the tensors below say it */
    }
    read_baked_factors(r, k);
    read_long_short(r, h, k);
}
