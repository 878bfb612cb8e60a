/* SPDX-License-Identifier: Apache-2.0 */
/* text.h - strings that grow, UTF-8, and the nearest word for "did you mean". */
#ifndef PLATEN_BASE_TEXT_H
#define PLATEN_BASE_TEXT_H

#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* A string that grows; always ends in NUL, may hold NULs. Zero-initialise. Owned by whoever declares it. */
struct text {
    char *data; /* NULL while empty */
    size_t bytes;
    size_t room;
};

void text_add(struct text *t, const char *data, size_t bytes);
void text_puts(struct text *t, const char *s);
void text_printf(struct text *t, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
void text_vprintf(struct text *t, const char *fmt, va_list ap);
void text_clear(struct text *t); /* keeps the room */
void text_fini(struct text *t);
const char *text_str(const struct text *t); /* "" while empty */

/* Appends `s` as a JSON string with its quotes. Bytes that are no UTF-8 become U+FFFD. */
void text_json(struct text *t, const char *s, size_t bytes);

/* Length of the longest prefix of whole, valid UTF-8 characters (RFC 3629: no surrogates, no overlong forms). */
size_t utf8_prefix(const char *s, size_t bytes);
bool utf8_valid(const char *s, size_t bytes);

/* Reads one code point at s[0..bytes), sets *len to its bytes. -1 (and *len = 1) where it is not valid. */
int32_t utf8_decode(const char *s, size_t bytes, size_t *len);

/* Writes a code point (0..0x10FFFF) as 1..4 bytes; returns how many. */
size_t utf8_encode(char out[4], uint32_t code);

/* The candidate nearest to `word` by edit distance when it is near enough to be meant (<= 1/3 of its length, at least
 * 2; a candidate that begins with `word` counts as near), else NULL. `names` are `count` strings. */
const char *text_nearest(const char *word, const char *const *names, size_t count);

/* Reads a whole number / a number; false unless all of `s` was it and it lies in [min, max]. */
bool text_to_i64(const char *s, int64_t min, int64_t max, int64_t *out);
bool text_to_f64(const char *s, double min, double max, double *out);

#ifdef __cplusplus
}
#endif
#endif
