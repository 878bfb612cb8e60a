/* SPDX-License-Identifier: Apache-2.0 */
/* prompt.h - the ids of the texts that a press with a second pass feeds. Read only after open. */
#ifndef PLATEN_PREFILL_PROMPT_H
#define PLATEN_PREFILL_PROMPT_H

#include "common/model/tokenizer.h"
#include "presses/press.h"

#ifdef __cplusplus
extern "C" {
#endif

struct prompt_texts {
    struct token_list newline, repeat_all, repeat_part;
};

enum status prompt_texts_open(struct prompt_texts *t, const struct tokenizer *tokenizer, struct err *err);
void prompt_texts_close(struct prompt_texts *t); /* zeroed is fine */

/* The prompt of a context with `prefix_tokens` template tokens before the user's text and `suffix` after it. Without a
 * prefix (raw text, token ids) the suffix is a newline. Borrows everything; token and tokens are left to the caller. */
struct press_prompt prompt_of(const struct prompt_texts *t, int64_t prefix_tokens, const int32_t *suffix,
                              int64_t suffix_tokens);

#ifdef __cplusplus
}
#endif
#endif
