/* SPDX-License-Identifier: Apache-2.0 */
/* added.h - special and added tokens: found in a text before anything else is done to it; private to common/model. */
#ifndef PLATEN_MODEL_ADDED_H
#define PLATEN_MODEL_ADDED_H

#include "common/base/arena.h"
#include "common/model/tokenizer.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

struct added_token {
    int32_t id;
    bool special;
    bool lstrip, rstrip; /* takes the white space before / after it along */
    bool single_word;    /* only where no letter or digit stands beside it */
};

struct added_node {
    int32_t child, sibling; /* 0: none */
    int32_t token;          /* index + 1 of the token that ends here; 0: none */
    uint8_t byte;
};

/* A trie over the tokens' bytes; node 0 is the root. Everything in the arena given to added_add. */
struct added {
    struct added_token *tokens;
    size_t count, token_room;
    struct added_node *nodes;
    size_t node_count, node_room;
    int32_t first[256]; /* the root's children */
};

/* Adds a token with this (not empty) text; of two with one text the later counts. */
void added_add(struct added *a, struct arena *arena, const struct added_token *token, const char *text, size_t bytes);

/*
 * The first match that begins at or after `from`, the longest at its place; *span is what it covers, white space taken
 * along included, but nothing before `from`. Special tokens count only inside `special` (NULL: everywhere).
 * Returns the id, or -1.
 */
int32_t added_find(const struct added *a, const char *text, size_t bytes, size_t from, const struct tok_span *special,
                   struct tok_span *span);

#ifdef __cplusplus
}
#endif
#endif
