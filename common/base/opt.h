/* SPDX-License-Identifier: Apache-2.0 */
/*
 * opt.h - one table of options serves the command line, the config file, --help and docs/CONFIG.md.
 *
 * A row tells name, type, where the value goes (an offset into the caller's struct), limits, default and the help
 * sentence. Values are read once, in main. An unknown name is an error that names the nearest known one.
 */
#ifndef PLATEN_BASE_OPT_H
#define PLATEN_BASE_OPT_H

#include "common/base/arena.h"
#include "common/base/status.h"
#include "common/base/text.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

enum opt_type {
    OPT_TEXT,  /* const char * */
    OPT_LIST,  /* struct opt_list: the option may be given again and again */
    OPT_INT,   /* int64_t */
    OPT_FLOAT, /* double */
    OPT_FLAG,  /* bool: `--name` or `--name=on|off` on the command line, on|off in a file */
    OPT_WORD,  /* int64_t: the index of the word among `words` ("a|b|c") */
    OPT_ONCE   /* as OPT_TEXT, but an error when it is given twice on one line or in one file */
};

struct opt_list {
    const char **items;
    size_t count;
};

struct opt {
    const char *name; /* "max-new-tokens": `--max-new-tokens N`, `max-new-tokens = N` in a file */
    enum opt_type type;
    size_t offset;
    double min, max;      /* OPT_INT, OPT_FLOAT; both 0: no limits */
    const char *words;    /* OPT_WORD */
    const char *fallback; /* text of the default; NULL: none (text stays NULL, list empty) */
    const char *value;    /* what --help calls the value: "HOST:PORT" */
    const char *help;     /* one sentence */
    bool required;
};

/* The options of a program or command, in the order of --help. */
struct opt_set {
    const struct opt *rows;
    size_t count;
};

/* Fills every row's default into `base`. */
enum status opt_defaults(const struct opt_set *set, void *base, struct arena *arena, struct err *err);

/* Reads argv[1..] over what is there. What is no option goes to *rest (may be NULL: then it is an error). `--` ends
 * options; `--name=value` and `--name value` both work. ST_EINVAL names the flag, and the nearest one. The caller
 * checks required rows with opt_check after file and line were both read. */
enum status opt_parse_line(const struct opt_set *set, void *base, int argc, char **argv, struct opt_list *rest,
                           struct arena *arena, struct err *err);

/* Reads `name = value` lines, `#` comments, `[section]` headings. Lines of a section go to on_section(name, key, value)
 * where given, else they are errors. */
enum status opt_parse_file(const struct opt_set *set, void *base, const char *path,
                           enum status (*on_section)(void *ctx, const char *section, const char *key, const char *value,
                                                     struct err *err),
                           void *ctx, struct arena *arena, struct err *err);

/* ST_EINVAL names the first required option that has no value. */
enum status opt_check(const struct opt_set *set, const void *base, struct err *err);

/* "  --name VALUE   help (default: x)" for every row. */
void opt_help(const struct opt_set *set, struct text *out);

/* The same as a Markdown table, for docs/CONFIG.md. */
void opt_markdown(const struct opt_set *set, struct text *out);

#ifdef __cplusplus
}
#endif
#endif
