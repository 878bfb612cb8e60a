/* SPDX-License-Identifier: Apache-2.0 */
/*
 * blocks.h - room for pressed contexts: one arena of device memory, handed out in extents.
 *
 * A context takes one extent for all its blocks, as long as its press can at most need; what was not needed goes back at
 * commit. Best fit; neighbours merge. When there is room in sum but no extent is long enough, committed extents are
 * moved together between two decode steps (blocks_compact).
 *
 * Any thread may reserve, trim and release; only the engine thread compacts.
 */
#ifndef PLATEN_DECODE_BLOCKS_H
#define PLATEN_DECODE_BLOCKS_H

#include "common/base/status.h"
#include "kernels/backend.h"

#include <stdbool.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

struct blocks;

/* A run of bytes in the arena. Owned by the arena; valid from reserve to release. `offset` changes when it is moved. */
struct extent {
    uint64_t offset, bytes;
    bool pinned; /* being received or read by somebody who knows its address: not to be moved */
    void *owner; /* what blocks_compact hands to `moved` */
    struct extent *prev, *next;
};

/* Takes `capacity` bytes from the back end. ST_EEXHAUSTED. */
enum status blocks_open(struct blocks **out, struct backend *be, uint64_t capacity, struct err *err);
void blocks_close(struct blocks *b); /* every extent must be back; NULL is fine */

/* Room for `bytes`, pinned. ST_OK; ST_AGAIN: there is room in sum, blocks_compact would help; ST_EEXHAUSTED with the
 * sentence: there is not. Never waits. */
enum status blocks_reserve(struct blocks *b, uint64_t bytes, void *owner, struct extent **out, struct err *err);

/* Gives back what lies behind the first `bytes` bytes and lets the extent be moved from now on. */
void blocks_commit(struct blocks *b, struct extent *e, uint64_t bytes);
void blocks_release(struct blocks *b, struct extent *e); /* NULL is fine */

/* Where an extent's bytes are: device memory. */
void *blocks_at(const struct blocks *b, const struct extent *e);

/* Moves what may be moved to the front of the arena, in order, and tells each owner by how many bytes its addresses
 * changed. Engine thread, with no step running. */
void blocks_compact(struct blocks *b, void (*moved)(void *owner, int64_t by, void *ctx), void *ctx);

uint64_t blocks_used(struct blocks *b);
uint64_t blocks_capacity(const struct blocks *b);

#ifdef __cplusplus
}
#endif
#endif
