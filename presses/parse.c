/* SPDX-License-Identifier: Apache-2.0 */
/*
 * parse.c - the words of a press text: names, values, options. What may stand after what is plan.c's business.
 *
 *      press = part [ ";" part ]     part  = stage { "|" stage }
 *      stage = name [ "=" value ] [ ":" key "=" value { "," key "=" value } ]
 *      value = word | text in double quotes
 *
 * A wrong text gets three lines: a sentence that names the word and what was expected, the text, a caret below the word:
 *
 *      unknown press "snapkw"; did you mean snapkv?
 *      snapkw:window=32 | ratio=0.5
 *      ^
 */
#include "presses/chain_parts.h"
#include "presses/files.h"
#include "presses/options.h"

#include <ctype.h>
#include <string.h>

enum { SHOWN_BEFORE = 800, SHOWN_BYTES = 1000, WORD_SHOWN = 40 };

enum token_kind { TOKEN_WORD, TOKEN_QUOTED, TOKEN_MARK, TOKEN_END, TOKEN_BAD };

struct token {
    enum token_kind kind;
    size_t at, bytes; /* in the text, quotes included */
    char mark;        /* of TOKEN_MARK */
};

struct reader {
    const char *text;
    size_t bytes, at;
    struct press_files *files;
    struct arena *arena;
    struct err *err;
};

/* ---- the three lines --------------------------------------------------------------------------------------------- */

/* Appends text[from, to) so that it fits on one line: blanks and whatever cannot be shown become one column each.
 * Returns the columns. */
static size_t show(struct text *out, const char *text, size_t from, size_t to)
{
    size_t columns = 0;

    while (from < to) {
        size_t len;
        int32_t code = utf8_decode(text + from, to - from, &len);

        if (code < 0 || code == 0x7f)
            text_puts(out, "?");
        else if (code < 0x20)
            text_puts(out, code == '\t' || code == '\n' || code == '\r' ? " " : "?");
        else
            text_add(out, text + from, len);
        from += len;
        columns++;
    }
    return columns;
}

/* The nearest place at or before `at` where a character begins. */
static size_t whole(const char *text, size_t at)
{
    while (at > 0 && ((unsigned char)text[at] & 0xc0) == 0x80)
        at--;
    return at;
}

enum status chain_point(struct err *err, const char *text, size_t bytes, size_t at)
{
    size_t from = bytes <= SHOWN_BYTES || at <= SHOWN_BEFORE ? 0 : whole(text, at - SHOWN_BEFORE);
    size_t to = bytes - from <= SHOWN_BYTES ? bytes : whole(text, from + SHOWN_BYTES);
    struct text lines = { 0 };
    size_t columns;

    if (!err)
        return ST_EINVAL;
    text_puts(&lines, from ? "..." : "");
    columns = (from ? 3 : 0) + show(&lines, text, from, at);
    (void)show(&lines, text, at, to);
    text_puts(&lines, to < bytes ? "..." : "");
    text_printf(&lines, "\n%*s^", (int)columns, "");
    {
        struct err whole_err = { 0 };

        (void)err_set(&whole_err, ST_EINVAL, "%s\n%s", err->text, text_str(&lines));
        *err = whole_err;
    }
    text_fini(&lines);
    return ST_EINVAL;
}

/* A word as it may stand in a sentence: cut, and without what cannot be shown. */
static const char *shown(struct reader *r, size_t at, size_t bytes)
{
    struct text t = { 0 };
    const char *s;

    if (bytes > WORD_SHOWN) {
        (void)show(&t, r->text, at, whole(r->text, at + WORD_SHOWN));
        text_puts(&t, "...");
    } else {
        (void)show(&t, r->text, at, at + bytes);
    }
    s = arena_strdup(r->arena, text_str(&t));
    text_fini(&t);
    return s;
}

/* ---- tokens -------------------------------------------------------------------------------------------------- */

static bool is_blank(char c)
{
    return c == ' ' || c == '\t' || c == '\n' || c == '\r';
}

