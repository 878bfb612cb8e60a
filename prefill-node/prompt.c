/* SPDX-License-Identifier: Apache-2.0 */
/* prompt.c - the ids of the texts that a press with a second pass feeds. */
#include "prefill-node/prompt.h"

#include <string.h>

static enum status encode(struct token_list *out, const struct tokenizer *tokenizer, const char *text, struct err *err)
{
    return tokenizer_encode(tokenizer, text, strlen(text), NULL, out, NULL, err);
}

enum status prompt_texts_open(struct prompt_texts *t, const struct tokenizer *tokenizer, struct err *err)
{
    enum status st = encode(&t->newline, tokenizer, "\n", err);

    if (st == ST_OK)
        st = encode(&t->repeat_all, tokenizer, PRESS_REPEAT_ALL, err);
    return st == ST_OK ? encode(&t->repeat_part, tokenizer, PRESS_REPEAT_PART, err) : st;
}

void prompt_texts_close(struct prompt_texts *t)
{
    token_list_fini(&t->newline);
    token_list_fini(&t->repeat_all);
    token_list_fini(&t->repeat_part);
}

struct press_prompt prompt_of(const struct prompt_texts *t, int64_t prefix_tokens, const int32_t *suffix,
                              int64_t suffix_tokens)
{
    struct press_prompt p = {
        .prefix_tokens = prefix_tokens,
        .suffix = suffix,
        .suffix_tokens = suffix_tokens,
        .repeat_all = t->repeat_all.ids,
        .repeat_all_tokens = (int64_t)t->repeat_all.count,
        .repeat_part = t->repeat_part.ids,
        .repeat_part_tokens = (int64_t)t->repeat_part.count,
    };

    if (prefix_tokens > 0)
        return p;
    p.suffix = t->newline.ids;
    p.suffix_tokens = (int64_t)t->newline.count;
    return p;
}
