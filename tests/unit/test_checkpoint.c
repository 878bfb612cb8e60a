/* SPDX-License-Identifier: Apache-2.0 */
/* Directories with one thing wrong at a time: the sentence names the tensor, the key or the file. */
#include "common/model/checkpoint.h"
#include "common/model/roles.h"
#include "tests/support/model_dir.h"

#define LLAMA "tests/golden/families/llama/"

/* A copy of the tiny llama. */
static const char *llama_dir(struct arena *arena)
{
    const char *dir = dir_new(arena);

    dir_copy(dir, "config.json", LLAMA "config.json");
    dir_copy(dir, "generation_config.json", LLAMA "generation_config.json");
    dir_copy(dir, "model.safetensors", LLAMA "model.safetensors");
    return dir;
}

static void assert_refused(const char *dir, enum status st, const char *word)
{
    struct checkpoint *c = NULL;
    struct err err = { 0 };

    assert_int_equal(checkpoint_open(&c, dir, &err), st);
    assert_null(c);
    if (!strstr(err.text, word))
        fail_msg("the sentence does not name %s: %s", word, err.text);
}

/* The tiny llama with `old` replaced by `new` in one file. */
static void assert_swap_refused(const char *file, const char *old, const char *new, enum status st, const char *word)
{
    struct arena arena = { 0 };
    const char *dir = llama_dir(&arena);
    struct text t = file_text(arena_printf(&arena, "%s/%s", dir, file));

    text_swap(&t, old, new);
    dir_write(dir, file, t.data, t.bytes);
    assert_refused(dir, st, word);
    text_fini(&t);
    dir_remove(dir);
    arena_fini(&arena);
}

static void missing_tensor_is_named(void **state)
{
    (void)state;
    assert_swap_refused("model.safetensors", "model.layers.2.mlp.up_proj.weight", "model.layers.2.mlp.up_pro_.weight",
                        ST_EINVAL, "model.layers.2.mlp.up_proj.weight");
}

static void extra_tensor_is_named(void **state)
{
    (void)state;
    assert_swap_refused("config.json", "\"num_hidden_layers\": 4", "\"num_hidden_layers\": 3", ST_EINVAL,
                        "model.layers.3.");
}

static void misshapen_tensor_is_named_with_both_shapes(void **state)
{
    (void)state;
    assert_swap_refused("config.json", "\"intermediate_size\": 48", "\"intermediate_size\": 49", ST_EINVAL,
                        "gate_proj.weight is 48 x 32; the configuration needs 49 x 32");
}

static void truncated_tensor_is_named(void **state)
{
    struct arena arena = { 0 };
    const char *dir = llama_dir(&arena);
    struct text t = file_text(LLAMA "model.safetensors");

    (void)state;
    dir_write(dir, "model.safetensors", t.data, t.bytes - 50); /* the last in the file is the last norm, of 64 bytes */
    assert_refused(dir, ST_EINVAL, "tensor model.norm.weight is truncated");
    dir_write(dir, "model.safetensors", t.data, 100);
    assert_refused(dir, ST_EINVAL, "truncated");
    dir_write(dir, "model.safetensors", t.data, 5);
    assert_refused(dir, ST_EINVAL, "model.safetensors");
    dir_write(dir, "model.safetensors", "", 0);
    assert_refused(dir, ST_EINVAL, "model.safetensors");
    text_fini(&t);
    dir_remove(dir);
    arena_fini(&arena);
}

/* The first roles and layers, in turn, that cannot be read; how many there are. */
static int unreadable(const char *dir, struct err *err)
{
    static float rows[256 * 48];
    struct checkpoint *c = NULL;
    int failed = 0;

    assert_int_equal(checkpoint_open(&c, dir, err), ST_OK);
    failed += checkpoint_rows(c, ROLE_OUT_NORM, 0, 0, 1, rows, err) == ST_EINVAL;
    for (int32_t l = 0; l < 4; l++)
        failed += checkpoint_rows(c, ROLE_QKV, l, 0, 128, rows, err) == ST_EINVAL;
    checkpoint_close(c);
    return failed;
}

