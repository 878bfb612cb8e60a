/* SPDX-License-Identifier: Apache-2.0 */
#include "kernels/block.h"
#include "kernels/weights.h"
#include "tests/support/cmocka_main.h"

/* A checkpoint that exists only as a rule: what was asked for is counted by role. */
struct rule {
    int asked[ROLE_COUNT];
    int64_t rows[ROLE_COUNT];
    enum weight_role fails; /* ROLE_COUNT: none */
};

static const struct hparams small = { .layers = 2,
                                      .dim = 32,
                                      .q_heads = 4,
                                      .kv_heads = 2,
                                      .head_dim = 8,
                                      .ff_dim = 48,
                                      .vocab = 70,
                                      .norm_eps = 1e-5f,
                                      .tied_head = 1,
                                      .rope = { .dims = 8 } };

static int64_t cols_of(const struct hparams *hp, enum weight_role role)
{
    switch (role) {
    case ROLE_O:
        return hp->q_heads * hp->head_dim;
    case ROLE_DOWN:
        return hp->ff_dim;
    case ROLE_Q_NORM:
    case ROLE_K_NORM:
        return hp->head_dim;
    case ROLE_QKV_BIAS:
        return (hp->q_heads + 2 * hp->kv_heads) * hp->head_dim;
    case ROLE_GATE_UP_BIAS:
        return 2 * hp->ff_dim;
    default:
        return hp->dim;
    }
}

static enum status read_rule(void *ctx, enum weight_role role, int32_t layer, int64_t row, int64_t rows, float *out,
                             struct err *err)
{
    struct rule *r = ctx;

    if (role == r->fails)
        return err_set(err, ST_EDATALOSS, "role %d of layer %d is torn", (int)role, layer);
    r->asked[role]++;
    r->rows[role] += rows;
    for (int64_t i = 0; i < rows * cols_of(&small, role); i++)
        out[i] = (float)((row * 7 + i) % 13) - 6.0f;
    return ST_OK;
}

static struct backend *open_cpu(void)
{
    const struct backend_config config = { .dtype = DT_F32, .threads = 1, .memory_fraction = 0.2, .rows_max = 8 };
    struct backend *be = NULL;

    assert_int_equal(backend_open(&be, "cpu", &config, NULL), ST_OK);
    return be;
}

static uint64_t weight_bytes(struct backend *be)
{
    struct device_bytes bytes;

    be->ops->device_bytes(be, &bytes);
    return bytes.weights;
}

static void every_weight_is_read_whole_and_once(void **state)
{
    struct backend *be = open_cpu();
    struct rule rule = { .fails = ROLE_COUNT };
    struct weights *w;
    struct err err = { 0 };

    (void)state;
    assert_int_equal(weights_open(&w, be, &small, read_rule, &rule, 0, &err), ST_OK);
    assert_int_equal(rule.rows[ROLE_EMBEDDING], 70);
    assert_int_equal(rule.rows[ROLE_QKV], 2 * (4 + 2 * 2) * 8);
    assert_int_equal(rule.rows[ROLE_GATE_UP], 2 * 2 * 48);
    assert_int_equal(rule.rows[ROLE_DOWN], 2 * 32);
    assert_int_equal(rule.asked[ROLE_ATTN_NORM], 2);
    assert_int_equal(rule.asked[ROLE_OUT_NORM], 1);
    assert_int_equal(rule.asked[ROLE_HEAD], 0); /* tied */
    assert_int_equal(rule.asked[ROLE_QKV_BIAS] + rule.asked[ROLE_Q_NORM] + rule.asked[ROLE_POST_ATTN_NORM], 0);
    assert_ptr_equal(w->head, w->embedding);
    weights_close(w, be);
    assert_int_equal(weight_bytes(be), 0);
    backend_close(be);
}

static void a_family_with_everything_gets_everything(void **state)
{
    struct backend *be = open_cpu();
    struct rule rule = { .fails = ROLE_COUNT };
    struct hparams full = small;
    struct weights *w;

    (void)state;
    full.tied_head = 0;
    full.qkv_bias = full.qk_norm = full.post_norms = full.o_bias = full.mlp_bias = 1;
    assert_int_equal(weights_open(&w, be, &full, read_rule, &rule, 0, NULL), ST_OK);
    for (int role = 0; role < ROLE_COUNT; role++)
        assert_true(rule.asked[role] > 0);
    assert_ptr_not_equal(w->head, w->embedding);
    weights_close(w, be);
    backend_close(be);
}

