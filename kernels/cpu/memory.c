/* SPDX-License-Identifier: Apache-2.0 */
/*
 * memory.c - device memory of the CPU back end: ordinary memory, counted by purpose.
 *
 *      [ header: bytes, purpose | pad to 256 ][ what the caller sees, 256-byte aligned ]
 *
 * Every lane runs at once in the caller, so copies are done when they return, fences have always passed, and waiting is
 * nothing. What is streamed stands in huge pages, since a 4 KiB page ends every 64 lines: large pieces by themselves, middling
 * ones (the matrices of a small model, blocks) side by side in slabs. A slab goes back with its last piece.
 *
 *      slab   [ struct slab | pad ][ header, piece ][ header, piece ] ...
 */
#include "kernels/cpu/cpu.h"

#include "common/base/arena.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

enum { ALIGN_BYTES = 256, HUGE_BYTES = 2 << 20, SLAB_BYTES = 32 << 20, SLAB_PIECE_BYTES = 64 << 10 };

/* owned by: its pieces, and cpu.slab while it is the one that is filled */
struct slab {
    uint64_t used;
    int64_t pieces;
};

struct piece {
    uint64_t bytes;
    enum purpose purpose;
    struct slab *slab; /* NULL: stands alone */
};

_Static_assert(sizeof(struct piece) <= ALIGN_BYTES && sizeof(struct slab) <= ALIGN_BYTES,
               "headers fit before the bytes");

/* Nothing to remember: what was queued before it is done. */
struct fence {
    char unused;
};

static enum purpose purpose_of(const char *what)
{
    static const char *const names[PURPOSE_COUNT] = { "weights", "activations", "blocks", "tails", "other" };

    for (int i = 0; i < FOR_OTHER; i++)
        if (strcmp(what, names[i]) == 0)
            return (enum purpose)i;
    return FOR_OTHER;
}

static uint64_t used_bytes(const struct cpu *c)
{
    uint64_t sum = 0;

    for (int i = 0; i < PURPOSE_COUNT; i++)
        sum += __atomic_load_n(&c->used[i], __ATOMIC_RELAXED);
    return sum;
}

/* The smaller of the machine's memory and the limit of this cgroup, times `fraction`. */
uint64_t cpu_memory_limit(double fraction)
{
    uint64_t bytes = (uint64_t)sysconf(_SC_PHYS_PAGES) * (uint64_t)sysconf(_SC_PAGESIZE);
    FILE *f = fopen("/sys/fs/cgroup/memory.max", "re");
    char line[40] = "max";

    if (f) {
        if (fgets(line, sizeof line, f) && line[0] >= '0' && line[0] <= '9' && strtoull(line, NULL, 10) < bytes)
            bytes = strtoull(line, NULL, 10);
        fclose(f);
    }
    return (uint64_t)((double)bytes * fraction);
}

/* `bytes` that begin at a multiple of ALIGN_BYTES, in huge pages where that many fill one; NULL: no memory. */
static void *pages_take(uint64_t bytes)
{
    size_t align = bytes >= HUGE_BYTES ? HUGE_BYTES : ALIGN_BYTES;
    void *base = NULL;

    if (posix_memalign(&base, align, bytes) != 0)
        return NULL;
    if (align == HUGE_BYTES)
        (void)madvise(base, bytes, MADV_HUGEPAGE); /* a wish: 4 KiB pages work too */
    return base;
}

static void slab_drop(struct cpu *c, struct slab *s)
{
    if (s && s->pieces == 0 && s != c->slab)
        free(s);
}

/* A slab with `bytes` left. */
static struct slab *slab_with(struct cpu *c, uint64_t bytes)
{
    struct slab *full = c->slab;

    if (full && SLAB_BYTES - full->used >= bytes)
        return full;
    c->slab = pages_take(SLAB_BYTES);
    if (c->slab)
        *c->slab = (struct slab){ .used = ALIGN_BYTES };
    slab_drop(c, full);
    return c->slab;
}

void cpu_slab_close(struct cpu *c)
{
    struct slab *last = c->slab;

    c->slab = NULL;
    slab_drop(c, last);
}

static struct piece *piece_take(struct cpu *c, uint64_t bytes, enum purpose purpose)
{
    /* weights come and go together, so that larger ones may share a slab: alone, their last MiB would have small pages */
    const uint64_t in_slab = purpose == FOR_WEIGHTS ? SLAB_BYTES / 2 : HUGE_BYTES;
    uint64_t room = (bytes + 2 * ALIGN_BYTES - 1) / ALIGN_BYTES * ALIGN_BYTES;
    struct slab *slab = NULL;
    struct piece *piece;

