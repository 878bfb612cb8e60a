/* SPDX-License-Identifier: Apache-2.0 */
/* sources.h - where a context and a query come from: the line itself, a file of text, a file of token ids. */
#ifndef PLATEN_CLIENT_SOURCES_H
#define PLATEN_CLIENT_SOURCES_H

#include "common/base/opt.h"
#include "common/base/status.h"
#include "common/base/text.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

struct source_options {
    const char *context, *context_file, *context_tokens, *query, *query_tokens;
};

/* Rows for the options table of a struct `type` whose member `at` is a struct source_options. */
#define SOURCE_ROWS(type, at)                                                                                          \
    { "context", OPT_ONCE, offsetof(type, at.context), 0, 0, NULL, NULL, "TEXT", "the context", false },               \
        { "context-file",                                                                                              \
          OPT_ONCE,                                                                                                    \
          offsetof(type, at.context_file),                                                                             \
          0,                                                                                                           \
          0,                                                                                                           \
          NULL,                                                                                                        \
          NULL,                                                                                                        \
          "FILE",                                                                                                      \
          "the context is this file, every byte of it",                                                                \
          false },                                                                                                     \
        { "context-tokens",                                                                                            \
          OPT_ONCE,                                                                                                    \
          offsetof(type, at.context_tokens),                                                                           \
          0,                                                                                                           \
          0,                                                                                                           \
          NULL,                                                                                                        \
          NULL,                                                                                                        \
          "FILE",                                                                                                      \
          "the context is token ids, white space between, taken as they are",                                          \
          false },                                                                                                     \
        { "query", OPT_ONCE, offsetof(type, at.query), 0, 0, NULL, NULL, "TEXT", "pressed with the context, after it", \
          false },                                                                                                     \
    {                                                                                                                  \
        "query-tokens", OPT_ONCE, offsetof(type, at.query_tokens), 0, 0, NULL, NULL, "FILE", "the query as token ids", \
            false                                                                                                      \
    }

/* One text or list of ids; both empty when nothing was given. */
struct source {
    struct text text;
    int32_t *token;
    size_t tokens;
};

/* Usage: exactly one context (unless `may_lack`), at most one query. */
enum status sources_check(const struct source_options *o, bool may_lack, struct err *err);

/* Reads what was named. ST_ENOTFOUND, ST_EINVAL with the file (and the word) named. The caller closes both. */
enum status sources_open(struct source *context, struct source *query, const struct source_options *o, struct err *err);
void source_close(struct source *s);

#ifdef __cplusplus
}
#endif
#endif
