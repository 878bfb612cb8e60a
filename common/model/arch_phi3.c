/* SPDX-License-Identifier: Apache-2.0 */
/*
 * arch_phi3.c - Phi-3, Phi-3.5-mini, Phi-4-mini: q, k and v in one tensor, gate and up in another; longrope; in
 * Phi-4-mini only a part of each head is rotated.
 *
 * The length before scaling stands at the top of config.json (4096 when left out) and counts before the one inside. "su"
 * and "yarn" are older words for longrope. A window as large as the longest context is none.
 * Source: transformers 5.2, models/phi3.
 */
#include "common/model/family.h"

#define QKV_HF "model.layers.%d.self_attn.qkv_proj.weight"
#define QKV_GGUF "blk.%d.attn_qkv.weight"
#define GATE_UP_HF "model.layers.%d.mlp.gate_up_proj.weight"
#define GATE_UP_GGUF "blk.%d.ffn_up.weight"

static void from_config(struct hparams *h, const struct keys *k)
{
    struct keys scaling = rope_scaling_of(k);

    rope_from_config(&h->rope, h, k, &scaling, 10000.0, 4096);
    if (keys_has(k, "sliding_window"))
        windows_all(h, keys_int(k, "sliding_window", 1, INT32_MAX, 1));
}

static void from_gguf(struct hparams *h, const struct keys *k)
{
    rope_from_gguf(&h->rope, h, k);
    windows_from_gguf(h, k);
}

static const struct slot_name names[] = {
    { SLOT_Q, QKV_HF, QKV_GGUF },          { SLOT_K, QKV_HF, QKV_GGUF },
    { SLOT_V, QKV_HF, QKV_GGUF },          { SLOT_GATE, GATE_UP_HF, GATE_UP_GGUF },
    { SLOT_UP, GATE_UP_HF, GATE_UP_GGUF },
};

const struct family family_phi3 = {
    .name = "phi3",
    .defaults = { .max_positions = 4096, .norm_eps = 1e-5 },
    .from_config = from_config,
    .from_gguf = from_gguf,
    .names = names,
    .name_count = sizeof names / sizeof names[0],
    .partial_rotary = true,
};
