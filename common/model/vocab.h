/* SPDX-License-Identifier: Apache-2.0 */
/* vocab.h - token id <-> text, and the alphabet in which byte-level files write bytes; private to common/model. */
#ifndef PLATEN_MODEL_VOCAB_H
#define PLATEN_MODEL_VOCAB_H

#include "common/base/arena.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

enum { VOCAB_IDS_MAX = 1 << 24 };

struct vocab_entry {
    const char *text;  /* as the file writes it; NULL: no token has this id */
    const char *piece; /* the bytes it stands for in an answer */
    uint32_t text_bytes, piece_bytes;
    bool special; /* left out of answers, and found in texts only where special tokens count */
    bool is_byte; /* <0xNN>: a piece of one byte that may be part of a character */
};

/* Entries and the hash over their texts; both in the arena given to vocab_init. */
struct vocab {
    struct vocab_entry *entries;
    int32_t size;
    uint32_t *slots; /* id + 1; 0: free */
    uint32_t mask;
};

/* Room for ids [0, size), size <= VOCAB_IDS_MAX. */
void vocab_init(struct vocab *v, struct arena *arena, int32_t size);

/* Gives id a text (borrowed: it must live as long). An id has one text; of two ids with one text the later is found. */
void vocab_set(struct vocab *v, int32_t id, const char *text, size_t bytes);

/* The id whose text this is, or -1. */
int32_t vocab_find(const struct vocab *v, const char *text, size_t bytes);

/*
 * The byte alphabet of GPT-2: every byte is written as one printable character. Printable bytes stand for themselves,
 * the others for U+0100 and following, in order.
 */
uint32_t byte_to_char(uint8_t byte);
int char_to_byte(int32_t code); /* -1: not a character of the alphabet */

/* The bytes that a byte-level text stands for, in the arena; NULL when a character is not of the alphabet. */
const char *bytes_of_text(struct arena *arena, const char *text, size_t bytes, uint32_t *out_bytes);

#ifdef __cplusplus
}
#endif
#endif
