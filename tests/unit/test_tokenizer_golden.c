/* SPDX-License-Identifier: Apache-2.0 */
/* Ids and decoded texts of 2,000 lines against the `tokenizers` library (tests/golden/make_tokenizer.py). */
#include "common/base/file.h"
#include "common/model/checkpoint.h"
#include "tests/support/tokenizer_golden.h"

#include <stdlib.h>

/* A vocabulary of the real one's first merges, with its real patterns, whole in the golden file. */
static void assert_small(const char *path)
{
    json_t *golden = golden_open(path);
    char *json = json_dumps(json_object_get(golden, "tokenizer"), 0);
    struct tokenizer *t = NULL;
    struct err err = { 0 };

    assert_non_null(json);
    if (tokenizer_open_json(&t, json, strlen(json), &err) != ST_OK)
        fail_msg("%s: %s", path, err.text);
    assert_golden_rows(t, golden, 280);
    tokenizer_close(t);
    free(json);
    json_decref(golden);
}

static void llama3_ids_equal_the_reference(void **state)
{
    (void)state;
    assert_small("tests/golden/tokenizer_llama3.json");
}

static void qwen_ids_equal_the_reference(void **state)
{
    (void)state;
    assert_small("tests/golden/tokenizer_qwen.json");
}

static void tekken_ids_equal_the_reference(void **state)
{
    (void)state;
    assert_small("tests/golden/tokenizer_tekken.json");
}

static void sentencepiece_with_prepend_equals_the_reference(void **state)
{
    (void)state;
    assert_small("tests/golden/tokenizer_spm_legacy.json");
}

static void sentencepiece_with_metaspace_equals_the_reference(void **state)
{
    (void)state;
    assert_small("tests/golden/tokenizer_spm_metaspace.json");
}

static void sentencepiece_without_prefix_equals_the_reference(void **state)
{
    (void)state;
    assert_small("tests/golden/tokenizer_spm_gemma.json");
}

static void default_model_ids_equal_the_reference_on_2000_lines(void **state)
{
    struct checkpoint *c = NULL;
    struct tokenizer *t = NULL;
    struct err err = { 0 };
    json_t *golden;

    (void)state;
    if (!file_exists(PLATEN_DEFAULT_MODEL))
        skip();
    if (checkpoint_open(&c, PLATEN_DEFAULT_MODEL, &err) != ST_OK || tokenizer_open(&t, c, &err) != ST_OK)
        fail_msg("%s", err.text);
    golden = golden_open("tests/golden/tokenizer_smollm2.json");
    assert_golden_rows(t, golden, 2000);
    json_decref(golden);
    tokenizer_close(t);
    checkpoint_close(c);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(llama3_ids_equal_the_reference),
        cmocka_unit_test(qwen_ids_equal_the_reference),
        cmocka_unit_test(tekken_ids_equal_the_reference),
        cmocka_unit_test(sentencepiece_with_prepend_equals_the_reference),
        cmocka_unit_test(sentencepiece_with_metaspace_equals_the_reference),
        cmocka_unit_test(sentencepiece_without_prefix_equals_the_reference),
        cmocka_unit_test(default_model_ids_equal_the_reference_on_2000_lines),
    };
    return cmocka_main(argc, argv, tests, ARRAY_LEN(tests), NULL, NULL);
}
