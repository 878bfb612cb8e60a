/* SPDX-License-Identifier: Apache-2.0 */
/*
 * arch_mistral.c - Mistral 7B, Mistral-Nemo, Mistral-Small: Llama with a head size that need not be dim / heads, and in
 * v0.1 a window on every layer.
 *
 * A `sliding_window` of null is none; one that is left out is 4096, the class's default. llama.cpp calls the older ones
 * "llama". Source: transformers 5.2, models/mistral.
 */
#include "common/model/family.h"

static void from_config(struct hparams *h, const struct keys *k)
{
    struct keys scaling = rope_scaling_of(k);

    rope_from_config(&h->rope, h, k, &scaling, 10000.0, h->max_positions);
    if (!keys_is_null(k, "sliding_window"))
        windows_all(h, keys_int(k, "sliding_window", 1, INT32_MAX, 4096));
}

static void from_gguf(struct hparams *h, const struct keys *k)
{
    rope_from_gguf(&h->rope, h, k);
    windows_from_gguf(h, k);
    if (keys_num(k, "attention.temperature_scale", -1e9, 1e9, 0) != 0)
        keys_fail(k, ST_EUNIMPLEMENTED, "attention temperature that grows with the position is not built");
}

const struct family family_mistral = {
    .name = "mistral",
    .defaults = { .kv_heads = 8, .max_positions = 131072, .norm_eps = 1e-6 },
    .from_config = from_config,
    .from_gguf = from_gguf,
    .gguf_permuted = true,
};