static bool is_mark(char c)
{
    return c == '=' || c == ':' || c == ',' || c == '|' || c == ';';
}

static bool is_word(char c)
{
    return (unsigned char)c > ' ' && c != '"' && c != 0x7f && !is_mark(c);
}

static struct token token_next(struct reader *r)
{
    struct token t = { TOKEN_END, 0, 0, 0 };
    const char *s = r->text;

    while (r->at < r->bytes && is_blank(s[r->at]))
        r->at++;
    t.at = r->at;
    if (r->at == r->bytes)
        return t;
    if (is_mark(s[r->at])) {
        t.kind = TOKEN_MARK;
        t.mark = s[r->at++];
    } else if (s[r->at] == '"') {
        const char *end = memchr(s + r->at + 1, '"', r->bytes - r->at - 1);

        t.kind = end ? TOKEN_QUOTED : TOKEN_BAD;
        r->at = end ? (size_t)(end - s) + 1 : r->bytes;
    } else if (is_word(s[r->at])) {
        t.kind = TOKEN_WORD;
        while (r->at < r->bytes && is_word(s[r->at]))
            r->at++;
    } else {
        t.kind = TOKEN_BAD;
        r->at++;
    }
    t.bytes = r->at - t.at;
    return t;
}

static struct token token_peek(struct reader *r)
{
    size_t at = r->at;
    struct token t = token_next(r);

    r->at = at;
    return t;
}

static bool mark_next(struct reader *r, char mark)
{
    struct token t = token_peek(r);

    if (t.kind != TOKEN_MARK || t.mark != mark)
        return false;
    (void)token_next(r);
    return true;
}

static enum status point(struct reader *r, size_t at)
{
    return chain_point(r->err, r->text, r->bytes, at);
}

/* "expected X", for any token that is not X. */
static enum status unexpected(struct reader *r, const struct token *t, const char *expected)
{
    if (t->kind == TOKEN_END)
        (void)err_set(r->err, ST_EINVAL, "the text ends where %s was expected", expected);
    else if (t->kind == TOKEN_BAD && r->text[t->at] == '"')
        (void)err_set(r->err, ST_EINVAL, "a double quote is opened and never closed; expected %s", expected);
    else
        (void)err_set(r->err, ST_EINVAL, t->kind == TOKEN_QUOTED ? "expected %s, not %s" : "expected %s, not \"%s\"",
                      expected, shown(r, t->at, t->bytes));
    return point(r, t->at);
}

/* ---- stages -------------------------------------------------------------------------------------------------- */

static const char *lower(struct arena *arena, const char *s)
{
    char *out = arena_strdup(arena, s);

    for (char *c = out; *c; c++)
        *c = (char)tolower((unsigned char)*c);
    return out;
}

static enum status unknown_press(struct reader *r, const struct token *t, const char *name)
{
    const char *names[128], *nearest;
    size_t count = 0;
    struct text list = { 0 };

    for (const struct press *p; count < 128 && (p = press_at(count)) != NULL; count++) {
        names[count] = p->name;
        if (press_built(p))
            text_printf(&list, "%s%s", list.bytes ? ", " : "", p->name);
    }
    nearest = text_nearest(lower(r->arena, name), names, count);
    if (nearest)
        (void)err_set(r->err, ST_EINVAL, "unknown press \"%s\"; did you mean %s?", shown(r, t->at, t->bytes), nearest);
    else
        (void)err_set(r->err, ST_EINVAL, "unknown press \"%s\"; the words are %s", shown(r, t->at, t->bytes),
                      text_str(&list));
    text_fini(&list);
    return point(r, t->at);
}

static enum status unknown_option(struct reader *r, const struct press *p, const struct token *t, const char *key)
{
    const char *names[32], *nearest;
    size_t count = 0, skip = p->has_value ? 1 : 0;
    struct text list = { 0 };

