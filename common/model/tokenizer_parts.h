/* SPDX-License-Identifier: Apache-2.0 */
/* tokenizer_parts.h - what a tokenizer is made of; private to common/model. The readers of tokenizer.json and GGUF fill
 * it, tokenizer.c and tok_stream.c use it, nobody changes it after that. */
#ifndef PLATEN_MODEL_TOKENIZER_PARTS_H
#define PLATEN_MODEL_TOKENIZER_PARTS_H

#include "common/model/added.h"
#include "common/model/merges.h"
#include "common/model/normal.h"
#include "common/model/split.h"
#include "common/model/tokenizer.h"
#include "common/model/vocab.h"

struct gguf;

#ifdef __cplusplus
extern "C" {
#endif

/* U+2581, SentencePiece's stand-in for a blank. */
#define META_SPACE "\xe2\x96\x81"
enum { META_BYTES = 3 };

/* When a text gets a blank (or its stand-in) in front before it is cut. */
enum lead { LEAD_NEVER, LEAD_FIRST, LEAD_ALWAYS };

struct tokenizer {
    struct arena arena;
    struct vocab vocab;
    struct merges merges;
    struct added added;            /* looked for in the text as it is */
    struct added added_normalised; /* looked for in the normalised text */
    struct normal normal;
    struct splitter splitter;

    bool byte_level;       /* words are spelled in the byte alphabet */
    bool byte_fallback;    /* a character without a token becomes the tokens of its bytes */
    bool ignore_merges;    /* a word that is a token is that token */
    bool fuse_unknown;     /* unknown characters in a row are one token */
    bool metaspace;        /* blanks are written as U+2581 before cutting */
    enum lead lead;        /* what lead_text is put before */
    const char *lead_text; /* " " or U+2581 */
    bool strip_lead;       /* an answer loses one blank at its beginning */

    int32_t byte_ids[256]; /* the token of each byte, -1: none */
    int32_t unknown_id;
};

/* An empty tokenizer: no ids, every choice off. */
struct tokenizer *tokenizer_new(void);

/* Ids of bytes, from the vocabulary: byte_level's characters, or <0xNN> for byte_fallback. After the vocabulary is filled. */
void tokenizer_find_bytes(struct tokenizer *t);

/* Makes token `id` one that is found in texts. normalised: in the normalised text. */
void tokenizer_add_token(struct tokenizer *t, const struct added_token *token, bool normalised);

/* What an answer shows for each token: bytes of the byte alphabet, or blanks for U+2581. After the vocabulary is filled. */
void tokenizer_make_pieces(struct tokenizer *t);

/* The readers; `limit`: the model's vocabulary, added tokens beyond it are left out (0: no limit). */
enum status tokenizer_from_json(struct tokenizer *t, const char *json, size_t bytes, int32_t limit, struct err *err);
enum status tokenizer_from_gguf(struct tokenizer *t, const struct gguf *g, struct err *err);

#ifdef __cplusplus
}
#endif
#endif
