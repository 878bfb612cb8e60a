/* SPDX-License-Identifier: Apache-2.0 */
/* Every family's configuration, rotation and weights, from directory and GGUF, against transformers (make_tiny_models.py). */
#include "common/base/arena.h"
#include "common/model/checkpoint.h"
#include "common/model/rope.h"
#include "tests/support/cmocka_main.h"

#include <jansson.h>
#include <math.h>
#include <stdlib.h>

#define FAMILIES "tests/golden/families/"

static struct checkpoint *open_family(const char *name, const char *file)
{
    struct arena arena = { 0 };
    struct checkpoint *c = NULL;
    struct err err = { 0 };

    if (checkpoint_open(&c, arena_printf(&arena, FAMILIES "%s%s", name, file), &err) != ST_OK)
        fail_msg("%s", err.text);
    arena_fini(&arena);
    return c;
}

/* inv_freq of `layer` at `length` within `units` of fp32's last place of the numbers of the reference. */
static void assert_freqs(const struct hparams *h, int32_t layer, int64_t length, const json_t *want, double factor,
                         double units)
{
    float got[256], got_factor;

    assert_int_equal(rope_of_layer(h, layer)->dims, 2 * json_array_size(want));
    rope_freqs(h, layer, length, got, &got_factor);
    assert_true(fabs(got_factor - factor) < 1e-6);
    for (size_t j = 0; j < json_array_size(want); j++) {
        double f = json_number_value(json_array_get(want, j));
        if (fabs((double)got[j] - f) > units * ldexp(f, -23))
            fail_msg("layer %d, length %d, pair %zu: %.9g, expected %.9g", layer, (int)length, j, (double)got[j], f);
    }
}

static void assert_rope(const struct hparams *h, const json_t *golden, const char *key, int64_t length, double units)
{
    const json_t *freqs = json_object_get(golden, key), *local = json_object_get(freqs, "local");
    double factor = json_number_value(json_object_get(freqs, "factor"));

    for (int32_t l = 0; l < h->layers; l++)
        assert_freqs(h, l, length, local && h->window[l] ? local : json_object_get(freqs, "full"), factor, units);
}

static void assert_both_lengths(const char *name, const struct hparams *h, double units)
{
    struct arena arena = { 0 };
    json_t *golden = json_load_file(arena_printf(&arena, FAMILIES "%s/expected.json", name), 0, NULL);

    assert_non_null(golden);
    assert_rope(h, golden, "freqs_40", 40, units);
    assert_rope(h, golden, "freqs_300", 300, units);
    json_decref(golden);
    arena_fini(&arena);
}

/* Every weight of `b` is that of `a`, value for value. */
static void assert_same_weights(const struct checkpoint *a, const struct checkpoint *b)
{
    int seen = 0;

    for (int s = 0; s < SLOT_COUNT; s++)
        for (int32_t l = 0; l < checkpoint_hparams(a)->layers; l++) {
            struct tensor_ref x, y;
            bool in_a = checkpoint_tensor(a, (enum slot)s, l, &x);
            assert_int_equal(checkpoint_tensor(b, (enum slot)s, l, &y), in_a);
            if (!in_a)
                continue;
            assert_int_equal(x.rows, y.rows);
            assert_int_equal(x.cols, y.cols);
            float *p = mem_alloc((size_t)(x.rows * x.cols) * sizeof *p),
                  *q = mem_alloc((size_t)(x.rows * x.cols) * sizeof *q);
            tensor_ref_rows(&x, 0, x.rows, p);
            tensor_ref_rows(&y, 0, y.rows, q);
            for (int64_t i = 0; i < x.rows * x.cols; i++)
                if (p[i] != q[i])
                    fail_msg("%s of layer %d, value %d: %g and %g", slot_word((enum slot)s), l, (int)i, (double)p[i],
                             (double)q[i]);
            free(p);
            free(q);
            seen++;
        }
    assert_true(seen > 10);
}

