/* SPDX-License-Identifier: Apache-2.0 */
/*
 * arch_qwen2.c - Qwen2 and Qwen2.5: Llama with biases on q, k and v.
 *
 * `sliding_window` is in every file and counts only with `use_sliding_window`; then the layers from `max_window_layers`
 * on have it. Source: transformers 5.2, models/qwen2.
 */
#include "common/model/family.h"

static void from_config(struct hparams *h, const struct keys *k)
{
    struct keys scaling = rope_scaling_of(k);

    h->qkv_bias = 1;
    rope_from_config(&h->rope, h, k, &scaling, 10000.0, h->max_positions);
    windows_like_qwen(h, k);
}

static void from_gguf(struct hparams *h, const struct keys *k)
{
    h->qkv_bias = 1;
    rope_from_gguf(&h->rope, h, k);
}

const struct family family_qwen2 = {
    .name = "qwen2",
    .defaults = { .kv_heads = 32, .max_positions = 32768, .norm_eps = 1e-6 },
    .from_config = from_config,
    .from_gguf = from_gguf,
};
