/* SPDX-License-Identifier: Apache-2.0 */
/*
 * cache.c - slots, tail pages and blocks of a decode node, as tables on the device.
 *
 *   slot ─▶ per layer: where its block's K and V begin, first row of every head          (slot_blocks)
 *        └▶ pages: number i of the tail lies in page p of the pool, the same p in every layer   (slot_page)
 *                  but in layers that see a window: these have a pool and a table of their own  (slot_ring)
 *
 * Kernels find everything through these tables, so a recorded step works for whatever sequences are in it. Changes are
 * queued on the compute lane between steps.
 */
#include "kernels/cuda/cache.h"

#include "common/base/arena.h"

#include <assert.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

/* An array on the device, every byte of it `byte`. */
static enum status device_filled(struct cuda *c, void *out, int64_t count, uint64_t size, int byte, const char *what,
                                 struct err *err)
{
    const uint64_t bytes = (uint64_t)count * size;
    void *at = NULL;
    enum status st = cuda_alloc(&c->base, bytes, what, &at, err);

    if (st != ST_OK)
        return st;
    if (cuda_fill(c, at, byte, bytes) != cudaSuccess)
        cuda_broken(c, "memset", what);
    memcpy(out, &at, sizeof at);
    return ST_OK;
}

static enum status device_array(struct cuda *c, void *out, int64_t count, uint64_t size, const char *what,
                                struct err *err)
{
    return device_filled(c, out, count, size, 0, what, err);
}

static enum status flight_open(struct cuda *c, struct step_flight *f, const struct cache_config *k, struct err *err)
{
    const uint64_t numbers = STEP_ROW_ARRAYS * (uint64_t)k->rows_max + STEP_OUTPUT_ARRAYS * (uint64_t)k->slots;
    void *at = NULL;
    enum status st = cuda_host_alloc(&c->base, numbers * 4, &at, err);

    f->upload = at;
    if (st == ST_OK)
        st = cuda_host_alloc(&c->base, (uint64_t)k->slots * 4, &at, err);
    if (st != ST_OK)
        return st;
    f->ids = at;
    f->wanted = mem_zero((size_t)k->slots, sizeof *f->wanted);
    if (cudaEventCreateWithFlags(&f->done, cudaEventDisableTiming) != cudaSuccess)
        return err_set(err, ST_EINTERNAL, "an event cannot be made");
    return ST_OK;
}

/* Pointers into the upload, and everything of the decode kernel that no step changes. */
static void decode_shape_init(struct cuda *c, struct cuda_cache *cache)
{
    const struct cache_config *k = &cache->config;
    const int64_t page = 2 * (int64_t)k->kv_heads * KV_PAGE_TOKENS * k->dim, rows = k->rows_max;
    const int32_t *at = cache->upload, *outputs = at + STEP_ROW_ARRAYS * rows;
    struct decode_shape *d = &cache->decode;

    d->layers = k->layers;
    d->q_heads = k->q_heads;
    d->kv_heads = k->kv_heads;
    d->dim = k->dim;
    d->ctas = decode_ctas(c->queue[LANE_COMPUTE], c->base.kv, k->dim, &d->shared_bytes);
    d->sms = c->sms;
    d->blocks = cache->blocks;
    d->block_bytes = cache->block_bytes;
    d->pages = cache->pages;
    d->pages_per_slot = k->pages_per_slot;
    d->pool = cache->pool;
    d->page_stride = page;
    d->ring_table = k->slots * k->pages_per_slot;
    for (int32_t l = 0; l < k->layers; l++)
        d->ringed[l / 32] |= (cache->window[l] > 0 ? 1u : 0u) << l % 32;
    d->rows = (struct step_rows){ .token = at,
                                  .position = at + rows,
                                  .slot = at + 2 * rows,
                                  .tail = at + 3 * rows,
                                  .unit_slot = at + 4 * rows,
                                  .unit_row = at + 5 * rows,
                                  .unit_rows = at + 6 * rows,
                                  .unit_tail = at + 7 * rows,
                                  .length = at + 8 * rows,
                                  .output_row = outputs,
                                  .output_seq = outputs + k->slots,
                                  .output_slot = outputs + 2 * k->slots };
}

/* Returns the pages of all layers. */
static int64_t page_firsts(struct cuda_cache *cache)
{
    const struct cache_config *k = &cache->config;
    int64_t pages = 0;

    for (int32_t l = 0; l < k->layers; l++) {
        cache->page_first[l] = pages;
        pages += cache->window[l] > 0 ? k->ring_pages : k->pages;
    }
    return pages;
}

struct decode_shape cuda_layer_shape(const struct cuda *c, int32_t layer)
{
    const struct cuda_cache *cache = c->cache;
    struct decode_shape d = cache->decode;
    const uint64_t kv = c->base.kv == DT_F32 ? 4 : 2;

