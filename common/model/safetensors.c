/* SPDX-License-Identifier: Apache-2.0 */
/*
 * safetensors.c - reads a safetensors header and proves it.
 *
 * Every tensor's bytes must be exactly those of its shape and lie inside the data; tensors may not overlap (the format's
 * own rule, which keeps a header from making one byte count many times).
 */
#include "common/model/safetensors.h"

#include "common/base/bytes.h"

#include <jansson.h>
#include <stdlib.h>
#include <string.h>

enum { HEADER_MAX = 100 * 1000 * 1000 }; /* the format's own limit */

static const struct {
    const char *word;
    enum dtype dtype;
} dtype_words[] = { { "F32", DT_F32 }, { "BF16", DT_BF16 }, { "F16", DT_F16 } };

static enum status read_dtype(const char *name, const json_t *info, enum dtype *out, struct err *err)
{
    const char *word = json_string_value(json_object_get(info, "dtype"));

    if (!word)
        return err_set(err, ST_EINVAL, "tensor %s has no dtype", name);
    for (size_t i = 0; i < ARRAY_LEN(dtype_words); i++)
        if (strcmp(dtype_words[i].word, word) == 0) {
            *out = dtype_words[i].dtype;
            return ST_OK;
        }
    return err_set(err, ST_EUNIMPLEMENTED, "tensor %s has dtype %.32s; F32, BF16 and F16 are read", name, word);
}

static enum status read_shape(struct tensor_entry *t, const json_t *info, struct err *err)
{
    const json_t *shape = json_object_get(info, "shape");
    size_t dims = json_array_size(shape);

    if (!json_is_array(shape) || dims > TENSOR_DIMS_MAX)
        return err_set(err, ST_EINVAL, "tensor %s: a shape of at most %d numbers is allowed", t->name, TENSOR_DIMS_MAX);
    t->dims = (int32_t)dims;
    for (size_t i = 0; i < dims; i++) {
        const json_t *n = json_array_get(shape, i);
        t->shape[i] = json_is_integer(n) ? (int64_t)json_integer_value(n) : 0;
    }
    if (!tensor_size(t->dtype, t->shape, t->dims, &t->bytes))
        return err_set(err, ST_EINVAL, "tensor %s has a shape that cannot be", t->name);
    return ST_OK;
}

static enum status read_place(struct tensor_entry *t, const json_t *info, const uint8_t *data, size_t bytes,
                              struct err *err)
{
    const json_t *place = json_object_get(info, "data_offsets");
    const json_t *first = json_array_get(place, 0);
    const json_t *last = json_array_get(place, 1);
    int64_t begin, end;

    if (json_array_size(place) != 2 || !json_is_integer(first) || !json_is_integer(last))
        return err_set(err, ST_EINVAL, "tensor %s has no data_offsets", t->name);
    begin = (int64_t)json_integer_value(first);
    end = (int64_t)json_integer_value(last);
    if (begin < 0 || end < begin)
        return err_set(err, ST_EINVAL, "tensor %s has data_offsets that cannot be", t->name);
    if ((uint64_t)end > bytes)
        return err_set(err, ST_EINVAL, "tensor %s is truncated: it goes past the end of the file", t->name);
    if ((uint64_t)(end - begin) != t->bytes)
        return err_set(err, ST_EINVAL, "tensor %s: its shape needs %llu bytes, the file gives it %lld", t->name,
                       (unsigned long long)t->bytes, (long long)(end - begin));
    t->data = data + begin;
    return ST_OK;
}

static enum status read_tensor(struct tensor_entry *t, const json_t *info, const uint8_t *data, size_t bytes,
                               struct err *err)
{
    enum status st;

    if (!json_is_object(info))
        return err_set(err, ST_EINVAL, "tensor %s is no object in the header", t->name);
    st = read_dtype(t->name, info, &t->dtype, err);
    if (st == ST_OK)
        st = read_shape(t, info, err);
    if (st == ST_OK)
        st = read_place(t, info, data, bytes, err);
    return st;
}

static int place_order(const void *a, const void *b)
{
    const struct tensor_entry *x = a, *y = b;

    return x->data < y->data ? -1 : x->data > y->data;
}

/* Entries [first, count) came from one file: in the order of their places each must begin where or after the last ended. */
static enum status check_overlap(struct tensors *tensors, size_t first, struct err *err)
{
    struct tensor_entry *t = tensors->items;

    if (tensors->count > first)
        qsort(t + first, tensors->count - first, sizeof t[0], place_order);
    for (size_t i = first + 1; i < tensors->count; i++)
        if (t[i].data < t[i - 1].data + t[i - 1].bytes)
            return err_set(err, ST_EINVAL, "tensors %s and %s share bytes", t[i - 1].name, t[i].name);
    return ST_OK;
}

enum status safetensors_read(struct tensors *tensors, struct arena *arena, const uint8_t *data, size_t bytes,
                             struct err *err)
{
    struct cursor c = cursor_on(data, bytes);
    uint64_t header_bytes = cursor_u64(&c);
    const char *header = header_bytes <= HEADER_MAX ? (const char *)cursor_take(&c, header_bytes) : NULL;
    size_t first = tensors->count;
    enum status st = ST_OK;
    json_error_t bad;
    const char *name;
    json_t *doc, *info;

    if (!header)
        return err_set(err, ST_EINVAL, "truncated or not a safetensors file: the header goes past the end of the file");
    doc = json_loadb(header, (size_t)header_bytes, JSON_REJECT_DUPLICATES, &bad);
    if (!json_is_object(doc)) {
        st = err_set(err, ST_EINVAL, "not a safetensors file: the header is no JSON object (%s)",
                     doc ? "it is JSON" : bad.text);
        goto out;
    }
    json_object_foreach(doc, name, info)
    {
        struct tensor_entry t = { .name = name };
        if (strcmp(name, "__metadata__") == 0)
            continue;
        st = read_tensor(&t, info, c.at, cursor_left(&c), err);
        if (st != ST_OK)
            goto out;
        t.name = arena_strdup(arena, name);
        tensors_add(tensors, &t);
    }
    st = check_overlap(tensors, first, err);
out:
    json_decref(doc);
    return st;
}
