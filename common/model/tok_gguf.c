/* SPDX-License-Identifier: Apache-2.0 */
/*
 * tok_gguf.c - a tokenizer from GGUF metadata.
 *
 *   tokenizer.ggml.model = gpt2    byte-level BPE: tokens, merges as texts, and a name for the pattern
 *   tokenizer.ggml.model = llama   SentencePiece BPE: tokens with scores; the merges follow from them
 *
 * Token types: 1 normal, 2 unknown, 3 control, 4 user-defined, 5 unused, 6 byte.
 */
#include "common/model/tokenizer_parts.h"

#include "common/base/bytes.h"
#include "common/model/gguf.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum token_type { TYPE_NORMAL = 1, TYPE_UNKNOWN, TYPE_CONTROL, TYPE_USER, TYPE_UNUSED, TYPE_BYTE };

#define PATTERN_GPT2 "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+"
#define PATTERN_LLAMA3(digits)                                                 \
    "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}" digits \
    "| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"
#define PATTERN_TEKKEN                                                                                  \
    "[^\\r\\n\\p{L}\\p{N}]?[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}]*[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}]+|"        \
    "[^\\r\\n\\p{L}\\p{N}]?[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}]+[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}]*|\\p{N}|" \
    " ?[^\\s\\p{L}\\p{N}]+[\\r\\n/]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"

static const struct pretoken {
    const char *words;
    bool digits_alone, ignore_merges, nfc;
    const char *pattern;
} pretokens[] = {
#define PRETOKEN(words, digits_alone, ignore_merges, nfc, pattern) { words, digits_alone, ignore_merges, nfc, pattern },
#include "common/model/pretokens.def"
#undef PRETOKEN
};

static bool has_word(const char *words, const char *word, size_t bytes)
{
    for (const char *at = words; *at; at += strspn(at, " ")) {
        size_t length = strcspn(at, " ");
        if (length == bytes && memcmp(at, word, bytes) == 0)
            return true;
        at += length;
    }
    return false;
}

static enum status find_array(const struct gguf *g, const char *key, bool strings, const struct gguf_value **out,
                              struct err *err)
{
    *out = gguf_find(g, key);
    if (!*out || !(*out)->is_array || ((*out)->type == GGUF_STRING) != strings)
        return err_set(err, ST_EINVAL, "%s is missing or not an array of %s", key, strings ? "texts" : "numbers");
    return ST_OK;
}

static enum status read_tokens(struct tokenizer *t, const struct gguf *g, struct err *err)
{
    const struct gguf_value *tokens;
    enum status st = find_array(g, "tokenizer.ggml.tokens", true, &tokens, err);
    struct cursor at;

    if (st != ST_OK)
        return st;
    if (tokens->count < 1 || tokens->count > VOCAB_IDS_MAX)
        return err_set(err, ST_EINVAL, "tokenizer.ggml.tokens has %llu tokens", (unsigned long long)tokens->count);
    vocab_init(&t->vocab, &t->arena, (int32_t)tokens->count);
    at = gguf_strings(tokens);
    for (int32_t id = 0; id < t->vocab.size; id++) {
        size_t bytes;
        const char *text = gguf_next_string(&at, &bytes);
        if (!utf8_valid(text, bytes))
            return err_set(err, ST_EINVAL, "tokenizer.ggml.tokens: the text of id %d is not UTF-8", id);
        vocab_set(&t->vocab, id, arena_strndup(&t->arena, text, bytes), bytes);
    }
    return ST_OK;
}

/* Numbers that are no type count as normal. */
static int token_type(const struct gguf_value *types, int32_t id)
{
    double type = types ? gguf_item_num(types, (uint64_t)id) : TYPE_NORMAL;

    return type >= TYPE_NORMAL && type <= TYPE_BYTE ? (int)type : TYPE_NORMAL;
}

/* Control tokens are special; user-defined ones are found in texts and shown. */
static enum status read_types(struct tokenizer *t, const struct gguf *g, const struct gguf_value **out, struct err *err)
{
    const struct gguf_value *types = gguf_find(g, "tokenizer.ggml.token_type");

    *out = types;
    if (!types)
        return ST_OK;
    if (!types->is_array || types->type == GGUF_STRING || types->count != (uint64_t)t->vocab.size)
        return err_set(err, ST_EINVAL, "tokenizer.ggml.token_type is not one number for each token");
    for (int32_t id = 0; id < t->vocab.size; id++) {
        int type = token_type(types, id);
        struct added_token token = { .id = id, .special = type == TYPE_CONTROL || type == TYPE_UNKNOWN };
        if ((token.special || type == TYPE_USER) && t->vocab.entries[id].text_bytes)
            tokenizer_add_token(t, &token, false);
    }
    return ST_OK;
}

