/* SPDX-License-Identifier: Apache-2.0 */
/* merges.c - a hash of pairs, a linked list, a binary heap. */
#include "common/model/merges.h"

#include <stdlib.h>
#include <string.h>

void merges_init(struct merges *m, struct arena *arena, size_t count)
{
    uint32_t slots = 16;

    while (slots < count * 2)
        slots *= 2;
    m->slots = arena_array(arena, slots, sizeof m->slots[0]);
    for (uint32_t i = 0; i < slots; i++)
        m->slots[i].joined = -1;
    m->mask = slots - 1;
    m->count = 0;
}

static uint32_t slot_of(const struct merges *m, int32_t left, int32_t right)
{
    uint64_t pair = (uint64_t)(uint32_t)left << 32 | (uint32_t)right;
    uint32_t at = (uint32_t)((pair * UINT64_C(0x9E3779B97F4A7C15)) >> 32) & m->mask;

    while (m->slots[at].joined >= 0 && (m->slots[at].left != left || m->slots[at].right != right))
        at = (at + 1) & m->mask;
    return at;
}

void merges_add(struct merges *m, int32_t left, int32_t right, uint32_t rank, int32_t joined)
{
    struct merge *slot = &m->slots[slot_of(m, left, right)];

    m->count += slot->joined < 0;
    *slot = (struct merge){ left, right, rank, joined };
}

/* hot */
const struct merge *merges_find(const struct merges *m, int32_t left, int32_t right)
{
    const struct merge *slot = &m->slots[slot_of(m, left, right)];

    return slot->joined < 0 ? NULL : slot;
}

void bpe_begin(struct bpe *b)
{
    b->count = 0;
    b->heap_count = 0;
}

void bpe_add(struct bpe *b, int32_t id)
{
    if (b->count == b->room) {
        b->room = b->room ? b->room * 2 : 64;
        b->symbols = mem_grow(b->symbols, b->room * sizeof b->symbols[0]);
    }
    b->symbols[b->count] = (struct bpe_symbol){ id, (int32_t)b->count - 1, (int32_t)b->count + 1 };
    b->count++;
}

static bool before(const struct bpe_candidate *a, const struct bpe_candidate *b)
{
    return a->rank != b->rank ? a->rank < b->rank : a->at < b->at;
}

static void heap_push(struct bpe *b, struct bpe_candidate c)
{
    size_t i;

    if (b->heap_count == b->heap_room) {
        b->heap_room = b->heap_room ? b->heap_room * 2 : 64;
        b->heap = mem_grow(b->heap, b->heap_room * sizeof b->heap[0]);
    }
    for (i = b->heap_count++; i > 0 && before(&c, &b->heap[(i - 1) / 2]); i = (i - 1) / 2)
        b->heap[i] = b->heap[(i - 1) / 2];
    b->heap[i] = c;
}

static struct bpe_candidate heap_pop(struct bpe *b)
{
    struct bpe_candidate top = b->heap[0];
    struct bpe_candidate last = b->heap[--b->heap_count];
    size_t i = 0;

    for (size_t child = 1; child < b->heap_count; child = 2 * i + 1) {
        if (child + 1 < b->heap_count && before(&b->heap[child + 1], &b->heap[child]))
            child++;
        if (!before(&b->heap[child], &last))
            break;
        b->heap[i] = b->heap[child];
        i = child;
    }
    b->heap[i] = last;
    return top;
}

/* Proposes the pair that begins at symbol `at`. */
static void propose(struct bpe *b, const struct merges *m, int32_t at)
{
    int32_t next = at >= 0 ? b->symbols[at].next : -1;
    const struct merge *merge;

    if (next < 0 || (size_t)next >= b->count)
        return;
    merge = merges_find(m, b->symbols[at].id, b->symbols[next].id);
    if (merge)
        heap_push(b, (struct bpe_candidate){ merge->rank, at, merge->joined });
}

/* Whether the pair that was proposed still stands there. */
static bool still_there(const struct bpe *b, const struct merges *m, const struct bpe_candidate *c)
{
    const struct bpe_symbol *left = &b->symbols[c->at];
    const struct merge *merge;

    if (left->id < 0 || (size_t)left->next >= b->count)
        return false;
    merge = merges_find(m, left->id, b->symbols[left->next].id);
    return merge && merge->joined == c->joined;
}

void bpe_run(struct bpe *b, const struct merges *m)
{
    for (size_t i = 0; i + 1 < b->count; i++)
        propose(b, m, (int32_t)i);
    while (b->heap_count) {
        struct bpe_candidate c = heap_pop(b);
        struct bpe_symbol *left = &b->symbols[c.at], *right;
        if (!still_there(b, m, &c))
            continue;
        right = &b->symbols[left->next];
        left->id = c.joined;
        left->next = right->next;
        right->id = -1;
        if ((size_t)left->next < b->count)
            b->symbols[left->next].prev = c.at;
        propose(b, m, left->prev);
        propose(b, m, c.at);
    }
}

void bpe_fini(struct bpe *b)
{
    free(b->symbols);
    free(b->heap);
    memset(b, 0, sizeof *b);
}