/* One number of the tiny llama, by where its tensor lies in the file, becomes `bits` (bf16). */
static void assert_number_refused(enum slot slot, int32_t layer, int64_t number, uint16_t bits, const char *words)
{
    struct arena arena = { 0 };
    struct err err = { 0 };
    const char *dir = llama_dir(&arena);
    struct text t = file_text(LLAMA "model.safetensors");
    struct checkpoint *c = NULL;
    struct tensor_ref at;
    char *found;

    assert_int_equal(checkpoint_open(&c, dir, &err), ST_OK);
    assert_true(checkpoint_tensor(c, slot, layer, &at));
    found = memmem(t.data, t.bytes, at.data, at.bytes);
    assert_non_null(found);
    checkpoint_close(c);
    assert_int_equal(unreadable(dir, &err), 0);
    memcpy(found + number * 2, &bits, sizeof bits);
    dir_write(dir, "model.safetensors", t.data, t.bytes);
    assert_int_equal(unreadable(dir, &err), 1);
    assert_string_equal(err.text, words);
    text_fini(&t);
    dir_remove(dir);
    arena_fini(&arena);
}

static void numbers_that_are_not_finite_are_refused_with_their_place(void **state)
{
    (void)state;
    assert_number_refused(SLOT_OUT_NORM, 0, 31, 0x7fc0, "OUT_NORM, layer 0: row 0 holds what is not a finite number");
    assert_number_refused(SLOT_K, 2, 32 * 7 + 3, 0xff80, "K, layer 2: row 7 holds what is not a finite number");
}

static void ignored_tensors_do_not_disturb(void **state)
{
    struct arena arena = { 0 };
    const char *dir = llama_dir(&arena);
    struct text t = file_text(LLAMA "config.json");
    struct checkpoint *c = NULL;
    struct err err = { 0 };
    struct tensor_ref unused;

    (void)state;
    text_swap(&t, "\"tie_word_embeddings\": false",
              "\"tie_word_embeddings\": true"); /* lm_head.weight is not needed then */
    dir_write(dir, "config.json", t.data, t.bytes);
    if (checkpoint_open(&c, dir, &err) != ST_OK)
        fail_msg("%s", err.text);
    assert_false(checkpoint_tensor(c, SLOT_LM_HEAD, 0, &unused));
    checkpoint_close(c);
    text_fini(&t);
    dir_remove(dir);
    arena_fini(&arena);
}

static void wrong_configurations_name_the_key(void **state)
{
    static const struct {
        const char *old, *new, *word;
        enum status st;
    } rows[] = {
        { "\"hidden_size\": 32", "\"hidden_siz_\": 32", "hidden_size is missing", ST_EINVAL },
        { "\"hidden_size\": 32", "\"hidden_size\": -1", "hidden_size is -1", ST_EINVAL },
        { "\"hidden_size\": 32", "\"hidden_size\": 1e300", "hidden_size", ST_EINVAL },
        { "\"hidden_size\": 32", "\"hidden_size\": \"32\"", "hidden_size is not a whole number", ST_EINVAL },
        { "\"num_key_value_heads\": 2", "\"num_key_value_heads\": 3", "do not divide", ST_EINVAL },
        { "\"model_type\": \"llama\"", "\"model_type\": \"mamba\"", "\"mamba\" is not a family", ST_EUNIMPLEMENTED },
        { "\"rope_type\": \"llama3\"", "\"rope_type\": \"xyz\"", "\"xyz\" is not built", ST_EUNIMPLEMENTED },
        { "\"hidden_act\": \"silu\"", "\"hidden_act\": \"relu\"", "relu", ST_EUNIMPLEMENTED },
        { "\"attention_bias\": false", "\"attention_bias\": true", "q_proj.bias is missing", ST_EINVAL },
        { "\"mlp_bias\": false", "\"mlp_bias\": true", "gate_proj.bias is missing", ST_EINVAL },
        { "\"low_freq_factor\": 1.0", "\"low_freq_facto_\": 1.0", "low_freq_factor is missing", ST_EINVAL },
        { "{", "[", "config.json", ST_EINVAL },
    };

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(rows); i++)
        assert_swap_refused("config.json", rows[i].old, rows[i].new, rows[i].st, rows[i].word);
}

static void what_is_no_model_is_refused_with_its_path(void **state)
{
    struct arena arena = { 0 };
    const char *dir = dir_new(&arena);

    (void)state;
    assert_refused("/nonexistent/model", ST_ENOTFOUND, "/nonexistent/model");
    assert_refused(dir, ST_ENOTFOUND, "config.json");
    dir_copy(dir, "config.json", LLAMA "config.json");
    assert_refused(dir, ST_ENOTFOUND, "model.safetensors");
    assert_refused(arena_printf(&arena, "%s/config.json", dir), ST_EINVAL, "not a GGUF file");
    dir_puts(dir, "empty.gguf", "");
    assert_refused(arena_printf(&arena, "%s/empty.gguf", dir), ST_EINVAL, "empty.gguf");
    dir_remove(dir);
    arena_fini(&arena);
}

