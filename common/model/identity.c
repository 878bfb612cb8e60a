/* SPDX-License-Identifier: Apache-2.0 */
/*
 * identity.c - what two nodes compare to know that they run the same model.
 *
 * Everything is hashed as text or as little-endian bytes of the file, so that the hashes do not depend on the machine,
 * on padding or on where the files lie.
 */
#include "common/model/checkpoint.h"

#include "common/base/text.h"
#include "common/model/weights.h"

#include <stdio.h>
#include <xxhash.h>

enum { SAMPLES = 16, SAMPLE_BYTES = 256 };

static void describe_rope(struct text *t, const struct rope_params *r)
{
    text_printf(t, "rope %d %d %a %a %a %a %a %a %a %a %a %lld %d\n", r->kind, r->dims, r->theta, r->factor,
                r->low_freq_factor, r->high_freq_factor, r->beta_fast, r->beta_slow, r->mscale, r->mscale_all_dim,
                r->attention_factor, (long long)r->original_positions, r->truncate);
    for (int32_t j = 0; r->short_factor && j < r->dims / 2; j++)
        text_printf(t, "%a %a\n", (double)r->short_factor[j], (double)r->long_factor[j]);
}

/* Everything that decides what a layer computes. The family goes by name: its number may move. */
static uint64_t hash_hparams(const struct checkpoint *c)
{
    const struct hparams *h = checkpoint_hparams(c);
    struct text t = { 0 };
    uint64_t hash;

    text_printf(&t, "%s %d %d %d %d %d %d %d %lld %a %d %a %a %d %d %d %d %d %d %d\n", checkpoint_family(c), h->layers,
                h->dim, h->q_heads, h->kv_heads, h->head_dim, h->ff_dim, h->vocab, (long long)h->max_positions,
                (double)h->norm_eps, h->activation, (double)h->attn_scale, (double)h->embed_scale, h->tied_head,
                h->qkv_bias, h->qk_norm, h->norm_plus_one, h->post_norms, h->o_bias, h->mlp_bias);
    describe_rope(&t, &h->rope);
    describe_rope(&t, &h->rope_local);
    for (int32_t l = 0; l < h->layers; l++)
        text_printf(&t, "%d %d %d\n", h->window[l], h->rope_off[l], h->rope_is_local[l]);
    hash = XXH64(t.data, t.bytes, 0);
    text_fini(&t);
    return hash;
}

static void hash_samples(XXH64_state_t *state, const struct tensor_ref *t)
{
    if (t->bytes <= (uint64_t)SAMPLES * SAMPLE_BYTES) {
        XXH64_update(state, t->data, t->bytes);
        return;
    }
    for (uint64_t i = 0; i < SAMPLES; i++)
        XXH64_update(state, t->data + (t->bytes - SAMPLE_BYTES) / (SAMPLES - 1) * i, SAMPLE_BYTES);
}

static uint64_t hash_weights(const struct checkpoint *c)
{
    XXH64_state_t *state = XXH64_createState();
    uint64_t hash;

    XXH64_reset(state, 0);
    for (int s = 0; s < SLOT_COUNT; s++)
        for (int32_t l = 0; l < (slot_is_per_layer((enum slot)s) ? checkpoint_hparams(c)->layers : 1); l++) {
            struct tensor_ref t;
            char line[128];
            int bytes;
            if (!checkpoint_tensor(c, (enum slot)s, l, &t))
                continue;
            bytes = snprintf(line, sizeof line, "%s %d %s %lld %lld\n", slot_word((enum slot)s), l, dtype_word(t.dtype),
                             (long long)t.rows, (long long)t.cols);
            XXH64_update(state, line, (size_t)bytes);
            hash_samples(state, &t);
        }
    hash = XXH64_digest(state);
    XXH64_freeState(state);
    return hash;
}

void checkpoint_identify(const struct checkpoint *c, struct checkpoint_identity *out)
{
    out->hparams = hash_hparams(c);
    out->weights = hash_weights(c);
}
