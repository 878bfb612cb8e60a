/* SPDX-License-Identifier: Apache-2.0 */
/*
 * params.c - numbers in a parameter file: safetensors, npy, or tab-separated text.
 *
 *      safetensors   u64 header bytes | JSON {"name": {"dtype", "shape", "data_offsets"}} | data
 *      npy           "\x93NUMPY" version | u16 or u32 header bytes | {'descr', 'fortran_order', 'shape'} | data
 *      text          one row a line, blanks or tabs between numbers
 */
#include "presses/params.h"
#include "common/base/arena.h"
#include "common/base/file.h"
#include "common/base/text.h"
#include "common/tensor/dtype.h"

#include <inttypes.h>
#include <jansson.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { HEADER_MAX = 64 << 20, VALUES_MAX = 1 << 30 };

/* One tensor where it lies. */
struct place {
    int32_t rank;
    int64_t shape[PARAMS_RANK_MAX + 2];
    char kind; /* 'f' f32, 'd' f64, 'h' f16, 'b' bf16 */
    const uint8_t *data;
    uint64_t bytes;
};

struct params {
    char *path;
    struct file file;
    json_t *header;      /* safetensors */
    uint64_t data_at;    /* of safetensors */
    struct place single; /* npy and text */
    double *values;      /* of text, owned */
};

static int64_t value_bytes_of(char kind)
{
    return kind == 'd' ? 8 : kind == 'f' ? 4 : 2;
}

/* ---- npy ---------------------------------------------------------------------------------------------------------- */

static enum status bad(const struct params *p, const char *what, struct err *err)
{
    return err_set(err, ST_EINVAL, "%s: %s", p->path, what);
}

static enum status npy_shape(struct params *p, const char *header, struct err *err)
{
    const char *s = strstr(header, "'shape'");

    s = s ? strchr(s, '(') : NULL;
    if (!s)
        return bad(p, "a npy header without a shape", err);
    for (s++; *s && *s != ')';) {
        char *end;
        long long n = strtoll(s, &end, 10);

        if (end == s || n < 0 || p->single.rank > PARAMS_RANK_MAX)
            return bad(p, "a npy shape that cannot be read", err);
        p->single.shape[p->single.rank++] = n;
        s = end + strspn(end, ", ");
    }
    return ST_OK;
}

static enum status npy_open(struct params *p, struct err *err)
{
    const uint8_t *d = p->file.data;
    uint64_t at = 10, bytes;
    char *header;
    enum status st;

    if (p->file.bytes < 12)
        return bad(p, "a npy file without a header", err);
    bytes = d[8] | (uint64_t)d[9] << 8;
    if (d[6] >= 2) {
        bytes |= (uint64_t)d[10] << 16 | (uint64_t)d[11] << 24;
        at = 12;
    }
    if (bytes > p->file.bytes - at)
        return bad(p, "a npy header that ends past the file", err);
    header = mem_alloc(bytes + 1);
    memcpy(header, d + at, bytes);
    header[bytes] = '\0';
    p->single.kind = strstr(header, "'<f4'") ? 'f' : strstr(header, "'<f8'") ? 'd' : strstr(header, "'<f2'") ? 'h' : 0;
    if (!p->single.kind)
        st = bad(p, "a npy file that is neither f2, f4 nor f8, little-endian", err);
    else if (!strstr(header, "'fortran_order': False"))
        st = bad(p, "a npy file in Fortran order", err);
    else
        st = npy_shape(p, header, err);
    free(header);
    p->single.data = d + at + bytes;
    p->single.bytes = p->file.bytes - at - bytes;
    return st;
}

/* ---- text ----------------------------------------------------------------------------------------------------------- */

static bool text_line(struct params *p, char *line, int64_t *count, int64_t *room)
{
    int64_t columns = 0;

    for (char *s = line + strspn(line, " \t\r"); *s; columns++) {
        char *end;
        double v = strtod(s, &end);

        if (end == s)
            return false;
        if (*count == *room) {
            *room = *room ? *room * 2 : 256;
            p->values = mem_grow(p->values, (size_t)*room * sizeof *p->values);
        }
        p->values[(*count)++] = v;
        s = end + strspn(end, " \t\r,");
    }
    if (columns == 0)
        return true;
    if (p->single.shape[0] > 0 && columns != p->single.shape[1])
        return false;
    p->single.shape[0]++;
    p->single.shape[1] = columns;
    return true;
}

