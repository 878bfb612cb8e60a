/* SPDX-License-Identifier: Apache-2.0 */
/* vocab.c - an array by id, an open-addressed hash by text. Filled once, then only read. */
#include "common/model/vocab.h"

#include "common/base/text.h"

#include <assert.h>
#include <string.h>
#include <xxhash.h>

void vocab_init(struct vocab *v, struct arena *arena, int32_t size)
{
    uint32_t slots = 16;

    assert(size >= 0 && size <= VOCAB_IDS_MAX);
    while (slots < (uint32_t)size * 2)
        slots *= 2;
    v->entries = arena_array(arena, (size_t)size + 1, sizeof v->entries[0]);
    v->slots = arena_array(arena, slots, sizeof v->slots[0]);
    v->size = size;
    v->mask = slots - 1;
}

/* The slot of this text, or the free one where it would go. */
static uint32_t find_slot(const struct vocab *v, const char *text, size_t bytes)
{
    uint32_t at = (uint32_t)XXH3_64bits(text, bytes) & v->mask;

    while (v->slots[at]) {
        const struct vocab_entry *e = &v->entries[v->slots[at] - 1];
        if (e->text_bytes == bytes && memcmp(e->text, text, bytes) == 0)
            break;
        at = (at + 1) & v->mask;
    }
    return at;
}

void vocab_set(struct vocab *v, int32_t id, const char *text, size_t bytes)
{
    struct vocab_entry *e = &v->entries[id];

    assert(id >= 0 && id < v->size && !e->text);
    e->text = e->piece = text;
    e->text_bytes = e->piece_bytes = (uint32_t)bytes;
    v->slots[find_slot(v, text, bytes)] = (uint32_t)id + 1;
}

int32_t vocab_find(const struct vocab *v, const char *text, size_t bytes)
{
    return (int32_t)v->slots[find_slot(v, text, bytes)] - 1;
}

static bool stands_for_itself(uint32_t code)
{
    return (code >= 33 && code <= 126) || (code >= 161 && code <= 172) || (code >= 174 && code <= 255);
}

uint32_t byte_to_char(uint8_t byte)
{
    uint32_t others = 0;

    if (stands_for_itself(byte))
        return byte;
    for (uint32_t b = 0; b < byte; b++)
        others += !stands_for_itself(b);
    return 256 + others;
}

int char_to_byte(int32_t code)
{
    int others = 256;

    if (code < 0)
        return -1;
    if (stands_for_itself((uint32_t)code))
        return code;
    for (int b = 0; b < 256; b++)
        if (!stands_for_itself((uint32_t)b) && others++ == code)
            return b;
    return -1;
}

const char *bytes_of_text(struct arena *arena, const char *text, size_t bytes, uint32_t *out_bytes)
{
    char *out = arena_alloc(arena, bytes + 1);
    size_t step;

    *out_bytes = 0;
    for (size_t i = 0; i < bytes; i += step) {
        int byte = char_to_byte(utf8_decode(text + i, bytes - i, &step));
        if (byte < 0)
            return NULL;
        out[(*out_bytes)++] = (char)byte;
    }
    return out;
}
