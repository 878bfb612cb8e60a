/* SPDX-License-Identifier: Apache-2.0 */
/* sources.c - texts are taken whole, NUL bytes too; ids are whole numbers with white space between. */
#include "client/sources.h"

#include "client/contents.h"
#include "common/base/arena.h"

#include <ctype.h>
#include <stdlib.h>
#include <string.h>

enum status sources_check(const struct source_options *o, bool may_lack, struct err *err)
{
    int contexts = (o->context != NULL) + (o->context_file != NULL) + (o->context_tokens != NULL);

    if (contexts > 1)
        return err_set(err, ST_EINVAL, "give one of --context, --context-file and --context-tokens, not %d", contexts);
    if (contexts == 0 && !may_lack)
        return err_set(err, ST_EINVAL,
                       "no context given: --context TEXT, --context-file FILE or --context-tokens FILE");
    if (o->query && o->query_tokens)
        return err_set(err, ST_EINVAL, "give one of --query and --query-tokens, not both");
    return ST_OK;
}

static enum status parse_ids(struct source *s, const char *path, const struct text *text, struct err *err)
{
    const char *at = text_str(text), *end = at + text->bytes;

    s->token = mem_alloc((text->bytes / 2 + 1) * sizeof *s->token); /* a digit and a blank each, at least */
    for (;;) {
        char word[48] = { 0 };
        size_t bytes = 0;
        int64_t id;

        while (at < end && isspace((unsigned char)*at))
            at++;
        while (at + bytes < end && !isspace((unsigned char)at[bytes]))
            bytes++;
        if (bytes == 0)
            break;
        memcpy(word, at, bytes < sizeof word ? bytes : sizeof word - 1);
        if (bytes >= sizeof word || memchr(word, 0, bytes) || !text_to_i64(word, 0, INT32_MAX, &id))
            return err_set(err, ST_EINVAL, "%s: \"%s\" (word %zu) is not a token id", path, word, s->tokens + 1);
        s->token[s->tokens++] = (int32_t)id;
        at += bytes;
    }
    if (s->tokens == 0)
        return err_set(err, ST_EINVAL, "%s: holds no token ids", path);
    return ST_OK;
}

static enum status source_open(struct source *s, const char *text, const char *file, const char *ids, struct err *err)
{
    struct text words = { 0 };
    enum status st = ST_OK;

    if (text)
        text_puts(&s->text, text);
    else if (file)
        st = contents_read(&s->text, file, err);
    else if (ids)
        st = contents_read(&words, ids, err);
    if (st == ST_OK && ids)
        st = parse_ids(s, ids, &words, err);
    text_fini(&words);
    return st;
}

enum status sources_open(struct source *context, struct source *query, const struct source_options *o, struct err *err)
{
    enum status st;

    memset(context, 0, sizeof *context);
    memset(query, 0, sizeof *query);
    st = source_open(context, o->context, o->context_file, o->context_tokens, err);
    if (st == ST_OK)
        st = source_open(query, o->query, NULL, o->query_tokens, err);
    if (st != ST_OK) {
        source_close(context);
        source_close(query);
    }
    return st;
}

void source_close(struct source *s)
{
    text_fini(&s->text);
    free(s->token);
    memset(s, 0, sizeof *s);
}
