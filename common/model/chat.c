/* SPDX-License-Identifier: Apache-2.0 */
/*
 * chat.c - finds the model's chat template and cuts it around the context.
 *
 *   directory   chat_template.jinja, else tokenizer_config.json's "chat_template" (a text, or the one called "default")
 *   GGUF        tokenizer.chat_template
 *   by hand     a JSON file with "prefix" and "suffix"
 */
#include "common/model/chat.h"

#include "common/base/arena.h"
#include "common/base/file.h"
#include "common/model/chat_family.h"
#include "common/model/checkpoint.h"
#include "common/model/gguf.h"
#include "common/model/jsonfile.h"
#include "common/model/split.h"

#include <jansson.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { DATE_MAX = 64 };

struct chat {
    struct arena arena;
    struct chat_shape shape;
};

/* What the files say: the template (NULL: none) and the text of the beginning-of-text token. */
struct source {
    const char *template_text, *bos;
};

/* A special token is a text, or an object with "content". */
static const char *token_text(const json_t *v)
{
    const char *text = json_string_value(json_is_object(v) ? json_object_get(v, "content") : v);

    return text ? text : "";
}

/* "chat_template" may be a list of named ones. */
static const char *template_of(const json_t *v)
{
    const json_t *item;
    size_t i;

    json_array_foreach((json_t *)v, i, item)
    {
        const char *name = json_string_value(json_object_get(item, "name"));
        if (name && strcmp(name, "default") == 0)
            return json_string_value(json_object_get(item, "template"));
    }
    return json_string_value(v);
}

static enum status read_jinja(struct chat *c, const char *dir, struct source *s, struct err *err)
{
    const char *path = arena_printf(&c->arena, "%s/chat_template.jinja", dir);
    struct file f = { 0 };
    enum status st;

    if (!file_exists(path))
        return ST_OK;
    st = file_open(&f, path, err);
    if (st != ST_OK)
        return st;
    s->template_text = arena_strndup(&c->arena, f.data ? (const char *)f.data : "", f.bytes);
    file_close(&f);
    return ST_OK;
}

static enum status source_of_directory(struct chat *c, const char *dir, struct source *s, struct err *err)
{
    json_t *config;
    enum status st = json_read_optional(&config, dir, "tokenizer_config.json", err);
    const char *text;

    if (st != ST_OK)
        return st;
    text = template_of(json_object_get(config, "chat_template"));
    s->template_text = text ? arena_strdup(&c->arena, text) : NULL;
    s->bos = arena_strdup(&c->arena, token_text(json_object_get(config, "bos_token")));
    json_decref(config);
    return read_jinja(c, dir, s, err);
}

static void source_of_gguf(struct chat *c, const struct gguf *g, struct source *s)
{
    const struct gguf_value *tokens = gguf_find(g, "tokenizer.ggml.tokens");
    size_t bytes;
    const char *text = gguf_string(g, "tokenizer.chat_template", &bytes);
    int64_t bos = -1;

    s->template_text = text ? arena_strndup(&c->arena, text, bytes) : NULL;
    s->bos = "";
    if (!gguf_int(g, "tokenizer.ggml.bos_token_id", &bos) || !tokens || bos < 0 || (uint64_t)bos >= tokens->count)
        return;
    struct cursor at = gguf_strings(tokens);
    for (int64_t i = 0; i <= bos; i++)
        text = gguf_next_string(&at, &bytes);
    if (text)
        s->bos = arena_strndup(&c->arena, text, bytes);
}

static enum status read_by_hand(struct chat *c, const char *path, struct err *err)
{
    struct file f = { 0 };
    json_t *doc = NULL;
    const char *prefix, *suffix;
    enum status st = file_open(&f, path, err);

