/* SPDX-License-Identifier: Apache-2.0 */
/*
 * cache.c - slots, tail pages and the bookkeeping of one step of a decode node.
 *
 * Everything is allotted in cache_open, except room for partial results of attention, which follows the blocks that are
 * tied to slots (slot_blocks, between steps). From step_begin to step_end nothing allocates.
 */
#include "kernels/cpu/cache.h"

#include "common/base/arena.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

int32_t cache_rows(const struct cpu *c)
{
    return c->cache->rows;
}

const int32_t *cache_positions(const struct cpu *c)
{
    return c->cache->position;
}

const int32_t *cache_lengths(const struct cpu *c)
{
    return c->cache->length;
}

const char *cache_page(const struct cache *cache, int32_t layer, int32_t slot, int32_t index)
{
    const struct tail_pool *tail = &cache->tail[layer];
    int64_t page = tail->page_of[(int64_t)slot * cache->config.pages_per_slot + index];

    assert(page >= 0);
    return tail->first + page * cache->page_bytes;
}

void cache_tail_place(const struct cpu *c, int32_t layer, int64_t row, int32_t head, void **k, void **v)
{
    const struct cache *cache = c->cache;
    const struct step_seq *seq = &cache->seq[cache->row_seq[row]];
    int64_t at = seq->tail + row - seq->row, row_bytes = cache->config.dim * cpu_kv_bytes(c);
    char *page = (char *)cache_page(cache, layer, seq->slot, (int32_t)(at / KV_PAGE_TOKENS));
    char *place = page + (head * KV_PAGE_TOKENS + at % KV_PAGE_TOKENS) * row_bytes;

    *k = place;
    *v = place + cache->page_bytes / 2;
}

static void cache_free(struct cpu *c, struct cache *cache)
{
    cpu_free(&c->base, cache->pages);
    cpu_free(&c->base, cache->partial);
    free(cache->page_of);
    free(cache->tail);
    free(cache->blocks);
    free(cache->firsts);
    free(cache->chosen);
    free(cache->seq);
    free(cache->token);
    free(cache->position);
    free(cache->length);
    free(cache->row_seq);
    free(cache->output);
    free(cache->task_first);
    free(cache->partial_first);
    free(cache->slot_chunks);
    for (int i = 0; i < RESULTS_KEPT; i++)
        free(cache->results[i]);
    free(cache);
}

static void host_tables(struct cache *cache)
{
    const struct cache_config *k = &cache->config;
    const size_t slots = (size_t)k->slots, heads = (size_t)k->kv_heads, rows = (size_t)k->rows_max;

    cache->page_of = mem_alloc(2 * slots * (size_t)k->pages_per_slot * sizeof *cache->page_of);
    memset(cache->page_of, -1, 2 * slots * (size_t)k->pages_per_slot * sizeof *cache->page_of);
    cache->tail = mem_zero((size_t)k->layers, sizeof *cache->tail);
    cache->blocks = mem_zero(slots * (size_t)k->layers, sizeof *cache->blocks);
    cache->firsts = mem_zero(slots * (size_t)k->layers * 2 * (heads + 1), sizeof *cache->firsts);
    for (size_t i = 0; i < slots * (size_t)k->layers; i++) {
        cache->blocks[i].first = cache->firsts + 2 * i * (heads + 1);
        cache->blocks[i].coded = cache->blocks[i].first + heads + 1;
    }
    cache->chosen = mem_zero(slots, sizeof *cache->chosen);
    cache->seq = mem_zero(slots, sizeof *cache->seq);
    cache->token = mem_zero(rows, sizeof *cache->token);
    cache->position = mem_zero(rows, sizeof *cache->position);
    cache->length = mem_zero(rows, sizeof *cache->length);
    cache->row_seq = mem_zero(rows, sizeof *cache->row_seq);
    cache->output = mem_zero(slots, sizeof *cache->output);
    cache->task_first = mem_zero(slots * heads, sizeof *cache->task_first);
    cache->partial_first = mem_zero(slots * heads, sizeof *cache->partial_first);
    cache->slot_chunks = mem_zero(slots, sizeof *cache->slot_chunks);
    for (int i = 0; i < RESULTS_KEPT; i++)
        cache->results[i] = mem_zero(slots, sizeof *cache->results[i]);
}

