/* SPDX-License-Identifier: Apache-2.0 */
/*
 * arch_gemma3.c - Gemma 3, the text model: norms of (1 + w) before and after attention and MLP and on every q and k head,
 * a scaled embedding, a scale of scores of its own, GELU. Five of six layers see a window and rotate by a base of their own.
 *
 * A directory with vision has the text model's configuration under "text_config" and a prefix before its tensors; what
 * belongs to vision is left alone. Source: transformers 5.2, models/gemma3.
 */
#include "common/model/family.h"

#include <math.h>

enum { WINDOW = 4096, PATTERN = 6, PATTERN_MAX = 1024 };

static void common(struct hparams *h)
{
    h->qk_norm = h->post_norms = h->norm_plus_one = 1;
    h->activation = ACT_GELU_TANH;
    h->embed_scale = (float)sqrt((double)h->dim);
}

static void windows_by_pattern(struct hparams *h, int64_t rows, int64_t pattern)
{
    windows_all(h, rows);
    for (int32_t l = 0; l < h->layers; l++)
        if ((l + 1) % pattern == 0)
            h->window[l] = 0;
}

static void local_rope_with_windows(struct hparams *h)
{
    for (int32_t l = 0; l < h->layers; l++)
        h->rope_is_local[l] = h->window[l] != 0;
}

/* rope_parameters holds one object for each kind of layer; rope_scaling, one for the full layers. */
static void read_ropes(struct hparams *h, const struct keys *k)
{
    struct keys both = keys_object(k, "rope_parameters");
    struct keys full = keys_object(&both, "full_attention");
    struct keys local = keys_object(&both, "sliding_attention");
    struct keys nothing = keys_object(&local, "");

    if (keys_has(k, "rope_scaling"))
        full = keys_object(k, "rope_scaling");
    rope_from_config(&h->rope, h, k, &full, 1000000.0, h->max_positions);
    rope_from_config(&h->rope_local, h, &nothing, &local, keys_num(k, "rope_local_base_freq", 1.5, 1e15, 10000.0),
                     h->max_positions);
}

static void from_config(struct hparams *h, const struct keys *k)
{
    int64_t rows = keys_int(k, "sliding_window", 1, INT32_MAX, WINDOW);

    common(h);
    h->activation = activation_from_config(k, "hidden_activation", ACT_GELU_TANH);
    h->attn_scale = (float)pow(keys_num(k, "query_pre_attn_scalar", 1e-3, 1e9, 256), -0.5);
    read_ropes(h, k);
    if (!windows_from_layer_types(h, k, rows))
        windows_by_pattern(h, rows, keys_int(k, "sliding_window_pattern", 1, PATTERN_MAX, PATTERN));
    local_rope_with_windows(h);
    if (keys_has(k, "final_logit_softcapping") || keys_has(k, "attn_logit_softcapping"))
        keys_fail(k, ST_EUNIMPLEMENTED, "soft caps on scores and logits are not built");
    h->qkv_bias = h->o_bias = keys_flag(k, "attention_bias", false);
    if (keys_flag(k, "use_bidirectional_attention", false))
        keys_fail(k, ST_EUNIMPLEMENTED, "use_bidirectional_attention is not built");
}

static void from_gguf(struct hparams *h, const struct keys *k)
{
    int64_t rows = keys_int(k, "attention.sliding_window", 1, INT32_MAX, WINDOW);

    common(h);
    if (h->layers == 62) /* 27B: the only size whose scale is not that of its head size; the file does not say it */
        h->attn_scale = (float)(1.0 / sqrt((double)h->dim / (double)h->q_heads));
    h->attn_scale = (float)keys_num(k, "attention.scale", 1e-6, 1e6, (double)h->attn_scale);
    rope_from_gguf(&h->rope, h, k);
    h->rope_local = (struct rope_params){ .dims = h->rope.dims, .original_positions = h->max_positions };
    h->rope_local.theta = keys_num(k, "rope.freq_base_swa", 1.5, 1e15, 10000.0);
    windows_by_pattern(h, rows, keys_int(k, "attention.sliding_window_pattern", 1, PATTERN_MAX, PATTERN));
    local_rope_with_windows(h);
    if (keys_has(k, "final_logit_softcapping"))
        keys_fail(k, ST_EUNIMPLEMENTED, "soft caps on logits are not built");
}

static const struct slot_name names[] = {
    { SLOT_POST_ATTN_NORM, "model.layers.%d.post_attention_layernorm.weight", NULL },
    { SLOT_MLP_NORM, "model.layers.%d.pre_feedforward_layernorm.weight", NULL },
    { SLOT_POST_MLP_NORM, "model.layers.%d.post_feedforward_layernorm.weight", NULL },
};

const struct family family_gemma3 = {
    .name = "gemma3",
    .defaults = { .layers = 26,
                  .dim = 2304,
                  .q_heads = 8,
                  .kv_heads = 4,
                  .head_dim = 256,
                  .ff_dim = 9216,
                  .vocab = 262208,
                  .max_positions = 131072,
                  .norm_eps = 1e-6,
                  .tied_head = true },
    .from_config = from_config,
    .from_gguf = from_gguf,
    .names = names,
    .name_count = sizeof names / sizeof names[0],
    .nested = "text_config",
    .hf_norm_add = 1.0f,
};
