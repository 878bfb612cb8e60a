/* SPDX-License-Identifier: Apache-2.0 */
/*
 * tok_json.c - a tokenizer from tokenizer.json, the file of the `tokenizers` library.
 *
 *   added_tokens · normalizer · pre_tokenizer · model (BPE) · decoder
 *
 * Each part is an object with a "type"; "Sequence" holds a list of such. What this program cannot do exactly as the library
 * does is refused by name, never left out. The post_processor adds tokens at the ends, which no caller here wants.
 */
#include "common/model/tokenizer_parts.h"

#include "common/base/bytes.h"
#include "common/model/jsonfile.h"

#include <jansson.h>
#include <string.h>

enum { SEQUENCE_DEPTH_MAX = 4 };

static const char *type_of(const json_t *part)
{
    const char *type = json_string_value(json_object_get(part, "type"));

    return type ? type : "";
}

static bool flag_of(const json_t *part, const char *key, bool fallback)
{
    const json_t *v = json_object_get(part, key);

    return json_is_boolean(v) ? json_is_true(v) : fallback;
}

static enum status refuse(const char *what, const json_t *part, struct err *err)
{
    return err_set(err, ST_EUNIMPLEMENTED, "%s \"%.64s\" is not built", what, type_of(part));
}

/* Calls `add` for the part, or for each part of a Sequence. */
static enum status each(struct tokenizer *t, const json_t *part, const char *list,
                        enum status (*add)(struct tokenizer *t, const json_t *part, struct err *err), int depth,
                        struct err *err)
{
    const json_t *items = json_object_get(part, list);
    enum status st = ST_OK;

    if (!part || json_is_null(part))
        return ST_OK;
    if (!json_is_object(part) || depth > SEQUENCE_DEPTH_MAX)
        return err_set(err, ST_EINVAL, "%s: a part is not an object, or lies too deep", list);
    if (strcmp(type_of(part), "Sequence") != 0)
        return add(t, part, err);
    for (size_t i = 0; st == ST_OK && i < json_array_size(items); i++)
        st = each(t, json_array_get(items, i), list, add, depth + 1, err);
    return st;
}

/* {"Regex": ...} or {"String": ...} */
static enum status pattern_of(const json_t *part, const char **text, size_t *bytes, bool *is_literal, struct err *err)
{
    const json_t *pattern = json_object_get(part, "pattern");
    const json_t *regex = json_object_get(pattern, "Regex");
    const json_t *string = json_object_get(pattern, "String");

    *is_literal = !regex;
    *text = json_string_value(regex ? regex : string);
    *bytes = json_string_length(regex ? regex : string);
    return *text ? ST_OK : err_set(err, ST_EINVAL, "%s has no pattern", type_of(part));
}

static enum status add_replace(struct tokenizer *t, const json_t *part, struct err *err)
{
    const json_t *content = json_object_get(part, "content");
    struct normal_step step = { .kind = NORMAL_REPLACE,
                                .with = json_string_value(content),
                                .with_bytes = json_string_length(content),
                                .pattern = t->normal.patterns.count };
    const char *pattern;
    size_t bytes;
    bool is_literal;
    enum status st = pattern_of(part, &pattern, &bytes, &is_literal, err);

    if (st != ST_OK)
        return st;
    if (!step.with)
        return err_set(err, ST_EINVAL, "normalizer Replace has no content");
    st = splitter_add(&t->normal.patterns, &t->arena, pattern, bytes, is_literal, SPLIT_ISOLATED, false, err);
    return st == ST_OK ? normal_add(&t->normal, &t->arena, &step, err) : st;
}

static enum status add_normalizer(struct tokenizer *t, const json_t *part, struct err *err)
{
    static const char *const forms[] = { "NFC", "NFD", "NFKC", "NFKD" };
    const char *type = type_of(part);
    struct normal_step step = { 0 };