/* Pages of all layers; where `first` is given, also where each layer's begin. */
static int64_t tail_pools(struct cache *cache, char *first)
{
    const struct cache_config *k = &cache->config;
    int64_t pages = 0;

    for (int32_t l = 0; l < k->layers; l++) {
        const bool ring = k->window && k->window[l] > 0;

        if (first)
            cache->tail[l] = (struct tail_pool){ first + pages * cache->page_bytes,
                                                 cache->page_of + (ring ? (int64_t)k->slots * k->pages_per_slot : 0) };
        pages += ring ? k->ring_pages : k->pages;
    }
    return pages;
}

static int64_t chunks_of(int64_t rows)
{
    return (rows + CHUNK_ROWS - 1) / CHUNK_ROWS;
}

/* Room for the partial results of all slots at once. Not hot. */
static enum status partial_reserve(struct cpu *c, struct cache *cache, struct err *err)
{
    const struct cache_config *k = &cache->config;
    const int64_t width = (k->dim + PANEL_MAX - 1) / PANEL_MAX * PANEL_MAX;
    int64_t chunks = 0, floats;
    void *room;
    enum status st;

    for (int32_t s = 0; s < k->slots; s++)
        chunks += cache->slot_chunks[s];
    floats = chunks * (k->q_heads / k->kv_heads) * (width + 2);
    if (floats <= cache->partial_floats)
        return ST_OK;
    st = cpu_alloc(&c->base, (uint64_t)floats * 4, "activations", &room, err);
    if (st != ST_OK)
        return st;
    cpu_free(&c->base, cache->partial);
    cache->partial = room;
    cache->partial_floats = floats;
    return ST_OK;
}

enum status cpu_cache_open(struct backend *be, const struct cache_config *config, struct err *err)
{
    struct cpu *c = cpu_of(be);
    struct cache *cache = mem_zero(1, sizeof *cache);
    uint64_t bytes;
    void *pages;
    enum status st;

    assert(!c->cache && config->q_heads % config->kv_heads == 0);
    cache->config = *config;
    cache->page_bytes = 2 * (int64_t)config->kv_heads * KV_PAGE_TOKENS * config->dim * cpu_kv_bytes(c);
    host_tables(cache);
    bytes = (uint64_t)tail_pools(cache, NULL) * (uint64_t)cache->page_bytes;
    for (int32_t s = 0; s < config->slots; s++)
        cache->slot_chunks[s] = config->kv_heads * chunks_of((int64_t)config->pages_per_slot * KV_PAGE_TOKENS);
    st = cpu_alloc(be, bytes, "tails", &pages, err);
    if (st == ST_OK) {
        cache->pages = pages;
        tail_pools(cache, pages);
        cache->config.window = NULL; /* the caller's */
        st = partial_reserve(c, cache, err);
    }
    if (st != ST_OK) {
        cache_free(c, cache);
        return st;
    }
    c->cache = cache;
    return ST_OK;
}

void cpu_cache_close(struct backend *be)
{
    struct cpu *c = cpu_of(be);

    if (c->cache)
        cache_free(c, c->cache);
    c->cache = NULL;
}

static int64_t block_tie(struct cache *cache, int32_t slot, const struct kv_block *block, int32_t layer)
{
    struct slot_block *to = &cache->blocks[(int64_t)slot * cache->config.layers + layer];
    const int32_t heads = cache->config.kv_heads;
    struct kv_parts parts;
    int64_t chunks = 0;

    if (!block) {
        memset(to->first, 0, (size_t)(heads + 1) * sizeof *to->first);
        return 0;
    }
    assert((uint32_t)block->codec < KV_CODECS && block->heads == heads && block->dim == cache->config.dim);
    kv_block_parts(block, &parts);
    for (int p = 0; p < KV_PARTS; p++)
        to->part[p] = (const uint8_t *)block->data + parts.offset[p];
    to->codec = block->codec;
    to->k_dim = block->k_dim;
    to->masked = block->k_dim < block->dim;
    memcpy(to->first, block->first, (size_t)(heads + 1) * sizeof *to->first);
    for (int32_t g = 0; g < heads; g++)
        to->coded[g + 1] = to->coded[g] + kv_coded_rows(to->codec, to->first[g + 1] - to->first[g]);
    for (int32_t g = 0; g < heads; g++)
        chunks += chunks_of(to->first[g + 1] - to->first[g]);
    return chunks;
}

void cpu_slot_blocks(struct backend *be, int32_t slot, const struct kv_block *blocks)
{
    struct cpu *c = cpu_of(be);
    struct cache *cache = c->cache;
    const struct cache_config *k = &cache->config;
    struct err err = { 0 };
    int64_t most = 0;

    assert(slot >= 0 && slot < k->slots);
    for (int32_t l = 0; l < k->layers; l++) {
        int64_t chunks = block_tie(cache, slot, blocks ? &blocks[l] : NULL, l);

        most = chunks > most ? chunks : most;
    }
    most += k->kv_heads * chunks_of((int64_t)k->pages_per_slot * KV_PAGE_TOKENS);
    if (most > cache->slot_chunks[slot])
        cache->slot_chunks[slot] = most;
    if (partial_reserve(c, cache, &err) != ST_OK)
        cpu_break(c, &err);
}

