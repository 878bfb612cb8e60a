/* SPDX-License-Identifier: Apache-2.0 */
/* test_prefill_forward.c - a context layer by layer: prefixes, blocks of rows, turns, and what a press is shown. */
#include "prefill-node/forward.h"

#include "common/base/arena.h"
#include "tests/support/cmocka_main.h"
#include "tests/unit/small_prefill.h"

#include <math.h>
#include <stdlib.h>

enum { TOKENS = 1100 }; /* two whole blocks of rows and a part */

struct world {
    struct prefill_node node; /* for its model; its engine stays idle */
    struct prefill *prefill;
    int32_t token[TOKENS];
    void *x[2];
};

static int world_open(void **state)
{
    struct world *w = mem_zero(1, sizeof *w);

    small_prefill_open(&w->node, 0, 1000);
    assert_int_equal(prefill_open(&w->prefill, w->node.parts.be, w->node.parts.weights, TOKENS, NULL), ST_OK);
    for (int i = 0; i < TOKENS; i++)
        w->token[i] = small_token(i);
    for (int i = 0; i < 2; i++)
        assert_int_equal(w->node.parts.be->ops->alloc(w->node.parts.be, prefill_x_bytes(w->prefill, TOKENS),
                                                      "activations", &w->x[i], NULL),
                         ST_OK);
    *state = w;
    return 0;
}

static int world_close(void **state)
{
    struct world *w = *state;

    for (int i = 0; i < 2; i++)
        w->node.parts.be->ops->free(w->node.parts.be, w->x[i]);
    prefill_close(w->prefill);
    small_prefill_close(&w->node);
    free(w);
    return 0;
}

static const float *k_row(const struct press_layer *l, int32_t head, int64_t token)
{
    return (const float *)l->kv.k + (head * l->kv.stride + token) * l->kv.dim;
}

static void assert_close(const float *a, const float *b, int64_t count)
{
    for (int64_t i = 0; i < count; i++)
        assert_true(fabsf(a[i] - b[i]) <= 1e-4f * (1 + fabsf(a[i])));
}

static void a_prefix_has_the_same_keys(void **state)
{
    struct world *w = *state;
    struct pass whole = { .token = w->token, .tokens = TOKENS, .x = w->x[0] };
    struct pass part = { .token = w->token, .tokens = 600, .x = w->x[1] };
    float *seen = mem_alloc(600 * 2 * 16 * sizeof *seen);

    prefill_begin(w->prefill, &whole);
    prefill_begin(w->prefill, &part);
    for (int32_t l = 0; l < SMALL_LAYERS; l++) {
        struct press_layer a, b;

        assert_int_equal(prefill_layer(w->prefill, &whole, NULL, 0, &a, NULL), ST_OK);
        for (int g = 0; g < 2; g++)
            memcpy(seen + g * 600 * 16, k_row(&a, g, 0), 600 * 16 * sizeof *seen);
        assert_int_equal(prefill_layer(w->prefill, &part, NULL, 0, &b, NULL), ST_OK); /* in turn with the other */
        for (int g = 0; g < 2; g++)
            assert_close(seen + g * 600 * 16, k_row(&b, g, 0), 600 * 16);
    }
    free(seen);
}

static void logits_are_those_of_the_last_token(void **state)
{
    struct world *w = *state;
    float a[SMALL_VOCAB], b[SMALL_VOCAB];
    struct press_layer layer;
    int32_t changed[100];

    for (int round = 0; round < 2; round++) {
        struct pass pass = { .token = round ? changed : w->token, .tokens = 100, .x = w->x[0], .logits = true };

        memcpy(changed, w->token, sizeof changed);
        changed[99] = (w->token[99] + 1) % SMALL_VOCAB;
        prefill_begin(w->prefill, &pass);
        for (int32_t l = 0; l < SMALL_LAYERS; l++)
            assert_int_equal(prefill_layer(w->prefill, &pass, NULL, 0, &layer, NULL), ST_OK);
        assert_int_equal(prefill_logits(w->prefill, &pass, round ? b : a, NULL), ST_OK);
    }
    assert_memory_not_equal(a, b, sizeof a);
    for (int i = 0; i < SMALL_VOCAB; i++)
        assert_true(isfinite(a[i]));
}

static void a_press_sees_what_it_asked_for_and_no_more(void **state)
{
    struct world *w = *state;
    const struct chain_needs tail = { .q_tail = 70 },
                             all = { .q_tail = 70, .q_rotated = true, .hidden = true, .lse = true };
    struct pass pass = { .token = w->token, .tokens = TOKENS, .x = w->x[0] };
    struct pass again = { .token = w->token, .tokens = TOKENS, .x = w->x[1] };
    const int64_t row = 4 * 16;
    struct press_layer a, b;
    float *kept = mem_alloc(70 * (size_t)row * sizeof *kept);

    prefill_begin(w->prefill, &pass);
    prefill_begin(w->prefill, &again);
    assert_int_equal(prefill_layer(w->prefill, &pass, &tail, 5, &a, NULL), ST_OK);
    assert_int_equal(a.query_tokens, 5);
    assert_int_equal(a.q_tail_rows, 70);
    assert_null(a.q);
    assert_null(a.hidden);
    assert_null(a.lse);
    memcpy(kept, a.q_tail, 70 * (size_t)row * sizeof *kept);
    assert_int_equal(prefill_layer(w->prefill, &again, &all, 0, &b, NULL), ST_OK);
    assert_close((const float *)b.q + (TOKENS - 70) * row, kept, 70 * row); /* across blocks of rows */
    assert_non_null(b.hidden);
    for (int64_t h = 0; h < 4; h++)
        assert_true(isfinite(b.lse[h * b.lse_stride + TOKENS - 1]));
    free(kept);
}