    if (st != ST_OK)
        return st;
    st = json_parse(&doc, f.data ? (const char *)f.data : "", f.bytes, err);
    file_close(&f);
    if (st != ST_OK) {
        err_prefix(err, "%s", path);
        return st;
    }
    prefix = json_string_value(json_object_get(doc, "prefix"));
    suffix = json_string_value(json_object_get(doc, "suffix"));
    if (prefix && suffix)
        c->shape = (struct chat_shape){ .name = "file",
                                        .prefix = arena_strdup(&c->arena, prefix),
                                        .suffix = arena_strdup(&c->arena, suffix) };
    else
        st = err_set(err, ST_EINVAL, "%s: \"prefix\" and \"suffix\" must be texts", path);
    json_decref(doc);
    return st;
}

static enum status read_from_model(struct chat *c, const struct checkpoint *model, struct err *err)
{
    struct source s = { 0 };
    enum status st = ST_OK;

    if (checkpoint_gguf(model))
        source_of_gguf(c, checkpoint_gguf(model), &s);
    else
        st = source_of_directory(c, checkpoint_path(model), &s, err);
    if (st != ST_OK)
        return st;
    if (!s.template_text) {
        c->shape = (struct chat_shape){ .name = "none", .prefix = s.bos, .suffix = "\n" };
        return ST_OK;
    }
    if (chat_recognise(&c->shape, s.template_text, s.bos, &c->arena))
        return ST_OK;
    return err_set(err, ST_EINVAL,
                   "%s: the chat template is not one that is known; give its turns with --chat-template FILE, a JSON "
                   "with \"prefix\" and \"suffix\"",
                   checkpoint_path(model));
}

enum status chat_open(struct chat **out, const struct checkpoint *model, const char *file, struct err *err)
{
    struct chat *c = mem_zero(1, sizeof *c);
    enum status st = file ? read_by_hand(c, file, err) : read_from_model(c, model, err);

    if (st != ST_OK) {
        chat_close(c);
        return st;
    }
    *out = c;
    return ST_OK;
}

void chat_close(struct chat *chat)
{
    if (!chat)
        return;
    arena_fini(&chat->arena);
    free(chat);
}

const char *chat_name(const struct chat *chat)
{
    return chat->shape.name;
}

/* Templates of some families show the model the date of the request. */
static void add_date(const struct chat_shape *shape, struct text *out)
{
    time_t now = time(NULL);
    char date[DATE_MAX];
    struct tm local;

    if (!shape->date_format)
        return;
    localtime_r(&now, &local);
    text_add(out, date, strftime(date, sizeof date, shape->date_format, &local));
    text_puts(out, shape->after_date);
}

/* How many bytes of white space the text begins with. */
static size_t leading_space(const char *text, size_t bytes)
{
    size_t at = 0, step;

    while (at < bytes && split_is_space(utf8_decode(text + at, bytes - at, &step)))
        at += step;
    return at;
}

size_t chat_context(const struct chat *chat, const char *context, size_t bytes, struct text *out,
                    struct tok_span *special)
{
    size_t begin = out->bytes, skip = chat->shape.trim ? leading_space(context, bytes) : 0;
    size_t hashes = 0;

    text_puts(out, chat->shape.prefix);
    add_date(&chat->shape, out);
    *special = (struct tok_span){ begin, out->bytes };
    while (strcmp(chat->shape.name, "none") != 0 && hashes < bytes - skip && context[bytes - 1 - hashes] == '#')
        hashes++;
    text_add(out, context + skip, bytes - skip - hashes);
    return hashes;
}

void chat_question(const struct chat *chat, size_t hashes, const char *question, size_t question_bytes,
                   const char *answer_prefix, size_t answer_prefix_bytes, struct text *out, struct tok_span *special)
{
    text_add(out, question, question_bytes);
    for (size_t i = 0; i < hashes; i++)
        text_add(out, "#", 1);
    special->from = out->bytes;
    text_puts(out, chat->shape.suffix);
    special->to = out->bytes;
    text_add(out, answer_prefix, answer_prefix_bytes);
}
