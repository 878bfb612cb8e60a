/* SPDX-License-Identifier: Apache-2.0 */
/* What the golden lines do not show: spans of special tokens, dropped bytes, NULs, bad input, streams, long texts. */
#include "common/base/clock.h"
#include "common/model/checkpoint.h"
#include "tests/support/model_dir.h"
#include "tests/support/tokenizer_golden.h"

/* a, b, c and ab are tokens, nothing else is; <x> is special, <y> is added. */
static const char tiny[] =
    "{\"added_tokens\":[{\"id\":5,\"content\":\"<x>\",\"special\":true,\"normalized\":false},"
    "{\"id\":6,\"content\":\"<y>\",\"special\":false,\"normalized\":false},"
    "{\"id\":7,\"content\":\"<x>y\",\"special\":true,\"normalized\":false}],"
    "\"pre_tokenizer\":{\"type\":\"ByteLevel\",\"add_prefix_space\":false,\"use_regex\":true},\"decoder\":{\"type\":"
    "\"ByteLevel\"},"
    "\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":0,\"b\":1,\"c\":2,\"ab\":3,\"<\":4},\"merges\":[\"a b\"]}}";

static struct tokenizer *open_json(const char *json)
{
    struct tokenizer *t = NULL;
    struct err err = { 0 };

    if (tokenizer_open_json(&t, json, strlen(json), &err) != ST_OK)
        fail_msg("%s", err.text);
    return t;
}

static void assert_ids(const struct tokenizer *t, const char *text, size_t bytes, const struct tok_span *special,
                       const char *want, uint64_t want_dropped)
{
    struct token_list ids = { 0 };
    struct text got = { 0 };
    struct err err = { 0 };
    uint64_t dropped = 0;

    if (tokenizer_encode(t, text, bytes, special, &ids, &dropped, &err) != ST_OK)
        fail_msg("%s", err.text);
    ids_text(&ids, &got);
    assert_string_equal(text_str(&got), want);
    assert_int_equal(dropped, want_dropped);
    text_fini(&got);
    token_list_fini(&ids);
}

static void bytes_without_a_token_vanish_and_are_counted(void **state)
{
    struct tokenizer *t = open_json(tiny);

    (void)state;
    assert_ids(t, "abc", 3, NULL, "3 2", 0);
    assert_ids(t, "azb", 3, NULL, "3", 1); /* the neighbours meet, as in the reference */
    assert_ids(t, "a\xc3\xa4z", 4, NULL, "0", 3);
    tokenizer_close(t);
}

static void a_nul_is_a_byte_like_any_other(void **state)
{
    struct tokenizer *t = open_json(tiny);

    (void)state;
    assert_ids(t, "c\0c\0<x>c", 8, NULL, "2 2 5 2", 2);
    assert_ids(t, "", 0, NULL, "", 0);
    tokenizer_close(t);
}

static void special_text_counts_only_inside_its_span(void **state)
{
    struct tokenizer *t = open_json(tiny);
    struct tok_span first = { 0, 3 }, none = { 0, 0 }, cut = { 0, 5 };

    (void)state;
    assert_ids(t, "<x><x>a", 7, NULL, "5 5 0", 0);
    assert_ids(t, "<x><x>a", 7, &first, "5 4 0", 2);
    assert_ids(t, "<x><x>a", 7, &cut, "5 4 0", 2);
    assert_ids(t, "<x>a<y>", 7, &none, "4 0 6", 2); /* added tokens that are not special always count */
    assert_ids(t, "<x>y", 4, NULL, "7", 0);         /* the longest */
    assert_ids(t, "<x>y", 4, &first, "5", 1);
    tokenizer_close(t);
}

