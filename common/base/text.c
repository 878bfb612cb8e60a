/* SPDX-License-Identifier: Apache-2.0 */
/* text.c - a string that grows, UTF-8 by RFC 3629, the nearest word, and numbers read whole or not at all. */
#include "common/base/text.h"
#include "common/base/arena.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { NEAREST_WORD_MAX = 64 };

static void text_make_room(struct text *t, size_t more)
{
    size_t need = t->bytes + more + 1;
    size_t room = t->room ? t->room : 64;

    if (need <= t->room)
        return;
    while (room < need)
        room *= 2;
    t->data = mem_grow(t->data, room);
    t->room = room;
}

void text_add(struct text *t, const char *data, size_t bytes)
{
    text_make_room(t, bytes);
    if (bytes)
        memcpy(t->data + t->bytes, data, bytes);
    t->bytes += bytes;
    t->data[t->bytes] = '\0';
}

void text_puts(struct text *t, const char *s)
{
    text_add(t, s, strlen(s));
}

void text_printf(struct text *t, const char *fmt, ...)
{
    va_list ap;

    va_start(ap, fmt);
    text_vprintf(t, fmt, ap);
    va_end(ap);
}

void text_vprintf(struct text *t, const char *fmt, va_list ap)
{
    va_list again;
    int len;

    va_copy(again, ap);
    len = vsnprintf(NULL, 0, fmt, ap);
    if (len >= 0) {
        text_make_room(t, (size_t)len);
        vsnprintf(t->data + t->bytes, (size_t)len + 1, fmt, again);
        t->bytes += (size_t)len;
    }
    va_end(again);
}

void text_clear(struct text *t)
{
    t->bytes = 0;
    if (t->data)
        t->data[0] = '\0';
}

void text_fini(struct text *t)
{
    free(t->data);
    *t = (struct text){ 0 };
}

const char *text_str(const struct text *t)
{
    return t->data ? t->data : "";
}

static void json_char(struct text *t, const char *s, size_t len)
{
    static const char plain[] = "\"\\\b\f\n\r\t", escaped[] = "\"\\bfnrt";
    const char *at = *s ? strchr(plain, *s) : NULL;

    if (len == 1 && at)
        text_printf(t, "\\%c", escaped[at - plain]);
    else if (len == 1 && ((unsigned char)*s < 0x20 || *s == 0x7f))
        text_printf(t, "\\u%04x", (unsigned)*s);
    else
        text_add(t, s, len);
}

void text_json(struct text *t, const char *s, size_t bytes)
{
    text_add(t, "\"", 1);
    for (size_t i = 0, len; i < bytes; i += len) {
        if (utf8_decode(s + i, bytes - i, &len) < 0)
            text_puts(t, "\xEF\xBF\xBD");
        else
            json_char(t, s + i, len);
    }
    text_add(t, "\"", 1);
}

/* How many bytes a character with this first byte has; 0: no character begins so. */
static size_t utf8_bytes_of(unsigned char first)
{
    if (first < 0x80)
        return 1;
    if (first >= 0xC2 && first <= 0xDF)
        return 2;
    if (first >= 0xE0 && first <= 0xEF)
        return 3;
    return first >= 0xF0 && first <= 0xF4 ? 4 : 0;
}

int32_t utf8_decode(const char *s, size_t bytes, size_t *len)
{
    static const int32_t least[] = { 0, 0, 0x80, 0x800, 0x10000 };
    static const unsigned char first_bits[] = { 0, 0x7F, 0x1F, 0x0F, 0x07 };
    const unsigned char *u = (const unsigned char *)s;
    size_t n = bytes ? utf8_bytes_of(u[0]) : 0;
    int32_t code;

    *len = 1;
    if (n == 0 || n > bytes)
        return -1;
    code = u[0] & first_bits[n];
    for (size_t i = 1; i < n; i++) {
        if ((u[i] & 0xC0) != 0x80)
            return -1;
        code = code << 6 | (u[i] & 0x3F);
    }
    if (code < least[n] || code > 0x10FFFF || (code >= 0xD800 && code <= 0xDFFF))
        return -1;
    *len = n;
    return code;
}

size_t utf8_prefix(const char *s, size_t bytes)
{
    size_t at = 0, len;

    while (at < bytes && utf8_decode(s + at, bytes - at, &len) >= 0)
        at += len;
    return at;
}

bool utf8_valid(const char *s, size_t bytes)
{
    return utf8_prefix(s, bytes) == bytes;
}

size_t utf8_encode(char out[4], uint32_t code)
{
    size_t n = code < 0x80 ? 1 : code < 0x800 ? 2 : code < 0x10000 ? 3 : 4;
    static const unsigned char lead[] = { 0, 0, 0xC0, 0xE0, 0xF0 };

    for (size_t i = n - 1; i > 0; i--, code >>= 6)
        out[i] = (char)(0x80 | (code & 0x3F));
    out[0] = (char)(lead[n] | code);
    return n;
}

static size_t min3(size_t a, size_t b, size_t c)
{
    size_t least = a < b ? a : b;

    return least < c ? least : c;
}

/* Edit distance in bytes; two neighbours that changed places count as one edit. Both at most NEAREST_WORD_MAX long. */
static size_t edit_distance(const char *a, size_t m, const char *b, size_t n)
{
    size_t rows[3][NEAREST_WORD_MAX + 1];

    for (size_t j = 0; j <= n; j++)
        rows[0][j] = j;
    for (size_t i = 1; i <= m; i++) {
        size_t *now = rows[i % 3], *last = rows[(i + 2) % 3], *older = rows[(i + 1) % 3];

        now[0] = i;
        for (size_t j = 1; j <= n; j++) {
            now[j] = min3(last[j] + 1, now[j - 1] + 1, last[j - 1] + (a[i - 1] != b[j - 1]));
            if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] && older[j - 2] + 1 < now[j])
                now[j] = older[j - 2] + 1;
        }
    }
    return rows[m % 3][n];
}

const char *text_nearest(const char *word, const char *const *names, size_t count)
{
    size_t len = strlen(word);
    size_t limit = len / 3 > 2 ? len / 3 : 2, best = SIZE_MAX;
    const char *nearest = NULL;

    if (len == 0 || len > NEAREST_WORD_MAX)
        return NULL;
    for (size_t i = 0; i < count; i++) {
        size_t n = strlen(names[i]), d;

        if (n > NEAREST_WORD_MAX)
            continue;
        d = edit_distance(word, len, names[i], n);
        if (d > limit && strncmp(names[i], word, len) == 0)
            d = limit; /* the beginning of a long name */
        else if (d >= len)
            continue; /* nothing of a short word is left: that is no likeness */
        if (d <= limit && d < best) {
            best = d;
            nearest = names[i];
        }
    }
    return nearest;
}

bool text_to_i64(const char *s, int64_t min, int64_t max, int64_t *out)
{
    char *end;
    long long v;

    if (s[0] == '\0' || s[strspn(s, "-0123456789")] != '\0')
        return false;
    errno = 0;
    v = strtoll(s, &end, 10);
    if (errno != 0 || end == s || *end != '\0' || v < min || v > max)
        return false;
    *out = v;
    return true;
}

bool text_to_f64(const char *s, double min, double max, double *out)
{
    char *end;
    double v;

    if (s[0] == '\0' || s[strspn(s, "+-.0123456789eE")] != '\0') /* no hex, no inf, no nan, no blanks */
        return false;
    v = strtod(s, &end);
    if (end == s || *end != '\0' || !(v >= min && v <= max))
        return false;
    *out = v;
    return true;
}
