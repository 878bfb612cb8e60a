/* SPDX-License-Identifier: Apache-2.0 */
/* test_chain.c - texts that are read, their canonical form, and the sentences for those that are not. */
#include "presses/chain.h"
#include "tests/support/cmocka_main.h"

#include <stdlib.h>

static void canonical_is(const char *text, const char *want)
{
    struct chain *c;
    struct err err = { 0 };

    if (chain_parse(&c, text, strlen(text), NULL, &err) != ST_OK)
        fail_msg("\"%s\": %s", text, err.text);
    assert_string_equal(chain_text(c), want);
    chain_close(c);
}

/* The sentence begins with `sentence`; the caret stands under byte `at`. */
static void refused(const char *text, const char *sentence, size_t at)
{
    struct chain *c = NULL;
    struct err err = { 0 };
    const char *line, *caret;

    if (chain_parse(&c, text, strlen(text), NULL, &err) == ST_OK)
        fail_msg("\"%s\" was taken as %s", text, chain_text(c));
    assert_int_equal(err.code, ST_EINVAL);
    if (strncmp(err.text, sentence, strlen(sentence)) != 0)
        fail_msg("\"%s\": wanted \"%s...\", got \"%s\"", text, sentence, err.text);
    line = strchr(err.text, '\n');
    assert_non_null(line);
    assert_memory_equal(line + 1, text, strlen(text));
    caret = line + 1 + strlen(text);
    assert_int_equal(*caret, '\n');
    if (strspn(caret + 1, " ") != at || strcmp(caret + 1 + at, "^") != 0)
        fail_msg("wanted the caret under byte %zu:\n%s", at, err.text);
}

static void equal_presses_have_one_text(void **state)
{
    (void)state;
    canonical_is("", "none");
    canonical_is("  none\n", "none");
    canonical_is("snapkv|ratio=.5", "snapkv | ratio=0.5");
    canonical_is("snapkv:window=64,kernel=5 | ratio=5e-1", "snapkv | ratio=0.5");
    canonical_is("snapkv:kernel=7,window=032|ratio=0.50", "snapkv:window=32,kernel=7 | ratio=0.5");
    canonical_is("knorm|adakv:rule=kvpress , alpha = 0.1|rows=512", "knorm | adakv:alpha=0.1 | rows=512");
    canonical_is("knorm | ratios=.10/0.5", "knorm | ratios=0.1/0.5");
    canonical_is("knorm | dms:threshold=-20", "knorm | dms:threshold=-20"); /* no -2e+01 */
    canonical_is("knorm | dms:threshold=-0", "knorm | dms:threshold=0");
    canonical_is("knorm | ratios=-0/0.5", "knorm | ratios=0/0.5");
    canonical_is("knorm | ratio=-0.0 | merge:threshold=-0", "knorm | ratio=0 | merge");
    canonical_is("knorm | dms:threshold=1.5e3", "knorm | dms:threshold=1500");
    canonical_is("knorm | dms:threshold=-0.00002", "knorm | dms:threshold=-2e-05");
    canonical_is("knorm | ratio=0.3 | snapkv | ratio=0.3 | rerotate",
                 "knorm | ratio=0.3 | snapkv | ratio=0.3 | rerotate");
}

static void a_wrong_word_is_named_with_the_nearest(void **state)
{
    (void)state;
    refused("snapkw | ratio=0.5", "unknown press \"snapkw\"; did you mean snapkv?", 0);
    refused("SnapKV | ratio=0.5", "unknown press \"SnapKV\"; did you mean snapkv?", 0);
    refused("snapkv | zzzzzz | ratio=0.5", "unknown press \"zzzzzz\"; the words are none, ratio, ", 9);
    refused("snapkv:windw=3 | ratio=0.5", "snapkv has no option \"windw\"; did you mean window?", 7);
    refused("snapkv:qqqqqqqq=3 | ratio=0.5", "snapkv has no option \"qqqqqqqq\"; it has window, kernel", 7);
    refused("knorm:sink=3 | ratio=0.5", "knorm has no option \"sink\"; it has none at all", 6);
    refused("kvgrad | ratio=0.5", "\"kvgrad\" is not built yet", 0);
}

