/* SPDX-License-Identifier: Apache-2.0 */
/*
 * chat.h - what stands before the context and after the question: one user turn, cut where the reference pipeline cuts it.
 *
 *      <|im_start|>user\n CONTEXT              QUESTION <|im_end|>\n<|im_start|>assistant\n ANSWER PREFIX
 *      └─ prefix ───────┘                               └─ suffix ──────────────────────┘
 *
 * Templates are programs (Jinja); this file runs none. It recognises the families' templates by their marks and knows
 * what they render for one user message; one that it does not recognise is refused with a hint, never guessed.
 * A model without a template: the beginning-of-text token's text before the context, a newline after the question.
 * Immutable after open: any thread may use it.
 */
#ifndef PLATEN_MODEL_CHAT_H
#define PLATEN_MODEL_CHAT_H

#include "common/base/status.h"
#include "common/base/text.h"
#include "common/model/tokenizer.h"

#include <stddef.h>

#ifdef __cplusplus
extern "C" {
#endif

struct checkpoint;
struct chat;

/* The chat of an open checkpoint. file: NULL, or a JSON file {"prefix": ..., "suffix": ...} that takes the place of the
 * model's own template. ST_EINVAL when the template is not recognised (the sentence gives the hint), or the file is bad. */
enum status chat_open(struct chat **out, const struct checkpoint *model, const char *file, struct err *err);
void chat_close(struct chat *chat);

/* "chatml", "llama3", "none", "file", ... */
const char *chat_name(const struct chat *chat);

/*
 * Appends prefix + context to *out; *special is where special tokens' text is the template's own (for tokenizer_encode
 * under `--special-text plain`). Gives the number of '#' characters that the context ended in: the reference loses them
 * here and puts them before the suffix of every question (PRESSES 4.2), so the caller hands the number to chat_question.
 */
size_t chat_context(const struct chat *chat, const char *context, size_t bytes, struct text *out,
                    struct tok_span *special);

/* Appends question + hashes * '#' + suffix + answer_prefix to *out, and tells where the suffix stands. */
void chat_question(const struct chat *chat, size_t hashes, const char *question, size_t question_bytes,
                   const char *answer_prefix, size_t answer_prefix_bytes, struct text *out, struct tok_span *special);

#ifdef __cplusplus
}
#endif
#endif
