/* SPDX-License-Identifier: Apache-2.0 */
/*
 * fuzz_press.c - a press text from anywhere. Taken: its canonical form is taken too and stays as it is, and what the nodes ask
 * of it has an answer. Refused: a sentence, the text, and a caret that stands below it.
 */
#include "common/base/text.h"
#include "presses/chain.h"

#include <assert.h>
#include <stdint.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes);

static void taken(const struct chain *c)
{
    struct hparams hp = { .layers = 4, .dim = 64, .q_heads = 4, .kv_heads = 2, .head_dim = 16, .max_positions = 4096 };
    struct chain_needs needs;
    struct chain_decode decode;
    struct chain *again = NULL;
    struct err err = { 0 };
    enum status st = chain_parse(&again, chain_text(c), strlen(chain_text(c)), NULL, &err);

    assert(st == ST_OK);
    assert(strcmp(chain_text(c), chain_text(again)) == 0);
    chain_needs_of(c, 7, false, &needs);
    assert(needs.q_tail >= 0 && needs.q_tail <= 65536);
    for (int64_t tokens = 1; tokens < 5000; tokens = tokens * 7 + 1) {
        int64_t rows = chain_rows_max_all(c, &hp, tokens);

        assert(rows >= 0 && rows <= 8 * tokens);
        for (int32_t l = 0; l < hp.layers; l++)
            assert(chain_rows_max(c, &hp, l, tokens) <= 2 * tokens);
    }
    if (chain_decode_part(c, &decode))
        assert(decode.every >= 1 && (decode.rows > 0 || (decode.ratio >= 0 && decode.ratio < 1)));
    chain_close(again);
}

static void refused(const struct err *err, size_t bytes)
{
    const char *text = strchr(err->text, '\n'), *caret;

    assert(err->code == ST_EINVAL && utf8_valid(err->text, strlen(err->text)));
    if (bytes > 4096)
        return;
    assert(text);
    caret = strchr(text + 1, '\n');
    assert(caret && caret[1 + strspn(caret + 1, " ")] == '^' && strlen(caret + 1) == strspn(caret + 1, " ") + 1);
    assert(strspn(caret + 1, " ") <= (size_t)(caret - text - 1));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes)
{
    struct chain *c = NULL;
    struct err err = { 0 };

    if (chain_parse(&c, (const char *)data, bytes, NULL, &err) == ST_OK)
        taken(c);
    else
        refused(&err, bytes);
    chain_close(c);
    return 0;
}
