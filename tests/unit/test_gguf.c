/* SPDX-License-Identifier: Apache-2.0 */
/* GGUF files, whole and damaged. */
#include "common/model/gguf.h"
#include "tests/support/model_dir.h"

#include <math.h>

static void put_u32(struct text *t, uint32_t v)
{
    uint8_t bytes[4];

    store_u32(bytes, v);
    text_add(t, (const char *)bytes, sizeof bytes);
}

static void put_u64(struct text *t, uint64_t v)
{
    uint8_t bytes[8];

    store_u64(bytes, v);
    text_add(t, (const char *)bytes, sizeof bytes);
}

static void put_string(struct text *t, const char *s)
{
    put_u64(t, strlen(s));
    text_puts(t, s);
}

static void put_header(struct text *t, uint32_t version, uint64_t tensors, uint64_t keys)
{
    text_puts(t, "GGUF");
    put_u32(t, version);
    put_u64(t, tensors);
    put_u64(t, keys);
}

static void put_u32_key(struct text *t, const char *key, uint32_t value)
{
    put_string(t, key);
    put_u32(t, GGUF_U32);
    put_u32(t, value);
}

static void put_tensor(struct text *t, const char *name, uint64_t columns, uint64_t rows, uint32_t type,
                       uint64_t offset)
{
    put_string(t, name);
    put_u32(t, 2);
    put_u64(t, columns);
    put_u64(t, rows);
    put_u32(t, type);
    put_u64(t, offset);
}

/* Two keys, an array of texts, and one f32 tensor of 2 rows of 3. */
static struct text small_file(void)
{
    struct text t = { 0 };

    put_header(&t, 3, 1, 3);
    put_u32_key(&t, "b.number", 7);
    put_string(&t, "a.text");
    put_u32(&t, GGUF_STRING);
    put_string(&t, "hello");
    put_string(&t, "c.words");
    put_u32(&t, GGUF_ARRAY);
    put_u32(&t, GGUF_STRING);
    put_u64(&t, 2);
    put_string(&t, "x");
    put_string(&t, "yz");
    put_tensor(&t, "w", 3, 2, 0, 0);
    while (t.bytes % 32)
        text_add(&t, "", 1);
    for (int i = 0; i < 6; i++) {
        float f = (float)i;
        text_add(&t, (const char *)&f, sizeof f);
    }
    return t;
}

static void a_whole_file_is_read(void **state)
{
    struct text t = small_file();
    struct gguf g = { 0 };
    struct err err = { 0 };
    int64_t number;
    size_t bytes;

    (void)state;
    if (gguf_open(&g, (const uint8_t *)t.data, t.bytes, &err) != ST_OK)
        fail_msg("%s", err.text);
    assert_true(gguf_int(&g, "b.number", &number));
    assert_int_equal(number, 7);
    assert_memory_equal(gguf_string(&g, "a.text", &bytes), "hello", 5);
    assert_int_equal(bytes, 5);
    assert_null(gguf_find(&g, "missing"));
    assert_false(gguf_int(&g, "a.text", &number));
    struct cursor at = gguf_strings(gguf_find(&g, "c.words"));
    gguf_next_string(&at, &bytes);
    assert_memory_equal(gguf_next_string(&at, &bytes), "yz", 2);
    const struct tensor_entry *w = tensors_find(&g.tensors, "w");
    assert_non_null(w);
    assert_int_equal(w->shape[0], 2);
    assert_int_equal(w->shape[1], 3);
    assert_int_equal(w->bytes, 24);
    gguf_close(&g);
    text_fini(&t);
}

/* The bytes lie at the end of their own allocation, so that a read past them is seen. */
static void assert_refused(const char *data, size_t bytes, enum status st, const char *word)
{
    uint8_t *copy = malloc(bytes ? bytes : 1);
    struct gguf g = { 0 };
    struct err err = { 0 };

    assert_non_null(copy);
    memcpy(copy, data, bytes);
    assert_int_equal(gguf_open(&g, copy, bytes, &err), st);
    if (word && !strstr(err.text, word))
        fail_msg("the sentence does not say %s: %s", word, err.text);
    free(copy);
}

static void every_truncation_is_refused(void **state)
{
    struct text t = small_file();

    (void)state;
    for (size_t bytes = 0; bytes < t.bytes; bytes++)
        assert_refused(t.data, bytes, ST_EINVAL, NULL);
    assert_refused(t.data, t.bytes - 1, ST_EINVAL, "tensor w is truncated");
    text_fini(&t);
}

static void damaged_tables_are_refused(void **state)
{
    struct text t = { 0 };

    (void)state;
    put_header(&t, 3, UINT64_MAX, 0);
    assert_refused(t.data, t.bytes, ST_EINVAL, "more tensors");
    text_clear(&t);
    put_header(&t, 3, 0, UINT64_MAX);
    assert_refused(t.data, t.bytes, ST_EINVAL, "more keys");
    text_clear(&t);
    put_header(&t, 1, 0, 0);
    assert_refused(t.data, t.bytes, ST_EUNIMPLEMENTED, "version 1");
    text_clear(&t);
    put_header(&t, 3, 0, 2);
    put_u32_key(&t, "twice", 1);
    put_u32_key(&t, "twice", 2);
    assert_refused(t.data, t.bytes, ST_EINVAL, "twice is there twice");
    text_clear(&t);
    put_header(&t, 3, 0, 1);
    put_string(&t, "key");
    put_u32(&t, 99);
    put_u64(&t, 0);
    assert_refused(t.data, t.bytes, ST_EINVAL, "key key has no type");
    text_fini(&t);
}

static void assert_tensor_refused(uint64_t columns, uint64_t rows, uint32_t type, uint64_t offset, enum status st,
                                  const char *word)
{
    struct text t = { 0 };

    put_header(&t, 3, 1, 0);
    put_tensor(&t, "bad", columns, rows, type, offset);
    for (int i = 0; i < 256; i++)
        text_add(&t, "", 1);
    assert_refused(t.data, t.bytes, st, word);
    text_fini(&t);
}

static void bad_tensors_are_named(void **state)
{
    (void)state;
    assert_tensor_refused(3, 2, 0, UINT64_MAX - 3, ST_EINVAL, "tensor bad");
    assert_tensor_refused(UINT64_MAX / 2, 4, 0, 0, ST_EINVAL, "tensor bad");
    assert_tensor_refused(0, 4, 0, 0, ST_EINVAL, "tensor bad");
    assert_tensor_refused(33, 1, 8, 0, ST_EINVAL, "tensor bad"); /* q8_0 has blocks of 32 */
    assert_tensor_refused(32, 1, 7, 0, ST_EUNIMPLEMENTED, "tensor bad has GGUF type 7");
    assert_tensor_refused(1 << 20, 1 << 20, 0, 0, ST_EINVAL, "truncated");
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_whole_file_is_read),
        cmocka_unit_test(every_truncation_is_refused),
        cmocka_unit_test(damaged_tables_are_refused),
        cmocka_unit_test(bad_tensors_are_named),
    };
    return cmocka_main(argc, argv, tests, ARRAY_LEN(tests), NULL, NULL);
}
