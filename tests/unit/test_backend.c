/* SPDX-License-Identifier: Apache-2.0 */
#include "kernels/backend.h"
#include "kernels/random.h"
#include "tests/support/cmocka_main.h"

static const struct backend_config config = { .dtype = DT_F32, .threads = 1, .memory_fraction = 0.1, .rows_max = 8 };

static void a_back_end_is_found_by_its_name(void **state)
{
    (void)state;
    assert_non_null(backend_find("cpu"));
    assert_string_equal(backend_find("cpu")->name, "cpu");
    assert_null(backend_find("tpu"));
    assert_null(backend_find(""));
}

/* Parts of a step in one launch are for devices that pay for launches; room that may be missing, for those that have a memory
 * of their own; plans, for those whose attention is planned; fall-backs, for those that ask libraries. */
static bool is_for_devices(size_t at)
{
    return at == offsetof(struct backend_ops, normed_qkv_to_tail) || at == offsetof(struct backend_ops, normed_gated) ||
           at == offsetof(struct backend_ops, normed_outputs) || at == offsetof(struct backend_ops, press_room) ||
           at == offsetof(struct backend_ops, step_launches) || at == offsetof(struct backend_ops, attn_prepare) ||
           at == offsetof(struct backend_ops, fallback_at);
}

static void every_operation_of_the_cpu_is_there(void **state)
{
    const struct backend_ops *ops = backend_find("cpu");
    const char *row = (const char *)ops;

    (void)state;
    for (size_t at = 0; at + sizeof(void *) <= sizeof *ops; at += sizeof(void *)) {
        uint64_t word;

        memcpy(&word, row + at, sizeof word);
        if (word == 0 && !is_for_devices(at))
            fail_msg("word %zu of the table is empty", at / sizeof(void *));
    }
}

static void an_unknown_back_end_is_refused_with_those_there_are(void **state)
{
    struct backend *be = NULL;
    struct err err = { 0 };

    (void)state;
    assert_int_equal(backend_open(&be, "tpu", &config, &err), ST_EINVAL);
    assert_non_null(strstr(err.text, "tpu"));
    assert_non_null(strstr(err.text, "cpu"));
    assert_null(be);
}

static void a_name_longer_than_any_is_refused(void **state)
{
    struct backend *be = NULL;

    (void)state;
    assert_int_equal(backend_open(&be, "cpucpucpucpucpucpucpucpu", &config, NULL), ST_EINVAL);
}

static void an_instruction_set_can_be_asked_for(void **state)
{
    struct backend *be;
    struct err err = { 0 };

    (void)state;
    assert_int_equal(backend_open(&be, "cpu:plain", &config, &err), ST_OK);
    assert_non_null(strstr(be->ops->describe(be), "plain"));
    backend_close(be);
}

static void an_unknown_instruction_set_is_refused_with_those_there_are(void **state)
{
    struct backend *be = NULL;
    struct err err = { 0 };

    (void)state;
    assert_int_equal(backend_open(&be, "cpu:altivec", &config, &err), ST_EUNAVAILABLE);
    assert_non_null(strstr(err.text, "altivec"));
    assert_non_null(strstr(err.text, "plain"));
}

static void a_dtype_that_nobody_computes_in_is_refused(void **state)
{
    struct backend_config f16 = config;
    struct backend *be = NULL;
    struct err err = { 0 };

    (void)state;
    f16.dtype = DT_F16;
    assert_int_equal(backend_open(&be, "cpu", &f16, &err), ST_EINVAL);
    assert_non_null(strstr(err.text, "f16"));
}

static void closing_nothing_is_fine(void **state)
{
    (void)state;
    backend_close(NULL);
}

static void random_numbers_are_the_same_everywhere(void **state)
{
    (void)state;
    /* From an independent program in Python; a change here changes what the press `random` keeps. */
    assert_true(random_mix(0) == UINT64_C(0xe220a8397b1dcdaf));
    assert_true(random_unit(1, 2, 3, 4) == random_unit(1, 2, 3, 4));
    assert_true(random_unit(1, 2, 3, 4) != random_unit(1, 2, 4, 3));
    for (int64_t t = 0; t < 1000; t++) {
        float u = random_unit(7, 0, 0, t);

        assert_true(u >= 0.0f && u < 1.0f);
    }
}

static const struct CMUnitTest tests[] = {
    cmocka_unit_test(a_back_end_is_found_by_its_name),
    cmocka_unit_test(every_operation_of_the_cpu_is_there),
    cmocka_unit_test(an_unknown_back_end_is_refused_with_those_there_are),
    cmocka_unit_test(a_name_longer_than_any_is_refused),
    cmocka_unit_test(an_instruction_set_can_be_asked_for),
    cmocka_unit_test(an_unknown_instruction_set_is_refused_with_those_there_are),
    cmocka_unit_test(a_dtype_that_nobody_computes_in_is_refused),
    cmocka_unit_test(closing_nothing_is_fine),
    cmocka_unit_test(random_numbers_are_the_same_everywhere),
};

int main(int argc, char **argv)
{
    return cmocka_main(argc, argv, tests, ARRAY_LEN(tests), NULL, NULL);
}