static void bad_utf8_is_refused_with_its_place(void **state)
{
    static const struct {
        const char *text;
        size_t at;
    } rows[] = {
        { "ab\xff", 2 },   { "\xc3", 0 }, { "a\xed\xa0\x80", 1 }, { "\xc0\x80", 0 }, { "a\xf4\x90\x80\x80", 1 },
        { "\xe2\x82", 0 },
    };
    struct tokenizer *t = open_json(tiny);
    struct token_list ids = { 0 };

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        struct err err = { 0 };
        char at[32];
        assert_int_equal(tokenizer_encode(t, rows[i].text, strlen(rows[i].text), NULL, &ids, NULL, &err), ST_EINVAL);
        snprintf(at, sizeof at, "offset %zu", rows[i].at);
        if (!strstr(err.text, at))
            fail_msg("expected %s: %s", at, err.text);
        assert_int_equal(ids.count, 0);
    }
    tokenizer_close(t);
}

static void special_tokens_are_told_from_others(void **state)
{
    struct tokenizer *t = open_json(tiny);
    const char *piece;

    (void)state;
    assert_true(tokenizer_is_special(t, 5));
    assert_false(tokenizer_is_special(t, 6));
    assert_false(tokenizer_is_special(t, -1));
    assert_false(tokenizer_is_special(t, 1000000));
    assert_int_equal(tokenizer_piece(t, 3, &piece), 2);
    assert_memory_equal(piece, "ab", 2);
    assert_int_equal(tokenizer_piece(t, 8, &piece), 0);
    assert_int_equal(tokenizer_size(t), 8);
    tokenizer_close(t);
}

/* One token a byte; id = byte. */
static struct tokenizer *byte_tokenizer(void)
{
    struct text t = file_text("tests/golden/families/llama/tokenizer.json");
    struct tokenizer *out = open_json(text_str(&t));

    text_fini(&t);
    return out;
}

static void assert_stream(const struct tokenizer *t, const char *bytes, const char *want)
{
    struct token_list ids = { 0 };
    struct text got = { 0 };

    for (const char *at = bytes; *at; at++)
        token_list_add(&ids, (uint8_t)*at);
    stream_text(t, &ids, &got);
    assert_string_equal(text_str(&got), want);
    token_list_fini(&ids);
    text_fini(&got);
}

static void streams_give_whole_characters_and_mark_broken_ones(void **state)
{
    struct tokenizer *t = byte_tokenizer();

    (void)state;
    assert_stream(t, "h\xc3\xa9 \xe2\x82\xac \xf0\x9f\x98\x80.", "h\xc3\xa9 \xe2\x82\xac \xf0\x9f\x98\x80.");
    assert_stream(t, "a\xe2\x82", "a\xef\xbf\xbd");                           /* held back, then lost */
    assert_stream(t, "\xe2\x82z", "\xef\xbf\xbdz");                           /* one mark for one broken sequence */
    assert_stream(t, "\xff\xfe", "\xef\xbf\xbd\xef\xbf\xbd");                 /* bytes that begin nothing */
    assert_stream(t, "\xed\xa0\x80", "\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd"); /* a surrogate */
    assert_stream(t, "\xf0\x9f\xf0\x9f\x98\x80", "\xef\xbf\xbd\xf0\x9f\x98\x80");
    tokenizer_close(t);
}

/* SentencePiece-like: <w> must stand alone; bytes are a fall-back for what has no token. */
static const char pieces[] =
    "{\"added_tokens\":[{\"id\":0,\"content\":\"<w>\",\"special\":false,\"normalized\":false,\"single_word\":true}],"
    "\"normalizer\":{\"type\":\"Replace\",\"pattern\":{\"String\":\" \"},\"content\":\"\xe2\x96\x81\"},"
    "\"decoder\":{\"type\":\"Sequence\",\"decoders\":[{\"type\":\"Replace\",\"pattern\":{\"String\":\"\xe2\x96\x81\"},"
    "\"content\":\" \"},{\"type\":\"ByteFallback\"},{\"type\":\"Fuse\"},{\"type\":\"Strip\",\"content\":\" \","
    "\"start\":1,\"stop\":0}]},"
    "\"model\":{\"type\":\"BPE\",\"byte_fallback\":true,\"unk_token\":\"?\",\"vocab\":{\"<w>\":0,\"?\":1,\"a\":2,"
    "\"\xe2\x96\x81\":3,\"\xc2\xbd\":4,\"\xe2\x85\xa7\":5,\"_\":6,\"-\":7},\"merges\":[]}}";

