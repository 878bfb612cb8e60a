/* SPDX-License-Identifier: Apache-2.0 */
/*
 * opt.c - one table of options read from a command line or a file, and shown as --help and Markdown.
 *
 *      argv ──▶ line_option ─┐
 *      file ──▶ file_line  ──┴▶ opt_store ──▶ *(type *)(base + row->offset)
 *
 * The last one wins; a list grows with each mention, but the first mention in a source replaces what was there before,
 * so that a list on the command line takes the place of the one in the file, and that the place of the default.
 */
#include "common/base/opt.h"
#include "common/base/bytes.h"
#include "common/base/file.h"

#include <inttypes.h>
#include <math.h>
#include <string.h>

enum { NAMES_MAX = 256, HELP_COLUMN_MAX = 34 };

/* One reading of one source. */
struct reading {
    const struct opt_set *set;
    char *base;
    struct arena *arena;
    const char *dashes; /* how this source writes a name: "--" on a command line, "" in a file */
    const char *kind;   /* "flag" or "option" */
    bool *seen;         /* [set->count] */
};

static struct reading reading_of(const struct opt_set *set, void *base, struct arena *arena, bool line)
{
    struct reading r = { set, base, arena, line ? "--" : "", line ? "flag" : "option", NULL };

    r.seen = arena_array(arena, set->count, sizeof *r.seen);
    return r;
}

static void list_add(struct opt_list *list, const char *item, struct arena *arena)
{
    if ((list->count & (list->count - 1)) == 0) { /* the room is the next power of two */
        const char **grown = arena_array(arena, list->count ? list->count * 2 : 1, sizeof *grown);

        if (list->count)
            memcpy(grown, list->items, list->count * sizeof *grown);
        list->items = grown;
    }
    list->items[list->count++] = item;
}

static const struct opt *row_find(const struct opt_set *set, const char *name, size_t bytes)
{
    for (size_t i = 0; i < set->count; i++)
        if (strlen(set->rows[i].name) == bytes && memcmp(set->rows[i].name, name, bytes) == 0)
            return &set->rows[i];
    return NULL;
}

static enum status unknown(const struct reading *r, const char *dashes, const char *name, size_t bytes, struct err *err)
{
    const char *names[NAMES_MAX], *nearest;
    size_t count = r->set->count < NAMES_MAX ? r->set->count : NAMES_MAX;
    const char *word = arena_strndup(r->arena, name, bytes);
    struct text list = { 0 };

    for (size_t i = 0; i < count; i++)
        names[i] = r->set->rows[i].name;
    nearest = text_nearest(word, names, count);
    if (nearest)
        return err_set(err, ST_EINVAL, "unknown %s %s%s; did you mean %s%s?", r->kind, dashes, word, r->dashes,
                       nearest);
    for (size_t i = 0; i < count; i++)
        text_printf(&list, "%s%s%s", i > 0 ? ", " : "", r->dashes, names[i]);
    (void)err_set(err, ST_EINVAL, "unknown %s %s%s; there are %s", r->kind, dashes, word, text_str(&list));
    text_fini(&list);
    return ST_EINVAL;
}

/* The index of `word` in "a|b|c", or -1. */
static int64_t word_index(const char *words, const char *word)
{
    size_t bytes = strlen(word);

    for (int64_t i = 0; words; i++) {
        size_t n = strcspn(words, "|");

        if (n == bytes && memcmp(words, word, n) == 0)
            return i;
        words = words[n] ? words + n + 1 : NULL;
    }
    return -1;
}

/* A limit of an OPT_INT, which the table holds as a double: 2^63 and beyond mean the last int64_t. */
static int64_t limit_i64(double v)
{
    if (v >= 9223372036854775808.0)
        return INT64_MAX;
    return v <= -9223372036854775808.0 ? INT64_MIN : (int64_t)v;
}

static bool has_limits(const struct opt *row)
{
    return row->min < row->max;
}

static enum status store_int(const struct opt *row, void *at, const char *what, const char *value, struct err *err)
{
    int64_t min = has_limits(row) ? limit_i64(row->min) : INT64_MIN;
    int64_t max = has_limits(row) ? limit_i64(row->max) : INT64_MAX;

    if (text_to_i64(value, min, max, at))
        return ST_OK;
    return err_set(err, ST_EINVAL, "%s: \"%s\" is not a whole number from %" PRId64 " to %" PRId64, what, value, min,
                   max);
}

static enum status store_float(const struct opt *row, void *at, const char *what, const char *value, struct err *err)
{
    if (!has_limits(row)) {
        if (text_to_f64(value, -HUGE_VAL, HUGE_VAL, at))
            return ST_OK;
        return err_set(err, ST_EINVAL, "%s: \"%s\" is not a number", what, value);
    }
    if (text_to_f64(value, row->min, row->max, at))
        return ST_OK;
    return err_set(err, ST_EINVAL, "%s: \"%s\" is not a number from %g to %g", what, value, row->min, row->max);
}

static enum status store_flag(void *at, const char *what, const char *value, struct err *err)
{
    bool on = strcmp(value, "on") == 0;