    for (size_t i = skip; i < p->option_count && count < 32; i++) {
        names[count++] = p->options[i].name;
        text_printf(&list, "%s%s", i > skip ? ", " : "", p->options[i].name);
    }
    nearest = text_nearest(lower(r->arena, key), names, count);
    if (count == 0)
        (void)err_set(r->err, ST_EINVAL, "%s has no option \"%s\"; it has none at all", p->name,
                      shown(r, t->at, t->bytes));
    else if (nearest)
        (void)err_set(r->err, ST_EINVAL, "%s has no option \"%s\"; did you mean %s?", p->name,
                      shown(r, t->at, t->bytes), nearest);
    else
        (void)err_set(r->err, ST_EINVAL, "%s has no option \"%s\"; it has %s", p->name, shown(r, t->at, t->bytes),
                      text_str(&list));
    text_fini(&list);
    return point(r, t->at);
}

static bool is_shown_text(const char *s, size_t bytes)
{
    for (size_t i = 0; i < bytes; i++)
        if ((unsigned char)s[i] < 0x20 || s[i] == 0x7f)
            return false;
    return utf8_valid(s, bytes);
}

static enum status read_value(struct reader *r, const struct press *p, const struct opt *row, void *options)
{
    struct token t = token_next(r);
    const char *value;

    if (t.kind == TOKEN_WORD) {
        value = arena_strndup(r->arena, r->text + t.at, t.bytes);
    } else if (t.kind == TOKEN_QUOTED && row->type == OPT_TEXT && !memchr(r->text + t.at, '\0', t.bytes)) {
        value = arena_strndup(r->arena, r->text + t.at + 1, t.bytes - 2);
    } else {
        struct text allowed = { 0 };
        enum status st;

        options_allowed(row, &allowed);
        st = unexpected(r, &t, text_str(&allowed));
        text_fini(&allowed);
        return st;
    }
    if (!is_shown_text(r->text + t.at, t.bytes)) {
        (void)err_set(r->err, ST_EINVAL, "%s: a value is UTF-8 text without control characters", p->name);
        return point(r, t.at);
    }
    if (options_store(p, row, options, value, r->arena, r->err) != ST_OK)
        return point(r, t.at);
    return ST_OK;
}

/* `key=value {, key=value}` after the colon. */
static enum status read_options(struct reader *r, const struct press *p, void *options, bool *given, size_t *value_at)
{
    do {
        struct token t = token_next(r);
        const struct opt *row;
        const char *key;
        enum status st;

        if (t.kind != TOKEN_WORD)
            return unexpected(r, &t, arena_printf(r->arena, "the name of an option of %s", p->name));
        key = arena_strndup(r->arena, r->text + t.at, t.bytes);
        row = options_find(p, key);
        if (!row)
            return unknown_option(r, p, &t, key);
        if (given[row - p->options]) {
            (void)err_set(r->err, ST_EINVAL, "%s: %s is given twice", p->name, row->name);
            return point(r, t.at);
        }
        given[row - p->options] = true;
        if (!mark_next(r, '=')) {
            t = token_peek(r);
            return unexpected(r, &t, arena_printf(r->arena, "\"=\" and a value after %s", row->name));
        }
        value_at[row - p->options] = token_peek(r).at;
        st = read_value(r, p, row, options);
        if (st != ST_OK)
            return st;
    } while (mark_next(r, ','));
    return ST_OK;
}

/* What the table asks for beyond single values, and the parameter file. */
static enum status finish_stage(struct reader *r, struct stage_read *s, const bool *given, const size_t *value_at)
{
    const struct press *p = s->stage.press;
    const struct opt *at = NULL;
    enum status st = ST_OK;

    for (size_t i = 0; i < p->option_count; i++)
        if (p->options[i].required && !given[i]) {
            struct text allowed = { 0 };

            options_allowed(&p->options[i], &allowed);
            (void)err_set(r->err, ST_EINVAL, "%s needs %s: %s", p->name, p->options[i].name, text_str(&allowed));
            text_fini(&allowed);
            return point(r, s->at);
        }
    if (p->check && p->check(&s->stage, &at, r->err) != ST_OK)
        return point(r, at && given[at - p->options] ? value_at[at - p->options] : s->at);
    if (p->file_open) {
        const struct opt *row = options_find(p, "file");
        const char *name = *(const char **)((char *)s->stage.options + row->offset);

        if (name)
            st = press_files_find(r->files, name, p, &s->stage.file, r->err);
        if (st != ST_OK) {
            (void)point(r, value_at[row - p->options]);
            return st;
        }
    }
    return ST_OK;
}