    for (size_t i = 0; i < ARRAY_LEN(forms); i++)
        if (strcmp(type, forms[i]) == 0) {
            step.kind = (enum normal_kind)(NORMAL_NFC + i);
            return normal_add(&t->normal, &t->arena, &step, err);
        }
    if (strcmp(type, "Replace") == 0)
        return add_replace(t, part, err);
    if (strcmp(type, "Prepend") == 0) {
        const json_t *prepend = json_object_get(part, "prepend");
        step = (struct normal_step){ .kind = NORMAL_PREPEND,
                                     .with = json_string_value(prepend),
                                     .with_bytes = json_string_length(prepend) };
        return step.with ? normal_add(&t->normal, &t->arena, &step, err)
                         : err_set(err, ST_EINVAL, "normalizer Prepend has no text");
    }
    if (strcmp(type, "Strip") == 0) {
        step = (struct normal_step){ .kind = NORMAL_STRIP,
                                     .left = flag_of(part, "strip_left", true),
                                     .right = flag_of(part, "strip_right", true) };
        return normal_add(&t->normal, &t->arena, &step, err);
    }
    return refuse("normalizer", part, err);
}

static enum status split_mode_of(const json_t *part, enum split_mode *out, struct err *err)
{
    static const char *const words[] = { "Isolated", "Removed", "MergedWithPrevious", "MergedWithNext", "Contiguous" };
    const char *word = json_string_value(json_object_get(part, "behavior"));

    for (size_t i = 0; word && i < ARRAY_LEN(words); i++)
        if (strcmp(word, words[i]) == 0) {
            *out = (enum split_mode)i;
            return ST_OK;
        }
    return err_set(err, ST_EINVAL, "pre_tokenizer Split has no behavior that is known");
}

static enum status add_split(struct tokenizer *t, const json_t *part, struct err *err)
{
    enum split_mode mode = SPLIT_ISOLATED;
    const char *pattern;
    size_t bytes;
    bool is_literal;
    enum status st = pattern_of(part, &pattern, &bytes, &is_literal, err);

    if (st == ST_OK)
        st = split_mode_of(part, &mode, err);
    if (st != ST_OK)
        return st;
    return splitter_add(&t->splitter, &t->arena, pattern, bytes, is_literal, mode, flag_of(part, "invert", false), err);
}

static enum status add_regex(struct tokenizer *t, const char *pattern, enum split_mode mode, bool invert,
                             struct err *err)
{
    return splitter_add(&t->splitter, &t->arena, pattern, strlen(pattern), false, mode, invert, err);
}

/* A blank in front is put before the text is cut, so only the first part of a sequence may ask for it. */
static enum status ask_lead(struct tokenizer *t, const json_t *part, enum lead lead, const char *text, struct err *err)
{
    if (t->splitter.count || t->metaspace || t->lead != LEAD_NEVER)
        return err_set(err, ST_EUNIMPLEMENTED, "pre_tokenizer %s after another one is not built", type_of(part));
    t->lead = lead;
    t->lead_text = text;
    return ST_OK;
}

static enum status add_byte_level(struct tokenizer *t, const json_t *part, struct err *err)
{
    enum status st = ST_OK;

    t->byte_level = true;
    if (flag_of(part, "add_prefix_space", true))
        st = ask_lead(t, part, LEAD_ALWAYS, " ", err);
    if (st == ST_OK && flag_of(part, "use_regex", true))
        st = add_regex(t, "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+",
                       SPLIT_ISOLATED, false, err);
    return st;
}

static enum status add_metaspace(struct tokenizer *t, const json_t *part, struct err *err)
{
    const char *mark = json_string_value(json_object_get(part, "replacement"));
    const char *scheme = json_string_value(json_object_get(part, "prepend_scheme"));
    bool old_lead = flag_of(part, "add_prefix_space", true);
    enum lead lead = old_lead ? LEAD_ALWAYS : LEAD_NEVER;
    enum status st;

