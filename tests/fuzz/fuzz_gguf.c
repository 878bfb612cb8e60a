/* SPDX-License-Identifier: Apache-2.0 */
/* fuzz_gguf.c - a GGUF file from anywhere: its tables, every value, every tensor's ends, and the tokenizer inside. */
#include "common/model/gguf.h"
#include "common/model/tokenizer.h"

#include <assert.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes);

/* Reads everything that the tables say is there. */
static uint64_t touch(const struct gguf *g)
{
    uint64_t sum = 0;
    size_t length;

    for (size_t i = 0; i < g->value_count; i++) {
        const struct gguf_value *v = &g->values[i];
        struct cursor at = gguf_strings(v);
        for (uint64_t k = 0; k < v->count && v->type == GGUF_STRING; k++) {
            const char *s = gguf_next_string(&at, &length);
            sum += length ? (uint8_t)s[length - 1] : 0;
        }
        for (uint64_t k = 0; k < v->count && k < 1000; k++)
            sum += gguf_item_num(v, k) > 0;
    }
    for (size_t i = 0; i < g->tensors.count; i++)
        sum += g->tensors.items[i].data[0] + g->tensors.items[i].data[g->tensors.items[i].bytes - 1];
    return sum;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes)
{
    struct gguf g = { 0 };
    struct tokenizer *t = NULL;
    struct token_list ids = { 0 };
    struct err err = { 0 };

    if (gguf_open(&g, data, bytes, &err) != ST_OK)
        return 0;
    assert(touch(&g) < UINT64_MAX);
    if (tokenizer_open_gguf(&t, &g, &err) == ST_OK) {
        tokenizer_encode(t, "ab <s> 12 \xc3\xa9", 13, NULL, &ids, NULL, &err);
        assert(tokenizer_hash(t) || ids.count);
    }
    token_list_fini(&ids);
    tokenizer_close(t);
    gguf_close(&g);
    return 0;
}
