/* SPDX-License-Identifier: Apache-2.0 */
/*
 * gguf.c - reads a GGUF file's tables.
 *
 * Nothing from the file is believed: counts are bounded by the bytes that are left before anything is allocated for
 * them, every string and array is walked once here, and every tensor must lie between the data's start and the file's
 * end. After gguf_open returned ST_OK, reading through the table cannot leave the file.
 */
#include "common/model/gguf.h"

#include <stdlib.h>
#include <string.h>

enum { GGUF_KEY_MAX = 65535, GGUF_NAME_MAX = 256, ALIGNMENT_DEFAULT = 32, ALIGNMENT_MAX = 1 << 16 };

/* Bytes of one value, 0 for those of varying length. */
static const uint8_t type_bytes[GGUF_TYPES] = { 1, 1, 2, 2, 4, 4, 4, 1, 0, 0, 8, 8, 8 };

/* ggml_type in the file -> dtype. */
static const struct {
    uint32_t ggml;
    enum dtype dtype;
} tensor_types[] = {
    { 0, DT_F32 },   { 1, DT_F16 },   { 2, DT_Q4_0 },  { 3, DT_Q4_1 },  { 8, DT_Q8_0 },
    { 12, DT_Q4_K }, { 13, DT_Q5_K }, { 14, DT_Q6_K }, { 30, DT_BF16 },
};

static bool dtype_of_ggml(uint32_t ggml, enum dtype *out)
{
    for (size_t i = 0; i < ARRAY_LEN(tensor_types); i++)
        if (tensor_types[i].ggml == ggml) {
            *out = tensor_types[i].dtype;
            return true;
        }
    return false;
}

static const char *take_string(struct cursor *c, size_t *bytes)
{
    uint64_t length = cursor_u64(c);
    const char *at = (const char *)cursor_take(c, length);

    *bytes = at ? (size_t)length : 0;
    return at;
}

/* A string of at most `max` bytes without NULs, copied; NULL when there is none. */
static char *take_name(struct gguf *g, struct cursor *c, size_t max)
{
    size_t bytes;
    const char *at = take_string(c, &bytes);

    if (!at || bytes == 0 || bytes > max || memchr(at, 0, bytes))
        return NULL;
    return arena_strndup(&g->arena, at, bytes);
}

/* Steps over `count` values and proves that they are there. */
static bool skip_values(struct cursor *c, enum gguf_type type, uint64_t count)
{
    uint64_t bytes;

    if (type != GGUF_STRING)
        return type_bytes[type] && size_mul(count, type_bytes[type], &bytes) && cursor_take(c, bytes);
    if (count > cursor_left(c) / 8)
        return false;
    for (uint64_t i = 0; i < count && !c->bad; i++)
        take_string(c, &(size_t){ 0 });
    return !c->bad;
}

static enum status read_value(struct gguf *g, struct cursor *c, struct gguf_value *v, struct err *err)
{
    uint32_t type;

    v->key = take_name(g, c, GGUF_KEY_MAX);
    if (!v->key)
        return err_set(err, ST_EINVAL, "metadata is damaged: key %zu has no name", g->value_count);
    type = cursor_u32(c);
    v->is_array = type == GGUF_ARRAY;
    v->count = 1;
    if (v->is_array) {
        type = cursor_u32(c);
        v->count = cursor_u64(c);
    }
    if (c->bad || type >= GGUF_TYPES || type == GGUF_ARRAY)
        return err_set(err, ST_EINVAL, "metadata is damaged: key %s has no type that GGUF knows", v->key);
    v->type = (enum gguf_type)type;
    v->data = c->at;
    if (!skip_values(c, v->type, v->count))
        return err_set(err, ST_EINVAL, "metadata is damaged: the value of %s goes past the end of the file", v->key);
    v->bytes = (uint64_t)(c->at - v->data);
    return ST_OK;
}

static int value_order(const void *a, const void *b)
{
    return strcmp(((const struct gguf_value *)a)->key, ((const struct gguf_value *)b)->key);
}