    if (!mark || strcmp(mark, META_SPACE) != 0)
        return err_set(err, ST_EUNIMPLEMENTED, "pre_tokenizer Metaspace with another mark than U+2581 is not built");
    if (scheme)
        lead = strcmp(scheme, "always") == 0 ? LEAD_ALWAYS : strcmp(scheme, "first") == 0 ? LEAD_FIRST : LEAD_NEVER;
    st = ask_lead(t, part, lead, META_SPACE, err);
    if (st != ST_OK)
        return st;
    t->metaspace = true;
    if (!flag_of(part, "split", true))
        return ST_OK;
    return splitter_add(&t->splitter, &t->arena, META_SPACE, META_BYTES, true, SPLIT_MERGED_NEXT, false, err);
}

static enum status add_pre_tokenizer(struct tokenizer *t, const json_t *part, struct err *err)
{
    const char *type = type_of(part);

    if (strcmp(type, "Split") == 0)
        return add_split(t, part, err);
    if (strcmp(type, "ByteLevel") == 0)
        return add_byte_level(t, part, err);
    if (strcmp(type, "Digits") == 0)
        return add_regex(t, "\\p{N}", flag_of(part, "individual_digits", false) ? SPLIT_ISOLATED : SPLIT_CONTIGUOUS,
                         false, err);
    if (strcmp(type, "Punctuation") == 0)
        return add_regex(t, "[!-/:-@\\[-`{-~\\p{P}]", SPLIT_ISOLATED, false, err);
    if (strcmp(type, "WhitespaceSplit") == 0)
        return add_regex(t, "\\s", SPLIT_REMOVED, false, err);
    if (strcmp(type, "Metaspace") == 0)
        return add_metaspace(t, part, err);
    return refuse("pre_tokenizer", part, err);
}

/* Only what changes the text of an answer matters: which kinds of pieces there are follows from the vocabulary. */
static enum status add_decoder(struct tokenizer *t, const json_t *part, struct err *err)
{
    static const char *const plain[] = { "ByteLevel", "ByteFallback", "Fuse", "Replace" };
    const char *type = type_of(part);

    for (size_t i = 0; i < ARRAY_LEN(plain); i++)
        if (strcmp(type, plain[i]) == 0)
            return ST_OK;
    if (strcmp(type, "Metaspace") == 0) {
        const char *scheme = json_string_value(json_object_get(part, "prepend_scheme"));
        t->strip_lead = scheme ? strcmp(scheme, "never") != 0 : flag_of(part, "add_prefix_space", true);
        return ST_OK;
    }
    if (strcmp(type, "Strip") == 0) {
        t->strip_lead = json_integer_value(json_object_get(part, "start")) > 0;
        return ST_OK;
    }
    return refuse("decoder", part, err);
}

static enum status read_id(const json_t *v, const char *text, int32_t *out, struct err *err)
{
    json_int_t id = json_is_integer(v) ? json_integer_value(v) : -1;

    if (id < 0 || id >= VOCAB_IDS_MAX)
        return err_set(err, ST_EINVAL, "token \"%.64s\" has no id between 0 and %d", text, VOCAB_IDS_MAX - 1);
    *out = (int32_t)id;
    return ST_OK;
}

static bool within(int32_t id, int32_t limit)
{
    return limit == 0 || id < limit;
}

/* The number of ids: one more than the largest. */
static enum status count_ids(const json_t *vocab, const json_t *added, int32_t limit, int32_t *out, struct err *err)
{
    const char *text;
    json_t *v;
    size_t i;
    int32_t id = 0;

    *out = 0;
    json_object_foreach((json_t *)vocab, text, v)
    {
        enum status st = read_id(v, text, &id, err);
        if (st != ST_OK)
            return st;
        *out = id >= *out ? id + 1 : *out;
    }
    json_array_foreach((json_t *)added, i, v)
    {
        enum status st = read_id(json_object_get(v, "id"), "added_tokens", &id, err);
        if (st != ST_OK)
            return st;
        if (within(id, limit))
            *out = id >= *out ? id + 1 : *out;
    }
    return ST_OK;
}

