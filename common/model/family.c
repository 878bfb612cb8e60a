/* SPDX-License-Identifier: Apache-2.0 */
/*
 * family.c - what all families read alike, and the checks that hold for all of them.
 *
 * A configuration comes from outside. Sizes are bounded here so that no product of two of them overflows 64 bits later.
 */
#include "common/model/family.h"

#include "common/base/bytes.h"
#include "common/model/gguf.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

enum { WIDTH_MAX = 1 << 20, HEADS_MAX = 1 << 14, HEAD_DIM_MAX = 1 << 12, VOCAB_MAX = 1 << 24 };
#define POSITIONS_MAX (INT64_C(1) << 31)

static const struct family *const families[] = {
#define ARCH(name, hf, gguf) &family_##name,
#include "common/model/arch.def"
#undef ARCH
};

static const char *const hf_words[] = {
#define ARCH(name, hf, gguf) hf,
#include "common/model/arch.def"
#undef ARCH
};

static const char *const gguf_words[] = {
#define ARCH(name, hf, gguf) gguf,
#include "common/model/arch.def"
#undef ARCH
};

const struct family *family_at(enum arch arch)
{
    return families[arch];
}

/* Whether `word` is one of the blank-separated `words`. */
static bool has_word(const char *words, const char *word)
{
    size_t bytes = strlen(word);

    for (const char *at = strstr(words, word); bytes && at; at = strstr(at + 1, word))
        if ((at == words || at[-1] == ' ') && (at[bytes] == 0 || at[bytes] == ' '))
            return true;
    return false;
}

static enum status find(enum arch *out, const char *const *words, const char *word, const char *what, struct err *err)
{
    char known[512] = "";

    for (int i = 0; i < ARCH_COUNT; i++)
        if (has_word(words[i], word)) {
            *out = (enum arch)i;
            return ST_OK;
        }
    for (int i = 0; i < ARCH_COUNT; i++) {
        strncat(known, i ? ", " : "", sizeof known - strlen(known) - 1);
        strncat(known, families[i]->name, sizeof known - strlen(known) - 1);
    }
    return err_set(err, ST_EUNIMPLEMENTED, "%s \"%.64s\" is not a family that this program has (%s)", what, word,
                   known);
}

enum status family_find_hf(enum arch *out, const char *model_type, struct err *err)
{
    return find(out, hf_words, model_type, "model_type", err);
}

enum status family_find_gguf(enum arch *out, const char *architecture, struct err *err)
{
    return find(out, gguf_words, architecture, "general.architecture", err);
}

static int32_t need_size(const struct keys *k, const char *key, int64_t max, int32_t fallback)
{
    return (int32_t)(fallback ? keys_int(k, key, 1, max, fallback) : keys_need_int(k, key, 1, max));
}

/* Checks what every family must fulfil, and derives what none needs to say. */
static void finish(struct hparams *h, const struct keys *k)
{
    if (keys_status(k) != ST_OK)
        return;
    if (h->q_heads % h->kv_heads != 0)
        keys_fail(k, ST_EINVAL, "%d query heads do not divide over %d kv heads", h->q_heads, h->kv_heads);
    if (h->rope.dims < 2 || h->rope.dims > h->head_dim || h->rope.dims % 2 != 0)
        keys_fail(k, ST_EINVAL, "%d rotated channels of a head of %d cannot be", h->rope.dims, h->head_dim);
    if (h->bos_id >= h->vocab)
        h->bos_id = -1;
    if (h->attn_scale == 0)
        h->attn_scale = (float)(1.0 / sqrt((double)h->head_dim));
    if (h->embed_scale == 0)
        h->embed_scale = 1.0f;
    if (h->rope.kind == ROPE_DYNAMIC && h->rope.factor > 1)
        h->max_positions = (int64_t)fmin((double)h->max_positions * h->rope.factor, (double)POSITIONS_MAX);
    for (int32_t l = 0; l < h->layers; l++)
        if (h->window[l] >= h->max_positions)
            h->window[l] = 0;
}

/* One id or a list of them. */
static void read_eos(struct hparams *h, const struct keys *k, const char *key)
{
    size_t count;
    const double *ids = keys_nums(k, key, HPARAMS_EOS_MAX, &count);

    for (size_t i = 0; i < count; i++)
        if (ids[i] >= 0 && ids[i] < h->vocab)
            h->eos_id[h->eos_count++] = (int32_t)ids[i];
}