/* An index of every tensor of the tiny llama, all in one file, and perhaps of one that no file has. */
static void write_index(const char *dir, bool with_lost)
{
    struct text t = file_text(LLAMA "model.safetensors"), index = { 0 };
    const char *at = t.data + 8, *end = at + load_u64((const uint8_t *)t.data);
    const char *comma = "";

    text_puts(&index, "{\"weight_map\":{");
    for (const char *quote = at; (quote = memmem(quote, (size_t)(end - quote), "\":{\"dtype\"", 10)); quote++) {
        const char *name = quote;
        while (name[-1] != '"')
            name--;
        text_printf(&index, "%s\"%.*s\":\"a.safetensors\"", comma, (int)(quote - name), name);
        comma = ",";
    }
    text_printf(&index, "%s}}", with_lost ? ",\"model.lost.weight\":\"a.safetensors\"" : "");
    dir_write(dir, "a.safetensors", t.data, t.bytes);
    dir_write(dir, "model.safetensors.index.json", index.data, index.bytes);
    text_fini(&index);
    text_fini(&t);
}

static void an_index_leads_to_its_files(void **state)
{
    struct arena arena = { 0 };
    const char *dir = dir_new(&arena);
    struct checkpoint *c = NULL;
    struct err err = { 0 };

    (void)state;
    dir_copy(dir, "config.json", LLAMA "config.json");
    write_index(dir, false);
    if (checkpoint_open(&c, dir, &err) != ST_OK)
        fail_msg("%s", err.text);
    checkpoint_close(c);
    write_index(dir, true);
    assert_refused(dir, ST_EINVAL, "model.lost.weight is missing from a.safetensors");
    dir_puts(dir, "model.safetensors.index.json", "{\"weight_map\":{\"x\":\"../../etc/passwd\"}}");
    assert_refused(dir, ST_EINVAL, "tensor x is in no file of this directory");
    dir_puts(dir, "model.safetensors.index.json", "{\"weight_map\":{\"x\":\"gone.safetensors\"}}");
    assert_refused(dir, ST_ENOTFOUND, "gone.safetensors");
    dir_puts(dir, "model.safetensors.index.json", "{}");
    assert_refused(dir, ST_EINVAL, "weight_map");
    dir_remove(dir);
    arena_fini(&arena);
}

static void default_model_is_read(void **state)
{
    struct checkpoint *c = NULL;
    struct err err = { 0 };
    struct tensor_ref q;
    float row[576];

    (void)state;
    if (!file_exists(PLATEN_DEFAULT_MODEL))
        skip();
    if (checkpoint_open(&c, PLATEN_DEFAULT_MODEL, &err) != ST_OK)
        fail_msg("%s", err.text);
    const struct hparams *h = checkpoint_hparams(c);
    assert_int_equal(h->layers, 30);
    assert_int_equal(h->q_heads, 9);
    assert_int_equal(h->kv_heads, 3);
    assert_int_equal(h->head_dim, 64);
    assert_int_equal(h->max_positions, 8192);
    assert_true(h->rope.theta == 100000.0);
    assert_int_equal(h->eos_id[0], 2);
    assert_true(checkpoint_tensor(c, SLOT_Q, 29, &q));
    assert_int_equal(q.permuted_heads, 9);
    assert_int_equal(tensor_ref_row(&q, 64 + 33), 64 + 2 * 1 + 1);
    tensor_ref_rows(&q, 575, 1, row);
    checkpoint_close(c);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(missing_tensor_is_named),
        cmocka_unit_test(extra_tensor_is_named),
        cmocka_unit_test(misshapen_tensor_is_named_with_both_shapes),
        cmocka_unit_test(truncated_tensor_is_named),
        cmocka_unit_test(numbers_that_are_not_finite_are_refused_with_their_place),
        cmocka_unit_test(ignored_tensors_do_not_disturb),
        cmocka_unit_test(wrong_configurations_name_the_key),
        cmocka_unit_test(what_is_no_model_is_refused_with_its_path),
        cmocka_unit_test(an_index_leads_to_its_files),
        cmocka_unit_test(default_model_is_read),
    };
    return cmocka_main(argc, argv, tests, ARRAY_LEN(tests), NULL, NULL);
}