static enum status read_vocab(struct tokenizer *t, const json_t *vocab, const json_t *added, int32_t limit,
                              struct err *err)
{
    const char *text;
    size_t bytes;
    json_t *v;
    void *at;
    int32_t size;
    enum status st;

    if (!json_is_object(vocab))
        return err_set(err, ST_EINVAL, "model.vocab is not an object");
    st = count_ids(vocab, added, limit, &size, err);
    if (st != ST_OK)
        return st;
    vocab_init(&t->vocab, &t->arena, size);
    for (at = json_object_iter((json_t *)vocab); at; at = json_object_iter_next((json_t *)vocab, at)) {
        int32_t id;
        v = json_object_iter_value(at);
        text = json_object_iter_key(at);
        bytes = strlen(text);
        id = (int32_t)json_integer_value(v);
        if (t->vocab.entries[id].text)
            return err_set(err, ST_EINVAL, "model.vocab gives id %d to two tokens", id);
        vocab_set(&t->vocab, id, arena_strndup(&t->arena, text, bytes), bytes);
    }
    return ST_OK;
}

/* Special tokens beyond the model's vocabulary would index past its embedding: they stay plain text. */
static enum status read_added(struct tokenizer *t, const json_t *added, int32_t limit, struct err *err)
{
    const json_t *item;
    size_t i;

    json_array_foreach((json_t *)added, i, item)
    {
        const json_t *content = json_object_get(item, "content");
        const char *text = json_string_value(content);
        size_t bytes = json_string_length(content);
        struct added_token token = { .id = (int32_t)json_integer_value(json_object_get(item, "id")) };
        struct vocab_entry *e;
        if (!text || bytes == 0)
            return err_set(err, ST_EINVAL, "added_tokens: token %zu has no content", i);
        if (!within(token.id, limit))
            continue;
        e = &t->vocab.entries[token.id];
        if (!e->text)
            vocab_set(&t->vocab, token.id, arena_strndup(&t->arena, text, bytes), bytes);
        else if (e->text_bytes != bytes || memcmp(e->text, text, bytes) != 0)
            return err_set(err, ST_EINVAL, "added_tokens gives id %d to \"%.64s\", model.vocab to \"%.64s\"", token.id,
                           text, e->text);
        token.special = flag_of(item, "special", false);
        token.lstrip = flag_of(item, "lstrip", false);
        token.rstrip = flag_of(item, "rstrip", false);
        token.single_word = flag_of(item, "single_word", false);
        tokenizer_add_token(t, &token, flag_of(item, "normalized", true));
    }
    return ST_OK;
}

/* One merge: "left right", or ["left", "right"] where texts hold blanks. */
static enum status read_merge(struct tokenizer *t, const json_t *merge, uint32_t rank, struct err *err)
{
    const char *whole = json_string_value(merge);
    const char *left = json_string_value(json_array_get(merge, 0)),
               *right = json_string_value(json_array_get(merge, 1));
    size_t left_bytes = json_string_length(json_array_get(merge, 0));
    size_t right_bytes = json_string_length(json_array_get(merge, 1));
    int32_t a, b, joined;
    char *text;

    if (whole) {
        right = memchr(whole, ' ', json_string_length(merge));
        left = right ? whole : NULL;
        left_bytes = right ? (size_t)(right - whole) : 0;
        right_bytes = right ? json_string_length(merge) - left_bytes - 1 : 0;
        right = right ? right + 1 : NULL;
    }
    if (!left || !right || left_bytes == 0 || right_bytes == 0)
        return err_set(err, ST_EINVAL, "model.merges: merge %u is not two texts", rank);
    text = arena_alloc(&t->arena, left_bytes + right_bytes);
    memcpy(text, left, left_bytes);
    memcpy(text + left_bytes, right, right_bytes);
    a = vocab_find(&t->vocab, left, left_bytes);
    b = vocab_find(&t->vocab, right, right_bytes);
    joined = vocab_find(&t->vocab, text, left_bytes + right_bytes);
    if (a < 0 || b < 0 || joined < 0)
        return err_set(err, ST_EINVAL, "model.merges: merge %u (%.40s, %.40s) names a text that is no token", rank,
                       left, right);
    merges_add(&t->merges, a, b, rank, joined);
    return ST_OK;
}

