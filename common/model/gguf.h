/* SPDX-License-Identifier: Apache-2.0 */
/*
 * gguf.h - one GGUF file: metadata (key, typed value) and tensors, all of it proven to lie inside the file when opened.
 *
 *   magic "GGUF" · version 2|3 · tensor count · key count · keys · tensor infos · padding · data
 *
 * Format: the GGUF specification of the ggml project, versions 2 and 3, little-endian.
 */
#ifndef PLATEN_MODEL_GGUF_H
#define PLATEN_MODEL_GGUF_H

#include "common/base/arena.h"
#include "common/base/bytes.h"
#include "common/base/status.h"
#include "common/model/tensors.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

enum gguf_type {
    GGUF_U8,
    GGUF_I8,
    GGUF_U16,
    GGUF_I16,
    GGUF_U32,
    GGUF_I32,
    GGUF_F32,
    GGUF_BOOL,
    GGUF_STRING,
    GGUF_ARRAY,
    GGUF_U64,
    GGUF_I64,
    GGUF_F64,
    GGUF_TYPES
};

/* A metadata value, borrowed from the file: `count` values of `type` one after another (1 unless is_array). */
struct gguf_value {
    const char *key; /* NUL-terminated copy */
    enum gguf_type type;
    bool is_array;
    uint64_t count;
    const uint8_t *data;
    uint64_t bytes;
};

struct gguf {
    struct arena arena;
    struct gguf_value *values; /* in the order of their keys */
    size_t value_count;
    struct tensors tensors;
};

/* Reads data[0..bytes), which must stay as it is while `out` lives. ST_EINVAL for a damaged file, ST_EUNIMPLEMENTED for
 * a version, a byte order or a quantisation that this program does not read; the sentence names key or tensor. */
enum status gguf_open(struct gguf *out, const uint8_t *data, size_t bytes, struct err *err);
void gguf_close(struct gguf *g);

/* The value called `key`, or NULL. Borrowed. */
const struct gguf_value *gguf_find(const struct gguf *g, const char *key);

/* Readers of one value: false when there is none or it has another type (integers of every width are one type). */
bool gguf_int(const struct gguf *g, const char *key, int64_t *out);
bool gguf_bool(const struct gguf *g, const char *key, bool *out);
const char *gguf_string(const struct gguf *g, const char *key, size_t *bytes); /* not NUL-terminated; NULL: none */

/* Element i of a number array, i < count (checked by the caller); 0 for arrays of strings. */
double gguf_item_num(const struct gguf_value *v, uint64_t i);

/* A cursor over an array of strings; gguf_next_string borrows one after another (there are v->count of them). */
struct cursor gguf_strings(const struct gguf_value *v);
const char *gguf_next_string(struct cursor *at, size_t *bytes);

#ifdef __cplusplus
}
#endif
#endif
