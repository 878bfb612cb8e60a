/* SPDX-License-Identifier: Apache-2.0 */
/*
 * test_family_presses.c - presses on the tiny checkpoint of every family that kvpress knows: the rows that stay are its
 * rows (family_rows.json, made by make_family_rows.py), but for those that rounding may decide either way.
 */
#include "tests/golden/family.h"

#include "common/base/arena.h"
#include "presses/run.h"
#include "tests/support/cmocka_main.h"

#include <stdlib.h>
#include <string.h>

/* Whether bit `row` is set in a bitmap in hex; NULL has none. */
static bool has_row(const char *hex, int64_t row)
{
    const char nibble[2] = { hex ? hex[row / 8 * 2 + (row % 8 < 4)] : '0', 0 };

    return strtol(nibble, NULL, 16) >> row % 4 & 1;
}

static const char *head_text(const json_t *layers, int32_t layer, int32_t head)
{
    char key[16];

    snprintf(key, sizeof key, "%d", layer);
    return json_string_value(json_array_get(json_object_get(layers, key), (size_t)head));
}

/* One head's kept tokens (ascending) against the reference's. */
static void assert_rows(const json_t *item, int64_t tokens, int32_t layer, int32_t head, const int32_t *token,
                        int64_t count)
{
    const char *want = head_text(json_object_get(item, "layers"), layer, head);
    const char *edge = head_text(json_object_get(item, "edge"), layer, head);
    int64_t at = 0;

    assert_non_null(want);
    for (int64_t row = 0; row < tokens; row++) {
        const bool kept = at < count && token[at] == row;

        if (kept != has_row(want, row) && !has_row(edge, row))
            fail_msg("%s, %s, layer %d head %d: row %d is %s", json_string_value(json_object_get(item, "family")),
                     json_string_value(json_object_get(item, "chain")), layer, head, (int)row,
                     kept ? "kept and should not be" : "missing");
        at += kept;
    }
    assert_int_equal(at, count);
}

static void run_chain(struct family_model *m, int64_t tokens, struct press_run *run, const json_t *item)
{
    const char *text = json_string_value(json_object_get(item, "chain"));
    struct pass pass = { .token = m->token, .tokens = tokens, .x = m->x };
    const struct hparams *hp = &m->weights->hp;
    int32_t *token = mem_alloc((size_t)(hp->kv_heads * tokens) * sizeof *token);
    struct chain_needs needs;
    struct chain *chain;

    assert_int_equal(chain_parse(&chain, text, strlen(text), NULL, NULL), ST_OK);
    chain_needs_of(chain, 0, false, &needs);
    assert_int_equal(press_run_begin(run, chain, tokens, 0, false, NULL), ST_OK);
    prefill_begin(m->prefill, &pass);
    while (pass.layer < hp->layers) {
        struct press_layer layer;
        struct press_result result;

        assert_int_equal(prefill_layer(m->prefill, &pass, &needs, 0, &layer, NULL), ST_OK);
        m->be->ops->wait(m->be, LANE_COMPUTE); /* the press is on a lane of its own */
        if (!hparams_layer_is_full(hp, layer.layer))
            continue;
        assert_int_equal(press_run_layer(run, &layer, &result, NULL), ST_OK);
        assert_int_equal(press_run_tokens(run, &result, token, NULL), ST_OK);
        for (int32_t g = 0; g < hp->kv_heads; g++)
            assert_rows(item, tokens, layer.layer, g, token + result.first[g], result.first[g + 1] - result.first[g]);
    }
    chain_close(chain);
    free(token);
}

static int check_family(const json_t *golden, const char *name)
{
    struct family_model m;
    struct press_run *run;
    const json_t *tokens = json_object_get(golden, "tokens"), *item;
    size_t i;
    int chains = 0;

    family_model_open(&m, name);
    assert_in_range(json_array_size(tokens), 200, FAMILY_TOKENS);
    for (i = 0; i < json_array_size(tokens); i++)
        m.token[i] = (int32_t)json_integer_value(json_array_get(tokens, i));
    assert_int_equal(press_run_open(&run, m.be, &m.weights->hp, FAMILY_TOKENS, NULL), ST_OK);
    json_array_foreach(json_object_get(golden, "rows"), i, item)
    {
        if (strcmp(json_string_value(json_object_get(item, "family")), name) != 0)
            continue;
        run_chain(&m, (int64_t)json_array_size(tokens), run, item);
        chains++;
    }
    press_run_close(run);
    family_model_close(&m);
    return chains;
}

static void presses_keep_what_kvpress_keeps(void **state)
{
    json_t *golden = json_load_file("tests/golden/family_rows.json", 0, NULL);
    const json_t *rows = json_object_get(golden, "rows");
    int chains = 0;

    (void)state;
    assert_non_null(rows);
    if (family_is_bf16()) /* rows near the cut part */
        skip();
    for (int i = 0; i < FAMILY_COUNT; i++)
        chains += check_family(golden, family_names[i]);
    assert_int_equal(chains, json_array_size(rows));
    assert_true(chains > 40);
    json_decref(golden);
}

static const struct CMUnitTest tests[] = {
    cmocka_unit_test(presses_keep_what_kvpress_keeps),
};

int main(int argc, char **argv)
{
    return cmocka_main(argc, argv, tests, ARRAY_LEN(tests), NULL, NULL);
}
