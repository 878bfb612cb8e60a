/* SPDX-License-Identifier: Apache-2.0 */
/*
 * arch_smollm3.c - SmolLM3: Llama whose every fourth layer does not rotate.
 *
 * `no_rope_layers` has, despite its name, 1 for the layers that do rotate. Source: transformers 5.2, models/smollm3.
 */
#include "common/model/family.h"

enum { INTERVAL = 4, INTERVAL_MAX = 1024 };

static void every_nth_without_rope(struct hparams *h, int64_t interval)
{
    for (int32_t l = 0; l < h->layers; l++)
        h->rope_off[l] = (l + 1) % interval == 0;
}

static void read_rope_layers(struct hparams *h, const struct keys *k)
{
    size_t count;
    const double *rotate = keys_nums(k, "no_rope_layers", HPARAMS_LAYERS_MAX, &count);

    every_nth_without_rope(h, keys_int(k, "no_rope_layer_interval", 1, INTERVAL_MAX, INTERVAL));
    if (!rotate)
        return;
    if (count != (size_t)h->layers)
        keys_fail(k, ST_EINVAL, "no_rope_layers has %zu entries for %d layers", count, h->layers);
    for (size_t l = 0; l < count && l < (size_t)h->layers; l++)
        h->rope_off[l] = rotate[l] == 0;
}

/* The layers that layer_types names; without it, and only with use_sliding_window, those that do not rotate. */
static void read_windows(struct hparams *h, const struct keys *k)
{
    int64_t rows = keys_int(k, "sliding_window", 1, INT32_MAX, h->max_positions);

    if (!keys_has(k, "sliding_window") || windows_from_layer_types(h, k, rows))
        return;
    if (!keys_flag(k, "use_sliding_window", false))
        return;
    windows_all(h, rows);
    for (int32_t l = 0; l < h->layers; l++)
        if (!h->rope_off[l])
            h->window[l] = 0;
}

static void from_config(struct hparams *h, const struct keys *k)
{
    struct keys scaling = rope_scaling_of(k);

    rope_from_config(&h->rope, h, k, &scaling, 2000000.0, h->max_positions);
    read_rope_layers(h, k);
    read_windows(h, k);
    biases_from_config(h, k);
}

static void from_gguf(struct hparams *h, const struct keys *k)
{
    rope_from_gguf(&h->rope, h, k);
    every_nth_without_rope(h, INTERVAL);
}

const struct family family_smollm3 = {
    .name = "smollm3",
    .defaults = { .kv_heads = 4, .max_positions = 32768, .norm_eps = 1e-6, .tied_head = true },
    .from_config = from_config,
    .from_gguf = from_gguf,
    .gguf_permuted = true,
};
