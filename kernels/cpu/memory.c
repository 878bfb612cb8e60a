/* SPDX-License-Identifier: Apache-2.0 */
/*
 * memory.c - device memory of the CPU back end: ordinary memory, counted by purpose.
 *
 *      [ header: bytes, purpose | pad to 256 ][ what the caller sees, 256-byte aligned ]
 *
 * Every lane runs at once in the caller, so copies are done when they return, fences have always passed, and waiting is
 * nothing. Large pieces are asked for in huge pages: weights are streamed, and a 4 KiB page ends every 64 lines.
 */
#include "kernels/cpu/cpu.h"

#include "common/base/arena.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

enum { ALIGN_BYTES = 256, HUGE_BYTES = 2 << 20 };

struct piece {
    uint64_t bytes;
    enum purpose purpose;
};

_Static_assert(sizeof(struct piece) <= ALIGN_BYTES, "the header fits before the bytes");

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
    unsigned long long limit;

    if (f) {
        if (fscanf(f, "%llu", &limit) == 1 && limit < bytes)
            bytes = limit;
        fclose(f);
    }
    return (uint64_t)((double)bytes * fraction);
}

enum status cpu_alloc(struct backend *be, uint64_t bytes, const char *what, void **out, struct err *err)
{
    struct cpu *c = cpu_of(be);
    enum purpose purpose = purpose_of(what);
    uint64_t used = used_bytes(c), left = c->capacity > used ? c->capacity - used : 0;
    size_t align = bytes >= HUGE_BYTES ? HUGE_BYTES : ALIGN_BYTES;
    void *base = NULL;
    struct piece *piece;

    if (bytes > left || posix_memalign(&base, align, bytes + ALIGN_BYTES) != 0)
        return err_set(err, ST_EEXHAUSTED, "%s: %llu bytes asked, %llu left of the CPU's memory", what,
                       (unsigned long long)bytes, (unsigned long long)left);
    if (align == HUGE_BYTES)
        (void)madvise(base, bytes + ALIGN_BYTES, MADV_HUGEPAGE); /* a wish: 4 KiB pages work too */
    piece = base;
    *piece = (struct piece){ bytes, purpose };
    __atomic_fetch_add(&c->used[purpose], bytes, __ATOMIC_RELAXED); /* a gauge, orders nothing */
    *out = (char *)base + ALIGN_BYTES;
    return ST_OK;
}

void cpu_free(struct backend *be, void *device)
{
    struct piece *piece;

    if (!device)
        return;
    piece = (struct piece *)((char *)device - ALIGN_BYTES);
    __atomic_fetch_sub(&cpu_of(be)->used[piece->purpose], piece->bytes, __ATOMIC_RELAXED);
    free(piece);
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
