/* SPDX-License-Identifier: Apache-2.0 */
/*
 * arch_llama.c - Llama 2 and 3.x, and what is built like them (SmolLM2, TinyLlama): RMS norms, rotation of whole heads,
 * SiLU-gated MLP, biases only where the configuration asks for them.
 */
#include "common/model/family.h"

static void from_config(struct hparams *h, const struct keys *k)
{
    struct keys scaling = rope_scaling_of(k);

    rope_from_config(&h->rope, h, k, &scaling, 10000.0, h->max_positions);
    biases_from_config(h, k);
}

static void from_gguf(struct hparams *h, const struct keys *k)
{
    rope_from_gguf(&h->rope, h, k);
    windows_from_gguf(h, k); /* Mistral's, which GGUF calls llama */
}

const struct family family_llama = {
    .name = "llama",
    .defaults = { .max_positions = 2048, .norm_eps = 1e-6 },
    .from_config = from_config,
    .from_gguf = from_gguf,
    .gguf_permuted = true,
};