/* "left right": the texts of two tokens; their joint text is a third. */
static enum status read_merge(struct tokenizer *t, const char *text, size_t bytes, uint32_t rank, struct err *err)
{
    const char *blank = bytes > 1 ? memchr(text + 1, ' ', bytes - 1) : NULL;
    size_t left_bytes = blank ? (size_t)(blank - text) : 0;
    char *joined = arena_alloc(&t->arena, bytes + 1);
    int32_t left, right, id;

    if (!blank)
        return err_set(err, ST_EINVAL, "tokenizer.ggml.merges: merge %u is not two texts", rank);
    memcpy(joined, text, left_bytes);
    memcpy(joined + left_bytes, blank + 1, bytes - left_bytes - 1);
    left = vocab_find(&t->vocab, text, left_bytes);
    right = vocab_find(&t->vocab, blank + 1, bytes - left_bytes - 1);
    id = vocab_find(&t->vocab, joined, bytes - 1);
    if (left < 0 || right < 0 || id < 0)
        return err_set(err, ST_EINVAL, "tokenizer.ggml.merges: merge %u (%.*s) names a text that is no token", rank,
                       (int)(bytes < 80 ? bytes : 80), text);
    merges_add(&t->merges, left, right, rank, id);
    return ST_OK;
}

static enum status read_merges(struct tokenizer *t, const struct gguf *g, struct err *err)
{
    const struct gguf_value *merges;
    enum status st = find_array(g, "tokenizer.ggml.merges", true, &merges, err);
    struct cursor at;

    if (st != ST_OK)
        return st;
    if (merges->count > VOCAB_IDS_MAX)
        return err_set(err, ST_EINVAL, "tokenizer.ggml.merges has too many merges");
    merges_init(&t->merges, &t->arena, (size_t)merges->count);
    at = gguf_strings(merges);
    for (uint64_t i = 0; st == ST_OK && i < merges->count; i++) {
        size_t bytes;
        const char *text = gguf_next_string(&at, &bytes);
        st = read_merge(t, text, bytes, (uint32_t)i, err);
    }
    return st;
}

static enum status use_pretoken(struct tokenizer *t, const struct pretoken *p, struct err *err)
{
    struct normal_step nfc = { .kind = NORMAL_NFC };
    enum status st = ST_OK;

    t->ignore_merges = p->ignore_merges;
    if (p->nfc)
        st = normal_add(&t->normal, &t->arena, &nfc, err);
    if (st == ST_OK && p->digits_alone)
        st = splitter_add(&t->splitter, &t->arena, "\\p{N}", 5, false, SPLIT_ISOLATED, false, err);
    if (st == ST_OK)
        st = splitter_add(&t->splitter, &t->arena, p->pattern, strlen(p->pattern), false, SPLIT_ISOLATED, false, err);
    return st;
}

static enum status read_pretoken(struct tokenizer *t, const struct gguf *g, struct err *err)
{
    size_t bytes;
    const char *name = gguf_string(g, "tokenizer.ggml.pre", &bytes);

    for (size_t i = 0; name && i < ARRAY_LEN(pretokens); i++)
        if (has_word(pretokens[i].words, name, bytes))
            return use_pretoken(t, &pretokens[i], err);
    return err_set(err, ST_EUNIMPLEMENTED,
                   "tokenizer.ggml.pre \"%.*s\" is not known; gpt-2, smollm, llama-bpe, qwen2, tekken are",
                   name ? (int)(bytes < 64 ? bytes : 64) : 0, name ? name : "");
}

static enum status build_byte_level(struct tokenizer *t, const struct gguf *g, struct err *err)
{
    const struct gguf_value *types;
    enum status st;

    t->byte_level = true;
    st = read_types(t, g, &types, err);
    if (st == ST_OK)
        st = read_merges(t, g, err);
    if (st == ST_OK)
        st = read_pretoken(t, g, err);
    if (st == ST_OK)
        tokenizer_find_bytes(t);
    return st;
}

/* A token and its score, to be put in the order of joining: high scores first. */
struct scored {
    double score;
    int32_t id;
};

static int score_order(const void *a, const void *b)
{
    const struct scored *x = a, *y = b;

    return x->score != y->score ? (x->score > y->score ? -1 : 1) : (x->id > y->id) - (x->id < y->id);
}

