/* SPDX-License-Identifier: Apache-2.0 */
/* keys.c - one set of checked readers over two formats: a JSON object (jansson) and GGUF metadata. */
#include "common/model/keys.h"

#include "common/model/gguf.h"

#include <jansson.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

enum { KEY_MAX = 256 };

static const json_t *find_json(const struct keys *k, const char *key)
{
    const json_t *v = k->json ? json_object_get(k->json, key) : NULL;

    return json_is_null(v) ? NULL : v;
}

static const struct gguf_value *find_gguf(const struct keys *k, const char *key)
{
    char full[KEY_MAX];

    if (!k->gguf)
        return NULL;
    snprintf(full, sizeof full, "%s%s", k->prefix, key);
    return gguf_find(k->gguf, full);
}

/* The name that a sentence gives the key. */
static const char *key_name(const struct keys *k, const char *key)
{
    return arena_printf(k->result->arena, "%s%s", k->gguf ? k->prefix : k->path ? k->path : "", key);
}

void keys_fail(const struct keys *k, enum status st, const char *fmt, ...)
{
    char text[ERR_TEXT_MAX];
    va_list ap;

    if (k->result->st != ST_OK)
        return;
    va_start(ap, fmt);
    vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    k->result->st = err_set(k->result->err, st, "%s", text);
}

enum status keys_status(const struct keys *k)
{
    return k->result->st;
}

bool keys_has(const struct keys *k, const char *key)
{
    return find_json(k, key) || find_gguf(k, key);
}

bool keys_is_null(const struct keys *k, const char *key)
{
    return k->json && json_is_null(json_object_get(k->json, key));
}

/* Whether the key has one number; a key with something else is a failure. */
static bool read_num(const struct keys *k, const char *key, bool whole, double *out)
{
    const json_t *j = find_json(k, key);
    const struct gguf_value *v = find_gguf(k, key);
    bool is_num = false;

    if (!j && !v)
        return false;
    if (j) {
        is_num = json_is_number(j);
        *out = json_number_value(j);
    } else if (!v->is_array && v->type != GGUF_STRING && v->type != GGUF_BOOL) {
        is_num = true;
        *out = gguf_item_num(v, 0);
    }
    if (is_num && isfinite(*out) && (!whole || floor(*out) == *out))
        return true;
    keys_fail(k, ST_EINVAL, "%s is not a %snumber", key_name(k, key), whole ? "whole " : "");
    return false;
}

static double read_within(const struct keys *k, const char *key, bool whole, double min, double max, double fallback)
{
    double value;

    if (!read_num(k, key, whole, &value))
        return fallback;
    if (value >= min && value <= max)
        return value;
    keys_fail(k, ST_EINVAL, "%s is %.17g; %.17g to %.17g is allowed", key_name(k, key), value, min, max);
    return fallback;
}

static bool need(const struct keys *k, const char *key)
{
    if (keys_has(k, key))
        return true;
    keys_fail(k, ST_EINVAL, "%s is missing", key_name(k, key));
    return false;
}

int64_t keys_int(const struct keys *k, const char *key, int64_t min, int64_t max, int64_t fallback)
{
    return (int64_t)read_within(k, key, true, (double)min, (double)max, (double)fallback);
}

int64_t keys_need_int(const struct keys *k, const char *key, int64_t min, int64_t max)
{
    return need(k, key) ? keys_int(k, key, min, max, min) : min;
}

double keys_num(const struct keys *k, const char *key, double min, double max, double fallback)
{
    return read_within(k, key, false, min, max, fallback);
}

double keys_need_num(const struct keys *k, const char *key, double min, double max)
{
    return need(k, key) ? keys_num(k, key, min, max, min) : min;
}

bool keys_flag(const struct keys *k, const char *key, bool fallback)
{
    const json_t *j = find_json(k, key);
    const struct gguf_value *v = find_gguf(k, key);

    if (j && json_is_boolean(j))
        return json_is_true(j);
    if (v && v->type == GGUF_BOOL && !v->is_array)
        return v->data[0] != 0;
    if (j || v)
        keys_fail(k, ST_EINVAL, "%s is not true or false", key_name(k, key));
    return fallback;
}

const char *keys_text(const struct keys *k, const char *key)
{
    const json_t *j = find_json(k, key);
    const struct gguf_value *v = find_gguf(k, key);

    if (j && json_is_string(j))
        return json_string_value(j);
    if (v && v->type == GGUF_STRING && !v->is_array) {
        struct cursor c = gguf_strings(v);
        size_t bytes;
        const char *at = gguf_next_string(&c, &bytes);
        return arena_strndup(k->result->arena, at, bytes);
    }
    if (j || v)
        keys_fail(k, ST_EINVAL, "%s is not a text", key_name(k, key));
    return NULL;
}

static size_t count_items(const json_t *j, const struct gguf_value *v)
{
    if (j)
        return json_is_array(j) ? json_array_size(j) : 1;
    return (size_t)v->count;
}

/* Item i as a number; NAN when it is none (true and false count as 1 and 0: GGUF patterns are such). */
static double item_num(const json_t *j, const struct gguf_value *v, size_t i)
{
    const json_t *item = json_is_array(j) ? json_array_get(j, i) : j;

    if (!j)
        return v->type == GGUF_STRING ? (double)NAN : gguf_item_num(v, i);
    if (json_is_boolean(item))
        return json_is_true(item);
    return json_is_number(item) ? json_number_value(item) : (double)NAN;
}

const double *keys_nums(const struct keys *k, const char *key, size_t max, size_t *count)
{
    const json_t *j = find_json(k, key);
    const struct gguf_value *v = find_gguf(k, key);
    size_t n = j || v ? count_items(j, v) : 0;
    double *out;

    *count = 0;
    if (!j && !v)
        return NULL;
    if (n < 1 || n > max) {
        keys_fail(k, ST_EINVAL, "%s has %zu numbers; 1 to %zu are allowed", key_name(k, key), n, max);
        return NULL;
    }
    out = arena_array(k->result->arena, n, sizeof out[0]);
    for (size_t i = 0; i < n; i++) {
        out[i] = item_num(j, v, i);
        if (!isfinite(out[i])) {
            keys_fail(k, ST_EINVAL, "%s: item %zu is not a number", key_name(k, key), i);
            return NULL;
        }
    }
    *count = n;
    return out;
}

const char *const *keys_texts(const struct keys *k, const char *key, size_t max, size_t *count)
{
    const json_t *j = find_json(k, key);
    size_t n = json_array_size(j);
    const char **out;

    *count = 0;
    if (!j)
        return NULL;
    if (n < 1 || n > max) {
        keys_fail(k, ST_EINVAL, "%s is not an array of 1 to %zu texts", key_name(k, key), max);
        return NULL;
    }
    out = arena_array(k->result->arena, n, sizeof out[0]);
    for (size_t i = 0; i < n; i++) {
        out[i] = json_string_value(json_array_get(j, i));
        if (!out[i]) {
            keys_fail(k, ST_EINVAL, "%s: item %zu is not a text", key_name(k, key), i);
            return NULL;
        }
    }
    *count = n;
    return out;
}

struct keys keys_object(const struct keys *k, const char *key)
{
    const json_t *j = find_json(k, key);
    struct keys out = { .path = key_name(k, arena_printf(k->result->arena, "%s.", key)), .result = k->result };

    if (j && !json_is_object(j))
        keys_fail(k, ST_EINVAL, "%s is not an object", key_name(k, key));
    out.json = j && json_is_object(j) ? j : NULL;
    return out;
}
