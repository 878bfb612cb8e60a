/* SPDX-License-Identifier: Apache-2.0 */
/* config.json in both key styles, and the defaults that differ by family. */
#include "common/model/family.h"
#include "common/model/jsonfile.h"
#include "common/model/rope.h"
#include "tests/support/model_dir.h"

#include <jansson.h>
#include <math.h>

#define SIZES                                                                                        \
    "\"hidden_size\":64,\"intermediate_size\":96,\"num_hidden_layers\":8,\"num_attention_heads\":4," \
    "\"num_key_value_heads\":2,\"vocab_size\":300,\"max_position_embeddings\":1024"

/* Reads {"model_type": type, SIZES, more}. */
static enum status read_config(struct hparams *h, const char *type, const char *more, struct arena *arena,
                               struct err *err)
{
    char *text = arena_printf(arena, "{\"model_type\":\"%s\"," SIZES "%s%s}", type, *more ? "," : "", more);
    struct keys_result result = { ST_OK, err, arena };
    json_t *doc = NULL;
    enum status st = json_parse(&doc, text, strlen(text), err);
    enum arch arch = ARCH_llama;

    memset(h, 0, sizeof *h);
    if (st == ST_OK)
        st = family_find_hf(&arch, type, err);
    h->arch = arch;
    struct keys k = { .json = doc, .result = &result };
    if (st == ST_OK)
        st = hparams_from_config(h, family_at(arch), &k);
    json_decref(doc);
    return st;
}

static struct hparams config(const char *type, const char *more, struct arena *arena)
{
    struct hparams h;
    struct err err = { 0 };

    if (read_config(&h, type, more, arena, &err) != ST_OK)
        fail_msg("%s: %s", type, err.text);
    return h;
}

static void assert_same_rope(const struct rope_params *a, const struct rope_params *b)
{
    assert_int_equal(a->kind, b->kind);
    assert_int_equal(a->dims, b->dims);
    assert_true(a->theta == b->theta && a->factor == b->factor && a->low_freq_factor == b->low_freq_factor);
    assert_true(a->high_freq_factor == b->high_freq_factor && a->attention_factor == b->attention_factor);
    assert_true(a->beta_fast == b->beta_fast && a->beta_slow == b->beta_slow);
    assert_int_equal(a->original_positions, b->original_positions);
}

static void old_and_new_keys_say_the_same(void **state)
{
    static const struct {
        const char *type, *old, *new;
    } rows[] = {
        { "llama", "\"rope_theta\":5e5,\"rope_scaling\":null",
          "\"rope_parameters\":{\"rope_type\":\"default\",\"rope_theta\":5e5}" },
        { "llama",
          "\"rope_theta\":5e5,\"rope_scaling\":{\"rope_type\":\"llama3\",\"factor\":8,\"low_freq_factor\":1,\"high_"
          "freq_factor\":4,"
          "\"original_max_position_embeddings\":128}",
          "\"rope_parameters\":{\"rope_type\":\"llama3\",\"rope_theta\":5e5,\"factor\":8,\"low_freq_factor\":1,\"high_"
          "freq_factor\":4,"
          "\"original_max_position_embeddings\":128}" },
        { "llama", "\"rope_scaling\":{\"type\":\"linear\",\"factor\":2.0}",
          "\"rope_parameters\":{\"rope_type\":\"linear\",\"factor\":2.0,\"rope_theta\":10000.0}" },
        { "qwen2",
          "\"rope_theta\":1e6,\"rope_scaling\":{\"type\":\"yarn\",\"factor\":4.0,\"original_max_position_embeddings\":"
          "256}",
          "\"rope_parameters\":{\"rope_type\":\"yarn\",\"rope_theta\":1e6,\"factor\":4.0,\"original_max_position_"
          "embeddings\":256}" },
        { "gemma3_text",
          "\"rope_theta\":1e6,\"rope_local_base_freq\":1e4,\"rope_scaling\":{\"rope_type\":\"linear\",\"factor\":8}",
          "\"rope_parameters\":{\"full_attention\":{\"rope_type\":\"linear\",\"factor\":8,\"rope_theta\":1e6},"
          "\"sliding_attention\":{\"rope_type\":\"default\",\"rope_theta\":1e4}}" },
    };

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        struct arena arena = { 0 };
        struct hparams a = config(rows[i].type, rows[i].old, &arena), b = config(rows[i].type, rows[i].new, &arena);
        assert_same_rope(&a.rope, &b.rope);
        assert_same_rope(&a.rope_local, &b.rope_local);
        arena_fini(&arena);
    }
}

static void missing_keys_mean_what_the_family_says(void **state)
{
    struct arena arena = { 0 };

    (void)state;
    assert_false(config("llama", "", &arena).tied_head);
    assert_false(config("qwen2", "", &arena).tied_head);
    assert_true(config("gemma3_text", "", &arena).tied_head);
    assert_true(config("smollm3", "", &arena).tied_head);
    assert_true(config("llama", "", &arena).rope.theta == 1e4);
    assert_true(config("gemma3_text", "", &arena).rope.theta == 1e6);
    assert_true(config("gemma3_text", "", &arena).rope_local.theta == 1e4);
    assert_true(config("smollm3", "", &arena).rope.theta == 2e6);
    assert_int_equal(config("llama", "", &arena).head_dim, 16);
    assert_int_equal(config("mistral", "\"num_key_value_heads\":null", &arena).kv_heads,
                     config("mistral", "", &arena).q_heads);
    assert_int_equal(config("qwen3", "", &arena).head_dim, 128);
    assert_int_equal(config("gemma3_text", "", &arena).head_dim, 256);
    assert_true(fabs(config("gemma3_text", "", &arena).embed_scale - 8.0f) < 1e-6);
    assert_true(config("gemma3_text", "", &arena).attn_scale == 1.0f / 16.0f);
    arena_fini(&arena);
}

