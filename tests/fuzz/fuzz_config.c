/* SPDX-License-Identifier: Apache-2.0 */
/* fuzz_config.c - a config.json from anywhere, read as each family reads it; what is accepted must rotate by numbers. */
#include "common/model/family.h"
#include "common/model/jsonfile.h"
#include "common/model/rope.h"

#include <assert.h>
#include <jansson.h>
#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes);

static void check(const struct hparams *h)
{
    static float inv_freq[4096];
    float factor;

    assert(h->layers >= 1 && h->layers <= HPARAMS_LAYERS_MAX && h->q_heads % h->kv_heads == 0);
    assert(h->rope.dims <= h->head_dim && h->head_dim <= 4096);
    for (int32_t l = 0; l < h->layers; l++) {
        assert(h->window[l] >= 0 && h->window[l] < h->max_positions);
        rope_freqs(h, l, 1000, inv_freq, &factor);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes)
{
    json_t *doc = NULL;

    if (json_parse(&doc, (const char *)data, bytes, NULL) != ST_OK)
        return 0;
    for (int arch = 0; arch < ARCH_COUNT; arch++) {
        struct hparams *h = mem_zero(1, sizeof *h);
        struct arena arena = { 0 };
        struct err err = { 0 };
        struct keys_result result = { ST_OK, &err, &arena };
        struct keys k = { .json = doc, .result = &result };

        h->arch = (enum arch)arch;
        if (hparams_from_config(h, family_at(h->arch), &k) == ST_OK)
            check(h);
        else
            assert(err.text[0]);
        arena_fini(&arena);
        free(h);
    }
    json_decref(doc);
    return 0;
}