/* A key that says null stands for as many as query heads, one that is left out for the family's number. */
static int32_t kv_heads_default(const struct hparams *h, const struct family_defaults *d, const struct keys *k)
{
    return d->kv_heads && !keys_is_null(k, "num_key_value_heads") ? d->kv_heads : h->q_heads;
}

enum status hparams_from_config(struct hparams *h, const struct family *f, const struct keys *k)
{
    const struct family_defaults *d = &f->defaults;

    h->layers = need_size(k, "num_hidden_layers", HPARAMS_LAYERS_MAX, d->layers);
    h->dim = need_size(k, "hidden_size", WIDTH_MAX, d->dim);
    h->q_heads = need_size(k, "num_attention_heads", HEADS_MAX, d->q_heads);
    h->kv_heads = need_size(k, "num_key_value_heads", HEADS_MAX, kv_heads_default(h, d, k));
    h->head_dim = need_size(k, "head_dim", HEAD_DIM_MAX, d->head_dim ? d->head_dim : h->dim / h->q_heads);
    h->ff_dim = need_size(k, "intermediate_size", WIDTH_MAX, d->ff_dim);
    h->vocab = need_size(k, "vocab_size", VOCAB_MAX, d->vocab);
    h->max_positions = keys_int(k, "max_position_embeddings", 1, POSITIONS_MAX, d->max_positions);
    h->norm_eps = (float)keys_num(k, "rms_norm_eps", 0, 1, d->norm_eps);
    h->tied_head = keys_flag(k, "tie_word_embeddings", d->tied_head);
    h->activation = activation_from_config(k, "hidden_act", ACT_SILU);
    h->bos_id = (int32_t)keys_int(k, "bos_token_id", -1, VOCAB_MAX, -1);
    read_eos(h, k, "eos_token_id");
    if (keys_has(k, "quantization_config"))
        keys_fail(k, ST_EUNIMPLEMENTED, "quantization_config: quantised directories are not read; GGUF files are");
    if (keys_status(k) == ST_OK)
        f->from_config(h, k);
    finish(h, k);
    return keys_status(k);
}

/* The vocabulary's size: a key, or the number of tokens. */
static int32_t gguf_vocab(const struct keys *k)
{
    const struct gguf_value *tokens = gguf_find(k->gguf, "tokenizer.ggml.tokens");
    int64_t count = tokens && tokens->is_array && tokens->count <= VOCAB_MAX ? (int64_t)tokens->count : 0;

    return need_size(k, "vocab_size", VOCAB_MAX, (int32_t)count);
}

/* The ends that a file names: of text, of a turn, of a message. */
static void gguf_ends(struct hparams *h, const struct keys *k)
{
    static const char *const words[] = { "eos", "eot", "eom" };
    char name[64];
    int64_t id;

    for (size_t i = 0; i < ARRAY_LEN(words); i++) {
        snprintf(name, sizeof name, "tokenizer.ggml.%s_token_id", words[i]);
        if (gguf_int(k->gguf, name, &id) && id >= 0 && id < h->vocab)
            h->eos_id[h->eos_count++] = (int32_t)id;
    }
}

/* No key says it: a model has the biases that its first layer has. */
static void gguf_biases(struct hparams *h, const struct keys *k)
{
    const struct tensors *t = &k->gguf->tensors;

    h->qkv_bias = tensors_find(t, "blk.0.attn_q.bias") || tensors_find(t, "blk.0.attn_k.bias") ||
                  tensors_find(t, "blk.0.attn_v.bias");
    h->o_bias = tensors_find(t, "blk.0.attn_output.bias") != NULL;
    h->mlp_bias = tensors_find(t, "blk.0.ffn_gate.bias") || tensors_find(t, "blk.0.ffn_up.bias") ||
                  tensors_find(t, "blk.0.ffn_down.bias");
}

enum status hparams_from_gguf(struct hparams *h, const struct family *f, const struct keys *k)
{
    int64_t id;