#define LAYER_TYPES                                                                                    \
    "\"layer_types\":[\"full_attention\",\"full_attention\",\"sliding_attention\",\"full_attention\"," \
    "\"full_attention\",\"full_attention\",\"full_attention\",\"full_attention\"]"

static void windows_count_only_where_the_family_uses_them(void **state)
{
    struct arena arena = { 0 };
    struct hparams h = config("qwen2", "\"sliding_window\":64,\"max_window_layers\":5", &arena);

    (void)state;
    for (int l = 0; l < 8; l++)
        assert_int_equal(h.window[l], 0);
    h = config("qwen2", "\"sliding_window\":64,\"max_window_layers\":5,\"use_sliding_window\":true", &arena);
    for (int l = 0; l < 8; l++)
        assert_int_equal(h.window[l], l < 5 ? 0 : 64);
    assert_int_equal(config("mistral", "\"sliding_window\":null", &arena).window[0], 0);
    assert_int_equal(config("mistral", "\"sliding_window\":100", &arena).window[7], 100);
    assert_int_equal(config("mistral", "\"sliding_window\":1024", &arena).window[7],
                     0); /* as long as the longest context */
    h = config("gemma3_text", "\"sliding_window\":64,\"sliding_window_pattern\":3", &arena);
    for (int l = 0; l < 8; l++)
        assert_int_equal(h.window[l], l % 3 == 2 ? 0 : 64);
    h = config("smollm3", "\"sliding_window\":64,\"use_sliding_window\":false", &arena);
    for (int l = 0; l < 8; l++)
        assert_int_equal(h.window[l], 0);
    h = config("smollm3", "\"sliding_window\":64,\"use_sliding_window\":true", &arena);
    for (int l = 0; l < 8; l++)
        assert_int_equal(h.window[l], l % 4 == 3 ? 64 : 0);
    h = config("smollm3", "\"sliding_window\":64,\"use_sliding_window\":false," LAYER_TYPES, &arena);
    for (int l = 0; l < 8; l++) /* transformers asks layer_types alone */
        assert_int_equal(h.window[l], l == 2 ? 64 : 0);
    arena_fini(&arena);
}

static void a_window_that_is_none_keeps_its_layers_rotation(void **state)
{
    struct arena arena = { 0 };
    struct hparams h = config("gemma3_text", "\"sliding_window\":1024", &arena);

    (void)state;
    for (int32_t l = 0; l < 8; l++) {
        assert_int_equal(h.window[l], 0);
        assert_true(rope_of_layer(&h, l)->theta == (l == 5 ? 1e6 : 1e4));
    }
    arena_fini(&arena);
}

static void phi3_reads_the_length_before_scaling_from_the_top(void **state)
{
    struct arena arena = { 0 };
    struct hparams h = config(
        "phi3",
        "\"original_max_position_embeddings\":256,\"partial_rotary_factor\":0.5,\"rope_scaling\":{\"type\":\"su\","
        "\"short_factor\":[1,1,1,1],\"long_factor\":[1,2,3,4]}",
        &arena);

    (void)state;
    assert_int_equal(h.rope.kind, ROPE_LONGROPE);
    assert_int_equal(h.rope.dims, 8);
    assert_int_equal(h.rope.original_positions, 256);
    assert_true(h.rope.factor == 4.0);
    assert_true(h.rope.long_factor[3] == 4.0f);
    arena_fini(&arena);
}

static void what_cannot_be_is_refused(void **state)
{
    static const struct {
        const char *type, *more, *word;
    } rows[] = {
        { "phi3", "\"rope_scaling\":{\"type\":\"longrope\",\"short_factor\":[1],\"long_factor\":[1]}", "short_factor" },
        { "phi3",
          "\"rope_scaling\":{\"type\":\"longrope\",\"short_factor\":[0,1,1,1,1,1,1,1],\"long_factor\":[1,1,1,1,1,1,1,1]"
          "}",
          "not positive" },
        { "gemma3_text", "\"final_logit_softcapping\":30.0", "soft caps" },
        { "gemma3_text", "\"layer_types\":[\"full_attention\"]", "layer_types has 1" },
        { "smollm3", "\"no_rope_layers\":[1,1]", "no_rope_layers has 2" },
        { "qwen3", "\"quantization_config\":{\"bits\":4}", "quantization_config" },
        { "llama", "\"partial_rotary_factor\":0.5", "partial_rotary_factor" },
        { "llama", "\"head_dim\":15", "rotated channels" },
        { "llama", "\"rope_scaling\":[]", "rope_scaling is not an object" },
        { "llama", "\"eos_token_id\":[\"x\"]", "eos_token_id" },
        { "llama", "\"rope_theta\":0", "rope_theta is 0" },
    };

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        struct arena arena = { 0 };
        struct err err = { 0 };
        struct hparams h;
        assert_int_not_equal(read_config(&h, rows[i].type, rows[i].more, &arena, &err), ST_OK);
        if (!strstr(err.text, rows[i].word))
            fail_msg("the sentence does not say %s: %s", rows[i].word, err.text);
        arena_fini(&arena);
    }
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(old_and_new_keys_say_the_same),
        cmocka_unit_test(missing_keys_mean_what_the_family_says),
        cmocka_unit_test(windows_count_only_where_the_family_uses_them),
        cmocka_unit_test(a_window_that_is_none_keeps_its_layers_rotation),
        cmocka_unit_test(phi3_reads_the_length_before_scaling_from_the_top),
        cmocka_unit_test(what_cannot_be_is_refused),
    };
    return cmocka_main(argc, argv, tests, ARRAY_LEN(tests), NULL, NULL);
}
