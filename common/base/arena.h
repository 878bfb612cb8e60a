/* SPDX-License-Identifier: Apache-2.0 */
/*
 * arena.h - memory that goes all at once: one request, one open model, one parse.
 *
 * Grows in chunks; nothing is freed singly. Not thread safe: an arena belongs to one thread at a time. Running out of
 * memory ends the program with 1 and one line on stderr (a host that cannot give a megabyte cannot serve).
 */
#ifndef PLATEN_BASE_ARENA_H
#define PLATEN_BASE_ARENA_H

#include <stddef.h>

#ifdef __cplusplus
extern "C" {
#endif

struct arena_chunk;

/* Zero-initialise; owned by whoever declares it; arena_fini gives everything back and leaves it ready for use. */
struct arena {
    struct arena_chunk *head;
    size_t used_bytes;
};

/* Zeroed memory, 16-byte aligned; never NULL. */
void *arena_alloc(struct arena *a, size_t bytes);

/* count * size with the overflow checked. */
void *arena_array(struct arena *a, size_t count, size_t size);

char *arena_strdup(struct arena *a, const char *text);
char *arena_strndup(struct arena *a, const char *text, size_t bytes);
char *arena_printf(struct arena *a, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
void arena_fini(struct arena *a);

/* malloc, calloc, realloc for what lives longer than an arena; end the program instead of giving NULL. */
void *mem_alloc(size_t bytes);
void *mem_zero(size_t count, size_t size);
void *mem_grow(void *old, size_t bytes);
char *mem_strdup(const char *text);

/* 64-byte aligned (cache line, AVX-512); give back with free(). */
void *mem_aligned(size_t bytes);

#ifdef __cplusplus
}
#endif
#endif