/* Every way to join two tokens into this one, all of one rank. Counts only where `merges` is NULL. */
static size_t add_joins(const struct vocab *v, int32_t id, uint32_t rank, struct merges *merges)
{
    const struct vocab_entry *e = &v->entries[id];
    size_t found = 0, step;

    for (size_t at = 0; at < e->text_bytes; at += step) {
        int32_t left, right;
        utf8_decode(e->text + at, e->text_bytes - at, &step);
        if (at == 0)
            continue;
        left = vocab_find(v, e->text, at);
        right = left < 0 ? -1 : vocab_find(v, e->text + at, e->text_bytes - at);
        if (right < 0)
            continue;
        found++;
        if (merges)
            merges_add(merges, left, right, rank, id);
    }
    return found;
}

static enum status merges_from_scores(struct tokenizer *t, const struct gguf *g, const struct gguf_value *types,
                                      struct err *err)
{
    const struct gguf_value *scores;
    enum status st = find_array(g, "tokenizer.ggml.scores", false, &scores, err);
    struct scored *order;
    size_t n = 0, joins = 0;
    uint32_t rank = 0;

    if (st != ST_OK)
        return st;
    if (scores->count != (uint64_t)t->vocab.size)
        return err_set(err, ST_EINVAL, "tokenizer.ggml.scores is not one number for each token");
    order = mem_zero((size_t)t->vocab.size + 1, sizeof order[0]);
    for (int32_t id = 0; id < t->vocab.size; id++)
        if (token_type(types, id) == TYPE_NORMAL && !isnan(gguf_item_num(scores, (uint64_t)id)))
            order[n++] = (struct scored){ gguf_item_num(scores, (uint64_t)id), id };
    qsort(order, n, sizeof order[0], score_order);
    for (size_t i = 0; i < n; i++)
        joins += add_joins(&t->vocab, order[i].id, 0, NULL);
    merges_init(&t->merges, &t->arena, joins);
    for (size_t i = 0; i < n; i++) {
        rank += i > 0 && order[i].score != order[i - 1].score;
        add_joins(&t->vocab, order[i].id, rank, &t->merges);
    }
    free(order);
    return ST_OK;
}

/* Blanks become U+2581, and one stands before every piece of text, as SentencePiece's dummy prefix does. */
static enum status add_blanks(struct tokenizer *t, bool prefix, struct err *err)
{
    struct normal_step prepend = { .kind = NORMAL_PREPEND, .with = META_SPACE, .with_bytes = META_BYTES };
    struct normal_step replace = { .kind = NORMAL_REPLACE, .with = META_SPACE, .with_bytes = META_BYTES };
    enum status st = prefix ? normal_add(&t->normal, &t->arena, &prepend, err) : ST_OK;

    if (st == ST_OK)
        st = splitter_add(&t->normal.patterns, &t->arena, " ", 1, true, SPLIT_ISOLATED, false, err);
    return st == ST_OK ? normal_add(&t->normal, &t->arena, &replace, err) : st;
}

static enum status build_sentencepiece(struct tokenizer *t, const struct gguf *g, struct err *err)
{
    const struct gguf_value *types;
    bool prefix = true;
    int64_t unknown = -1;
    enum status st = read_types(t, g, &types, err);

    if (st != ST_OK)
        return st;
    gguf_bool(g, "tokenizer.ggml.add_space_prefix", &prefix);
    gguf_int(g, "tokenizer.ggml.unknown_token_id", &unknown);
    t->byte_fallback = true;
    t->strip_lead = prefix;
    t->unknown_id = unknown >= 0 && unknown < t->vocab.size ? (int32_t)unknown : -1;
    t->fuse_unknown = true;
    tokenizer_find_bytes(t);
    st = add_blanks(t, prefix, err);
    return st == ST_OK ? merges_from_scores(t, g, types, err) : st;
}

enum status tokenizer_from_gguf(struct tokenizer *t, const struct gguf *g, struct err *err)
{
    size_t bytes;
    const char *model = gguf_string(g, "tokenizer.ggml.model", &bytes);
    bool byte_level = model && bytes == 4 && memcmp(model, "gpt2", 4) == 0;
    bool sentencepiece = model && bytes == 5 && memcmp(model, "llama", 5) == 0;
    enum status st;

    if (!byte_level && !sentencepiece)
        return err_set(err, ST_EUNIMPLEMENTED, "tokenizer.ggml.model is missing or unknown; gpt2 and llama are read");
    st = read_tokens(t, g, err);
    if (st == ST_OK)
        st = byte_level ? build_byte_level(t, g, err) : build_sentencepiece(t, g, err);
    if (st != ST_OK)
        return st;
    tokenizer_make_pieces(t);
    return ST_OK;
}