void cpu_slot_page(struct backend *be, int32_t slot, int32_t index, int32_t page)
{
    struct cache *cache = cpu_of(be)->cache;

    assert(slot >= 0 && slot < cache->config.slots && index >= 0 && index < cache->config.pages_per_slot);
    assert(page >= 0 && page < cache->config.pages);
    cache->page_of[(int64_t)slot * cache->config.pages_per_slot + index] = page;
}

void cpu_slot_ring(struct backend *be, int32_t slot, int32_t index, int32_t page)
{
    struct cache *cache = cpu_of(be)->cache;
    const struct cache_config *k = &cache->config;

    assert(slot >= 0 && slot < k->slots && index >= 0 && index < k->pages_per_slot);
    assert(page >= 0 && page < k->ring_pages);
    cache->page_of[((int64_t)k->slots + slot) * k->pages_per_slot + index] = page;
}

/* hot */
bool cpu_step_begin(struct backend *be, const struct step *step)
{
    struct cache *cache = cpu_of(be)->cache;

    assert(step->rows <= cache->config.rows_max && step->seqs <= cache->config.slots);
    cache->step++;
    cache->rows = step->rows;
    cache->seqs = step->seqs;
    cache->outputs = 0;
    cache->result_seqs[cache->step % RESULTS_KEPT] = step->seqs;
    memcpy(cache->seq, step->seq, (size_t)step->seqs * sizeof *step->seq);
    memcpy(cache->position, step->position, (size_t)step->rows * sizeof *step->position);
    for (int32_t r = 0; r < step->rows; r++)
        cache->token[r] = step->token[r] >= 0 ? step->token[r] : cache->chosen[-1 - step->token[r]];
    for (int32_t s = 0; s < step->seqs; s++) {
        for (int32_t r = step->seq[s].row; r < step->seq[s].row + step->seq[s].rows; r++) {
            const int32_t own = step->position[r] + 1;

            cache->row_seq[r] = s;
            cache->length[r] = own > step->seq[s].length ? own : step->seq[s].length;
        }
        cache->output[s] = step->output[s];
        cache->outputs += step->output[s] >= 0;
    }
    return false;
}

/* hot */
void cpu_step_embed(struct backend *be, const struct weight *table, float scale, void *x)
{
    struct cache *cache = cpu_of(be)->cache;

    cpu_embed(be, table, cache->token, cache->rows, scale, x);
}

/* hot */
void cpu_step_outputs(struct backend *be, const void *x, int32_t dim, void *out)
{
    struct cache *cache = cpu_of(be)->cache;
    float *to = out;

    for (int32_t s = 0; s < cache->seqs; s++)
        if (cache->output[s] >= 0) {
            memcpy(to, (const float *)x + (int64_t)cache->output[s] * dim, (size_t)dim * 4);
            to += dim;
        }
}

/* hot */
void cpu_step_choose(struct backend *be, const void *logits, int32_t vocab)
{
    struct cache *cache = cpu_of(be)->cache;
    int32_t *ids = cache->results[cache->step % RESULTS_KEPT], from = cache->outputs;

    cpu_argmax(be, logits, cache->outputs, vocab, ids);
    for (int32_t s = cache->seqs - 1; s >= 0; s--) { /* spread from the end, so that nothing is written over unread */
        if (cache->output[s] < 0) {
            ids[s] = -1;
            continue;
        }
        ids[s] = ids[--from];
        cache->chosen[cache->seq[s].slot] = ids[s];
    }
}

/* hot */
void cpu_step_end(struct backend *be)
{
    struct cache *cache = cpu_of(be)->cache;

    if (cache->outputs == 0)
        memset(cache->results[cache->step % RESULTS_KEPT], -1, (size_t)cache->seqs * sizeof(int32_t));
}

void cpu_step_result(struct backend *be, int32_t behind, int32_t *ids)
{
    struct cache *cache = cpu_of(be)->cache;
    int64_t step = cache->step - behind;

    assert(behind >= 0 && behind < RESULTS_KEPT && step > 0);
    memcpy(ids, cache->results[step % RESULTS_KEPT], (size_t)cache->result_seqs[step % RESULTS_KEPT] * sizeof *ids);
}
