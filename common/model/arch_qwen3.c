/* SPDX-License-Identifier: Apache-2.0 */
/*
 * arch_qwen3.c - Qwen3: an RMS norm on every q and k head before the rotation, no biases, a head size of its own.
 * Windows as in Qwen2. Source: transformers 5.2, models/qwen3.
 */
#include "common/model/family.h"

static void from_config(struct hparams *h, const struct keys *k)
{
    struct keys scaling = rope_scaling_of(k);

    h->qk_norm = 1;
    rope_from_config(&h->rope, h, k, &scaling, 10000.0, h->max_positions);
    windows_like_qwen(h, k);
    h->qkv_bias = h->o_bias = keys_flag(k, "attention_bias", false);
}

static void from_gguf(struct hparams *h, const struct keys *k)
{
    h->qk_norm = 1;
    rope_from_gguf(&h->rope, h, k);
}

const struct family family_qwen3 = {
    .name = "qwen3",
    .defaults = { .kv_heads = 32, .head_dim = 128, .max_positions = 32768, .norm_eps = 1e-6 },
    .from_config = from_config,
    .from_gguf = from_gguf,
};
