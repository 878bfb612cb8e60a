/* SPDX-License-Identifier: Apache-2.0 */
/*
 * test_press_plugin.c - the examples of docs/NEW-PRESS.md, loaded as an operator loads them: they are listed, written and run
 * like any other press; what does not match is refused with a sentence.
 */
#include "presses/run.h"
#include "tests/support/cmocka_main.h"

#include <math.h>
#include <stdlib.h>

enum { TOKENS = 21, HEADS = 8, DIM = 16 };

static struct backend *be;
static struct hparams hp = {
    .layers = 1, .dim = 128, .q_heads = HEADS, .kv_heads = HEADS, .head_dim = DIM, .max_positions = 64
};
static float *k, *v;

static void open_plugin(const char *name)
{
    struct err err = { 0 };

    if (press_find(strcmp(name, "own_score") == 0 ? "vnorm" : strcmp(name, "own_choice") == 0 ? "ends" : "whole-heads"))
        return; /* another promise of this process opened it */
    {
        char path[512];

        snprintf(path, sizeof path, PLUGINS "/example_%s.so", name);
        if (press_plugin_open(path, &err) != ST_OK)
            fail_msg("%s", err.text);
    }
}

/* Rows per head that a chain keeps of 21 tokens and 8 heads; tokens of head g from token[first[g]] on. */
static struct press_result run(const char *text, int32_t *token)
{
    struct press_layer in = { .hp = &hp, .kv = { k, v, DT_F32, HEADS, DIM, TOKENS, TOKENS }, .tokens = TOKENS };
    struct press_run *r;
    struct press_result result;
    struct chain *chain;
    struct err err = { 0 };

    if (chain_parse(&chain, text, strlen(text), NULL, &err) != ST_OK)
        fail_msg("%s", err.text);
    assert_int_equal(press_run_open(&r, be, &hp, TOKENS, &err), ST_OK);
    assert_int_equal(press_run_begin(r, chain, TOKENS, 0, false, &err), ST_OK);
    if (press_run_layer(r, &in, &result, &err) != ST_OK)
        fail_msg("%s: %s", text, err.text);
    assert_int_equal(press_run_tokens(r, &result, token, &err), ST_OK);
    press_run_close(r);
    chain_close(chain);
    return result;
}

static void a_score_of_ones_own_chooses_the_rows(void **state)
{
    int32_t token[HEADS * TOKENS];
    struct press_result r;

    (void)state;
    open_plugin("own_score");
    for (int i = 0; i < HEADS * TOKENS * DIM; i++)
        v[i] = (float)(i / DIM % TOKENS % 5); /* rows 4, 9, 14, 19 have the largest values */
    r = run("vnorm | rows=4", token);
    for (int g = 0; g < HEADS; g++)
        for (int i = 0; i < 4; i++)
            assert_int_equal(token[r.first[g] + i], 4 + 5 * i);
}

static void a_score_that_says_row_alone_may_go_on_while_decoding(void **state)
{
    static const char text[] = "vnorm | dms:threshold=1,decoding=on";
    struct chain_decode part;
    struct chain *chain;
    struct err err = { 0 };

    (void)state;
    open_plugin("own_score");
    assert_int_equal(chain_parse(&chain, text, strlen(text), NULL, &err), ST_OK);
    assert_true(chain_decode_part(chain, &part));
    assert_int_equal(part.every, 1);
    chain_close(chain);
    assert_int_equal(chain_parse(&chain, "tova | dms:threshold=1,decoding=on", 34, NULL, &err), ST_EINVAL);
    assert_non_null(strstr(err.text, "(knorm, qfilter, kvzap, vnorm), not tova"));
}

static void a_choice_of_ones_own_needs_no_score(void **state)
{
    static const int32_t want[] = { 0, 1, 18, 19, 20 };
    int32_t token[HEADS * TOKENS];
    struct press_result r;

    (void)state;
    open_plugin("own_choice");
    r = run("ends:first=2,last=3", token);
    for (int g = 0; g < HEADS; g++) {
        assert_int_equal(r.first[g + 1] - r.first[g], 5);
        assert_memory_equal(token + r.first[g], want, sizeof want);
    }
}

