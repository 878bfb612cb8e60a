/* SPDX-License-Identifier: Apache-2.0 */
/*
 * keys.h - a model's configuration, read key by key, from config.json or from GGUF metadata.
 *
 * Every read tells its limits. The first value that is missing or wrong is remembered with its sentence; reads after
 * that give the fallback. So a family's reader is a plain list, and asks keys_status once at its end.
 */
#ifndef PLATEN_MODEL_KEYS_H
#define PLATEN_MODEL_KEYS_H

#include "common/base/arena.h"
#include "common/base/status.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

struct gguf;
struct json_t;

/* What all readers of one configuration share. Owned by whoever declares it. */
struct keys_result {
    enum status st;
    struct err *err;
    struct arena *arena; /* arrays and texts go here */
};

/* One object of the configuration. Exactly one of json and gguf is set (both NULL: an object that is not there: every
 * key is absent). */
struct keys {
    const struct json_t *json;
    const struct gguf *gguf;
    const char *prefix; /* of GGUF keys: "llama." */
    const char *path;   /* of JSON objects, for sentences: "rope_scaling." */
    struct keys_result *result;
};

/* Absent means: no such key, or null. */
bool keys_has(const struct keys *k, const char *key);

/* The key is there and null: some families mean something by it. */
bool keys_is_null(const struct keys *k, const char *key);

int64_t keys_int(const struct keys *k, const char *key, int64_t min, int64_t max, int64_t fallback);
int64_t keys_need_int(const struct keys *k, const char *key, int64_t min, int64_t max);
double keys_num(const struct keys *k, const char *key, double min, double max, double fallback);
double keys_need_num(const struct keys *k, const char *key, double min, double max);
bool keys_flag(const struct keys *k, const char *key, bool fallback);
const char *keys_text(const struct keys *k, const char *key); /* NULL when absent */

/* An array of finite numbers, 1 to `max` of them, in the arena; NULL (and *count = 0) when absent. A single number
 * counts as an array of one. */
const double *keys_nums(const struct keys *k, const char *key, size_t max, size_t *count);

/* The strings of an array; NULL when absent. */
const char *const *keys_texts(const struct keys *k, const char *key, size_t max, size_t *count);

/* A JSON object inside; absent gives an object without keys. */
struct keys keys_object(const struct keys *k, const char *key);

/* Remembers a failure that only the reader of the family can see. */
void keys_fail(const struct keys *k, enum status st, const char *fmt, ...) __attribute__((format(printf, 3, 4)));
enum status keys_status(const struct keys *k);

#ifdef __cplusplus
}
#endif
#endif
