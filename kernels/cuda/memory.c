/* SPDX-License-Identifier: Apache-2.0 */
/*
 * memory.c - device memory with an account per purpose, pinned host memory, queued copies, lanes and fences.
 *
 * A lane is a stream of its own; a fence is an event. The account refuses what would pass the node's share of the card
 * (memory_fraction), so that running out is a refusal with a sentence and never a failed kernel.
 */
#include "kernels/cuda/cuda.h"

#include "common/base/arena.h"
#include "common/base/clock.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { SPIN_NS = 50 * 1000, ENGINE_SPIN_NS = 20 * 1000 * 1000, NAP_NS = 20 * 1000, WAIT_MS = 120 * 1000 };

struct fence {
    cudaEvent_t event;
};

static const char *const purposes[PURPOSE_COUNT] = { "weights", "activations", "blocks", "tails", "other" };

static enum purpose purpose_of(const char *what)
{
    for (int i = 0; i < PURPOSE_COUNT; i++)
        if (strcmp(what, purposes[i]) == 0)
            return (enum purpose)i;
    return FOR_OTHER;
}

static uint64_t used_bytes(const struct cuda *c)
{
    uint64_t sum = 0;

    for (int i = 0; i < PURPOSE_COUNT; i++)
        sum += c->used[i];
    return sum;
}

/* Counts the bytes, or refuses them. Under lock. */
static enum status account(struct cuda *c, uint64_t bytes, const char *what, struct err *err)
{
    uint64_t used = used_bytes(c), left = used < c->capacity ? c->capacity - used : 0;

    if (bytes > left)
        return err_set(err, ST_EEXHAUSTED, "%s need %llu MiB on the device, %llu MiB of %llu MiB are left", what,
                       (unsigned long long)(bytes >> 20), (unsigned long long)(left >> 20),
                       (unsigned long long)(c->capacity >> 20));
    c->used[purpose_of(what)] += bytes;
    return ST_OK;
}

static void remember(struct cuda *c, void *at, uint64_t bytes, enum purpose purpose)
{
    if (c->allotted_count == c->allotted_room) {
        c->allotted_room = c->allotted_room ? 2 * c->allotted_room : 256;
        c->allotted = mem_grow(c->allotted, c->allotted_room * sizeof *c->allotted);
    }
    c->allotted[c->allotted_count++] = (struct allotted){ at, bytes, purpose };
}

/* A memset of the default stream would not wait for the lanes, nor they for it: late, it wipes what was uploaded since. */
cudaError_t cuda_fill(struct cuda *c, void *device, int byte, uint64_t bytes)
{
    cudaError_t e = cudaMemsetAsync(device, byte, bytes, c->stream[LANE_COMPUTE]);

    if (e == cudaSuccess && !cuda_lane_wait(c, LANE_COMPUTE, "a memset"))
        e = cudaErrorLaunchTimeout;
    return e;
}

enum status cuda_alloc(struct backend *be, uint64_t bytes, const char *what, void **out, struct err *err)
{
    struct cuda *c = cuda_of(be);
    const enum purpose purpose = purpose_of(what);
    void *at = NULL;
    enum status st;
    cudaError_t e;

    if (bytes == 0)
        bytes = 256;
    bytes = (bytes + 255) / 256 * 256;
    pthread_mutex_lock(&c->lock);
    st = account(c, bytes, what, err);
    pthread_mutex_unlock(&c->lock);
    if (st != ST_OK)
        return st;
    e = cudaMalloc(&at, bytes);
    /* padded rows of a recorded step are computed and thrown away; they should not be noise */
    if (e == cudaSuccess && purpose == FOR_ACTIVATIONS)
        e = cuda_fill(c, at, 0, bytes);
    if (e != cudaSuccess && at)
        (void)cudaFree(at);
    pthread_mutex_lock(&c->lock);
    if (e == cudaSuccess) {
        remember(c, at, bytes, purpose);
        *out = at;
    } else {
        (void)cudaGetLastError();
        c->used[purpose] -= bytes;
        st = err_set(err, ST_EEXHAUSTED, "%s need %llu MiB on the device: %s", what, (unsigned long long)(bytes >> 20),
                     cudaGetErrorString(e));
    }
    pthread_mutex_unlock(&c->lock);
    return st;
}

void cuda_free(struct backend *be, void *device)
{
    struct cuda *c = cuda_of(be);

    if (!device || cuda_hung(c)) /* cudaFree waits for the card */
        return;
    pthread_mutex_lock(&c->lock);
    for (size_t i = 0; i < c->allotted_count; i++)
        if (c->allotted[i].at == device) {
            c->used[c->allotted[i].purpose] -= c->allotted[i].bytes;
            c->allotted[i] = c->allotted[--c->allotted_count];
            break;
        }
    pthread_mutex_unlock(&c->lock);
    cuda_failed(c, cudaFree(device), "free");
}

enum status cuda_host_alloc(struct backend *be, uint64_t bytes, void **out, struct err *err)
{
    cudaError_t e;

    (void)cuda_of(be);
    e = cudaHostAlloc(out, bytes ? bytes : 64, cudaHostAllocPortable);
    if (e != cudaSuccess) {
        (void)cudaGetLastError();
        return err_set(err, ST_EEXHAUSTED, "%llu MiB of pinned host memory: %s", (unsigned long long)(bytes >> 20),
                       cudaGetErrorString(e));
    }
    return ST_OK;
}

