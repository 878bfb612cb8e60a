/* SPDX-License-Identifier: Apache-2.0 */
/* safetensors headers, right and wrong. */
#include "common/model/safetensors.h"
#include "tests/support/model_dir.h"

/* Reads a header followed by `data_bytes` zeros; the buffer ends where the file ends. */
static enum status read_header(const char *header, size_t data_bytes, struct tensors *tensors, struct arena *arena,
                               uint8_t **file, struct err *err)
{
    size_t bytes = 8 + strlen(header) + data_bytes;

    *file = calloc(bytes, 1);
    assert_non_null(*file);
    store_u64(*file, strlen(header));
    memcpy(*file + 8, header, strlen(header));
    return safetensors_read(tensors, arena, *file, bytes, err);
}

static void assert_refused(const char *header, size_t data_bytes, enum status st, const char *word)
{
    struct tensors tensors = { 0 };
    struct arena arena = { 0 };
    struct err err = { 0 };
    uint8_t *file;

    assert_int_equal(read_header(header, data_bytes, &tensors, &arena, &file, &err), st);
    if (!strstr(err.text, word))
        fail_msg("the sentence does not say %s: %s", word, err.text);
    tensors_fini(&tensors);
    arena_fini(&arena);
    free(file);
}

static void a_good_header_is_read(void **state)
{
    struct tensors tensors = { 0 };
    struct arena arena = { 0 };
    struct err err = { 0 };
    uint8_t *file;

    (void)state;
    if (read_header(
            "{\"__metadata__\":{\"format\":\"pt\"},\"b\":{\"dtype\":\"BF16\",\"shape\":[2,3],\"data_offsets\":[8,20]},"
            "\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8]}}",
            20, &tensors, &arena, &file, &err) != ST_OK)
        fail_msg("%s", err.text);
    assert_int_equal(tensors_seal(&tensors, &err), ST_OK);
    const struct tensor_entry *b = tensors_find(&tensors, "b");
    assert_non_null(b);
    assert_int_equal(b->dtype, DT_BF16);
    assert_int_equal(b->shape[1], 3);
    assert_int_equal(b->bytes, 12);
    assert_null(tensors_find(&tensors, "c"));
    tensors_fini(&tensors);
    arena_fini(&arena);
    free(file);
}

static void wrong_headers_name_the_tensor(void **state)
{
    (void)state;
    assert_refused("{\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8]}}", 7, ST_EINVAL,
                   "tensor a is truncated");
    assert_refused("{\"a\":{\"dtype\":\"F32\",\"shape\":[3],\"data_offsets\":[0,8]}}", 8, ST_EINVAL,
                   "tensor a: its shape needs 12");
    assert_refused("{\"a\":{\"dtype\":\"I64\",\"shape\":[1],\"data_offsets\":[0,8]}}", 8, ST_EUNIMPLEMENTED,
                   "tensor a has dtype I64");
    assert_refused("{\"a\":{\"dtype\":\"F32\",\"shape\":[-2],\"data_offsets\":[0,8]}}", 8, ST_EINVAL,
                   "tensor a has a shape");
    assert_refused("{\"a\":{\"dtype\":\"F32\",\"shape\":[4611686018427387904,4],\"data_offsets\":[0,0]}}", 8, ST_EINVAL,
                   "tensor a");
    assert_refused("{\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[8,0]}}", 8, ST_EINVAL,
                   "tensor a has data_offsets");
    assert_refused("{\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[-8,0]}}", 8, ST_EINVAL,
                   "tensor a has data_offsets");
    assert_refused("{\"a\":{\"dtype\":\"F32\",\"shape\":[2]}}", 8, ST_EINVAL, "tensor a has no data_offsets");
    assert_refused("{\"a\":{\"shape\":[2]}}", 8, ST_EINVAL, "tensor a has no dtype");
    assert_refused("{\"a\":3}", 8, ST_EINVAL, "tensor a");
}

static void tensors_may_not_share_bytes(void **state)
{
    (void)state;
    assert_refused("{\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8]},"
                   "\"b\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[4,12]}}",
                   12, ST_EINVAL, "share bytes");
}

static void a_header_that_is_none_is_refused(void **state)
{
    static const uint8_t huge[8] = { 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f };
    struct tensors tensors = { 0 };
    struct arena arena = { 0 };
    struct err err = { 0 };

    (void)state;
    assert_refused("[1,2]", 0, ST_EINVAL, "no JSON object");
    assert_refused("{\"a\":", 0, ST_EINVAL, "no JSON object");
    assert_refused(
        "{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]},\"a\":{\"dtype\":\"F32\",\"shape\":[1],"
        "\"data_offsets\":[4,8]}}",
        8, ST_EINVAL, "no JSON object");
    assert_int_equal(safetensors_read(&tensors, &arena, huge, sizeof huge, &err), ST_EINVAL);
    arena_fini(&arena);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_good_header_is_read),
        cmocka_unit_test(wrong_headers_name_the_tensor),
        cmocka_unit_test(tensors_may_not_share_bytes),
        cmocka_unit_test(a_header_that_is_none_is_refused),
    };
    return cmocka_main(argc, argv, tests, ARRAY_LEN(tests), NULL, NULL);
}