    if (!on && strcmp(value, "off") != 0)
        return err_set(err, ST_EINVAL, "%s: \"%s\" is neither on nor off", what, value);
    *(bool *)at = on;
    return ST_OK;
}

static enum status store_word(const struct opt *row, void *at, const char *what, const char *value, struct err *err)
{
    int64_t index = word_index(row->words, value);

    if (index < 0)
        return err_set(err, ST_EINVAL, "%s: \"%s\" is not one of %s", what, value, row->words);
    *(int64_t *)at = index;
    return ST_OK;
}

/* Checks `value` and writes it to the row's place. `what` is how the user wrote the name. */
static enum status opt_store(struct reading *r, const struct opt *row, const char *value, struct err *err)
{
    const char *what = arena_printf(r->arena, "%s%s", r->dashes, row->name);
    void *at = r->base + row->offset;
    bool first = !r->seen[row - r->set->rows];

    r->seen[row - r->set->rows] = true;
    switch (row->type) {
    case OPT_ONCE:
        if (!first)
            return err_set(err, ST_EINVAL, "%s is given twice", what);
        *(const char **)at = arena_strdup(r->arena, value);
        return ST_OK;
    case OPT_TEXT:
        *(const char **)at = arena_strdup(r->arena, value);
        return ST_OK;
    case OPT_LIST:
        if (first)
            *(struct opt_list *)at = (struct opt_list){ 0 };
        list_add(at, arena_strdup(r->arena, value), r->arena);
        return ST_OK;
    case OPT_INT:
        return store_int(row, at, what, value, err);
    case OPT_FLOAT:
        return store_float(row, at, what, value, err);
    case OPT_FLAG:
        return store_flag(at, what, value, err);
    case OPT_WORD:
        return store_word(row, at, what, value, err);
    }
    return err_set(err, ST_EINTERNAL, "%s: an option of no known type", what);
}

enum status opt_defaults(const struct opt_set *set, void *base, struct arena *arena, struct err *err)
{
    struct reading r = reading_of(set, base, arena, false);
    enum status st = ST_OK;

    for (size_t i = 0; i < set->count && st == ST_OK; i++)
        if (set->rows[i].fallback)
            st = opt_store(&r, &set->rows[i], set->rows[i].fallback, err);
    return st;
}

/* The argument at *at, which begins with a dash, and the one after it where that is its value: *at moves there. */
static enum status line_option(struct reading *r, int argc, char **argv, int *at, struct err *err)
{
    bool two_dashes = argv[*at][1] == '-';
    const char *name = argv[*at] + (two_dashes ? 2 : 1);
    size_t bytes = strcspn(name, "=");
    const char *value = name[bytes] == '=' ? name + bytes + 1 : NULL;
    const struct opt *row = two_dashes ? row_find(r->set, name, bytes) : NULL;

    if (!row)
        return unknown(r, two_dashes ? "--" : "-", name, bytes, err);
    if (!value && row->type == OPT_FLAG)
        value = "on";
    if (!value && *at + 1 >= argc)
        return err_set(err, ST_EINVAL, "--%s needs a value%s%s", row->name, row->value ? ": " : "",
                       row->value ? row->value : "");
    if (!value)
        value = argv[++*at];
    return opt_store(r, row, value, err);
}

enum status opt_parse_line(const struct opt_set *set, void *base, int argc, char **argv, struct opt_list *rest,
                           struct arena *arena, struct err *err)
{
    struct reading r = reading_of(set, base, arena, true);
    bool options = true;
    enum status st = ST_OK;

    for (int i = 1; i < argc && st == ST_OK; i++) {
        if (options && strcmp(argv[i], "--") == 0)
            options = false;
        else if (options && argv[i][0] == '-' && argv[i][1])
            st = line_option(&r, argc, argv, &i, err);
        else if (rest)
            list_add(rest, arena_strdup(arena, argv[i]), arena);
        else
            st = err_set(err, ST_EINVAL, "unexpected argument \"%s\"", argv[i]);
    }
    return st;
}

/* Blanks at both ends cut off, in place. */
static char *trim(char *s)
{
    size_t bytes;

    s += strspn(s, " \t\r");
    bytes = strlen(s);
    while (bytes > 0 && strchr(" \t\r", s[bytes - 1]))
        bytes--;
    s[bytes] = '\0';
    return s;
}

struct sections {
    enum status (*on)(void *ctx, const char *section, const char *key, const char *value, struct err *err);
    void *ctx;
    const char *now; /* NULL: before the first heading */
};

static enum status file_heading(struct reading *r, struct sections *sections, char *line, struct err *err)
{
    char *end = strchr(line, ']');

    if (!end || end[1] != '\0' || end == line + 1)
        return err_set(err, ST_EINVAL, "a heading is [NAME], not \"%s\"", line);
    *end = '\0';
    if (!sections->on)
        return err_set(err, ST_EINVAL, "unknown section [%s]", line + 1);
    sections->now = arena_strdup(r->arena, line + 1);
    return ST_OK;
}

static enum status file_line(struct reading *r, struct sections *sections, char *line, struct err *err)
{
    char *equals, *key, *value;
    const struct opt *row;

