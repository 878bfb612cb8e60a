/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/unit/small_model.h"

#include <string.h>

void small_model(struct hparams *hp, int32_t layers)
{
    memset(hp, 0, sizeof *hp);
    hp->layers = layers;
    hp->dim = 64;
    hp->q_heads = 4;
    hp->kv_heads = 2;
    hp->head_dim = 16;
    hp->ff_dim = 96;
    hp->vocab = SMALL_VOCAB;
    hp->max_positions = SMALL_POSITIONS;
    hp->norm_eps = 1e-5f;
    hp->attn_scale = 0.25f;
    hp->embed_scale = 1;
    hp->rope.dims = 16;
    hp->rope.theta = 10000;
    hp->rope.factor = 1;
    hp->bos_id = -1;
}