static void budgets_of_ones_own_give_the_lengths_of_the_tutorial(void **state)
{
    static const int64_t lengths[HEADS] = { 21, 21, 7, 7, 7, 7, 7, 7 };
    static const int32_t streaming[] = { 0, 1, 2, 3, 18, 19, 20 };
    int32_t token[HEADS * TOKENS];
    struct press_result r;

    (void)state;
    open_plugin("own_budget");
    r = run("whole-heads | ratio=0.5", token);
    for (int g = 0; g < HEADS; g++)
        assert_int_equal(r.first[g + 1] - r.first[g], lengths[g]);
    for (int g = 2; g < HEADS; g++)
        assert_memory_equal(token + r.first[g], streaming, sizeof streaming);
}

static void a_plugins_press_is_listed_and_written_like_any_other(void **state)
{
    struct text json = { 0 };
    struct chain *chain;
    struct err err = { 0 };

    (void)state;
    open_plugin("own_choice");
    presses_json(&json);
    assert_non_null(strstr(text_str(&json), "\"ends\""));
    assert_non_null(strstr(text_str(&json), "\"options\":[{\"name\":\"first\","));
    assert_int_equal(chain_parse(&chain, "ends : last=8 , first=2", 23, NULL, &err), ST_OK);
    assert_string_equal(chain_text(chain), "ends:first=2");
    chain_close(chain);
    text_fini(&json);
    assert_int_equal(chain_parse(&chain, "ends:first=-1", 13, NULL, &err), ST_EINVAL);
}

static void refused(const char *path, enum status st, const char *sentence)
{
    struct err err = { 0 };

    assert_int_equal(press_plugin_open(path, &err), st);
    if (!strstr(err.text, sentence))
        fail_msg("wanted \"%s\" in \"%s\"", sentence, err.text);
}

static void what_does_not_match_is_refused_with_a_sentence(void **state)
{
    (void)state;
    open_plugin("own_score");
    refused(PLUGINS "/example_old.so", ST_EPRECONDITION, "was built for press ABI 5");
    refused(PLUGINS "/example_empty.so", ST_EINVAL, "has no platen_press_plugin");
    refused(PLUGINS "/nothing.so", ST_EINVAL, "cannot be opened");
    refused(PLUGINS "/example_own_score.so", ST_EINVAL, "there is a press called vnorm already");
}

static int open_all(void **state)
{
    struct backend_config config = { .dtype = DT_F32, .threads = 1, .memory_fraction = 0.5, .rows_max = 16 };
    struct err err = { 0 };

    (void)state;
    if (backend_open(&be, "cpu", &config, &err) != ST_OK)
        return -1;
    k = calloc(HEADS * TOKENS * DIM, sizeof *k);
    v = calloc(HEADS * TOKENS * DIM, sizeof *v);
    return 0;
}

static int close_all(void **state)
{
    (void)state;
    free(k);
    free(v);
    backend_close(be);
    return 0;
}

static const struct CMUnitTest tests[] = {
    cmocka_unit_test(a_score_of_ones_own_chooses_the_rows),
    cmocka_unit_test(a_score_that_says_row_alone_may_go_on_while_decoding),
    cmocka_unit_test(a_choice_of_ones_own_needs_no_score),
    cmocka_unit_test(budgets_of_ones_own_give_the_lengths_of_the_tutorial),
    cmocka_unit_test(a_plugins_press_is_listed_and_written_like_any_other),
    cmocka_unit_test(what_does_not_match_is_refused_with_a_sentence),
};

int main(int argc, char **argv)
{
    return cmocka_main(argc, argv, tests, ARRAY_LEN(tests), open_all, close_all);
}