    d.pool = (const char *)cache->pool + (uint64_t)(cache->page_first[layer] * d.page_stride) * kv;
    return d;
}

static enum status tables_open(struct cuda *c, struct cuda_cache *cache, struct err *err)
{
    const struct cache_config *k = &cache->config;
    const int64_t items = (int64_t)k->rows_max * k->kv_heads;
    const uint64_t kv = c->base.kv == DT_F32 ? 4 : 2;
    struct decode_shape *d = &cache->decode;
    int64_t page = 2 * (int64_t)k->kv_heads * KV_PAGE_TOKENS * k->dim;
    enum status st = device_array(c, &cache->pool, page * page_firsts(cache), kv, "tails", err);

    if (st == ST_OK)
        st = device_array(c, &cache->blocks, (int64_t)k->slots * k->layers, (uint64_t)cache->block_bytes, "other", err);
    if (st == ST_OK)
        st = device_array(c, &cache->pages, 2 * (int64_t)k->slots * k->pages_per_slot, 4, "other", err);
    if (st == ST_OK)
        st = device_array(c, &cache->upload,
                          STEP_ROW_ARRAYS * (int64_t)k->rows_max + STEP_OUTPUT_ARRAYS * (int64_t)k->slots, 4, "other",
                          err);
    if (st == ST_OK)
        st = device_array(c, &cache->chosen, k->slots, 4, "other", err);
    if (st == ST_OK)
        st = device_array(c, &cache->ids, k->slots, 4, "other", err);
    if (st != ST_OK)
        return st;
    decode_shape_init(c, cache);
    st = device_array(c, &d->item_first, k->layers * (items + 1), 4, "other", err);
    if (st == ST_OK)
        st = device_array(c, &d->item, k->layers * items, sizeof(struct decode_item), "other", err);
    if (st == ST_OK)
        st = device_array(c, &d->start, (int64_t)k->layers * d->ctas, sizeof(struct decode_start), "other", err);
    if (st == ST_OK)
        st = device_filled(c, &d->partial, d->ctas * 2 * DECODE_PIECE_FLOATS(k->dim), 4, CUDA_HOLE & 0xff,
                           "activations", err);
    if (st == ST_OK)
        st = device_array(c, &cache->window_device, k->layers, 4, "other", err);
    if (st == ST_OK)
        cuda_upload(&c->base, LANE_COMPUTE, cache->window_device, cache->window, (uint64_t)k->layers * 4);
    d->window = cache->window_device;
    return st;
}

enum status cuda_cache_open(struct backend *be, const struct cache_config *config, struct err *err)
{
    struct cuda *c = cuda_of(be);
    struct cuda_cache *cache;
    enum status st;

    assert(!c->cache && config->q_heads % config->kv_heads == 0);
    if (config->q_heads / config->kv_heads > CUDA_UNIT_QUERIES)
        return err_set(err, ST_EUNIMPLEMENTED, "%d query heads per KV head; this back end takes %d at most",
                       config->q_heads / config->kv_heads, CUDA_UNIT_QUERIES);
    cache = mem_zero(1, sizeof *cache);
    c->cache = cache;
    cache->config = *config;
    cache->block_bytes = slot_block_bytes(config->kv_heads);
    cache->blocks_host = mem_zero((size_t)config->layers, (size_t)cache->block_bytes);
    cache->page_first = mem_zero((size_t)config->layers, sizeof *cache->page_first);
    cache->window = mem_zero((size_t)config->layers, sizeof *cache->window);
    if (config->window)
        memcpy(cache->window, config->window, (size_t)config->layers * sizeof *cache->window);
    st = tables_open(c, cache, err);
    cache->config.window = NULL; /* the caller's */
    for (int i = 0; i < STEPS_KEPT && st == ST_OK; i++)
        st = flight_open(c, &cache->flight[i], config, err);
    if (st != ST_OK)
        cuda_cache_close(be);
    return st;
}

void cuda_cache_close(struct backend *be)
{
    struct cuda *c = cuda_of(be);
    struct cuda_cache *cache = c->cache;

    if (!cache)
        return;
    (void)cuda_lane_wait(c, LANE_COMPUTE, "the last step");
    if (cuda_hung(c)) /* nothing of it can be given back */
        return;
    for (int32_t i = 0; i < cache->graphs; i++)
        if (cache->graph[i].exec)
            (void)cudaGraphExecDestroy(cache->graph[i].exec);
    for (int i = 0; i < STEPS_KEPT; i++) {
        struct step_flight *f = &cache->flight[i];

        cuda_host_free(be, f->upload);
        cuda_host_free(be, f->ids);
        free(f->wanted);
        if (f->done)
            (void)cudaEventDestroy(f->done);
    }
    cuda_free(be, cache->pool);
    cuda_free(be, cache->blocks);
    cuda_free(be, cache->pages);
    cuda_free(be, cache->upload);
    cuda_free(be, cache->chosen);
    cuda_free(be, cache->ids);
    cuda_free(be, cache->decode.item_first);
    cuda_free(be, cache->decode.item);
    cuda_free(be, cache->decode.start);
    cuda_free(be, cache->decode.partial);
    cuda_free(be, cache->window_device);
    free(cache->blocks_host);
    free(cache->page_first);
    free(cache->window);
    free(cache);
    c->cache = NULL;
}

