/* SPDX-License-Identifier: Apache-2.0 */
/* normal.c - Unicode forms through utf8proc (UAX 15), replacement and prefix as SentencePiece-like tokenizers ask. */
#include "common/model/normal.h"

#include <stdlib.h>
#include <string.h>
#include <utf8proc.h>

enum status normal_add(struct normal *n, struct arena *arena, const struct normal_step *step, struct err *err)
{
    if (n->count == NORMAL_STEPS_MAX)
        return err_set(err, ST_EUNIMPLEMENTED, "the tokenizer has more than %d normalisers", NORMAL_STEPS_MAX);
    n->steps[n->count] = *step;
    if (step->with)
        n->steps[n->count].with = arena_strndup(arena, step->with, step->with_bytes);
    n->count++;
    return ST_OK;
}

void normal_fini(struct normal *n)
{
    splitter_fini(&n->patterns);
    memset(n, 0, sizeof *n);
}

static bool is_ascii(const char *text, size_t bytes)
{
    for (size_t i = 0; i < bytes; i++)
        if ((uint8_t)text[i] >= 0x80)
            return false;
    return true;
}

static enum status unicode_form(enum normal_kind kind, const char *text, size_t bytes, struct text *out,
                                struct err *err)
{
    static const utf8proc_option_t forms[] = {
        [NORMAL_NFC] = UTF8PROC_STABLE | UTF8PROC_COMPOSE,
        [NORMAL_NFD] = UTF8PROC_STABLE | UTF8PROC_DECOMPOSE,
        [NORMAL_NFKC] = UTF8PROC_STABLE | UTF8PROC_COMPOSE | UTF8PROC_COMPAT,
        [NORMAL_NFKD] = UTF8PROC_STABLE | UTF8PROC_DECOMPOSE | UTF8PROC_COMPAT,
    };
    utf8proc_uint8_t *made = NULL;
    utf8proc_ssize_t length = utf8proc_map((const utf8proc_uint8_t *)text, (utf8proc_ssize_t)bytes, &made, forms[kind]);

    if (length < 0)
        return err_set(err, ST_EINVAL, "the text cannot be normalised: %s", utf8proc_errmsg(length));
    text_add(out, (const char *)made, (size_t)length);
    free(made);
    return ST_OK;
}

static enum status replace(const struct normal *n, const struct normal_step *step, struct split_work *work,
                           const char *text, size_t bytes, struct text *out, struct err *err)
{
    size_t done = 0;

    for (size_t at = 0; at < bytes;) {
        struct tok_span m;
        bool found;
        enum status st = split_match(&n->patterns.steps[step->pattern], work, text, bytes, at, &m, &found, err);
        if (st != ST_OK)
            return st;
        if (!found)
            break;
        if (m.from < at || m.to <= m.from) {
            size_t next;
            at = m.to > at ? m.to : at;
            if (at < bytes) {
                utf8_decode(text + at, bytes - at, &next);
                at += next;
            }
            continue;
        }
        text_add(out, text + done, m.from - done);
        text_add(out, step->with, step->with_bytes);
        done = at = m.to;
    }
    text_add(out, text + done, bytes - done);
    return ST_OK;
}

static void strip(const struct normal_step *step, const char *text, size_t bytes, struct text *out)
{
    size_t from = 0, keep = 0, len;

    for (size_t at = 0; at < bytes; at += len) {
        bool space = split_is_space(utf8_decode(text + at, bytes - at, &len));
        if (!space)
            keep = at + len;
        if (space && keep == 0)
            from = at + len;
    }
    if (!step->left)
        from = 0;
    if (!step->right)
        keep = bytes;
    if (keep > from)
        text_add(out, text + from, keep - from);
}

static enum status run_step(const struct normal *n, const struct normal_step *step, struct split_work *work,
                            const char *text, size_t bytes, struct text *out, struct err *err)
{
    switch (step->kind) {
    case NORMAL_PREPEND:
        if (bytes)
            text_add(out, step->with, step->with_bytes);
        text_add(out, text, bytes);
        return ST_OK;
    case NORMAL_REPLACE:
        return replace(n, step, work, text, bytes, out, err);
    case NORMAL_STRIP:
        strip(step, text, bytes, out);
        return ST_OK;
    default:
        return unicode_form(step->kind, text, bytes, out, err);
    }
}

enum status normal_run(const struct normal *n, struct split_work *work, const char *text, size_t bytes,
                       struct text buffers[2], const char **out, size_t *out_bytes, struct err *err)
{
    bool ascii = is_ascii(text, bytes);

    for (int i = 0; i < n->count; i++) {
        struct text *to = text == buffers[0].data && buffers[0].data ? &buffers[1] : &buffers[0];
        enum status st;
        if (ascii && n->steps[i].kind <= NORMAL_NFKD)
            continue; /* every form leaves ASCII alone */
        ascii = false;
        text_clear(to);
        st = run_step(n, &n->steps[i], work, text, bytes, to, err);
        if (st != ST_OK)
            return st;
        if (to->bytes > INT32_MAX)
            return err_set(err, ST_EINVAL, "the text grows past 2 GiB when normalised");
        text = text_str(to);
        bytes = to->bytes;
    }
    *out = text;
    *out_bytes = bytes;
    return ST_OK;
}
