/* SPDX-License-Identifier: Apache-2.0 */
/*
 * tok_stream.c - ids to text as they are generated, never half a character.
 *
 * Bytes that begin a character and do not end it are held back until the next token brings the rest or shows that there
 * is none; then they become U+FFFD: one for a broken sequence in byte-level vocabularies, one for each byte where bytes
 * are a fall-back, as the reference's two decoders do.
 */
#include "common/model/tokenizer_parts.h"

#include <assert.h>
#include <string.h>

static const char replacement[] = "\xef\xbf\xbd";

void tok_stream_init(struct tok_stream *s, const struct tokenizer *t)
{
    memset(s, 0, sizeof *s);
    s->tokenizer = t;
}

/* The range that the byte after `lead` may have (RFC 3629: no overlong forms, no surrogates). */
static bool second_fits(uint8_t lead, uint8_t byte)
{
    uint8_t low = lead == 0xe0 ? 0xa0 : lead == 0xf0 ? 0x90 : 0x80;
    uint8_t high = lead == 0xed ? 0x9f : lead == 0xf4 ? 0x8f : 0xbf;

    return byte >= low && byte <= high;
}

/* How many bytes a character that begins with `lead` has; 0: none begins so. */
static size_t char_bytes(uint8_t lead)
{
    return lead < 0x80                    ? 1
           : lead >= 0xc2 && lead <= 0xdf ? 2
           : (lead & 0xf0) == 0xe0        ? 3
           : lead >= 0xf0 && lead <= 0xf4 ? 4
                                          : 0;
}

/* How many of the bytes belong to one character or to the beginning of one (at least 1). *whole: all of it is there;
 * *open: more could complete it. */
static size_t take_char(const char *at, size_t bytes, bool *whole, bool *open)
{
    size_t want = char_bytes((uint8_t)at[0]), n = 1;

    *whole = *open = false;
    while (n < want && n < bytes) {
        bool fits = n == 1 ? second_fits((uint8_t)at[0], (uint8_t)at[1]) : ((uint8_t)at[n] & 0xc0) == 0x80;
        if (!fits)
            return n;
        n++;
    }
    *whole = n == want;
    *open = want > 0 && n < want;
    return n;
}

static void put_broken(const struct tok_stream *s, size_t bytes, struct text *out)
{
    size_t marks = s->tokenizer->byte_level ? 1 : bytes;

    for (size_t i = 0; i < marks; i++)
        text_add(out, replacement, sizeof replacement - 1);
}

/* Everything whole goes out; the beginning of a character stays in s->held. */
static void put_bytes(struct tok_stream *s, const char *data, size_t bytes, struct text *out)
{
    char first[sizeof s->held + 4];
    size_t held = s->held_bytes, at = 0;
    bool whole, open;

    /* A held beginning and the first new bytes: at most one character of both. */
    while (held > 0 && at < bytes) {
        memcpy(first, s->held, held);
        first[held] = data[at];
        size_t n = take_char(first, held + 1, &whole, &open);
        if (n == held) { /* the new byte does not continue it */
            put_broken(s, held, out);
            held = 0;
            break;
        }
        s->held[held++] = data[at++];
        if (whole) {
            text_add(out, s->held, held);
            held = 0;
        }
    }
    s->held_bytes = (uint32_t)held;
    while (at < bytes) {
        size_t n = take_char(data + at, bytes - at, &whole, &open);
        if (whole) {
            text_add(out, data + at, n);
        } else if (open) {
            memcpy(s->held, data + at, n);
            s->held_bytes = (uint32_t)n;
        } else {
            put_broken(s, n, out);
        }
        at += n;
    }
}

void tok_stream_push(struct tok_stream *s, int32_t id, struct text *out)
{
    const struct tokenizer *t = s->tokenizer;
    const char *piece;
    size_t bytes;

    if (tokenizer_is_special(t, id))
        return;
    bytes = tokenizer_piece(t, id, &piece);
    if (!t->byte_level && s->held_bytes && bytes && !t->vocab.entries[id].is_byte)
        tok_stream_flush(s, out);
    if (!s->started && bytes) { /* one blank in all, also where the first piece is nothing else */
        s->started = true;
        if (t->strip_lead && piece[0] == ' ')
            piece++, bytes--;
    }
    put_bytes(s, piece, bytes, out);
}

void tok_stream_flush(struct tok_stream *s, struct text *out)
{
    if (s->held_bytes)
        put_broken(s, s->held_bytes, out);
    s->held_bytes = 0;
}
