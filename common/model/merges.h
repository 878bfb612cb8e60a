/* SPDX-License-Identifier: Apache-2.0 */
/*
 * merges.h - byte pair encoding's inner step: the pair of lowest rank is joined, again and again; private to common/model.
 *
 * A doubly linked list of symbols and a heap of candidate pairs: n symbols cost O(n log n), also when a whole megabyte is
 * one word. Candidates whose symbols changed meanwhile are noticed when they are taken out.
 *
 * Sennrich et al. 2016, arXiv:1508.07909; ties go to the pair further left, as in the `tokenizers` library.
 */
#ifndef PLATEN_MODEL_MERGES_H
#define PLATEN_MODEL_MERGES_H

#include "common/base/arena.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

struct merge {
    int32_t left, right;
    uint32_t rank; /* lower first */
    int32_t joined;
};

/* An open-addressed hash of pairs, in the arena given to merges_init. */
struct merges {
    struct merge *slots; /* joined == -1: free */
    uint32_t mask;
    uint32_t count;
};

void merges_init(struct merges *m, struct arena *arena, size_t count);

/* At most `count` of them; a pair added again gets the new rank. */
void merges_add(struct merges *m, int32_t left, int32_t right, uint32_t rank, int32_t joined);

/* The merge of a pair, or NULL. hot */
const struct merge *merges_find(const struct merges *m, int32_t left, int32_t right);

struct bpe_symbol {
    int32_t id; /* -1: joined into the one before */
    int32_t prev, next;
};

struct bpe_candidate {
    uint32_t rank;
    int32_t at;
    int32_t joined;
};

/* Working room, used again for every word. Zero-initialise. */
struct bpe {
    struct bpe_symbol *symbols;
    size_t count, room;
    struct bpe_candidate *heap;
    size_t heap_count, heap_room;
};

void bpe_begin(struct bpe *b);           /* no symbols */
void bpe_add(struct bpe *b, int32_t id); /* one more at the end; fewer than 2^31 of them */

/* Joins what can be joined. Afterwards symbols with id >= 0, in order, are the word's tokens. */
void bpe_run(struct bpe *b, const struct merges *m);
void bpe_fini(struct bpe *b);

#ifdef __cplusplus
}
#endif
#endif