static enum status text_open(struct params *p, struct err *err)
{
    char *copy = mem_alloc(p->file.bytes + 1), *line = copy;
    int64_t count = 0, room = 0;
    enum status st = ST_OK;

    if (p->file.bytes)
        memcpy(copy, p->file.data, p->file.bytes);
    copy[p->file.bytes] = '\0';
    p->single = (struct place){ .rank = 2, .kind = 'd' };
    if (strlen(copy) != p->file.bytes)
        st = bad(p, "neither safetensors nor npy nor text", err);
    while (st == ST_OK && line) {
        char *end = strchr(line, '\n');

        if (end)
            *end = '\0';
        if (!text_line(p, line, &count, &room))
            st = bad(p, "text that is no table of numbers", err);
        line = end ? end + 1 : NULL;
    }
    p->single.data = (const uint8_t *)p->values;
    p->single.bytes = (uint64_t)count * sizeof *p->values;
    free(copy);
    return st;
}

/* ---- safetensors ------------------------------------------------------------------------------------------------------ */

static enum status safetensors_open(struct params *p, uint64_t header, struct err *err)
{
    json_error_t error;

    p->header = json_loadb((const char *)p->file.data + 8, header, 0, &error);
    if (!json_is_object(p->header))
        return bad(p, "a safetensors header that is no JSON object", err);
    p->data_at = 8 + header;
    return ST_OK;
}

static char kind_of(const char *dtype)
{
    static const char *const names[] = { "F32", "F64", "F16", "BF16" };

    for (size_t i = 0; dtype && i < 4; i++)
        if (strcmp(dtype, names[i]) == 0)
            return "fdhb"[i];
    return 0;
}

static enum status safetensors_place(const struct params *p, const char *name, struct place *out, struct err *err)
{
    json_t *entry = json_object_get(p->header, name), *shape = json_object_get(entry, "shape");
    json_t *offsets = json_object_get(entry, "data_offsets");
    json_int_t from = json_integer_value(json_array_get(offsets, 0)),
               to = json_integer_value(json_array_get(offsets, 1));

    *out = (struct place){ .kind = kind_of(json_string_value(json_object_get(entry, "dtype"))) };
    if (!entry)
        return err_set(err, ST_EINVAL, "%s: there is no tensor called %s", p->path, name);
    if (!out->kind)
        return err_set(err, ST_EINVAL, "%s: %s is neither F32, F64, F16 nor BF16", p->path, name);
    if (json_array_size(shape) > PARAMS_RANK_MAX + 1 || from < 0 || to < from ||
        (uint64_t)to > p->file.bytes - p->data_at)
        return err_set(err, ST_EINVAL, "%s: %s lies outside the file", p->path, name);
    out->rank = (int32_t)json_array_size(shape);
    for (int32_t i = 0; i < out->rank; i++)
        out->shape[i] = json_integer_value(json_array_get(shape, (size_t)i));
    out->data = p->file.data + p->data_at + from;
    out->bytes = (uint64_t)(to - from);
    return ST_OK;
}

/* ---- any of them ------------------------------------------------------------------------------------------------------ */

enum status params_open(struct params **out, const char *path, struct err *err)
{
    struct params *p = mem_zero(1, sizeof *p);
    uint64_t header = 0;
    enum status st;

    p->path = mem_strdup(path);
    st = file_open(&p->file, path, err);
    if (st == ST_OK && p->file.bytes >= 8)
        for (int i = 7; i >= 0; i--)
            header = header << 8 | p->file.data[i];
    if (st != ST_OK)
        ;
    else if (p->file.bytes >= 6 && memcmp(p->file.data, "\x93NUMPY", 6) == 0)
        st = npy_open(p, err);
    else if (p->file.bytes > 8 && header <= HEADER_MAX && header <= p->file.bytes - 8 && p->file.data[8] == '{')
        st = safetensors_open(p, header, err);
    else
        st = text_open(p, err);
    if (st == ST_OK)
        *out = p;
    else
        params_close(p);
    return st;
}

void params_close(struct params *p)
{
    if (!p)
        return;
    json_decref(p->header);
    file_close(&p->file);
    free(p->values);
    free(p->path);
    free(p);
}

bool params_has(const struct params *p, const char *name)
{
    return !p->header || json_object_get(p->header, name) != NULL;
}

static enum status place_of(const struct params *p, const char *name, struct place *out, struct err *err)
{
    if (p->header)
        return safetensors_place(p, name, out, err);
    *out = p->single;
    return ST_OK;
}

