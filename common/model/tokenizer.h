/* SPDX-License-Identifier: Apache-2.0 */
/*
 * tokenizer.h - text to token ids and back, as the model's own files define it.
 *
 *   text ─▶ special tokens cut out ─▶ normalised ─▶ cut by the family's pattern ─▶ merged (BPE) ─▶ ids
 *
 * From tokenizer.json or from GGUF metadata. Byte-level BPE, and SentencePiece's kind of BPE with byte fallback.
 * The ids are those of the `tokenizers` library. An open tokenizer is immutable: any thread may use it.
 */
#ifndef PLATEN_MODEL_TOKENIZER_H
#define PLATEN_MODEL_TOKENIZER_H

#include "common/base/status.h"
#include "common/base/text.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

struct checkpoint;
struct gguf;
struct tokenizer;

/* Ids that grow. Zero-initialise; owned by whoever declares it. */
struct token_list {
    int32_t *ids;
    size_t count;
    size_t room;
};

void token_list_add(struct token_list *list, int32_t id);
void token_list_fini(struct token_list *list);

/* Bytes [from, to) of a text. */
struct tok_span {
    size_t from, to;
};

/* The tokenizer of an open checkpoint; may be closed after it. ST_EINVAL, ST_EUNIMPLEMENTED with the file and the key;
 * a directory that has only tokenizer.model is refused with the sentence that tells how to make tokenizer.json. */
enum status tokenizer_open(struct tokenizer **out, const struct checkpoint *c, struct err *err);

/* The same from the bytes of a tokenizer.json, and from a GGUF file's metadata. */
enum status tokenizer_open_json(struct tokenizer **out, const char *json, size_t bytes, struct err *err);
enum status tokenizer_open_gguf(struct tokenizer **out, const struct gguf *g, struct err *err);
void tokenizer_close(struct tokenizer *t);

/*
 * Appends the ids of text[0..bytes) to *ids; no beginning-of-text token is added. The text may hold NULs.
 * special: where the text of special tokens counts as such (a token must lie inside it); NULL: everywhere. Outside, their
 * text is text like any other (`--special-text plain`).
 * dropped: how many bytes had no token and vanished is added to it (may be NULL).
 * ST_EINVAL when it is not UTF-8 (the sentence tells at which byte), or when the pattern's match limit was passed.
 * Linear in the text but for a logarithm; allocates working room and gives it back.
 */
enum status tokenizer_encode(const struct tokenizer *t, const char *text, size_t bytes, const struct tok_span *special,
                             struct token_list *ids, uint64_t *dropped, struct err *err);

/* The bytes that a token stands for, as they are in the text (may be part of a character; the text of special tokens;
 * none for an id without a token). Borrowed. */
size_t tokenizer_piece(const struct tokenizer *t, int32_t id, const char **bytes);

/* The number of ids: every id is below it. */
int32_t tokenizer_size(const struct tokenizer *t);

/* Special tokens are left out of answers. False for ids without a token. */
bool tokenizer_is_special(const struct tokenizer *t, int32_t id);

/* 64 bits over everything that decides ids: vocabulary, merges, patterns, special tokens. The same on every machine. */
uint64_t tokenizer_hash(const struct tokenizer *t);

/*
 * Ids to text as they come: every push appends only whole UTF-8 characters; the bytes of a character that is not complete
 * yet are held back. Special tokens give nothing. Joined, the pieces are the text that the reference decodes from all ids
 * at once. Owned by one thread; nothing to give back.
 */
struct tok_stream {
    const struct tokenizer *tokenizer;
    char held[8];
    uint32_t held_bytes;
    bool started;
};

void tok_stream_init(struct tok_stream *s, const struct tokenizer *t);
void tok_stream_push(struct tok_stream *s, int32_t id, struct text *out);
void tok_stream_flush(struct tok_stream *s, struct text *out); /* what is still held becomes U+FFFD */

#ifdef __cplusplus
}
#endif
#endif
