/* SPDX-License-Identifier: Apache-2.0 */
/*
 * tok_build.c - finds a model's tokenizer and puts it together.
 *
 * A directory must have tokenizer.json; the older tokenizer.model (a SentencePiece protobuf) does not say how the family
 * cuts its texts, so it is not guessed at. A GGUF file has the tokenizer in its metadata.
 */
#include "common/model/tokenizer_parts.h"

#include "common/base/file.h"
#include "common/model/checkpoint.h"
#include "common/model/jsonfile.h"

#include <jansson.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct tokenizer *tokenizer_new(void)
{
    struct tokenizer *t = mem_zero(1, sizeof *t);

    memset(t->byte_ids, 0xff, sizeof t->byte_ids);
    t->unknown_id = -1;
    return t;
}

void tokenizer_close(struct tokenizer *t)
{
    if (!t)
        return;
    splitter_fini(&t->splitter);
    normal_fini(&t->normal);
    arena_fini(&t->arena);
    free(t);
}

void tokenizer_find_bytes(struct tokenizer *t)
{
    for (int b = 0; b < 256; b++) {
        char text[8];
        size_t bytes = t->byte_level ? utf8_encode(text, byte_to_char((uint8_t)b))
                                     : (size_t)snprintf(text, sizeof text, "<0x%02X>", (unsigned)b);
        t->byte_ids[b] = vocab_find(&t->vocab, text, bytes);
    }
}

void tokenizer_add_token(struct tokenizer *t, const struct added_token *token, bool normalised)
{
    struct vocab_entry *e = &t->vocab.entries[token->id];

    e->special = token->special;
    added_add(normalised ? &t->added_normalised : &t->added, &t->arena, token, e->text, e->text_bytes);
}

/* U+2581 becomes a blank. */
static void make_blank_piece(struct tokenizer *t, struct vocab_entry *e)
{
    char *out;
    uint32_t n = 0;

    if (!memmem(e->text, e->text_bytes, META_SPACE, META_BYTES))
        return;
    out = arena_alloc(&t->arena, e->text_bytes);
    for (uint32_t i = 0; i < e->text_bytes; i++) {
        bool blank = e->text_bytes - i >= META_BYTES && memcmp(e->text + i, META_SPACE, META_BYTES) == 0;
        out[n++] = blank ? ' ' : e->text[i];
        i += blank ? META_BYTES - 1 : 0;
    }
    e->piece = out;
    e->piece_bytes = n;
}

static void make_byte_piece(struct tokenizer *t, int byte)
{
    struct vocab_entry *e = &t->vocab.entries[t->byte_ids[byte]];
    char *out = arena_alloc(&t->arena, 1);

    *out = (char)byte;
    e->piece = out;
    e->piece_bytes = 1;
    e->is_byte = true;
}

void tokenizer_make_pieces(struct tokenizer *t)
{
    for (int32_t id = 0; id < t->vocab.size; id++) {
        struct vocab_entry *e = &t->vocab.entries[id];
        uint32_t bytes;
        const char *raw = e->text && t->byte_level ? bytes_of_text(&t->arena, e->text, e->text_bytes, &bytes) : NULL;
        if (raw) {
            e->piece = raw;
            e->piece_bytes = bytes;
        } else if (e->text && !t->byte_level) {
            make_blank_piece(t, e);
        }
    }
    for (int b = 0; b < 256 && !t->byte_level; b++)
        if (t->byte_ids[b] >= 0 && t->byte_fallback)
            make_byte_piece(t, b);
}

static enum status open_directory(struct tokenizer *t, const struct checkpoint *c, struct err *err)
{
    const char *dir = checkpoint_path(c);
    const char *path = arena_printf(&t->arena, "%s/tokenizer.json", dir);
    struct file f = { 0 };
    enum status st;

    if (!file_exists(path) && file_exists(arena_printf(&t->arena, "%s/tokenizer.model", dir)))
        return err_set(err, ST_EINVAL,
                       "%s has only tokenizer.model; make tokenizer.json with: python -c \"from transformers import "
                       "AutoTokenizer; AutoTokenizer.from_pretrained('%s').save_pretrained('%s')\"",
                       dir, dir, dir);
    st = file_open(&f, path, err);
    if (st != ST_OK)
        return st;
    st = tokenizer_from_json(t, f.data ? (const char *)f.data : "", f.bytes, checkpoint_hparams(c)->vocab, err);
    if (st != ST_OK)
        err_prefix(err, "%s", path);
    file_close(&f);
    return st;
}

/* Ids of words index the embedding: none may lie beyond it. */
static enum status check_limit(const struct tokenizer *t, int32_t vocab, struct err *err)
{
    for (int32_t id = vocab; id < t->vocab.size; id++)
        if (t->vocab.entries[id].text)
            return err_set(err, ST_EINVAL, "the tokenizer has id %d, the model's vocabulary ends before %d", id, vocab);
    return ST_OK;
}

enum status tokenizer_open(struct tokenizer **out, const struct checkpoint *c, struct err *err)
{
    struct tokenizer *t = tokenizer_new();
    enum status st = checkpoint_gguf(c) ? tokenizer_from_gguf(t, checkpoint_gguf(c), err) : open_directory(t, c, err);

    if (st == ST_OK)
        st = check_limit(t, checkpoint_hparams(c)->vocab, err);
    if (st != ST_OK) {
        err_prefix(err, "%s", checkpoint_path(c));
        tokenizer_close(t);
        return st;
    }
    *out = t;
    return ST_OK;
}

enum status tokenizer_open_json(struct tokenizer **out, const char *json, size_t bytes, struct err *err)
{
    struct tokenizer *t = tokenizer_new();
    enum status st = tokenizer_from_json(t, json, bytes, 0, err);

    if (st != ST_OK) {
        tokenizer_close(t);
        return st;
    }
    *out = t;
    return ST_OK;
}

enum status tokenizer_open_gguf(struct tokenizer **out, const struct gguf *g, struct err *err)
{
    struct tokenizer *t = tokenizer_new();
    enum status st = tokenizer_from_gguf(t, g, err);

    if (st != ST_OK) {
        tokenizer_close(t);
        return st;
    }
    *out = t;
    return ST_OK;
}
