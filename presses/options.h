/* SPDX-License-Identifier: Apache-2.0 */
/* options.h - the option table of a press, read from and written as the text of a chain. Inside presses/ only. */
#ifndef PLATEN_PRESSES_OPTIONS_H
#define PLATEN_PRESSES_OPTIONS_H

#include "common/base/arena.h"
#include "common/base/text.h"
#include "presses/press.h"

#ifdef __cplusplus
extern "C" {
#endif

/* A fresh options struct with the defaults of the table, in the arena. */
void *options_open(const struct press *p, struct arena *arena);

/* The row called `name`; NULL if there is none. The word's own value is not found by name. */
const struct opt *options_find(const struct press *p, const char *name);

/* Reads `value` into the row's place. ST_EINVAL says what is allowed. */
enum status options_store(const struct press *p, const struct opt *row, void *options, const char *value,
                          struct arena *arena, struct err *err);

/* "snapkv:window=32": the stage as canonical text. all: defaults too, for people. */
void options_text(const struct press *p, const void *options, bool all, struct text *out);

/* What a row takes, in words: "a whole number from 1 to 65536". */
void options_allowed(const struct opt *row, struct text *out);

#ifdef __cplusplus
}
#endif
#endif