static void a_wrong_value_is_told_what_is_allowed(void **state)
{
    (void)state;
    refused("knorm | ratio=1", "ratio: \"1\" is not a number from 0 to below 1", 14);
    refused("knorm | ratio=1.5", "ratio: \"1.5\" is not a number from 0 to below 1", 14);
    refused("knorm | ratio=-0.1", "ratio: \"-0.1\" is not a number", 14);
    refused("knorm | ratio=nan", "ratio: \"nan\" is not a number", 14);
    refused("knorm | ratio=half", "ratio: \"half\" is not a number", 14);
    refused("knorm | rows=0", "rows: \"0\" is not a whole number from 1 to", 13);
    refused("knorm | rows=2.5", "rows: \"2.5\" is not a whole number", 13);
    refused("snapkv:kernel=4 | ratio=0.5", "snapkv: kernel is an odd whole number from 1 to 255, not \"4\"", 14);
    refused("knorm | adakv:rule=papr | ratio=0.5", "adakv: rule is kvpress or branch or paper, not \"papr\"", 19);
    refused("snapkv:window=3,window=4 | ratio=0.5", "snapkv: window is given twice", 16);
    refused("knorm | ratio", "ratio needs a value", 8);
    refused("qfilter | ratio=0.5", "qfilter needs file: a name", 0);
    refused("snapkv=5 | ratio=0.5", "snapkv takes no value, not \"5\"", 7);
}

static void a_stage_where_it_cannot_stand_is_refused(void **state)
{
    (void)state;
    refused("knorm", "the round of knorm keeps nothing; expected ratio, rows or ratios", 0);
    refused("ratio=0.5", "ratio keeps the best rows of a score; expected a score", 0);
    refused("knorm | ratio=0.5 | rows=5", "rows keeps a second time in one round", 20);
    refused("knorm | snapkv | ratio=0.5", "snapkv scores again before anything was kept", 8);
    refused("adakv | ratio=0.5", "adakv refines a score; expected a score", 0);
    refused("knorm | adakv | adakv | ratio=0.5", "adakv cannot stand after adakv", 16);
    refused("knorm | rerotate | ratio=0.5", "rerotate changes rows that were kept", 8);
    refused("finch:window=3 | chunk | ratio=0.5", "chunk cannot follow finch, which has chunks of its own", 17);
    refused("kvzip | adakv | ratio=0.5", "kvzip shares out its rows by itself", 8);
    refused("knorm | ratio=0.5 | kvzip | ratio=0.5", "kvzip sees the whole context", 20);
    refused("knorm | pyramid | ratio=0.5", "pyramid shares out the rows of snapkv", 8);
    refused("compactor | dms:threshold=0", "compactor: blend=auto is the round's ratio, and dms has none", 12);
    refused("knorm | cam | ratio=0.5", "cam stands in a decode part only", 8);
    refused("; decode | kvzip | rows=9", "kvzip cannot stand in the decode part; expected random, knorm, streaming",
            11);
    refused("; decode | knorm | block | rows=9", "block cannot stand in the decode part; expected adakv", 19);
    refused("; decode | knorm | rows=9 | rerotate", "rerotate cannot stand in the decode part; expected the end", 28);
    refused("; decode | knorm", "the round of knorm keeps nothing; expected ratio or rows after knorm", 11);
    refused("; decode | knorm | rows=9 | tova | rows=8",
            "the decode part is one score and one ratio or rows; expected the end, not tova", 28);
    refused("; decode | knorm | rows=9 ; tova | rows=8", "expected \"|\" or the end, not \";\"", 26);
    refused("decode | knorm | rows=9 ; tova | rows=8",
            "nothing stands after the decode part; expected the end, not tova", 26);
    refused("knorm | ratio=\"0.5\"", "expected a number from 0 to below 1, not \"0.5\"", 14);
    refused("knorm | rows=1\xe2\x82\xac\xe2\x82\xac\xe2\x82\xac\xe2\x82\xac\xe2\x82\xac\xe2\x82\xac\xe2\x82\xac"
            "\xe2\x82\xac\xe2\x82\xac\xe2\x82\xac\xe2\x82\xac\xe2\x82\xac\xe2\x82\xac\xe2\x82\xac",
            "rows: \"1\xe2\x82\xac\xe2\x82\xac\xe2\x82\xac\xe2\x82\xac\xe2\x82\xac\xe2\x82\xac\xe2\x82\xac"
            "\xe2\x82\xac\xe2\x82\xac\xe2\x82\xac\xe2\x82\xac\xe2\x82\xac\xe2\x82\xac\" is not",
            13);
    refused("none | knorm | ratio=0.5", "none keeps everything; it stands alone", 0);
    refused("knorm | ratio=0.5 | rerotate | rerotate", "rerotate stands twice", 31);
    refused("knorm | ratio=0.5 ; knorm | ratio=0.5",
            "the second part begins with decode; expected decode after \";\", not knorm", 20);
}