static void only_one_blank_is_taken_from_the_front(void **state)
{
    struct tokenizer *t = open_json(pieces);
    struct token_list ids = { 0 };
    struct text got = { 0 };

    (void)state;
    for (int i = 0; i < 3; i++)
        token_list_add(&ids, 3);
    token_list_add(&ids, 2);
    stream_text(t, &ids, &got);
    assert_string_equal(text_str(&got), "  a");
    token_list_fini(&ids);
    text_fini(&got);
    tokenizer_close(t);
}

static void single_words_stand_beside_what_is_no_word(void **state)
{
    struct tokenizer *t = open_json(pieces);
    struct token_list ids = { 0 };

    (void)state;
    assert_ids(t, "\xc2\xbd<w>-", 6, NULL, "4 0 7", 0); /* a fraction is no \w */
    assert_int_equal(tokenizer_encode(t, "\xe2\x85\xa7<w>", 6, NULL, &ids, NULL, NULL), ST_OK); /* a Roman numeral is */
    assert_int_equal(ids.ids[1], 1);
    token_list_fini(&ids);
    assert_int_equal(tokenizer_encode(t, "<w>_", 4, NULL, &ids, NULL, NULL), ST_OK);
    assert_int_equal(ids.ids[0], 1);
    token_list_fini(&ids);
    tokenizer_close(t);
}

static void every_single_byte_token_streams_without_harm(void **state)
{
    struct tokenizer *t = byte_tokenizer();
    uint32_t random = 1;

    (void)state;
    for (int round = 0; round < 200; round++) {
        struct token_list ids = { 0 };
        struct text got = { 0 };
        for (int i = 0; i < 50; i++) {
            random = random * 1664525u + 1013904223u;
            token_list_add(&ids, (int32_t)(random >> 24));
        }
        stream_text(t, &ids, &got); /* checks that each piece is whole */
        assert_true(utf8_valid(text_str(&got), got.bytes));
        token_list_fini(&ids);
        text_fini(&got);
    }
    tokenizer_close(t);
}

static void hash_changes_with_anything_that_decides_ids(void **state)
{
    struct text t = { 0 };
    struct tokenizer *a = open_json(tiny), *b = open_json(tiny), *c;
    static const struct {
        const char *old, *new;
    } rows[] = {
        { "\"merges\":[\"a b\"]", "\"merges\":[]" },
        { "\"a\":0,\"b\":1", "\"a\":1,\"b\":0" },
        { "\"special\":true", "\"special\":false" },
        { "\"use_regex\":true", "\"use_regex\":false" },
    };

    (void)state;
    assert_true(tokenizer_hash(a) == tokenizer_hash(b));
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        text_clear(&t);
        text_puts(&t, tiny);
        text_swap(&t, rows[i].old, rows[i].new);
        c = open_json(text_str(&t));
        assert_true(tokenizer_hash(a) != tokenizer_hash(c));
        tokenizer_close(c);
    }
    text_fini(&t);
    tokenizer_close(a);
    tokenizer_close(b);
}

