/* SPDX-License-Identifier: Apache-2.0 */
/*
 * cache.h - what a decode node's back end holds: slots with their blocks, tail pages, and the step that is running.
 *
 *   slot ──▶ per layer: block (K rows, V rows, first[G+1]; immutable, not ours)
 *        └─▶ pages[index] ──▶ page: per layer K [G][64][D], V [G][64][D]; layers with a ring have pages of their own
 *
 * owned by: the back end; thread: engine.
 */
#ifndef PLATEN_KERNELS_CPU_CACHE_H
#define PLATEN_KERNELS_CPU_CACHE_H

#include "kernels/cpu/cpu.h"

#ifdef __cplusplus
extern "C" {
#endif

enum { RESULTS_KEPT = 4, CHUNK_ROWS = 256 };

/* One layer of a slot's context: where the parts of its block are (layout.h). */
struct slot_block {
    enum kv_codec codec;
    const uint8_t *part[KV_PARTS];
    int64_t *first; /* [G + 1] */
    int64_t *coded; /* [G + 1]: coded rows of the heads before */
    int32_t k_dim;  /* channels of a K row */
    bool masked;    /* ... are some only: the masks say which */
};

/* Where a layer's tail pages lie, and the table that numbers them. */
struct tail_pool {
    char *first;
    const int32_t *page_of; /* [slots][pages_per_slot] */
};

struct cache {
    struct cache_config config;
    int64_t page_bytes;        /* one page of one layer */
    char *pages;               /* [layers][pages or ring_pages] pages */
    struct tail_pool *tail;    /* [layers] */
    int32_t *page_of;          /* [2][slots][pages_per_slot]: of the full layers, of those with a ring */
    struct slot_block *blocks; /* [slots][layers] */
    int64_t *firsts;           /* [slots][layers][2][G + 1]: first, coded */
    int32_t *chosen;           /* [slots]: what each chose last */

    /* the step */
    int32_t rows, seqs, outputs;
    struct step_seq *seq;
    int32_t *token, *position, *length, *row_seq; /* [rows_max] */
    int32_t *output;                              /* [slots] */
    int32_t *results[RESULTS_KEPT];               /* [slots] each; results[step % RESULTS_KEPT] */
    int32_t result_seqs[RESULTS_KEPT];
    int64_t step;

    /* attention of the step's layer: chunks of each (sequence, head), and their partial results */
    int64_t *task_first;    /* [slots * G] */
    int64_t *partial_first; /* [slots * G] */
    float *partial;         /* [chunks][group][2 + D] */
    int64_t partial_floats;
    int64_t *slot_chunks; /* [slots]: most chunks that a layer of the slot can have */
};

int32_t cache_rows(const struct cpu *c);
const int32_t *cache_positions(const struct cpu *c);
const int32_t *cache_lengths(const struct cpu *c);

/* Where K and V of row `row` of the step go, for one KV head of a layer. */
void cache_tail_place(const struct cpu *c, int32_t layer, int64_t row, int32_t head, void **k, void **v);

/* Page `index` of a slot's tail in a layer: K of every head, V in its second half. */
const char *cache_page(const struct cache *cache, int32_t layer, int32_t slot, int32_t index);

#ifdef __cplusplus
}
#endif
#endif
