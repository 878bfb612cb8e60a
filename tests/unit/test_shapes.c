/* SPDX-License-Identifier: Apache-2.0 */
#include "client/shapes.h"
#include "tests/support/cmocka_main.h"

static void the_shape_of_an_8b_model_is_right(void **state)
{
    struct hparams hp;

    (void)state;
    assert_int_equal(shape_find("llama-8b", &hp, NULL), ST_OK);
    assert_int_equal(hp.layers * hp.kv_heads * hp.head_dim * 2 * 2, 128 << 10); /* KV bytes of a token in bf16 */
    assert_int_equal(hp.q_heads * hp.head_dim, hp.dim);
    assert_int_equal(hp.eos_count, 0);
}

static void an_unknown_shape_is_refused_with_those_there_are(void **state)
{
    struct hparams hp;
    struct err err = { 0 };

    (void)state;
    assert_int_equal(shape_find("lama", &hp, &err), ST_EINVAL);
    assert_non_null(strstr(err.text, "\"lama\""));
    assert_non_null(strstr(err.text, "llama-8b, llama-1b, smollm2"));
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_shape_of_an_8b_model_is_right),
        cmocka_unit_test(an_unknown_shape_is_refused_with_those_there_are),
    };

    return cmocka_main(argc, argv, tests, ARRAY_LEN(tests), NULL, NULL);
}