    h->layers = need_size(k, "block_count", HPARAMS_LAYERS_MAX, 0);
    h->dim = need_size(k, "embedding_length", WIDTH_MAX, 0);
    h->q_heads = need_size(k, "attention.head_count", HEADS_MAX, 0);
    h->kv_heads = need_size(k, "attention.head_count_kv", HEADS_MAX, h->q_heads);
    h->head_dim = need_size(k, "attention.key_length", HEAD_DIM_MAX, h->dim / h->q_heads);
    h->ff_dim = need_size(k, "feed_forward_length", WIDTH_MAX, 0);
    h->vocab = gguf_vocab(k);
    h->max_positions = keys_need_int(k, "context_length", 1, POSITIONS_MAX);
    h->norm_eps = (float)keys_need_num(k, "attention.layer_norm_rms_epsilon", 0, 1);
    h->tied_head = !tensors_find(&k->gguf->tensors, "output.weight");
    if (keys_int(k, "attention.value_length", 1, HEAD_DIM_MAX, h->head_dim) != h->head_dim)
        keys_fail(k, ST_EUNIMPLEMENTED, "heads whose keys and values differ in size are not built");
    if (keys_int(k, "expert_count", 0, 1 << 20, 0) > 0)
        keys_fail(k, ST_EUNIMPLEMENTED, "mixtures of experts are not built");
    h->bos_id = gguf_int(k->gguf, "tokenizer.ggml.bos_token_id", &id) && id >= 0 && id < h->vocab ? (int32_t)id : -1;
    gguf_ends(h, k);
    gguf_biases(h, k);
    if (keys_status(k) == ST_OK)
        f->from_gguf(h, k);
    finish(h, k);
    return keys_status(k);
}

enum activation activation_from_config(const struct keys *k, const char *key, enum activation fallback)
{
    const char *word = keys_text(k, key);

    if (!word)
        return fallback;
    if (strcmp(word, "silu") == 0 || strcmp(word, "swish") == 0)
        return ACT_SILU;
    if (strcmp(word, "gelu_pytorch_tanh") == 0)
        return ACT_GELU_TANH;
    keys_fail(k, ST_EUNIMPLEMENTED, "%s \"%.64s\" is not built; silu and gelu_pytorch_tanh are", key, word);
    return fallback;
}

void biases_from_config(struct hparams *h, const struct keys *k)
{
    h->qkv_bias = h->o_bias = keys_flag(k, "attention_bias", false);
    h->mlp_bias = keys_flag(k, "mlp_bias", false);
}

void windows_from_gguf(struct hparams *h, const struct keys *k)
{
    int64_t rows = keys_int(k, "attention.sliding_window", 0, INT32_MAX, 0);

    if (rows > 0)
        windows_all(h, rows);
}

void windows_all(struct hparams *h, int64_t rows)
{
    for (int32_t l = 0; l < h->layers; l++)
        h->window[l] = (int32_t)rows;
}

bool windows_from_layer_types(struct hparams *h, const struct keys *k, int64_t rows)
{
    size_t count;
    const char *const *types = keys_texts(k, "layer_types", HPARAMS_LAYERS_MAX, &count);

    if (!types)
        return false;
    if (count != (size_t)h->layers) {
        keys_fail(k, ST_EINVAL, "layer_types has %zu entries for %d layers", count, h->layers);
        return true;
    }
    for (int32_t l = 0; l < h->layers; l++) {
        if (strcmp(types[l], "sliding_attention") == 0)
            h->window[l] = (int32_t)rows;
        else if (strcmp(types[l], "full_attention") != 0)
            keys_fail(k, ST_EUNIMPLEMENTED, "layer_types: \"%.64s\" is not built", types[l]);
    }
    return true;
}

void windows_like_qwen(struct hparams *h, const struct keys *k)
{
    int64_t rows = keys_int(k, "sliding_window", 1, INT32_MAX, 4096);
    int64_t first = keys_int(k, "max_window_layers", 0, INT32_MAX, 28);
    bool none = !keys_flag(k, "use_sliding_window", false) || keys_is_null(k, "sliding_window");

    if (none || windows_from_layer_types(h, k, rows))
        return;
    windows_all(h, rows);
    for (int32_t l = 0; l < h->layers && l < first; l++)
        h->window[l] = 0;
}