static enum status read_values(struct gguf *g, struct cursor *c, uint64_t count, struct err *err)
{
    if (count > cursor_left(c) / 13) /* a key of one byte, a type, a value */
        return err_set(err, ST_EINVAL, "metadata is damaged: more keys than the file has room for");
    g->values = arena_array(&g->arena, (size_t)count, sizeof g->values[0]);
    for (uint64_t i = 0; i < count; i++) {
        enum status st = read_value(g, c, &g->values[i], err);
        if (st != ST_OK)
            return st;
        g->value_count++;
    }
    if (g->value_count)
        qsort(g->values, g->value_count, sizeof g->values[0], value_order);
    for (size_t i = 1; i < g->value_count; i++)
        if (strcmp(g->values[i - 1].key, g->values[i].key) == 0)
            return err_set(err, ST_EINVAL, "metadata is damaged: key %s is there twice", g->values[i].key);
    return ST_OK;
}

/* One tensor info; the place in the data goes to *offset, checked when the data's start is known. */
static enum status read_tensor(struct gguf *g, struct cursor *c, struct tensor_entry *t, uint64_t *offset,
                               struct err *err)
{
    uint32_t dims, ggml;

    t->name = take_name(g, c, GGUF_NAME_MAX);
    if (!t->name)
        return err_set(err, ST_EINVAL, "tensor list is damaged: tensor %zu has no name", g->tensors.count);
    dims = cursor_u32(c);
    if (c->bad || dims < 1 || dims > TENSOR_DIMS_MAX)
        return err_set(err, ST_EINVAL, "tensor %s: 1 to %d dimensions are allowed", t->name, TENSOR_DIMS_MAX);
    t->dims = (int32_t)dims;
    for (uint32_t i = 0; i < dims; i++)
        t->shape[dims - 1 - i] = (int64_t)cursor_u64(c); /* the file begins with the contiguous one */
    ggml = cursor_u32(c);
    *offset = cursor_u64(c);
    if (c->bad)
        return err_set(err, ST_EINVAL, "tensor list is damaged: the file ends inside tensor %s", t->name);
    if (!dtype_of_ggml(ggml, &t->dtype))
        return err_set(err, ST_EUNIMPLEMENTED,
                       "tensor %s has GGUF type %u; f32, f16, bf16, q8_0, q4_0, q4_1, q4_k, q5_k, q6_k are read",
                       t->name, ggml);
    if (!tensor_size(t->dtype, t->shape, t->dims, &t->bytes))
        return err_set(err, ST_EINVAL, "tensor %s has a shape that its type cannot have", t->name);
    return ST_OK;
}

static enum status read_tensors(struct gguf *g, struct cursor *c, uint64_t count, const uint8_t *file, struct err *err)
{
    uint64_t *offsets;
    int64_t alignment = ALIGNMENT_DEFAULT;
    uint64_t start;
    size_t bytes = (size_t)(c->end - file);
    enum status st;

    if (count > cursor_left(c) / 33) /* name of one byte, one dimension, type, offset */
        return err_set(err, ST_EINVAL, "tensor list is damaged: more tensors than the file has room for");
    offsets = arena_array(&g->arena, (size_t)count, sizeof offsets[0]);
    for (uint64_t i = 0; i < count; i++) {
        struct tensor_entry t = { 0 };
        st = read_tensor(g, c, &t, &offsets[i], err);
        if (st != ST_OK)
            return st;
        tensors_add(&g->tensors, &t);
    }
    gguf_int(g, "general.alignment", &alignment);
    if (alignment < 1 || alignment > ALIGNMENT_MAX)
        return err_set(err, ST_EINVAL, "general.alignment is %lld; 1 to %d is allowed", (long long)alignment,
                       ALIGNMENT_MAX);
    start = (uint64_t)(c->at - file);
    start += ((uint64_t)alignment - start % (uint64_t)alignment) % (uint64_t)alignment;
    for (uint64_t i = 0; i < count; i++) {
        struct tensor_entry *t = &g->tensors.items[i];
        uint64_t end;
        if (!size_add(start, offsets[i], &offsets[i]) || !size_add(offsets[i], t->bytes, &end) || end > bytes)
            return err_set(err, ST_EINVAL, "tensor %s is truncated: it goes past the end of the file", t->name);
        t->data = file + offsets[i];
    }
    return tensors_seal(&g->tensors, err);
}

