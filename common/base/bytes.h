/* SPDX-License-Identifier: Apache-2.0 */
/*
 * bytes.h - reading bytes from outside: little-endian loads and a cursor that cannot run past its end.
 *
 * A cursor that was asked for more than it has becomes bad and stays bad; every read of a bad cursor gives zero. So a
 * parser reads a whole structure and asks once at the end whether it was there.
 */
#ifndef PLATEN_BASE_BYTES_H
#define PLATEN_BASE_BYTES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#ifdef __cplusplus
extern "C" {
#endif

#define ARRAY_LEN(a) (sizeof(a) / sizeof((a)[0]))
#define CONTAINER_OF(ptr, type, member) ((type *)((char *)(ptr)-offsetof(type, member)))

struct cursor {
    const uint8_t *at;
    const uint8_t *end;
    bool bad;
};

static inline struct cursor cursor_on(const void *data, size_t bytes)
{
    struct cursor c = { (const uint8_t *)data, (const uint8_t *)data + bytes, false };
    return c;
}

static inline size_t cursor_left(const struct cursor *c)
{
    return (size_t)(c->end - c->at);
}

/* Borrows `bytes` bytes and steps over them; NULL (and bad) when fewer are left. */
static inline const uint8_t *cursor_take(struct cursor *c, uint64_t bytes)
{
    const uint8_t *at = c->at;

    if (c->bad || bytes > cursor_left(c)) {
        c->bad = true;
        return NULL;
    }
    c->at += bytes;
    return at;
}

static inline uint16_t load_u16(const uint8_t *p)
{
    return (uint16_t)(p[0] | p[1] << 8);
}

static inline uint32_t load_u32(const uint8_t *p)
{
    return (uint32_t)load_u16(p) | (uint32_t)load_u16(p + 2) << 16;
}

static inline uint64_t load_u64(const uint8_t *p)
{
    return (uint64_t)load_u32(p) | (uint64_t)load_u32(p + 4) << 32;
}

static inline void store_u32(uint8_t *p, uint32_t v)
{
    p[0] = (uint8_t)v;
    p[1] = (uint8_t)(v >> 8);
    p[2] = (uint8_t)(v >> 16);
    p[3] = (uint8_t)(v >> 24);
}

static inline void store_u64(uint8_t *p, uint64_t v)
{
    store_u32(p, (uint32_t)v);
    store_u32(p + 4, (uint32_t)(v >> 32));
}

static inline uint8_t cursor_u8(struct cursor *c)
{
    const uint8_t *p = cursor_take(c, 1);
    return p ? *p : 0;
}

static inline uint32_t cursor_u32(struct cursor *c)
{
    const uint8_t *p = cursor_take(c, 4);
    return p ? load_u32(p) : 0;
}

static inline uint64_t cursor_u64(struct cursor *c)
{
    const uint8_t *p = cursor_take(c, 8);
    return p ? load_u64(p) : 0;
}

/* a * b and a + b for sizes that come from outside: false when the result does not fit, and *out is untouched. */
static inline bool size_mul(uint64_t a, uint64_t b, uint64_t *out)
{
    return !__builtin_mul_overflow(a, b, out);
}

static inline bool size_add(uint64_t a, uint64_t b, uint64_t *out)
{
    return !__builtin_add_overflow(a, b, out);
}

#ifdef __cplusplus
}
#endif
#endif