static void assert_same_shape(const struct hparams *a, const struct hparams *b)
{
    assert_int_equal(a->arch == b->arch || b->arch == ARCH_llama, 1); /* GGUF calls Mistral "llama" */
    assert_int_equal(a->layers, b->layers);
    assert_int_equal(a->dim, b->dim);
    assert_int_equal(a->q_heads, b->q_heads);
    assert_int_equal(a->kv_heads, b->kv_heads);
    assert_int_equal(a->head_dim, b->head_dim);
    assert_int_equal(a->ff_dim, b->ff_dim);
    assert_int_equal(a->vocab, b->vocab);
    assert_int_equal(a->tied_head, b->tied_head);
    assert_int_equal(a->qkv_bias, b->qkv_bias);
    assert_int_equal(a->o_bias, b->o_bias);
    assert_int_equal(a->mlp_bias, b->mlp_bias);
    assert_int_equal(a->qk_norm, b->qk_norm);
    for (int32_t l = 0; l < a->layers; l++)
        assert_int_equal(a->window[l], b->window[l]);
    assert_int_equal(a->post_norms, b->post_norms);
    assert_int_equal(a->activation, b->activation);
    assert_true(a->embed_scale == b->embed_scale && a->norm_eps == b->norm_eps);
    for (int32_t l = 0; l < a->layers; l++)
        assert_int_equal(a->rope_off[l], b->rope_off[l]);
}

static void assert_gguf_equals_directory(const char *name, double units)
{
    struct checkpoint *dir = open_family(name, ""), *file = open_family(name, "/model.gguf");

    assert_same_shape(checkpoint_hparams(dir), checkpoint_hparams(file));
    assert_same_weights(dir, file);
    assert_both_lengths(name, checkpoint_hparams(file), units);
    checkpoint_close(dir);
    checkpoint_close(file);
}

static void rotation_equals_the_reference_in_every_family(void **state)
{
    static const char *const names[] = { "llama",   "llama_linear", "llama_dynamic", "llama_yarn", "qwen2",  "qwen3",
                                         "mistral", "phi3",         "phi3_partial",  "gemma3",     "smollm3" };

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(names); i++) {
        struct checkpoint *c = open_family(names[i], "");
        assert_both_lengths(names[i], checkpoint_hparams(c), strcmp(names[i], "llama_dynamic") == 0 ? 4 : 1);
        checkpoint_close(c);
    }
}

static void only_dynamic_and_longrope_vary_with_the_length(void **state)
{
    static const struct {
        const char *name;
        bool varies;
    } rows[] = {
        { "llama", false }, { "llama_yarn", false }, { "llama_dynamic", true }, { "phi3", true }, { "gemma3", false },
    };

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        struct checkpoint *c = open_family(rows[i].name, "");
        assert_int_equal(rope_varies(&checkpoint_hparams(c)->rope), rows[i].varies);
        checkpoint_close(c);
    }
}

static void gguf_llama_rows_are_put_back_in_order(void **state)
{
    (void)state;
    assert_gguf_equals_directory("llama", 4); /* rope_freqs.weight holds quotients, rounded once more */
}

static void gguf_of_every_other_family_equals_its_directory(void **state)
{
    (void)state;
    assert_gguf_equals_directory("qwen2", 1);
    assert_gguf_equals_directory("llama_bias", 1);
    assert_gguf_equals_directory("qwen3", 1);
    assert_gguf_equals_directory("mistral", 1);
    assert_gguf_equals_directory("phi3", 1);
    assert_gguf_equals_directory("smollm3", 1);
}

static void gguf_gemma_norms_have_their_one_already(void **state)
{
    struct checkpoint *dir = open_family("gemma3", ""), *file = open_family("gemma3", "/model.gguf");
    struct tensor_ref x, y;

    (void)state;
    assert_gguf_equals_directory("gemma3", 1);
    assert_true(checkpoint_tensor(dir, SLOT_ATTN_NORM, 0, &x) && checkpoint_tensor(file, SLOT_ATTN_NORM, 0, &y));
    assert_true(x.add == 1.0f && y.add == 0.0f);
    checkpoint_close(dir);
    checkpoint_close(file);
}

