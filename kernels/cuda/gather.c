/* SPDX-License-Identifier: Apache-2.0 */
/* gather.c - what pressing while decoding reads, brought to gather.cu. */
#include "kernels/cuda/cache.h"

#include <assert.h>
#include <string.h>

void cuda_slot_gather(struct backend *be, int32_t slot, int32_t layer, int32_t tail, const struct kv_block *out)
{
    struct cuda *c = cuda_of(be);
    const struct cuda_cache *cache = c->cache;
    const struct cache_config *k = &cache->config;
    const struct decode_shape d = cuda_layer_shape(c, layer);
    const bool ring = d.ringed[layer / 32] >> layer % 32 & 1;
    struct gather_plan p = { .block = cache->blocks + ((int64_t)slot * k->layers + layer) * cache->block_bytes,
                             .pages = d.pages + (ring ? d.ring_table : 0) + (int64_t)slot * d.pages_per_slot,
                             .pool = d.pool,
                             .page_stride = d.page_stride,
                             .k = (char *)out->data + out->k_offset,
                             .v = (char *)out->data + out->v_offset,
                             .heads = out->heads,
                             .dim = out->dim,
                             .tail = tail };

    assert(slot >= 0 && slot < k->slots && layer >= 0 && layer < k->layers);
    assert(out->codec == KV_PLAIN && out->heads == k->kv_heads && out->dim == k->dim && out->k_dim == k->dim);
    memcpy(p.first, out->first, (size_t)(out->heads + 1) * sizeof *p.first);
    for (int32_t g = 0; g < out->heads; g++)
        if (out->first[g + 1] - out->first[g] > p.longest)
            p.longest = out->first[g + 1] - out->first[g];
    cuda_failed(c, launch_gather(c->queue[LANE_PRESS], be->kv, &p), "slot_gather");
}

/* hot */
void cuda_queries_plain(struct backend *be, const struct qkv_shape *shape, const void *qkv, int64_t rows, void *out)
{
    struct cuda *c = cuda_of(be);
    const struct queries_args a = { .qkv = qkv,
                                    .q_norm = shape->q_norm ? shape->q_norm->vector : NULL,
                                    .norm_eps = shape->norm_eps,
                                    .q_heads = shape->q_heads,
                                    .kv_heads = shape->kv_heads,
                                    .dim = shape->dim,
                                    .out = out };

    cuda_failed(c, launch_queries(cuda_compute(c), be->act, &a, rows), "queries_plain");
}
