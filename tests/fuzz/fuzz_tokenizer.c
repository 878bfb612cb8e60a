/* SPDX-License-Identifier: Apache-2.0 */
/* fuzz_tokenizer.c - a tokenizer.json from anywhere; what opens must encode, and what it gives must decode to UTF-8. */
#include "common/model/tokenizer.h"

#include <assert.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes)
{
    static const char text[] = "Ab's  12\n<s>\xc3\xa9\xe2\x96\x81\xf0\x9f\x98\x80 e\xcc\x81";
    struct tok_span special = { 0, 12 };
    struct tokenizer *t = NULL;
    struct token_list ids = { 0 };
    struct text out = { 0 };
    struct tok_stream stream;
    struct err err = { 0 };
    uint64_t dropped = 0;

    if (tokenizer_open_json(&t, (const char *)data, bytes, &err) != ST_OK)
        return 0;
    tokenizer_encode(t, text, sizeof text - 1, NULL, &ids, &dropped, &err);
    tokenizer_encode(t, text, sizeof text - 1, &special, &ids, &dropped, &err);
    tok_stream_init(&stream, t);
    for (size_t i = 0; i < ids.count; i++) {
        assert(ids.ids[i] >= 0 && ids.ids[i] < tokenizer_size(t));
        tok_stream_push(&stream, ids.ids[i], &out);
    }
    tok_stream_flush(&stream, &out);
    assert(utf8_valid(text_str(&out), out.bytes));
    tokenizer_hash(t);
    text_fini(&out);
    token_list_fini(&ids);
    tokenizer_close(t);
    return 0;
}
