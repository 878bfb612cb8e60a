/* SPDX-License-Identifier: Apache-2.0 */
/*
 * options.c - the option table of a press, read from and written as the text of a chain.
 *
 *      "window=032" ──options_store──▶ struct { int64_t window; ... } ──options_text──▶ "window=32"
 *
 * Writing gives every value its shortest form and leaves defaults out, so that two texts that mean the same become the
 * same. The table is common/base/opt.h's, with two readings of its own: OPT_LIST is numbers with `/` between them, and
 * an OPT_FLOAT that has `words` takes that word as NaN ("auto").
 */
#include "presses/options.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { VALUE_SHOWN = 40 }; /* bytes of a wrong value in a sentence */

static void *place_of(const struct opt *row, void *options)
{
    return (char *)options + row->offset;
}

void *options_open(const struct press *p, struct arena *arena)
{
    void *options = arena_alloc(arena, p->options_bytes ? p->options_bytes : 1);

    for (size_t i = 0; i < p->option_count; i++)
        if (p->options[i].fallback)
            (void)options_store(p, &p->options[i], options, p->options[i].fallback, arena, NULL);
    return options;
}

const struct opt *options_find(const struct press *p, const char *name)
{
    for (size_t i = p->has_value ? 1 : 0; i < p->option_count; i++)
        if (strcmp(p->options[i].name, name) == 0)
            return &p->options[i];
    return NULL;
}

void options_allowed(const struct opt *row, struct text *out)
{
    if (row->value && row->type != OPT_TEXT)
        text_puts(out, row->value);
    else if (row->type == OPT_INT)
        text_printf(out, "a whole number from %.0f to %.0f", row->min, row->max);
    else if (row->type == OPT_FLOAT)
        text_printf(out, "a number from %g to %g", row->min, row->max);
    else if (row->type == OPT_FLAG)
        text_puts(out, "on or off");
    else if (row->type == OPT_LIST)
        text_puts(out, "numbers with / between them");
    else if (row->type == OPT_WORD)
        for (const char *s = row->words; *s; s++)
            text_printf(out, *s == '|' ? " or " : "%c", *s);
    else
        text_puts(out, "a name");
}

/* The index of `word` in "a|b|c", or -1. */
static int64_t word_index(const char *words, const char *word)
{
    size_t bytes = strlen(word);
    int64_t index = 0;

    for (;; index++) {
        size_t n = strcspn(words, "|");

        if (n == bytes && memcmp(words, word, n) == 0)
            return index;
        if (!words[n])
            return -1;
        words += n + 1;
    }
}

static const char *word_at(const char *words, int64_t index, size_t *bytes)
{
    while (index-- > 0)
        words += strcspn(words, "|") + 1;
    *bytes = strcspn(words, "|");
    return words;
}

/* Minus zero is zero: equal presses have one text. */
static bool store_number(const struct opt *row, const char *text, double *out)
{
    if (!text_to_f64(text, row->min, row->max, out))
        return false;
    *out += 0.0;
    return true;
}

static bool store_numbers(const struct opt *row, struct press_numbers *out, const char *text, struct arena *arena)
{
    struct press_numbers list = { NULL, 1 };
    double *value;

    for (const char *s = text; *s; s++)
        list.count += *s == '/';
    value = arena_array(arena, list.count, sizeof *value);
    for (size_t i = 0; i < list.count; i++) {
        size_t bytes = strcspn(text, "/");

        if (!store_number(row, arena_strndup(arena, text, bytes), &value[i]))
            return false;
        text += bytes + 1;
    }
    list.value = value;
    *out = list;
    return true;
}

static bool store(const struct opt *row, void *at, const char *value, struct arena *arena)
{
    switch (row->type) {
    case OPT_ONCE:
    case OPT_TEXT:
        *(const char **)at = arena_strdup(arena, value);
        return value[0] != '\0';
    case OPT_LIST:
        return store_numbers(row, at, value, arena);
    case OPT_INT:
        return text_to_i64(value, (int64_t)row->min, (int64_t)row->max, at);
    case OPT_FLOAT:
        if (row->words && strcmp(row->words, value) == 0) {
            *(double *)at = NAN;
            return true;
        }
        return store_number(row, value, at);
    case OPT_FLAG:
        *(bool *)at = strcmp(value, "on") == 0;
        return *(bool *)at || strcmp(value, "off") == 0;
    case OPT_WORD:
        *(int64_t *)at = word_index(row->words, value);
        return *(int64_t *)at >= 0;
    }
    return false;
}