void cuda_host_free(struct backend *be, void *host)
{
    struct cuda *c = cuda_of(be);

    if (host && !cuda_hung(c)) /* it waits for the card, which may write there yet */
        cuda_failed(c, cudaFreeHost(host), "free pinned memory");
}

static void queue_copy(struct backend *be, enum lane lane, void *to, const void *from, uint64_t bytes,
                       enum cudaMemcpyKind kind, const char *what)
{
    struct cuda *c = cuda_of(be);

    if (lane == LANE_COMPUTE)
        (void)cuda_compute(c);
    if (bytes > 0)
        cuda_failed(c, cudaMemcpyAsync(to, from, bytes, kind, c->stream[lane]), what);
}

void cuda_upload(struct backend *be, enum lane lane, void *device, const void *host, uint64_t bytes)
{
    queue_copy(be, lane, device, host, bytes, cudaMemcpyHostToDevice, "upload");
}

void cuda_download(struct backend *be, enum lane lane, void *host, const void *device, uint64_t bytes)
{
    queue_copy(be, lane, host, device, bytes, cudaMemcpyDeviceToHost, "download");
}

void cuda_copy(struct backend *be, enum lane lane, void *to, const void *from, uint64_t bytes)
{
    queue_copy(be, lane, to, from, bytes, cudaMemcpyDeviceToDevice, "copy");
}

bool cuda_lane_wait(struct cuda *c, enum lane lane, const char *what)
{
    return !cuda_failed(c, cudaEventRecord(c->waited[lane], c->stream[lane]), what) &&
           cuda_event_wait(c, c->waited[lane], WAIT_MS, what);
}

void cuda_wait(struct backend *be, enum lane lane)
{
    (void)cuda_lane_wait(cuda_of(be), lane, "a lane");
}

/* ---- fences ---- */

enum status cuda_fence_open(struct backend *be, struct fence **out, struct err *err)
{
    struct cuda *c = cuda_of(be);
    struct fence *f = mem_zero(1, sizeof *f);
    cudaError_t e = cudaEventCreateWithFlags(&f->event, cudaEventDisableTiming);

    if (cuda_failed(c, e, "event")) {
        free(f);
        return err_set(err, ST_EINTERNAL, "an event cannot be made: %s", cudaGetErrorString(e));
    }
    *out = f;
    return ST_OK;
}

void cuda_fence_close(struct backend *be, struct fence *f)
{
    struct cuda *c = cuda_of(be);

    if (!f)
        return;
    cuda_failed(c, cudaEventDestroy(f->event), "event");
    free(f);
}

void cuda_fence_record(struct backend *be, struct fence *f, enum lane lane)
{
    struct cuda *c = cuda_of(be);

    cuda_failed(c, cudaEventRecord(f->event, c->stream[lane]), "event");
}

void cuda_fence_after(struct backend *be, enum lane lane, struct fence *f)
{
    struct cuda *c = cuda_of(be);

    cuda_failed(c, cudaStreamWaitEvent(c->stream[lane], f->event, 0), "event");
}

bool cuda_hung(const struct cuda *c)
{
    return __atomic_load_n(&c->is_hung, __ATOMIC_RELAXED);
}

/* Spins for a while, then naps. A card that missed one deadline is not waited for until the next. */
static enum status event_wait(struct cuda *c, cudaEvent_t event, int64_t spin_ns, int64_t deadline_ns, const char *what)
{
    const int64_t begin = clock_now_ns();

    for (;;) {
        cudaError_t e = cudaEventQuery(event);
        int64_t now = clock_now_ns();

        if (e == cudaSuccess)
            return ST_OK;
        if (e != cudaErrorNotReady) {
            cuda_failed(c, e, what);
            return ST_EINTERNAL;
        }
        if (now >= deadline_ns || cuda_hung(c)) {
            cuda_broken(c, what, "did not end in time");
            __atomic_store_n(&c->is_hung, true, __ATOMIC_RELAXED);
            return ST_EDEADLINE;
        }
        if (now - begin > spin_ns)
            nanosleep(&(struct timespec){ 0, NAP_NS }, NULL);
    }
}

/* The engine thread waits for work that is nearly done, and the card idles until it is back: it spins longer than any
 * layer or step of a small model takes. */
bool cuda_event_wait(struct cuda *c, cudaEvent_t event, int64_t ms, const char *what)
{
    return event_wait(c, event, ENGINE_SPIN_NS, clock_in_ms(ms), what) == ST_OK;
}

enum status cuda_fence_wait(struct backend *be, struct fence *f, int64_t deadline_ns)
{
    return event_wait(cuda_of(be), f->event, SPIN_NS, deadline_ns, "a fence");
}

void cuda_device_bytes(struct backend *be, struct device_bytes *out)
{
    struct cuda *c = cuda_of(be);

    pthread_mutex_lock(&c->lock);
    out->capacity = c->capacity;
    out->weights = c->used[FOR_WEIGHTS];
    out->activations = c->used[FOR_ACTIVATIONS];
    out->blocks = c->used[FOR_BLOCKS];
    out->tails = c->used[FOR_TAILS];
    out->other = c->used[FOR_OTHER];
    pthread_mutex_unlock(&c->lock);
}