    line = trim(line);
    if (line[0] == '\0' || line[0] == '#')
        return ST_OK;
    if (line[0] == '[')
        return file_heading(r, sections, line, err);
    equals = strchr(line, '=');
    if (!equals)
        return err_set(err, ST_EINVAL, "a line is \"name = value\", not \"%s\"", line);
    *equals = '\0';
    key = trim(line);
    value = trim(equals + 1);
    if (sections->now)
        return sections->on(sections->ctx, sections->now, key, value, err);
    row = row_find(r->set, key, strlen(key));
    return row ? opt_store(r, row, value, err) : unknown(r, "", key, strlen(key), err);
}

enum status opt_parse_file(const struct opt_set *set, void *base, const char *path,
                           enum status (*on_section)(void *ctx, const char *section, const char *key, const char *value,
                                                     struct err *err),
                           void *ctx, struct arena *arena, struct err *err)
{
    struct reading r = reading_of(set, base, arena, false);
    struct sections sections = { on_section, ctx, NULL };
    struct file f = { 0 };
    enum status st = file_open(&f, path, err);

    if (st != ST_OK)
        return st;
    if (f.bytes && memchr(f.data, '\0', f.bytes))
        st = err_set(err, ST_EINVAL, "%s: holds a NUL byte: this is no text", path);
    for (size_t at = 0, number = 1; at < f.bytes && st == ST_OK; number++) {
        const char *begin = (const char *)f.data + at;
        const char *newline = memchr(begin, '\n', f.bytes - at);
        size_t bytes = newline ? (size_t)(newline - begin) : f.bytes - at;

        st = file_line(&r, &sections, arena_strndup(arena, begin, bytes), err);
        if (st != ST_OK)
            err_prefix(err, "%s:%zu", path, number);
        at += bytes + 1;
    }
    file_close(&f);
    return st;
}

enum status opt_check(const struct opt_set *set, const void *base, struct err *err)
{
    for (size_t i = 0; i < set->count; i++) {
        const struct opt *row = &set->rows[i];
        const void *at = (const char *)base + row->offset;

        if (row->required && ((row->type == OPT_TEXT && !*(const char *const *)at) ||
                              (row->type == OPT_LIST && ((const struct opt_list *)at)->count == 0)))
            return err_set(err, ST_EINVAL, "--%s %s is required", row->name, row->value ? row->value : "VALUE");
    }
    return ST_OK;
}

/* What --help and docs call the value: "HOST:PORT", "a|b|c", "N". "" for a flag. */
static const char *value_word(const struct opt *row)
{
    if (row->value)
        return row->value;
    switch (row->type) {
    case OPT_WORD:
        return row->words;
    case OPT_INT:
        return "N";
    case OPT_FLOAT:
        return "X";
    case OPT_FLAG:
        return "";
    case OPT_ONCE:
    case OPT_TEXT:
    case OPT_LIST:
        break;
    }
    return "VALUE";
}

static size_t help_width(const struct opt *row)
{
    const char *value = value_word(row);

    return strlen("  --") + strlen(row->name) + (value[0] ? 1 + strlen(value) : 0);
}

static bool shows_default(const struct opt *row)
{
    return row->fallback && row->fallback[0] && row->type != OPT_FLAG;
}

void opt_help(const struct opt_set *set, struct text *out)
{
    size_t column = 0;

    for (size_t i = 0; i < set->count; i++)
        if (help_width(&set->rows[i]) <= HELP_COLUMN_MAX && help_width(&set->rows[i]) > column)
            column = help_width(&set->rows[i]);
    for (size_t i = 0; i < set->count; i++) {
        const struct opt *row = &set->rows[i];
        const char *value = value_word(row);
        size_t width = help_width(row);

        text_printf(out, "  --%s%s%s", row->name, value[0] ? " " : "", value);
        if (width > column)
            text_printf(out, "\n%*s", (int)column, "");
        else
            text_printf(out, "%*s", (int)(column - width), "");
        text_printf(out, "  %s", row->help);
        if (shows_default(row))
            text_printf(out, " (default: %s)", row->fallback);
        text_puts(out, row->required ? " (required)\n" : "\n");
    }
}

/* A cell of a Markdown table: `|` would end it. */
static void markdown_cell(struct text *out, const char *s)
{
    for (; *s; s++)
        text_printf(out, *s == '|' ? "\\%c" : "%c", *s);
}

void opt_markdown(const struct opt_set *set, struct text *out)
{
    text_puts(out, "| option | value | default | meaning |\n| --- | --- | --- | --- |\n");
    for (size_t i = 0; i < set->count; i++) {
        const struct opt *row = &set->rows[i];

        text_printf(out, "| `%s` | ", row->name);
        markdown_cell(out, row->type == OPT_FLAG ? "on|off" : value_word(row));
        text_puts(out, " | ");
        if (row->fallback && row->fallback[0])
            text_printf(out, "`%s`", row->fallback);
        text_puts(out, row->required ? "required | " : " | ");
        markdown_cell(out, row->help);
        text_puts(out, " |\n");
    }
}