static void windows_follow_the_family(void **state)
{
    struct checkpoint *c = open_family("gemma3", "");
    const struct hparams *h = checkpoint_hparams(c);

    (void)state;
    for (int32_t l = 0; l < h->layers; l++)
        assert_int_equal(h->window[l], l == 5 ? 0 : 32);
    assert_true(fabs(h->attn_scale - 1 / sqrt(24.0)) < 1e-7);
    checkpoint_close(c);

    c = open_family("mistral", "");
    assert_int_equal(checkpoint_hparams(c)->window[0], 48);
    checkpoint_close(c);

    c = open_family("qwen2", ""); /* sliding_window is there, use_sliding_window is not */
    assert_true(hparams_layer_is_full(checkpoint_hparams(c), 3));
    checkpoint_close(c);

    c = open_family("phi3", ""); /* the window is as large as the longest context */
    assert_true(hparams_layer_is_full(checkpoint_hparams(c), 0));
    checkpoint_close(c);
}

static void every_fourth_layer_of_smollm3_does_not_rotate(void **state)
{
    struct checkpoint *c = open_family("smollm3", "");

    (void)state;
    for (int32_t l = 0; l < 4; l++)
        assert_int_equal(checkpoint_hparams(c)->rope_off[l], l == 3);
    checkpoint_close(c);
}

static void fused_tensors_are_given_as_their_parts(void **state)
{
    struct checkpoint *c = open_family("phi3", "");
    const struct hparams *h = checkpoint_hparams(c);
    struct tensor_ref q, k, v, gate, up;

    (void)state;
    assert_true(checkpoint_tensor(c, SLOT_Q, 1, &q) && checkpoint_tensor(c, SLOT_K, 1, &k) &&
                checkpoint_tensor(c, SLOT_V, 1, &v));
    assert_true(checkpoint_tensor(c, SLOT_GATE, 1, &gate) && checkpoint_tensor(c, SLOT_UP, 1, &up));
    assert_int_equal(q.rows, h->q_heads * h->head_dim);
    assert_ptr_equal(k.data, q.data + q.bytes);
    assert_ptr_equal(v.data, k.data + k.bytes);
    assert_ptr_equal(up.data, gate.data + gate.bytes);
    checkpoint_close(c);
}

static void end_tokens_come_from_generation_config(void **state)
{
    struct checkpoint *c = open_family("llama", "");
    const struct hparams *h = checkpoint_hparams(c);

    (void)state;
    assert_int_equal(h->eos_count, 2);
    assert_int_equal(h->eos_id[0], 0);
    assert_int_equal(h->eos_id[1], 2);
    assert_int_equal(h->bos_id, 1);
    checkpoint_close(c);
}

static void identity_tells_models_apart_and_knows_one_again(void **state)
{
    struct checkpoint *a = open_family("llama", ""), *b = open_family("llama", ""),
                      *other = open_family("llama_yarn", "");
    struct checkpoint *file = open_family("llama", "/model.gguf");
    struct checkpoint_identity x, y;

    (void)state;
    checkpoint_identify(a, &x);
    checkpoint_identify(b, &y);
    assert_true(x.hparams == y.hparams && x.weights == y.weights);
    checkpoint_identify(other, &y);
    assert_true(x.hparams != y.hparams && x.weights != y.weights);
    checkpoint_identify(file, &y); /* the same numbers in another order of rows */
    assert_true(x.weights != y.weights);
    checkpoint_close(a);
    checkpoint_close(b);
    checkpoint_close(other);
    checkpoint_close(file);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(rotation_equals_the_reference_in_every_family),
        cmocka_unit_test(only_dynamic_and_longrope_vary_with_the_length),
        cmocka_unit_test(gguf_llama_rows_are_put_back_in_order),
        cmocka_unit_test(gguf_of_every_other_family_equals_its_directory),
        cmocka_unit_test(gguf_gemma_norms_have_their_one_already),
        cmocka_unit_test(windows_follow_the_family),
        cmocka_unit_test(every_fourth_layer_of_smollm3_does_not_rotate),
        cmocka_unit_test(fused_tensors_are_given_as_their_parts),
        cmocka_unit_test(end_tokens_come_from_generation_config),
        cmocka_unit_test(identity_tells_models_apart_and_knows_one_again),
    };
    return cmocka_main(argc, argv, tests, ARRAY_LEN(tests), NULL, NULL);
}