static enum status read_merges(struct tokenizer *t, const json_t *merges, struct err *err)
{
    size_t count = json_array_size(merges);
    enum status st = ST_OK;

    if (!json_is_array(merges) || count > VOCAB_IDS_MAX)
        return err_set(err, ST_EINVAL, "model.merges is not an array of merges");
    merges_init(&t->merges, &t->arena, count);
    for (size_t i = 0; st == ST_OK && i < count; i++)
        st = read_merge(t, json_array_get(merges, i), (uint32_t)i, err);
    return st;
}

static bool has_text(const json_t *v)
{
    return json_string_length(v) > 0;
}

static enum status check_model(const json_t *model, struct err *err)
{
    const json_t *type = json_object_get(model, "type");

    if (!json_is_object(model))
        return err_set(err, ST_EINVAL, "model is missing");
    if (type && strcmp(type_of(model), "BPE") != 0)
        return err_set(err, ST_EUNIMPLEMENTED, "model \"%.64s\" is not built; BPE is", type_of(model));
    if (has_text(json_object_get(model, "continuing_subword_prefix")) ||
        has_text(json_object_get(model, "end_of_word_suffix")))
        return err_set(err, ST_EUNIMPLEMENTED, "continuing_subword_prefix and end_of_word_suffix are not built");
    if (json_number_value(json_object_get(model, "dropout")) > 0)
        return err_set(err, ST_EUNIMPLEMENTED, "model.dropout makes ids random; it is not built");
    return ST_OK;
}

static void read_choices(struct tokenizer *t, const json_t *model)
{
    const json_t *unknown = json_object_get(model, "unk_token");

    t->byte_fallback = flag_of(model, "byte_fallback", false);
    t->ignore_merges = flag_of(model, "ignore_merges", false);
    t->fuse_unknown = flag_of(model, "fuse_unk", false);
    if (json_is_string(unknown))
        t->unknown_id = vocab_find(&t->vocab, json_string_value(unknown), json_string_length(unknown));
}

static enum status read_parts(struct tokenizer *t, const json_t *doc, int32_t limit, struct err *err)
{
    const json_t *model = json_object_get(doc, "model");
    const json_t *added = json_object_get(doc, "added_tokens");
    enum status st = check_model(model, err);

    if (st == ST_OK)
        st = read_vocab(t, json_object_get(model, "vocab"), added, limit, err);
    if (st == ST_OK)
        st = read_merges(t, json_object_get(model, "merges"), err);
    if (st == ST_OK)
        st = each(t, json_object_get(doc, "normalizer"), "normalizers", add_normalizer, 0, err);
    if (st == ST_OK)
        st = each(t, json_object_get(doc, "pre_tokenizer"), "pretokenizers", add_pre_tokenizer, 0, err);
    if (st == ST_OK)
        st = each(t, json_object_get(doc, "decoder"), "decoders", add_decoder, 0, err);
    if (st != ST_OK)
        return st;
    read_choices(t, model);
    tokenizer_find_bytes(t);
    st = read_added(t, added, limit, err);
    if (st == ST_OK)
        tokenizer_make_pieces(t);
    return st;
}

enum status tokenizer_from_json(struct tokenizer *t, const char *json, size_t bytes, int32_t limit, struct err *err)
{
    json_t *doc = NULL;
    enum status st = json_parse(&doc, json, bytes, err);

    if (st != ST_OK)
        return st;
    st = read_parts(t, doc, limit, err);
    json_decref(doc);
    return st;
}
