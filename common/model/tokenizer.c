/* SPDX-License-Identifier: Apache-2.0 */
/*
 * tokenizer.c - stop 2 of 12: text becomes token ids.      before: generate.c   after: order.c
 *
 *   "Hi <|im_end|> 42"
 *      └ special tokens are cut out:   "Hi " · <|im_end|> · " 42"
 *      └ normalised, cut into words:   "Hi" " "           " " "4" "2"
 *      └ each word's bytes or characters become symbols, pairs are joined (merges.c)
 *
 * The order of these steps, and what each sees of the text, is that of the `tokenizers` library 0.22: a step works on one
 * piece that the step before left, never across two. Everything here works on lengths: a NUL is a byte like any other.
 */
#include "common/model/tokenizer_parts.h"

#include "common/base/bytes.h"

#include <stdlib.h>
#include <string.h>

void token_list_add(struct token_list *list, int32_t id)
{
    if (list->count == list->room) {
        list->room = list->room ? list->room * 2 : 256;
        list->ids = mem_grow(list->ids, list->room * sizeof list->ids[0]);
    }
    list->ids[list->count++] = id;
}

void token_list_fini(struct token_list *list)
{
    free(list->ids);
    memset(list, 0, sizeof *list);
}

/* One encode: what it reads, its working room, where it writes. */
struct encoder {
    const struct tokenizer *t;
    const struct tok_span *special;
    struct split_work split;
    struct bpe bpe;
    struct text normal[2], led, spelled;
    struct token_list *ids;
    uint64_t dropped;
    struct err *err;
};

static void encoder_fini(struct encoder *e)
{
    split_work_fini(&e->split);
    bpe_fini(&e->bpe);
    text_fini(&e->normal[0]);
    text_fini(&e->normal[1]);
    text_fini(&e->led);
    text_fini(&e->spelled);
}

/* The token that a whole word is, or -1. Special tokens are not words. */
static int32_t find_word(struct encoder *e, const char *word, size_t bytes)
{
    int32_t id;

    if (e->t->byte_level) {
        text_clear(&e->spelled);
        for (size_t i = 0; i < bytes; i++) {
            char utf8[4];
            text_add(&e->spelled, utf8, utf8_encode(utf8, byte_to_char((uint8_t)word[i])));
        }
        word = e->spelled.data;
        bytes = e->spelled.bytes;
    }
    id = vocab_find(&e->t->vocab, word, bytes);
    return id >= 0 && e->t->vocab.entries[id].special ? -1 : id;
}

static bool have_bytes(const struct tokenizer *t, const char *text, size_t bytes)
{
    for (size_t i = 0; i < bytes; i++)
        if (t->byte_ids[(uint8_t)text[i]] < 0)
            return false;
    return true;
}

/* What has no token becomes the unknown token, or vanishes and is counted. */
static void add_unknown(struct encoder *e, size_t bytes, bool *last_unknown)
{
    if (e->t->unknown_id < 0)
        e->dropped += bytes;
    else if (!(e->t->fuse_unknown && *last_unknown))
        bpe_add(&e->bpe, e->t->unknown_id);
    *last_unknown = true;
}

static void spell_bytes(struct encoder *e, const char *word, size_t bytes)
{
    bool last_unknown = false;

    for (size_t i = 0; i < bytes; i++) {
        int32_t id = e->t->byte_ids[(uint8_t)word[i]];
        if (id < 0) {
            add_unknown(e, 1, &last_unknown);
            continue;
        }
        bpe_add(&e->bpe, id);
        last_unknown = false;
    }
}

static void spell_chars(struct encoder *e, const char *word, size_t bytes)
{
    const struct tokenizer *t = e->t;
    bool last_unknown = false;
    size_t len;

    for (size_t at = 0; at < bytes; at += len) {
        int32_t id;
        utf8_decode(word + at, bytes - at, &len);
        id = vocab_find(&t->vocab, word + at, len);
        if (id < 0 && !(t->byte_fallback && have_bytes(t, word + at, len))) {
            add_unknown(e, len, &last_unknown);
            continue;
        }
        for (size_t i = 0; id < 0 && i < len; i++)
            bpe_add(&e->bpe, t->byte_ids[(uint8_t)word[at + i]]);
        if (id >= 0)
            bpe_add(&e->bpe, id);
        last_unknown = false;
    }
}

static void encode_word(struct encoder *e, const char *word, size_t bytes)
{
    int32_t whole = e->t->ignore_merges ? find_word(e, word, bytes) : -1;

    if (whole >= 0) {
        token_list_add(e->ids, whole);
        return;
    }
    bpe_begin(&e->bpe);
    if (e->t->byte_level)
        spell_bytes(e, word, bytes);
    else
        spell_chars(e, word, bytes);
    bpe_run(&e->bpe, &e->t->merges);
    for (size_t i = 0; i < e->bpe.count; i++)
        if (e->bpe.symbols[i].id >= 0)
            token_list_add(e->ids, e->bpe.symbols[i].id);
}