enum status options_store(const struct press *p, const struct opt *row, void *options, const char *value,
                          struct arena *arena, struct err *err)
{
    const int cut = (int)utf8_prefix(value, strnlen(value, VALUE_SHOWN));
    struct text allowed = { 0 };
    enum status st = ST_OK;

    if (store(row, place_of(row, options), value, arena))
        return ST_OK;
    options_allowed(row, &allowed);
    if (p->has_value && row == p->options)
        st = err_set(err, ST_EINVAL, "%s: \"%.*s\" is not %s", p->name, cut, value, text_str(&allowed));
    else
        st = err_set(err, ST_EINVAL, "%s: %s is %s, not \"%.*s\"", p->name, row->name, text_str(&allowed), cut, value);
    text_fini(&allowed);
    return st;
}

/* The shortest decimal that reads back as the same double; a whole number is written out. */
static void put_number(struct text *out, double v)
{
    char buf[40];

    for (int digits = 1; digits <= 17; digits++) {
        (void)snprintf(buf, sizeof buf, "%.*g", digits, v);
        if (strtod(buf, NULL) == v)
            break;
    }
    if (strchr(buf, 'e') && fabs(v) >= 1 && fabs(v) < 1e15)
        (void)snprintf(buf, sizeof buf, "%.0f", v);
    text_puts(out, buf);
}

/* As it stands where it is a plain word, else in quotes. */
static void put_text(struct text *out, const char *s)
{
    static const char plain[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_.+-/";
    bool quoted = s[0] == '\0' || s[strspn(s, plain)] != '\0';

    text_printf(out, quoted ? "\"%s\"" : "%s", s);
}

static void put_value(struct text *out, const struct opt *row, const void *at)
{
    const struct press_numbers *list = at;
    const char *word;
    size_t bytes;

    switch (row->type) {
    case OPT_ONCE:
    case OPT_TEXT:
        put_text(out, *(const char *const *)at);
        break;
    case OPT_LIST:
        for (size_t i = 0; i < list->count; i++) {
            text_puts(out, i ? "/" : "");
            put_number(out, list->value[i]);
        }
        break;
    case OPT_INT:
        text_printf(out, "%" PRId64, *(const int64_t *)at);
        break;
    case OPT_FLOAT:
        if (isnan(*(const double *)at))
            text_puts(out, row->words);
        else
            put_number(out, *(const double *)at);
        break;
    case OPT_FLAG:
        text_puts(out, *(const bool *)at ? "on" : "off");
        break;
    case OPT_WORD:
        word = word_at(row->words, *(const int64_t *)at, &bytes);
        text_add(out, word, bytes);
        break;
    }
}

/* Whether the value is the table's default. */
static bool is_default(const struct press *p, const struct opt *row, const void *options)
{
    struct arena arena = { 0 };
    struct text now = { 0 }, usual = { 0 };
    void *fresh;
    bool same;

    if (row->type == OPT_TEXT && !*(const char *const *)((const char *)options + row->offset))
        return true;
    if (!row->fallback)
        return false;
    fresh = options_open(p, &arena);
    put_value(&now, row, (const char *)options + row->offset);
    put_value(&usual, row, place_of(row, fresh));
    same = strcmp(text_str(&now), text_str(&usual)) == 0;
    text_fini(&now);
    text_fini(&usual);
    arena_fini(&arena);
    return same;
}

/* What stands for a value that has no default: FILE, T, ... */
static void put_missing(struct text *out, const struct opt *row)
{
    text_puts(out, row->type == OPT_TEXT ? "F" : "N");
}

void options_text(const struct press *p, const void *options, bool all, struct text *out)
{
    char mark = ':';

    text_puts(out, p->name);
    for (size_t i = 0; i < p->option_count; i++) {
        const struct opt *row = &p->options[i];
        const void *at = (const char *)options + row->offset;
        bool own = p->has_value && i == 0;

        if (!own && !all && is_default(p, row, options))
            continue;
        if (own)
            text_puts(out, "=");
        else
            text_printf(out, "%c%s=", mark, row->name);
        if (!own)
            mark = ',';
        if (all && !row->fallback)
            put_missing(out, row);
        else
            put_value(out, row, at);
    }
}