static void what_is_not_built_is_refused_by_name(void **state)
{
    static const struct {
        const char *old, *new, *word;
    } rows[] = {
        { "\"type\":\"BPE\"", "\"type\":\"Unigram\"", "Unigram" },
        { "\"type\":\"ByteLevel\",\"add", "\"type\":\"Bert\",\"add", "pre_tokenizer \"Bert\"" },
        { "\"merges\":[\"a b\"]", "\"merges\":[\"a z\"]", "merge 0" },
        { "\"merges\":[\"a b\"]", "\"merges\":[\"ab\"]", "merge 0" },
        { "\"a\":0", "\"a\":-1", "has no id" },
        { "\"a\":0", "\"a\":1", "id 1 to two tokens" },
        { "\"id\":5", "\"id\":99999999", "has no id" },
        { "\"model\"", "\"modell\"", "model is missing" },
        { "\"content\":\"<x>\"", "\"content\":\"\"", "no content" },
        { "\"decoder\":{\"type\":\"ByteLevel\"}", "\"decoder\":{\"type\":\"CTC\"}", "decoder \"CTC\"" },
        { "\"pre_tokenizer\":{", "\"normalizer\":{\"type\":\"Lowercase\"},\"pre_tokenizer\":{",
          "normalizer \"Lowercase\"" },
        { "{\"type\":\"ByteLevel\",\"add_prefix_space\":false,\"use_regex\":true}",
          "{\"type\":\"Split\",\"behavior\":\"Isolated\",\"pattern\":{\"Regex\":\"a(\"}}", "pattern of the tokenizer" },
    };

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        struct text json = { 0 };
        struct tokenizer *t = NULL;
        struct err err = { 0 };
        text_puts(&json, tiny);
        text_swap(&json, rows[i].old, rows[i].new);
        assert_int_not_equal(tokenizer_open_json(&t, json.data, json.bytes, &err), ST_OK);
        if (!strstr(err.text, rows[i].word))
            fail_msg("the sentence does not say %s: %s", rows[i].word, err.text);
        text_fini(&json);
    }
}

static void a_directory_with_only_tokenizer_model_is_told_the_way(void **state)
{
    struct arena arena = { 0 };
    const char *dir = dir_new(&arena);
    struct checkpoint *c = NULL;
    struct tokenizer *t = NULL;
    struct err err = { 0 };

    (void)state;
    dir_copy(dir, "config.json", "tests/golden/families/llama/config.json");
    dir_copy(dir, "model.safetensors", "tests/golden/families/llama/model.safetensors");
    assert_int_equal(checkpoint_open(&c, dir, &err), ST_OK);
    assert_int_equal(tokenizer_open(&t, c, &err), ST_ENOTFOUND);
    assert_non_null(strstr(err.text, "tokenizer.json"));
    err_clear(&err);
    dir_puts(dir, "tokenizer.model", "x");
    assert_int_equal(tokenizer_open(&t, c, &err), ST_EINVAL);
    assert_non_null(strstr(err.text, "save_pretrained"));
    checkpoint_close(c);
    dir_remove(dir);
    arena_fini(&arena);
}

static void a_token_beyond_the_vocabulary_is_plain_text_or_refused(void **state)
{
    struct arena arena = { 0 };
    const char *dir = dir_new(&arena);
    struct text json = file_text("tests/golden/families/llama/tokenizer.json");
    struct checkpoint *c = NULL;
    struct tokenizer *t = NULL;
    struct err err = { 0 };

    (void)state;
    dir_copy(dir, "config.json", "tests/golden/families/llama/config.json");
    dir_copy(dir, "model.safetensors", "tests/golden/families/llama/model.safetensors");
    text_swap(&json, "\"added_tokens\": []",
              "\"added_tokens\": [{\"id\": 256, \"content\": \"!!\", \"special\": true}]");
    dir_write(dir, "tokenizer.json", json.data, json.bytes);
    assert_int_equal(checkpoint_open(&c, dir, &err), ST_OK);
    if (tokenizer_open(&t, c, &err) != ST_OK)
        fail_msg("%s", err.text);
    assert_ids(t, "!!", 2, NULL, "33 33", 0);
    tokenizer_close(t);
    text_swap(&json, "\"vocab\": {", "\"vocab\": {\"zz\": 300, ");
    dir_write(dir, "tokenizer.json", json.data, json.bytes);
    assert_int_equal(tokenizer_open(&t, c, &err), ST_EINVAL);
    assert_non_null(strstr(err.text, "id 300"));
    checkpoint_close(c);
    text_fini(&json);
    dir_remove(dir);
    arena_fini(&arena);
}

