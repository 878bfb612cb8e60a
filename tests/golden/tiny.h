/* SPDX-License-Identifier: Apache-2.0 */
/*
 * tiny.h - the random models of press_rows.json, made again from the formula of tiny.py: weights, contexts, parameter files.
 */
#ifndef PLATEN_TESTS_GOLDEN_TINY_H
#define PLATEN_TESTS_GOLDEN_TINY_H

#include "client/local.h"
#include "presses/files.h"

#include <jansson.h>

enum { TINY_TOKENS_MAX = 1000, TINY_VOCAB = 2048, TINY_TEXT_MAX = 128 };

struct tiny_model {
    int32_t m; /* its number, which all seeds begin with */
    struct local local;
    struct press_files *files;
    char folder[32];
    int32_t repeat_all[TINY_TEXT_MAX], repeat_part[TINY_TEXT_MAX], suffix[1];
    int32_t token[TINY_TOKENS_MAX];
};

/* Opens one of the golden file's `models` in f32 on the CPU, with its parameter files in a folder of its own under /tmp. Any
 * failure ends the test. */
void tiny_open(struct tiny_model *t, const json_t *model);
void tiny_close(struct tiny_model *t);

#endif
