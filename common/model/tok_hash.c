/* SPDX-License-Identifier: Apache-2.0 */
/* tok_hash.c - one number over everything that decides ids, for two nodes to compare. */
#include "common/model/tokenizer_parts.h"

#include "common/base/bytes.h"

#include <string.h>
#include <xxhash.h>

static void hash_number(XXH64_state_t *s, int64_t number)
{
    uint8_t bytes[8];

    store_u64(bytes, (uint64_t)number);
    XXH64_update(s, bytes, sizeof bytes);
}

static void hash_text(XXH64_state_t *s, const char *text, size_t bytes)
{
    hash_number(s, text ? (int64_t)bytes : -1);
    if (text)
        XXH64_update(s, text, bytes);
}

static void hash_splitter(XXH64_state_t *s, const struct splitter *p)
{
    hash_number(s, p->count);
    for (int i = 0; i < p->count; i++) {
        hash_text(s, p->steps[i].pattern, strlen(p->steps[i].pattern));
        hash_number(s, p->steps[i].mode * 2 + p->steps[i].invert);
    }
}

static void hash_normal(XXH64_state_t *s, const struct normal *n)
{
    hash_splitter(s, &n->patterns);
    for (int i = 0; i < n->count; i++) {
        hash_number(s, n->steps[i].kind);
        hash_text(s, n->steps[i].with, n->steps[i].with_bytes);
        hash_number(s, n->steps[i].pattern * 4 + n->steps[i].left * 2 + n->steps[i].right);
    }
}

static void hash_added(XXH64_state_t *s, const struct added *a)
{
    hash_number(s, (int64_t)a->count);
    for (size_t i = 0; i < a->count; i++) {
        const struct added_token *t = &a->tokens[i];
        hash_number(s, t->id);
        hash_number(s, t->special * 8 + t->lstrip * 4 + t->rstrip * 2 + t->single_word);
    }
}

/* The merges' places in their hash are the same on every machine, so they are taken in that order. */
static void hash_merges(XXH64_state_t *s, const struct merges *m)
{
    for (uint32_t i = 0; i <= m->mask && m->slots; i++)
        if (m->slots[i].joined >= 0) {
            hash_number(s, (int64_t)m->slots[i].left << 32 | m->slots[i].right);
            hash_number(s, (int64_t)m->slots[i].rank << 32 | m->slots[i].joined);
        }
}

uint64_t tokenizer_hash(const struct tokenizer *t)
{
    XXH64_state_t *s = XXH64_createState();
    uint64_t hash;

    XXH64_reset(s, 0);
    for (int32_t id = 0; id < t->vocab.size; id++)
        hash_text(s, t->vocab.entries[id].text, t->vocab.entries[id].text_bytes);
    hash_merges(s, &t->merges);
    hash_added(s, &t->added);
    hash_added(s, &t->added_normalised);
    hash_normal(s, &t->normal);
    hash_splitter(s, &t->splitter);
    hash_number(s, t->byte_level | t->byte_fallback << 1 | t->ignore_merges << 2 | t->fuse_unknown << 3 |
                       t->metaspace << 4 | t->strip_lead << 5 | t->lead << 6);
    hash_text(s, t->lead_text, t->lead_text ? strlen(t->lead_text) : 0);
    hash_number(s, t->unknown_id);
    hash = XXH64_digest(s);
    XXH64_freeState(s);
    return hash;
}