static void a_decode_part_refuses_what_it_cannot_do_again_and_again(void **state)
{
    (void)state;
    refused("; decode | finch:window=4 | rows=9", "finch cannot stand in the decode part", 11);
    refused("; decode | knorm | chunk | rows=9", "chunk cannot stand in the decode part", 19);
    refused("; decode | knorm | block | rows=9", "block cannot stand in the decode part", 19);
    refused("; decode | tova | adakv | rows=9", "tova needs equally many rows in every head", 11);
    refused("snapkv | adakv | ratio=0.5 ; decode | tova | rows=9", "tova needs equally many rows in every head", 38);
    refused("snapkv | adakv | ratio=0.5 ; decode | knorm | cam | rows=9", "cam needs equally many rows", 46);
    refused("knorm | dms:threshold=-9,decoding=on ; decode | knorm | rows=9",
            "dms: decoding=on works while tokens are generated; no decode part can follow", 39);
    refused(
        "snapkv | dms:threshold=0,decoding=on",
        "dms: decoding=on asks about each row alone; expected a score that looks at a row's key and value, or at its "
        "token's hidden state, alone (knorm, qfilter, kvzap), not snapkv",
        9);
    refused("knorm | critical | dms:threshold=0,decoding=on", "dms goes on by the score alone", 19);
    refused("knorm | dms:threshold=0,decoding=on | keydiff | ratio=0.5",
            "dms goes on while tokens are generated; expected an edit or the end, not keydiff", 38);
}

static void dms_that_goes_on_is_a_decode_part_of_its_own(void **state)
{
    static const char text[] = "keydiff|ratio=.5|knorm|dms:threshold=-9,window=7,decoding=on";
    struct chain_decode part;
    struct chain *c;
    struct err err = { 0 };

    (void)state;
    assert_int_equal(chain_parse(&c, text, sizeof text - 1, NULL, &err), ST_OK);
    assert_string_equal(chain_text(c), "keydiff | ratio=0.5 | knorm | dms:threshold=-9,window=7,decoding=on");
    assert_true(chain_decode_part(c, &part));
    assert_int_equal(part.every, 1);
    chain_close(c);
}

static void a_broken_text_is_told_where_it_breaks(void **state)
{
    (void)state;
    refused("knorm |", "the text ends where the name of a press was expected", 7);
    refused("knorm | | ratio=0.5", "expected the name of a press, not \"|\"", 8);
    refused("snapkv: | ratio=0.5", "expected the name of an option of snapkv, not \"|\"", 8);
    refused("snapkv:window | ratio=0.5", "expected \"=\" and a value after window, not \"|\"", 14);
    refused("knorm ratio=0.5", "expected \"|\", \";\" or the end, not \"ratio\"", 6);
    refused("knorm | ratio=\"0.5", "a double quote is opened and never closed", 14);
    refused("\xc3\xa4 | ratio=0.5", "unknown press", 0);
}