static void a_tail_longer_than_the_context_is_the_context(void **state)
{
    struct world *w = *state;
    const struct chain_needs tail = { .q_tail = 64 };
    struct pass pass = { .token = w->token, .tokens = 3, .x = w->x[0] };
    struct press_layer layer;

    prefill_begin(w->prefill, &pass);
    assert_int_equal(prefill_layer(w->prefill, &pass, &tail, 0, &layer, NULL), ST_OK);
    assert_int_equal(layer.q_tail_rows, 3);
}

/* A back end that says it is a device. */
static void held_layers_have_few_lengths_on_devices(void **state)
{
    enum { LONGEST = 100000, STEP = 8192 }; /* a sixteenth, in whole 2,048 */
    struct world *w = *state;
    struct backend *be = w->node.parts.be;
    const struct backend_ops *own = be->ops;
    struct backend_ops device = *own;
    struct prefill *p = NULL;
    int64_t lengths = 0, before = 0;

    assert_int_equal(prefill_held_rows(w->prefill, 777), 777);
    device.host_is_device = false;
    be->ops = &device;
    assert_int_equal(prefill_open(&p, be, w->node.parts.weights, LONGEST, NULL), ST_OK);
    for (int64_t tokens = 1; tokens <= LONGEST; tokens++) {
        const int64_t rows = prefill_held_rows(p, tokens);

        assert_true(rows >= tokens && rows < tokens + STEP);
        lengths += rows != before;
        before = rows;
    }
    assert_true(lengths <= 16);
    prefill_close(p);
    be->ops = own;
}

/* Room for more rows than there are tokens, as devices give it, changes nothing. */
static void held_layers_may_have_room_to_spare(void **state)
{
    struct world *w = *state;
    struct backend *be = w->node.parts.be;
    const struct chain_needs needs = { .lse = true };
    float *seen = mem_alloc(SMALL_LAYERS * 2 * 300 * 16 * sizeof *seen);

    for (int spare = 0; spare <= 212; spare += 212) {
        struct pass pass = { .token = w->token, .tokens = 300, .x = w->x[0], .kv_rows = 300 + spare };
        void *kv[SMALL_LAYERS];

        for (int32_t l = 0; l < SMALL_LAYERS; l++)
            assert_int_equal(
                be->ops->alloc(be, prefill_kv_bytes(w->prefill, pass.kv_rows), "activations", &kv[l], NULL), ST_OK);
        pass.kv = kv;
        prefill_begin(w->prefill, &pass);
        for (int32_t l = 0; l < SMALL_LAYERS; l++) {
            struct press_layer layer;

            assert_int_equal(prefill_layer(w->prefill, &pass, &needs, 0, &layer, NULL), ST_OK);
            assert_int_equal(layer.kv.stride, 300 + spare);
            for (int g = 0; g < 2; g++) {
                float *to = seen + (l * 2 + g) * 300 * 16;

                if (spare == 0)
                    memcpy(to, k_row(&layer, g, 0), 300 * 16 * sizeof *seen);
                else
                    assert_memory_equal(to, k_row(&layer, g, 0), 300 * 16 * sizeof *seen);
            }
        }
        for (int32_t l = 0; l < SMALL_LAYERS; l++)
            be->ops->free(be, kv[l]);
    }
    free(seen);
}

static void heads_larger_than_any_kernel_has_are_refused(void **state)
{
    struct world *w = *state;
    struct hparams hp = w->node.parts.weights->hp;
    struct weights *weights;
    struct err err = { 0 };

    hp.head_dim = KV_HEAD_DIM_MAX + 2;
    assert_int_equal(weights_open(&weights, w->node.parts.be, &hp, NULL, NULL, 1, &err), ST_EUNIMPLEMENTED);
    assert_non_null(strstr(err.text, "258"));
}

static const struct CMUnitTest tests[] = {
    cmocka_unit_test_setup_teardown(a_prefix_has_the_same_keys, world_open, world_close),
    cmocka_unit_test_setup_teardown(logits_are_those_of_the_last_token, world_open, world_close),
    cmocka_unit_test_setup_teardown(a_press_sees_what_it_asked_for_and_no_more, world_open, world_close),
    cmocka_unit_test_setup_teardown(a_tail_longer_than_the_context_is_the_context, world_open, world_close),
    cmocka_unit_test_setup_teardown(held_layers_have_few_lengths_on_devices, world_open, world_close),
    cmocka_unit_test_setup_teardown(held_layers_may_have_room_to_spare, world_open, world_close),
    cmocka_unit_test_setup_teardown(heads_larger_than_any_kernel_has_are_refused, world_open, world_close),
};

int main(int argc, char **argv)
{
    return cmocka_main(argc, argv, tests, ARRAY_LEN(tests), NULL, NULL);
}