    if (bytes >= SLAB_PIECE_BYTES && bytes < in_slab)
        slab = slab_with(c, room);
    piece = slab ? (struct piece *)((char *)slab + slab->used) : pages_take(room);
    if (slab) {
        slab->used += room;
        slab->pieces++;
    }
    if (piece)
        *piece = (struct piece){ .bytes = bytes, .purpose = purpose, .slab = slab };
    return piece;
}

static void piece_drop(struct cpu *c, struct piece *piece)
{
    struct slab *slab = piece->slab;

    if (!slab) {
        free(piece);
        return;
    }
    slab->pieces--;
    if (slab->pieces == 0)
        slab->used = ALIGN_BYTES;
    slab_drop(c, slab);
}

enum status cpu_alloc(struct backend *be, uint64_t bytes, const char *what, void **out, struct err *err)
{
    struct cpu *c = cpu_of(be);
    enum purpose purpose = purpose_of(what);
    uint64_t used = used_bytes(c), left = c->capacity > used ? c->capacity - used : 0;
    struct piece *piece = bytes <= left ? piece_take(c, bytes, purpose) : NULL;

    if (!piece)
        return err_set(err, ST_EEXHAUSTED, "%s: %llu bytes asked, %llu left of the CPU's memory", what,
                       (unsigned long long)bytes, (unsigned long long)left);
    __atomic_fetch_add(&c->used[purpose], bytes, __ATOMIC_RELAXED); /* a gauge, orders nothing */
    *out = (char *)piece + ALIGN_BYTES;
    return ST_OK;
}

void cpu_free(struct backend *be, void *device)
{
    struct piece *piece;

    if (!device)
        return;
    piece = (struct piece *)((char *)device - ALIGN_BYTES);
    __atomic_fetch_sub(&cpu_of(be)->used[piece->purpose], piece->bytes, __ATOMIC_RELAXED);
    piece_drop(cpu_of(be), piece);
}

void cpu_device_bytes(struct backend *be, struct device_bytes *out)
{
    struct cpu *c = cpu_of(be);

    *out = (struct device_bytes){
        .capacity = c->capacity,
        .weights = __atomic_load_n(&c->used[FOR_WEIGHTS], __ATOMIC_RELAXED),
        .activations = __atomic_load_n(&c->used[FOR_ACTIVATIONS], __ATOMIC_RELAXED),
        .blocks = __atomic_load_n(&c->used[FOR_BLOCKS], __ATOMIC_RELAXED),
        .tails = __atomic_load_n(&c->used[FOR_TAILS], __ATOMIC_RELAXED),
        .other = __atomic_load_n(&c->used[FOR_OTHER], __ATOMIC_RELAXED),
    };
}

enum status cpu_host_alloc(struct backend *be, uint64_t bytes, void **out, struct err *err)
{
    void *p = NULL;

    (void)be;
    if (posix_memalign(&p, ALIGN_BYTES, bytes ? bytes : 1) != 0)
        return err_set(err, ST_EEXHAUSTED, "host memory: %llu bytes asked", (unsigned long long)bytes);
    *out = p;
    return ST_OK;
}

void cpu_host_free(struct backend *be, void *host)
{
    (void)be;
    free(host);
}

void cpu_copy(struct backend *be, enum lane lane, void *to, const void *from, uint64_t bytes)
{
    (void)be;
    (void)lane;
    if (bytes)
        memcpy(to, from, bytes);
}

void cpu_upload(struct backend *be, enum lane lane, void *device, const void *host, uint64_t bytes)
{
    cpu_copy(be, lane, device, host, bytes);
}

void cpu_download(struct backend *be, enum lane lane, void *host, const void *device, uint64_t bytes)
{
    cpu_copy(be, lane, host, device, bytes);
}

void cpu_wait(struct backend *be, enum lane lane)
{
    (void)be;
    (void)lane;
}

enum status cpu_fence_open(struct backend *be, struct fence **out, struct err *err)
{
    (void)be;
    (void)err;
    *out = mem_zero(1, sizeof **out);
    return ST_OK;
}

void cpu_fence_close(struct backend *be, struct fence *f)
{
    (void)be;
    free(f);
}

void cpu_fence_record(struct backend *be, struct fence *f, enum lane lane)
{
    (void)be;
    (void)f;
    (void)lane;
}

void cpu_fence_after(struct backend *be, enum lane lane, struct fence *f)
{
    (void)be;
    (void)lane;
    (void)f;
}

enum status cpu_fence_wait(struct backend *be, struct fence *f, int64_t deadline_ns)
{
    (void)be;
    (void)f;
    (void)deadline_ns;
    return ST_OK;
}
