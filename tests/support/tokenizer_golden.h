/* SPDX-License-Identifier: Apache-2.0 */
/*
 * tokenizer_golden.h - asks a tokenizer about the lines of tests/golden/tokenizer_lines.json and compares with the rows
 * that the `tokenizers` library gave: ids, and the text that they decode to.
 */
#ifndef PLATEN_TESTS_TOKENIZER_GOLDEN_H
#define PLATEN_TESTS_TOKENIZER_GOLDEN_H

#include "common/model/tokenizer.h"
#include "tests/support/cmocka_main.h"

#include <jansson.h>

/* The document of a golden file; json_decref it. */
static inline json_t *golden_open(const char *path)
{
    json_error_t bad;
    json_t *doc = json_load_file(path, JSON_ALLOW_NUL, &bad);

    if (!doc)
        fail_msg("%s: line %d: %s", path, bad.line, bad.text);
    return doc;
}

/* "1 2 3" of ids. */
static inline void ids_text(const struct token_list *ids, struct text *out)
{
    text_clear(out);
    for (size_t i = 0; i < ids->count; i++)
        text_printf(out, "%s%d", i ? " " : "", ids->ids[i]);
}

/* What a stream gives for the ids, pushed one by one; every piece must be whole UTF-8. */
static inline void stream_text(const struct tokenizer *t, const struct token_list *ids, struct text *out)
{
    struct tok_stream s;

    text_clear(out);
    tok_stream_init(&s, t);
    for (size_t i = 0; i < ids->count; i++) {
        size_t before = out->bytes;
        tok_stream_push(&s, ids->ids[i], out);
        if (!utf8_valid(text_str(out) + before, out->bytes - before))
            fail_msg("token %d gave part of a character", ids->ids[i]);
    }
    tok_stream_flush(&s, out);
}

/* One row; returns 1 when it differs, after saying how. */
static inline int row_differs(const struct tokenizer *t, const json_t *line, const json_t *row, int number)
{
    const json_t *back = json_object_get(row, "back") ? json_object_get(row, "back") : line;
    const char *want = json_string_value(json_object_get(row, "ids"));
    struct token_list ids = { 0 };
    struct text got = { 0 }, decoded = { 0 };
    struct err err = { 0 };
    int differs = 0;

    if (tokenizer_encode(t, json_string_value(line), json_string_length(line), NULL, &ids, NULL, &err) != ST_OK)
        fail_msg("line %d: %s", number, err.text);
    ids_text(&ids, &got);
    stream_text(t, &ids, &decoded);
    if (strcmp(text_str(&got), want) != 0) {
        print_error("line %d: ids %s, expected %s\n", number, text_str(&got), want);
        differs = 1;
    } else if (decoded.bytes != json_string_length(back) ||
               memcmp(text_str(&decoded), json_string_value(back), decoded.bytes) != 0) {
        print_error("line %d: decodes to '%s', expected '%s'\n", number, text_str(&decoded), json_string_value(back));
        differs = 1;
    }
    text_fini(&got);
    text_fini(&decoded);
    token_list_fini(&ids);
    return differs;
}

/* Every row of a golden file; at least `rows_min` of them. */
static inline void assert_golden_rows(const struct tokenizer *t, const json_t *golden, size_t rows_min)
{
    json_t *texts = golden_open("tests/golden/tokenizer_lines.json");
    const json_t *lines = json_object_get(texts, "lines"), *rows = json_object_get(golden, "rows");
    int differ = 0;

    assert_true(json_array_size(rows) >= rows_min);
    for (size_t i = 0; i < json_array_size(rows); i++) {
        const json_t *row = json_array_get(rows, i);
        int number = (int)json_integer_value(json_object_get(row, "line"));
        differ += row_differs(t, json_array_get(lines, (size_t)number), row, number);
    }
    json_decref(texts);
    if (differ)
        fail_msg("%d of %zu lines differ from the reference", differ, json_array_size(rows));
}

#endif