static enum status read_stage(struct reader *r, struct stage_read *s)
{
    struct token t = token_next(r);
    bool given[32] = { false };
    size_t value_at[32] = { 0 };
    const struct press *p;
    const char *name;
    enum status st = ST_OK;

    if (t.kind != TOKEN_WORD)
        return unexpected(r, &t, "the name of a press");
    name = arena_strndup(r->arena, r->text + t.at, t.bytes);
    p = strlen(name) == t.bytes ? press_find(name) : NULL;
    if (!p)
        return unknown_press(r, &t, name);
    if (!press_built(p)) {
        (void)err_set(r->err, ST_EINVAL, "\"%s\" is not built yet", p->name);
        return point(r, t.at);
    }
    s->at = t.at;
    s->bytes = t.bytes;
    s->stage.press = p;
    s->stage.options = options_open(p, r->arena);
    if (token_peek(r).kind == TOKEN_MARK && token_peek(r).mark == '=') {
        (void)token_next(r);
        if (!p->has_value) {
            t = token_next(r);
            (void)err_set(r->err, ST_EINVAL, "%s takes no value, not \"%s\"; options stand after a colon", p->name,
                          shown(r, t.at, t.bytes));
            return point(r, t.at);
        }
        given[0] = true;
        st = read_value(r, p, &p->options[0], s->stage.options);
    }
    if (st == ST_OK && p->has_value && !given[0]) {
        struct text allowed = { 0 };

        options_allowed(&p->options[0], &allowed);
        (void)err_set(r->err, ST_EINVAL, "%s needs a value: \"%s=\" and %s", p->name, p->name, text_str(&allowed));
        text_fini(&allowed);
        return point(r, s->at);
    }
    if (st == ST_OK && mark_next(r, ':'))
        st = read_options(r, p, s->stage.options, given, value_at);
    return st == ST_OK ? finish_stage(r, s, given, value_at) : st;
}

static enum status read_part(struct reader *r, struct stage_read *stages, int32_t *count)
{
    struct token t = token_peek(r);

    *count = 0;
    if (t.kind == TOKEN_END || (t.kind == TOKEN_MARK && t.mark == ';'))
        return ST_OK;
    do {
        enum status st;

        t = token_peek(r);
        if (*count == CHAIN_STAGES_MAX) {
            (void)err_set(r->err, ST_EINVAL, "a part has at most %d stages", CHAIN_STAGES_MAX);
            return point(r, t.at);
        }
        st = read_stage(r, &stages[*count]);
        if (st != ST_OK)
            return st;
        (*count)++;
    } while (mark_next(r, '|'));
    return ST_OK;
}

enum status chain_read_text(struct chain_read *out, const char *text, size_t bytes, struct press_files *files,
                            struct arena *arena, struct err *err)
{
    struct reader r = { text, bytes, 0, files, arena, err };
    struct token t;
    enum status st;

    memset(out, 0, sizeof *out);
    if (bytes > CHAIN_TEXT_MAX)
        return err_set(err, ST_EINVAL, "a press has at most %d bytes of text, not %zu", CHAIN_TEXT_MAX, bytes);
    st = read_part(&r, out->part[0], &out->count[0]);
    if (st != ST_OK)
        return st;
    if (mark_next(&r, ';')) {
        out->has_second = true;
        st = read_part(&r, out->part[1], &out->count[1]);
        if (st != ST_OK)
            return st;
    }
    t = token_next(&r);
    if (t.kind == TOKEN_END)
        return ST_OK;
    return unexpected(&r, &t, out->has_second ? "\"|\" or the end" : "\"|\", \";\" or the end");
}