static void default_model_gives_the_ids_of_the_specification(void **state)
{
    static const char question[] = "Where does Bob live?<|im_end|>\n<|im_start|>assistant\n";
    struct checkpoint *c = NULL;
    struct tokenizer *t = NULL;
    struct err err = { 0 };

    (void)state;
    if (!file_exists(PLATEN_DEFAULT_MODEL))
        skip();
    if (checkpoint_open(&c, PLATEN_DEFAULT_MODEL, &err) != ST_OK || tokenizer_open(&t, c, &err) != ST_OK)
        fail_msg("%s", err.text);
    assert_ids(t, question, strlen(question), NULL, "9576 1072 8363 2330 47 2 198 1 520 9531 198", 0);
    assert_ids(t, "\x04\x14", 2, NULL, "", 2);
    tokenizer_close(t);
    checkpoint_close(c);
}

/* A megabyte of each; the bound is far from the usual tens of milliseconds, so that a busy machine does not break it. */
static void a_megabyte_takes_well_under_a_second(void **state)
{
    static const char *const pieces[] = {
        "The quick brown fox 123 jumps. ", " ", "a", "<", "7", "\n", "\xe4\xb8\xad", "Aa", "'s"
    };
    struct checkpoint *c = NULL;
    struct tokenizer *t = NULL;
    struct err err = { 0 };

    (void)state;
    if (!file_exists(PLATEN_DEFAULT_MODEL))
        skip();
    if (checkpoint_open(&c, PLATEN_DEFAULT_MODEL, &err) != ST_OK || tokenizer_open(&t, c, &err) != ST_OK)
        fail_msg("%s", err.text);
    for (size_t i = 0; i < ARRAY_LEN(pieces); i++) {
        struct text text = { 0 };
        struct token_list ids = { 0 };
        while (text.bytes < 1000000)
            text_puts(&text, pieces[i]);
        int64_t begin = clock_now_ns();
        if (tokenizer_encode(t, text.data, text.bytes, NULL, &ids, NULL, &err) != ST_OK)
            fail_msg("'%s': %s", pieces[i], err.text);
        double seconds = (double)(clock_now_ns() - begin) / (double)NS_PER_S;
        if (seconds > 10)
            fail_msg("a megabyte of '%s' took %.1f s", pieces[i], seconds);
        token_list_fini(&ids);
        text_fini(&text);
    }
    tokenizer_close(t);
    checkpoint_close(c);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(bytes_without_a_token_vanish_and_are_counted),
        cmocka_unit_test(a_nul_is_a_byte_like_any_other),
        cmocka_unit_test(special_text_counts_only_inside_its_span),
        cmocka_unit_test(bad_utf8_is_refused_with_its_place),
        cmocka_unit_test(special_tokens_are_told_from_others),
        cmocka_unit_test(streams_give_whole_characters_and_mark_broken_ones),
        cmocka_unit_test(only_one_blank_is_taken_from_the_front),
        cmocka_unit_test(single_words_stand_beside_what_is_no_word),
        cmocka_unit_test(every_single_byte_token_streams_without_harm),
        cmocka_unit_test(hash_changes_with_anything_that_decides_ids),
        cmocka_unit_test(what_is_not_built_is_refused_by_name),
        cmocka_unit_test(a_directory_with_only_tokenizer_model_is_told_the_way),
        cmocka_unit_test(a_token_beyond_the_vocabulary_is_plain_text_or_refused),
        cmocka_unit_test(default_model_gives_the_ids_of_the_specification),
        cmocka_unit_test(a_megabyte_takes_well_under_a_second),
    };
    return cmocka_main(argc, argv, tests, ARRAY_LEN(tests), NULL, NULL);
}
