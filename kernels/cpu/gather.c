/* SPDX-License-Identifier: Apache-2.0 */
/*
 * gather.c - a slot's rows as one plain block, for a press that works while tokens are generated.
 *
 *   head g    [ block: first[g] .. first[g+1) ][ tail: pages of 64 ]
 *                          └──────── the newest rows ────────┘ ──▶ [ rows of head g ] of `out`
 *
 * One task a head: rows of the block lie together, those of the tail in pages.
 */
#include "kernels/cpu/cache.h"
#include "kernels/cpu/coded.h"

#include <assert.h>
#include <string.h>

struct gathering {
    const struct cpu *c;
    const struct slot_block *block;
    const struct kv_block *out;
    int64_t row_bytes;
    int32_t slot, layer, tail;
};

/* Rows [from, from + rows) of a head's block. */
static void take_block(const struct gathering *g, struct cpu_room *room, int32_t head, int64_t from, int64_t rows,
                       char *k, char *v)
{
    for (int64_t at = 0; at < rows; at += ATTEND_TOKENS) {
        int32_t count = (int32_t)(rows - at < ATTEND_TOKENS ? rows - at : ATTEND_TOKENS);

        coded_values(g->c, room, g->block, head, from + at, count, k + at * g->row_bytes, v + at * g->row_bytes);
    }
}

/* Rows [from, from + rows) of the tail. */
static void take_tail(const struct gathering *g, int32_t head, int64_t from, int64_t rows, char *k, char *v)
{
    const struct cache *cache = g->c->cache;

    while (rows > 0) {
        int64_t at = from % KV_PAGE_TOKENS, count = KV_PAGE_TOKENS - at < rows ? KV_PAGE_TOKENS - at : rows;
        const char *page = cache_page(cache, g->layer, g->slot, (int32_t)(from / KV_PAGE_TOKENS)) +
                           ((int64_t)head * KV_PAGE_TOKENS + at) * g->row_bytes;

        memcpy(k, page, (size_t)(count * g->row_bytes));
        memcpy(v, page + cache->page_bytes / 2, (size_t)(count * g->row_bytes));
        k += count * g->row_bytes;
        v += count * g->row_bytes;
        from += count;
        rows -= count;
    }
}

static void head_task(void *arg, int64_t i, int worker)
{
    const struct gathering *g = arg;
    const int32_t head = (int32_t)i;
    const int64_t rows = g->out->first[head + 1] - g->out->first[head];
    const int64_t block_rows = g->block->first[head + 1] - g->block->first[head], skip = block_rows + g->tail - rows;
    const int64_t from_block = skip < block_rows ? block_rows - skip : 0;
    char *k = (char *)g->out->data + g->out->k_offset + (uint64_t)(g->out->first[head] * g->row_bytes);
    char *v = (char *)g->out->data + g->out->v_offset + (uint64_t)(g->out->first[head] * g->row_bytes);

    assert(skip >= 0);
    take_block(g, &g->c->room[worker], head, block_rows - from_block, from_block, k, v);
    take_tail(g, head, g->tail - (rows - from_block), rows - from_block, k + from_block * g->row_bytes,
              v + from_block * g->row_bytes);
}

void cpu_slot_gather(struct backend *be, int32_t slot, int32_t layer, int32_t tail, const struct kv_block *out)
{
    struct cpu *c = cpu_of(be);
    const struct cache_config *k = &c->cache->config;
    struct gathering g = { .c = c,
                           .block = &c->cache->blocks[(int64_t)slot * k->layers + layer],
                           .out = out,
                           .row_bytes = k->dim * cpu_kv_bytes(c),
                           .slot = slot,
                           .layer = layer,
                           .tail = tail };

    assert(slot >= 0 && slot < k->slots && layer >= 0 && layer < k->layers);
    assert(out->codec == KV_PLAIN && out->heads == k->kv_heads && out->dim == k->dim && out->k_dim == k->dim);
    pool_run(c->pool, k->kv_heads, head_task, &g);
}