/* Blanks become U+2581, and the text gets one in front, as the tokenizer asks. */
static void lead_text(struct encoder *e, bool first, const char **text, size_t *bytes)
{
    const struct tokenizer *t = e->t;
    const char *from = *text;
    size_t lead_bytes = t->lead_text ? strlen(t->lead_text) : 0;
    bool lead = t->lead == LEAD_ALWAYS || (t->lead == LEAD_FIRST && first);
    bool begins;

    if (!t->metaspace && !lead)
        return;
    text_clear(&e->led);
    for (size_t i = 0; t->metaspace && i < *bytes; i++)
        text_add(&e->led, from[i] == ' ' ? META_SPACE : from + i, from[i] == ' ' ? META_BYTES : 1);
    if (!t->metaspace)
        text_add(&e->led, from, *bytes);
    begins = e->led.bytes >= lead_bytes && lead_bytes && memcmp(e->led.data, t->lead_text, lead_bytes) == 0;
    if (lead && !begins) {
        text_add(&e->led, t->lead_text, lead_bytes);
        memmove(e->led.data + lead_bytes, e->led.data, e->led.bytes - lead_bytes);
        memcpy(e->led.data, t->lead_text, lead_bytes);
    }
    *text = text_str(&e->led);
    *bytes = e->led.bytes;
}

/* Text without special tokens, normalised. */
static enum status encode_plain(struct encoder *e, const char *text, size_t bytes, bool first)
{
    enum status st;

    if (bytes == 0)
        return ST_OK;
    lead_text(e, first, &text, &bytes);
    st = splitter_run(&e->t->splitter, &e->split, text, bytes, e->err);
    for (size_t i = 0; st == ST_OK && i < e->split.count; i++)
        encode_word(e, text + e->split.spans[i].from, e->split.spans[i].to - e->split.spans[i].from);
    return st;
}

/* A piece between two tokens of the text as it is. Tokens of the normalised text cannot be told to lie inside a span of
 * the text as it was: where a span is given, special ones among them do not count. */
static enum status encode_piece(struct encoder *e, const char *text, size_t bytes, bool first)
{
    static const struct tok_span nowhere = { 0, 0 };
    enum status st = normal_run(&e->t->normal, &e->split, text, bytes, e->normal, &text, &bytes, e->err);

    for (size_t at = 0; st == ST_OK && at < bytes;) {
        struct tok_span m = { bytes, bytes };
        int32_t id = added_find(&e->t->added_normalised, text, bytes, at, e->special ? &nowhere : NULL, &m);
        if (id < 0)
            m = (struct tok_span){ bytes, bytes };
        st = encode_plain(e, text + at, m.from - at, first && at == 0);
        if (id >= 0)
            token_list_add(e->ids, id);
        at = m.to;
    }
    return st;
}

static enum status encode(struct encoder *e, const char *text, size_t bytes)
{
    enum status st = ST_OK;

    for (size_t at = 0; st == ST_OK && at < bytes;) {
        struct tok_span m = { bytes, bytes };
        int32_t id = added_find(&e->t->added, text, bytes, at, e->special, &m);
        if (id < 0)
            m = (struct tok_span){ bytes, bytes };
        st = encode_piece(e, text + at, m.from - at, at == 0);
        if (st == ST_OK && id >= 0)
            token_list_add(e->ids, id);
        at = m.to;
    }
    return st;
}

enum status tokenizer_encode(const struct tokenizer *t, const char *text, size_t bytes, const struct tok_span *special,
                             struct token_list *ids, uint64_t *dropped, struct err *err)
{
    struct encoder e = { .t = t, .special = special, .ids = ids, .err = err };
    size_t valid = bytes <= INT32_MAX ? utf8_prefix(text, bytes) : 0;
    size_t before = ids->count;
    enum status st;

    if (bytes > INT32_MAX)
        return err_set(err, ST_EINVAL, "the text has %zu bytes; 2 GiB are allowed", bytes);
    if (valid < bytes)
        return err_set(err, ST_EINVAL, "the text is not UTF-8: byte 0x%02x at offset %zu", (uint8_t)text[valid], valid);
    st = encode(&e, text, bytes);
    encoder_fini(&e);
    if (st != ST_OK) {
        ids->count = before;
        return st;
    }
    if (dropped)
        *dropped += e.dropped;
    return ST_OK;
}

size_t tokenizer_piece(const struct tokenizer *t, int32_t id, const char **bytes)
{
    *bytes = "";
    if (id < 0 || id >= t->vocab.size || !t->vocab.entries[id].text)
        return 0;
    *bytes = t->vocab.entries[id].piece;
    return t->vocab.entries[id].piece_bytes;
}

int32_t tokenizer_size(const struct tokenizer *t)
{
    return t->vocab.size;
}

bool tokenizer_is_special(const struct tokenizer *t, int32_t id)
{
    return id >= 0 && id < t->vocab.size && t->vocab.entries[id].special;
}