static void a_failing_reader_ends_the_opening_with_its_sentence(void **state)
{
    struct backend *be = open_cpu();

    (void)state;
    for (int role = 0; role < ROLE_COUNT; role++) {
        struct rule rule = { .fails = (enum weight_role)role };
        struct hparams full = small;
        struct weights *w = NULL;
        struct err err = { 0 };

        full.tied_head = 0;
        full.qkv_bias = full.qk_norm = full.post_norms = full.o_bias = full.mlp_bias = 1;
        assert_int_equal(weights_open(&w, be, &full, read_rule, &rule, 0, &err), ST_EDATALOSS);
        assert_non_null(strstr(err.text, "is torn"));
        assert_null(w);
        assert_int_equal(weight_bytes(be), 0);
    }
    backend_close(be);
}

static void weights_without_a_reader_are_random_and_repeatable(void **state)
{
    float first[70] = { 0 }, again[70] = { 0 }, other[70] = { 0 }, *logits[] = { first, again, other };
    const uint64_t seeds[] = { 5, 5, 6 };
    struct backend *be = open_cpu();

    (void)state;
    for (int i = 0; i < 3; i++) {
        float x[32], normed[32];
        struct weights *w;

        for (int k = 0; k < 32; k++)
            x[k] = (float)k - 10.0f;
        assert_int_equal(weights_open(&w, be, &small, NULL, NULL, seeds[i], NULL), ST_OK);
        block_logits(be, w, x, 1, normed, logits[i]);
        weights_close(w, be);
    }
    assert_memory_equal(first, again, sizeof first);
    assert_memory_not_equal(first, other, sizeof first);
    backend_close(be);
}

static void more_memory_than_there_is_is_refused(void **state)
{
    struct backend *be = open_cpu();
    struct hparams huge = small;
    struct weights *w = NULL;
    struct err err = { 0 };

    (void)state;
    huge.vocab = INT32_MAX;
    huge.dim = 1 << 20;
    assert_int_equal(weights_open(&w, be, &huge, NULL, NULL, 1, &err), ST_EEXHAUSTED);
    assert_non_null(strstr(err.text, "weights"));
    assert_int_equal(weight_bytes(be), 0);
    backend_close(be);
}

static void layers_rotate_as_their_kind_says(void **state)
{
    struct backend *be = open_cpu();
    struct rule rule = { .fails = ROLE_COUNT };
    float full[4] = { 1.0f, 0.5f, 0.25f, 0.125f }, local[4] = { 1.0f, 0.1f, 0.01f, 0.001f };
    const struct rope_tables tables = { { full, 8, 1, 0, 1.5f }, { local, 8, 1, 0, 1.0f } };
    struct hparams hp = small;
    struct weights *w;

    (void)state;
    hp.layers = 3;
    hp.rope_is_local[1] = 1;
    hp.rope_off[2] = 1;
    hp.rope_local.dims = 8;
    assert_int_equal(weights_open(&w, be, &hp, read_rule, &rule, 0, NULL), ST_OK);
    assert_int_equal(weights_rope(w, be, &tables, NULL), ST_OK);
    assert_memory_equal(weights_layer_rope(w, 0).inv_freq, full, sizeof full);
    assert_true(weights_layer_rope(w, 0).scale == 1.5f);
    assert_memory_equal(weights_layer_rope(w, 1).inv_freq, local, sizeof local);
    assert_null(weights_layer_rope(w, 2).inv_freq);
    weights_close(w, be);
    backend_close(be);
}

static const struct CMUnitTest tests[] = {
    cmocka_unit_test(every_weight_is_read_whole_and_once),
    cmocka_unit_test(a_family_with_everything_gets_everything),
    cmocka_unit_test(a_failing_reader_ends_the_opening_with_its_sentence),
    cmocka_unit_test(weights_without_a_reader_are_random_and_repeatable),
    cmocka_unit_test(more_memory_than_there_is_is_refused),
    cmocka_unit_test(layers_rotate_as_their_kind_says),
};

int main(int argc, char **argv)
{
    return cmocka_main(argc, argv, tests, ARRAY_LEN(tests), NULL, NULL);
}