static void a_value_that_cannot_be_shown_on_one_line_is_refused(void **state)
{
    static const char text[] = "qfilter:file=\"a\nb\" | ratio=0.5";
    struct chain *c;
    struct err err = { 0 };

    (void)state;
    assert_int_equal(chain_parse(&c, text, sizeof text - 1, NULL, &err), ST_EINVAL);
    assert_non_null(strstr(err.text, "qfilter: a value is UTF-8 text without control characters\n"));
}

static void a_text_with_a_nul_byte_is_refused_whole(void **state)
{
    static const char text[] = "knorm\0 | ratio=0.5";
    struct chain *c;
    struct err err = { 0 };

    (void)state;
    assert_int_equal(chain_parse(&c, text, sizeof text - 1, NULL, &err), ST_EINVAL);
    assert_non_null(strstr(err.text, "| ratio=0.5"));
}

static void a_long_text_is_shown_around_the_word(void **state)
{
    char text[4000];
    struct chain *c;
    struct err err = { 0 };
    const char *line, *caret;

    (void)state;
    memset(text, ' ', sizeof text);
    memcpy(text, "knorm | ratio=0.5 |", 19);
    memcpy(text + 3000, "snapkw", 6);
    assert_int_equal(chain_parse(&c, text, sizeof text, NULL, &err), ST_EINVAL);
    line = strchr(err.text, '\n') + 1;
    caret = strchr(line, '\n') + 1;
    assert_memory_equal(line, "...", 3);
    assert_memory_equal(line + strspn(caret, " "), "snapkw", 6);
    assert_int_equal(chain_parse(&c, text, 5000, NULL, NULL), ST_EINVAL);
}

static void budgets_are_truncated_doubles_with_a_floor_of_one(void **state)
{
    static const struct {
        double ratio;
        int64_t n, rows;
    } cases[] = { { 0.9, 10, 1 },   { 0.9, 100, 9 },      { 0.9, 1000, 99 }, { 0.8, 10, 1 },
                  { 0.8, 20, 3 },   { 0.8, 5, 1 },        { 0.7, 10, 3 },    { 0.3, 10, 7 },
                  { 0.8, 128, 25 }, { 0.875, 4096, 512 }, { 0.0, 7, 7 },     { 0.5, 1, 1 } };

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        struct press_keep keep = { cases[i].ratio, 0 };

        assert_int_equal(press_keep_rows(&keep, cases[i].n), cases[i].rows);
    }
    for (int64_t n = 1; n < 4096; n++)
        for (double r = 0.05; r < 1; r += 0.05) {
            struct press_keep keep = { r, 0 };
            volatile double one = 1.0, left = one - r, product = (double)n * left;
            int64_t want = (int64_t)product;

            assert_int_equal(press_keep_rows(&keep, n), want < 1 ? 1 : want);
        }
}

static const struct CMUnitTest tests[] = {
    cmocka_unit_test(equal_presses_have_one_text),
    cmocka_unit_test(a_wrong_word_is_named_with_the_nearest),
    cmocka_unit_test(a_wrong_value_is_told_what_is_allowed),
    cmocka_unit_test(a_stage_where_it_cannot_stand_is_refused),
    cmocka_unit_test(a_decode_part_refuses_what_it_cannot_do_again_and_again),
    cmocka_unit_test(dms_that_goes_on_is_a_decode_part_of_its_own),
    cmocka_unit_test(a_broken_text_is_told_where_it_breaks),
    cmocka_unit_test(a_value_that_cannot_be_shown_on_one_line_is_refused),
    cmocka_unit_test(a_text_with_a_nul_byte_is_refused_whole),
    cmocka_unit_test(a_long_text_is_shown_around_the_word),
    cmocka_unit_test(budgets_are_truncated_doubles_with_a_floor_of_one),
};

int main(int argc, char **argv)
{
    return cmocka_main(argc, argv, tests, ARRAY_LEN(tests), NULL, NULL);
}