/* Kernels that read rows of every kind take over for good; what was recorded has the others in it. */
static void mixed_from_now(struct cuda *c)
{
    struct cuda_cache *cache = c->cache;

    if (cache->decode.mixed)
        return;
    cache->decode.mixed = 1;
    (void)cuda_lane_wait(c, LANE_COMPUTE, "the last recorded step");
    for (int32_t i = 0; i < cache->graphs; i++)
        if (cache->graph[i].exec)
            (void)cudaGraphExecDestroy(cache->graph[i].exec);
    cache->graphs = 0;
}

static void block_tie(struct cuda *c, const struct kv_block *block, char *to)
{
    const struct cuda_cache *cache = c->cache;
    const int32_t heads = cache->config.kv_heads;
    struct slot_block head = { 0 };
    struct kv_parts parts;
    const uint8_t *data;

    memset(to, 0, (size_t)cache->block_bytes);
    if (!block)
        return;
    assert(block->heads == heads && block->dim == cache->config.dim && c->base.ops->codecs >> block->codec & 1);
    data = block->data;
    kv_block_parts(block, &parts);
    head.k = data + parts.offset[KV_PART_K];
    head.v = data + parts.offset[KV_PART_V];
    head.k_scale = (const float *)(const void *)(data + parts.offset[KV_PART_K_SCALE]);
    head.v_scale = (const float *)(const void *)(data + parts.offset[KV_PART_V_SCALE]);
    head.k_whole = data + parts.offset[KV_PART_K_WHOLE];
    head.v_whole = data + parts.offset[KV_PART_V_WHOLE];
    head.mask = block->k_dim < block->dim ? data + parts.offset[KV_PART_MASKS] : NULL;
    head.codec = (int32_t)block->codec;
    head.k_dim = block->k_dim;
    if (head.mask || block->codec != KV_PLAIN)
        mixed_from_now(c);
    memcpy(to, &head, offsetof(struct slot_block, first));
    for (int32_t g = 0; g <= heads; g++) {
        const int32_t first[2] = { (int32_t)block->first[g], (int32_t)kv_coded_first(block, g) };
        char *at = to + offsetof(struct slot_block, first) + (size_t)g * 4;

        memcpy(at, &first[0], 4);
        memcpy(at + (size_t)(heads + 1) * 4, &first[1], 4);
    }
}

void cuda_slot_blocks(struct backend *be, int32_t slot, const struct kv_block *blocks)
{
    struct cuda *c = cuda_of(be);
    struct cuda_cache *cache = c->cache;
    const int32_t layers = cache->config.layers;
    const uint64_t bytes = (uint64_t)layers * (uint64_t)cache->block_bytes;

    assert(slot >= 0 && slot < cache->config.slots);
    for (int32_t l = 0; l < layers; l++)
        block_tie(c, blocks ? &blocks[l] : NULL, cache->blocks_host + (int64_t)l * cache->block_bytes);
    /* from pageable memory: the driver has taken the bytes when the call returns */
    cuda_upload(be, LANE_COMPUTE, cache->blocks + (uint64_t)slot * bytes, cache->blocks_host, bytes);
}

void cuda_slot_page(struct backend *be, int32_t slot, int32_t index, int32_t page)
{
    struct cuda_cache *cache = cuda_of(be)->cache;

    assert(slot >= 0 && slot < cache->config.slots && index >= 0 && index < cache->config.pages_per_slot);
    assert(page >= 0 && page < cache->config.pages);
    cuda_upload(be, LANE_COMPUTE, cache->pages + (int64_t)slot * cache->config.pages_per_slot + index, &page, 4);
}

void cuda_slot_ring(struct backend *be, int32_t slot, int32_t index, int32_t page)
{
    struct cuda_cache *cache = cuda_of(be)->cache;
    const struct cache_config *k = &cache->config;

    assert(slot >= 0 && slot < k->slots && index >= 0 && index < k->pages_per_slot);
    assert(page >= 0 && page < k->ring_pages);
    cuda_upload(be, LANE_COMPUTE, cache->pages + ((int64_t)k->slots + slot) * k->pages_per_slot + index, &page, 4);
}
