/* SPDX-License-Identifier: Apache-2.0 */
/*
 * split.h - cuts a text into words by the patterns of the model's own tokenizer; private to common/model.
 *
 * A splitter is a list of steps; each cuts every piece that the step before left, and sees nothing but that piece. The
 * patterns are written for Oniguruma, with Unicode classes; PCRE2 matches them (with its JIT where there is one).
 */
#ifndef PLATEN_MODEL_SPLIT_H
#define PLATEN_MODEL_SPLIT_H

#include "common/base/arena.h"
#include "common/base/status.h"
#include "common/model/tokenizer.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* What becomes of a match, in the words of the `tokenizers` library. */
enum split_mode { SPLIT_ISOLATED, SPLIT_REMOVED, SPLIT_MERGED_PREVIOUS, SPLIT_MERGED_NEXT, SPLIT_CONTIGUOUS };

enum { SPLIT_STEPS_MAX = 8 };

struct split_step {
    struct pcre2_real_code_8 *code;
    const char *pattern; /* in the arena of the tokenizer */
    enum split_mode mode;
    bool invert; /* what does not match is what counts as a match */
};

struct splitter {
    struct split_step steps[SPLIT_STEPS_MAX];
    int count;
};

/* Adds a step. is_literal: the pattern is a plain text. ST_EINVAL with the place where the pattern is wrong. */
enum status splitter_add(struct splitter *s, struct arena *arena, const char *pattern, size_t bytes, bool is_literal,
                         enum split_mode mode, bool invert, struct err *err);
void splitter_fini(struct splitter *s);

/* Working room of one encode: match data, JIT stack, two lists of spans. Zero-initialise. */
struct split_work {
    struct pcre2_real_match_data_8 *match;
    struct pcre2_real_match_context_8 *context;
    struct pcre2_real_jit_stack_8 *stack;
    struct tok_span *spans, *next;
    size_t count, room, next_count, next_room;
};

/* Cuts text[0..bytes) (valid UTF-8); the words are work->spans[0 .. work->count) until the next run. ST_EINVAL when a
 * pattern passed the match limit (a number of steps that grows with the text). */
enum status splitter_run(const struct splitter *s, struct split_work *work, const char *text, size_t bytes,
                         struct err *err);
void split_work_fini(struct split_work *work);

/* Unicode's White_Space. */
bool split_is_space(int32_t code);

/* The first match at or after `from` (it may be empty); *found false: none. Normalisers that replace a pattern use it. */
enum status split_match(const struct split_step *step, struct split_work *work, const char *text, size_t bytes,
                        size_t from, struct tok_span *out, bool *found, struct err *err);

#ifdef __cplusplus
}
#endif
#endif