enum status gguf_open(struct gguf *out, const uint8_t *data, size_t bytes, struct err *err)
{
    struct gguf g = { 0 };
    struct cursor c = cursor_on(data, bytes);
    const uint8_t *magic = cursor_take(&c, 4);
    uint32_t version = cursor_u32(&c);
    uint64_t tensors = cursor_u64(&c);
    uint64_t values = cursor_u64(&c);
    enum status st;

    if (!magic || memcmp(magic, "GGUF", 4) != 0)
        return err_set(err, ST_EINVAL, "not a GGUF file");
    if (c.bad)
        return err_set(err, ST_EINVAL, "truncated: the file ends inside its header");
    if (version != 2 && version != 3)
        return err_set(err, ST_EUNIMPLEMENTED, "GGUF version %u; 2 and 3 are read, little-endian", version);
    st = read_values(&g, &c, values, err);
    if (st == ST_OK)
        st = read_tensors(&g, &c, tensors, data, err);
    if (st != ST_OK) {
        gguf_close(&g);
        return st;
    }
    *out = g;
    return ST_OK;
}

void gguf_close(struct gguf *g)
{
    tensors_fini(&g->tensors);
    arena_fini(&g->arena);
    memset(g, 0, sizeof *g);
}

const struct gguf_value *gguf_find(const struct gguf *g, const char *key)
{
    struct gguf_value want = { .key = key };

    return g->value_count ? bsearch(&want, g->values, g->value_count, sizeof want, value_order) : NULL;
}

static bool read_int(enum gguf_type type, const uint8_t *p, int64_t *out)
{
    switch (type) {
    case GGUF_U8:
    case GGUF_BOOL:
        *out = *p;
        return true;
    case GGUF_I8:
        *out = (int8_t)*p;
        return true;
    case GGUF_U16:
        *out = load_u16(p);
        return true;
    case GGUF_I16:
        *out = (int16_t)load_u16(p);
        return true;
    case GGUF_U32:
        *out = load_u32(p);
        return true;
    case GGUF_I32:
        *out = (int32_t)load_u32(p);
        return true;
    case GGUF_U64:
    case GGUF_I64:
        *out = (int64_t)load_u64(p);
        return true;
    default:
        return false;
    }
}

static bool read_num(enum gguf_type type, const uint8_t *p, double *out)
{
    int64_t whole;

    if (type == GGUF_F32) {
        uint32_t bits = load_u32(p);
        float f;
        memcpy(&f, &bits, sizeof f);
        *out = (double)f;
        return true;
    }
    if (type == GGUF_F64) {
        uint64_t bits = load_u64(p);
        memcpy(out, &bits, sizeof *out);
        return true;
    }
    if (!read_int(type, p, &whole))
        return false;
    *out = (double)whole;
    return true;
}

bool gguf_int(const struct gguf *g, const char *key, int64_t *out)
{
    const struct gguf_value *v = gguf_find(g, key);

    return v && !v->is_array && v->type != GGUF_BOOL && read_int(v->type, v->data, out);
}

bool gguf_bool(const struct gguf *g, const char *key, bool *out)
{
    const struct gguf_value *v = gguf_find(g, key);

    if (!v || v->is_array || v->type != GGUF_BOOL)
        return false;
    *out = v->data[0] != 0;
    return true;
}

const char *gguf_string(const struct gguf *g, const char *key, size_t *bytes)
{
    const struct gguf_value *v = gguf_find(g, key);

    if (!v || v->is_array || v->type != GGUF_STRING)
        return NULL;
    struct cursor c = gguf_strings(v);
    return gguf_next_string(&c, bytes);
}

double gguf_item_num(const struct gguf_value *v, uint64_t i)
{
    double out = 0;

    if (v->type != GGUF_STRING)
        read_num(v->type, v->data + i * type_bytes[v->type], &out);
    return out;
}

struct cursor gguf_strings(const struct gguf_value *v)
{
    return cursor_on(v->data, v->type == GGUF_STRING ? (size_t)v->bytes : 0);
}

const char *gguf_next_string(struct cursor *at, size_t *bytes)
{
    return take_string(at, bytes);
}
