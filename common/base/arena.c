/* SPDX-License-Identifier: Apache-2.0 */
/*
 * arena.c - memory that goes all at once.
 *
 *      arena.head ──▶ [ chunk | used ......... free ] ──▶ [ chunk ] ──▶ NULL
 *
 * Chunks double from 4 KiB to 1 MiB; what is larger gets a chunk of its own behind the head, so that the rest of the
 * head is still used. Chunks come from calloc and bytes are never handed out twice: that is why they are zero.
 */
#include "common/base/arena.h"

#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { ALIGN_BYTES = 16, CHUNK_MIN_BYTES = 4096, CHUNK_MAX_BYTES = 1 << 20 };

struct arena_chunk {
    struct arena_chunk *next;
    size_t room;
    size_t used;
    size_t pad; /* keeps the bytes behind the header aligned */
};

_Static_assert(sizeof(struct arena_chunk) % ALIGN_BYTES == 0, "what follows the header is aligned");

static _Noreturn void out_of_memory(size_t bytes)
{
    fprintf(stderr, "platen: RESOURCE_EXHAUSTED: the host has no memory left (%zu bytes asked)\n", bytes);
    _exit(1); /* other threads run on until then: nothing is closed under them */
}

static void *must(void *p, size_t bytes)
{
    if (!p)
        out_of_memory(bytes);
    return p;
}

static size_t must_multiply(size_t count, size_t size)
{
    size_t bytes;

    if (__builtin_mul_overflow(count, size, &bytes))
        out_of_memory(SIZE_MAX);
    return bytes;
}

static struct arena_chunk *chunk_new(size_t room)
{
    struct arena_chunk *c = mem_zero(1, sizeof *c + room);

    c->room = room;
    return c;
}

/* A chunk with `bytes` free. */
static struct arena_chunk *chunk_with(struct arena *a, size_t bytes)
{
    struct arena_chunk *head = a->head, *c;
    size_t room = head ? head->room * 2 : CHUNK_MIN_BYTES;

    if (head && head->room - head->used >= bytes)
        return head;
    if (room > CHUNK_MAX_BYTES)
        room = CHUNK_MAX_BYTES;
    if (head && bytes > room / 2) {
        c = chunk_new(bytes);
        c->next = head->next;
        head->next = c;
        return c;
    }
    c = chunk_new(bytes > room ? bytes : room);
    c->next = head;
    a->head = c;
    return c;
}

void *arena_alloc(struct arena *a, size_t bytes)
{
    struct arena_chunk *c;
    char *at;

    if (bytes > SIZE_MAX / 2)
        out_of_memory(bytes);
    bytes = (bytes + ALIGN_BYTES - 1) / ALIGN_BYTES * ALIGN_BYTES;
    c = chunk_with(a, bytes);
    at = (char *)(c + 1) + c->used;
    c->used += bytes;
    a->used_bytes += bytes;
    return at;
}

void *arena_array(struct arena *a, size_t count, size_t size)
{
    return arena_alloc(a, must_multiply(count, size));
}

char *arena_strndup(struct arena *a, const char *text, size_t bytes)
{
    char *copy = arena_alloc(a, bytes + 1);

    if (bytes)
        memcpy(copy, text, bytes);
    return copy;
}

char *arena_strdup(struct arena *a, const char *text)
{
    return arena_strndup(a, text, strlen(text));
}

char *arena_printf(struct arena *a, const char *fmt, ...)
{
    va_list ap, again;
    char *out;
    int len;

    va_start(ap, fmt);
    va_copy(again, ap);
    len = vsnprintf(NULL, 0, fmt, ap);
    va_end(ap);
    out = arena_alloc(a, (size_t)(len < 0 ? 0 : len) + 1);
    if (len > 0)
        vsnprintf(out, (size_t)len + 1, fmt, again);
    va_end(again);
    return out;
}

void arena_fini(struct arena *a)
{
    while (a->head) {
        struct arena_chunk *c = a->head;
        a->head = c->next;
        free(c);
    }
    a->used_bytes = 0;
}

void *mem_alloc(size_t bytes)
{
    return must(malloc(bytes ? bytes : 1), bytes);
}

void *mem_zero(size_t count, size_t size)
{
    size_t bytes = must_multiply(count, size);

    return must(calloc(1, bytes ? bytes : 1), bytes);
}

void *mem_grow(void *old, size_t bytes)
{
    return must(realloc(old, bytes ? bytes : 1), bytes);
}

char *mem_strdup(const char *text)
{
    size_t bytes = strlen(text) + 1;

    return memcpy(mem_alloc(bytes), text, bytes);
}

void *mem_aligned(size_t bytes)
{
    void *p = NULL;

    return must(posix_memalign(&p, 64, bytes ? bytes : 1) == 0 ? p : NULL, bytes);
}