int64_t params_size(const struct params *p, const char *name, int32_t axis)
{
    struct place at;

    if (place_of(p, name, &at, NULL) != ST_OK || axis >= at.rank)
        return -1;
    return at.shape[axis];
}

static void shape_text(const int64_t *shape, int32_t rank, struct text *out)
{
    text_puts(out, "[");
    for (int32_t i = 0; i < rank; i++) {
        text_puts(out, i ? ", " : "");
        if (shape[i] < 0)
            text_puts(out, "any");
        else
            text_printf(out, "%" PRId64, shape[i]);
    }
    text_puts(out, "]");
}

/* Whether the file's shape, sizes of 1 passed over, is the one that is asked for. */
static bool shape_fits(const struct place *at, const int64_t *shape, int32_t rank)
{
    int32_t i = 0;

    for (int32_t k = 0; k < at->rank; k++) {
        if (i < rank && (shape[i] < 0 || shape[i] == at->shape[k]))
            i++;
        else if (at->shape[k] != 1)
            return false;
    }
    while (i < rank && shape[i] == 1)
        i++;
    return i == rank;
}

static enum status wrong_shape(const struct params *p, const char *name, const struct place *at, const int64_t *shape,
                               int32_t rank, struct err *err)
{
    struct text found = { 0 }, wanted = { 0 };
    enum status st;

    shape_text(at->shape, at->rank, &found);
    shape_text(shape, rank, &wanted);
    st = err_set(err, ST_EINVAL, "%s: %s is %s; this model needs %s", p->path, name, text_str(&found),
                 text_str(&wanted));
    text_fini(&found);
    text_fini(&wanted);
    return st;
}

static void to_f32(const struct place *at, int64_t count, float *out)
{
    for (int64_t i = 0; i < count; i++) {
        const uint8_t *from = at->data + i * value_bytes_of(at->kind);
        uint16_t half;
        double wide;

        if (at->kind == 'f') {
            memcpy(&out[i], from, 4);
        } else if (at->kind == 'd') {
            memcpy(&wide, from, 8);
            out[i] = (float)wide;
        } else {
            memcpy(&half, from, 2);
            out[i] = at->kind == 'h' ? f16_to_f32(half) : bf16_to_f32(half);
        }
    }
}

enum status params_read(const struct params *p, const char *name, const int64_t *shape, int32_t rank, float **out,
                        struct err *err)
{
    struct place at;
    int64_t count = 1;
    float *values;
    enum status st = place_of(p, name, &at, err);

    if (st != ST_OK)
        return st;
    if (!shape_fits(&at, shape, rank))
        return wrong_shape(p, name, &at, shape, rank, err);
    for (int32_t i = 0; i < at.rank; i++) {
        if (at.shape[i] < 0 || (at.shape[i] > 0 && count > VALUES_MAX / at.shape[i]))
            return err_set(err, ST_EINVAL, "%s: %s is too large", p->path, name);
        count *= at.shape[i];
    }
    if ((uint64_t)count * (uint64_t)value_bytes_of(at.kind) > at.bytes)
        return err_set(err, ST_EINVAL, "%s: %s is cut short", p->path, name);
    values = mem_alloc((size_t)(count > 0 ? count : 1) * sizeof *values);
    to_f32(&at, count, values);
    for (int64_t i = 0; i < count; i++)
        if (!isfinite(values[i])) {
            free(values);
            return err_set(err, ST_EINVAL, "%s: %s holds a value that is no number", p->path, name);
        }
    *out = values;
    return ST_OK;
}

enum status params_neighbour(const char *path, const char *file, const char *member, int64_t *out, struct err *err)
{
    struct arena arena = { 0 };
    const char *slash = strrchr(path, '/');
    const char *beside = arena_printf(&arena, "%.*s%s", slash ? (int)(slash - path + 1) : 0, path, file);
    json_error_t error;
    json_t *doc = NULL, *value;
    enum status st = ST_OK;

    if (file_exists(beside)) {
        doc = json_load_file(beside, 0, &error);
        value = json_object_get(doc, member);
        if (!json_is_object(doc))
            st = err_set(err, ST_EINVAL, "%s: no JSON object: %s", beside, error.text);
        else if (value && (!json_is_integer(value) || json_integer_value(value) < 0))
            st = err_set(err, ST_EINVAL, "%s: %s is no count", beside, member);
        else if (value)
            *out = json_integer_value(value);
    }
    json_decref(doc);
    arena_fini(&arena);
    return st;
}
