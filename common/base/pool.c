/* SPDX-License-Identifier: Apache-2.0 */
/*
 * pool.c - one parallel loop at a time on a fixed set of threads.
 *
 *      pool_run:  job, shares, unfinished = count, left = count  ──▶  everybody: while left-- > 0, runs an index
 *                 round++ (wakes who sleeps)                          the one who brings `unfinished` to 0 says `finished`
 *
 *      indices    [ share of worker 0 ──▶   ◀── ][ share of worker 1 ──▶   ◀── ] ...
 *
 * A worker runs its own share from the front, then helps the others from their ends: what stands side by side in memory is
 * read by one core from end to end, and what it fetches ahead is its own (weights at 28 of 47 GB/s where neighbours took
 * turns, at 40 where they do not).
 *
 * `left` alone decides who may take: who took r > 0 from it holds one index of the loop that runs now, and the loop cannot
 * end, nor its job change, before that index is done. So a worker that wakes up late delays nobody: it finds r <= 0 and
 * goes back to sleep, or takes part in the next loop. `round` is only the doorbell.
 *
 * Waiting spins for about 20 us (two calls in a forward pass are closer than that), then sleeps on a futex. Nothing
 * here allocates after pool_open. The order of indices over the workers is not promised.
 */
#include "common/base/arena.h"
#include "common/base/clock.h"
#include "common/base/thread.h"

#include <assert.h>
#include <limits.h>
#include <linux/futex.h>
#include <stdalign.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <unistd.h>

enum { SPIN_NS = 20000, SPIN_PAUSES = 32, CACHE_LINE_BYTES = 64 };

/* The indices [first, end) that one worker does first; others take them from the end. Packed: one word changes at once. */
struct pool_share {
    alignas(CACHE_LINE_BYTES) _Atomic uint64_t span; /* first | end << 32 */
};

struct pool_worker {
    struct pool *pool;
    int number;
    pthread_t thread;
};

/* owned by: the thread that opened it, the only one that may run and close it. */
struct pool {
    int threads;
    int started;
    struct pool_worker *workers; /* [threads - 1] */
    struct pool_share *share;    /* [threads] */

    /* The job, with the shares: written by pool_run before `left` is stored (release), read after r > 0 was taken (acquire). */
    void (*body)(void *arg, int64_t i, int worker);
    void *arg;

    alignas(CACHE_LINE_BYTES) _Atomic int64_t left;
    alignas(CACHE_LINE_BYTES) _Atomic int64_t unfinished;
    alignas(CACHE_LINE_BYTES) _Atomic uint32_t round;
    _Atomic uint32_t sleepers;
    _Atomic bool stop;
    alignas(CACHE_LINE_BYTES) _Atomic uint32_t finished;
    _Atomic bool caller_sleeps;
};

/* Sleeps while *word is `value`. May come back early: callers look again. */
static void futex_wait(_Atomic uint32_t *word, uint32_t value)
{
    syscall(SYS_futex, word, FUTEX_WAIT_PRIVATE, value, NULL, NULL, 0);
}

static void futex_wake(_Atomic uint32_t *word, int sleepers)
{
    syscall(SYS_futex, word, FUTEX_WAKE_PRIVATE, sleepers, NULL, NULL, 0);
}

static void cpu_pause(void)
{
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

/* True as soon as *word is no longer `value`; false after SPIN_NS. */
static bool spin_past(_Atomic uint32_t *word, uint32_t value)
{
    int64_t until_ns = clock_now_ns() + SPIN_NS;

    do {
        for (int i = 0; i < SPIN_PAUSES; i++) {
            if (atomic_load_explicit(word, memory_order_acquire) != value)
                return true;
            cpu_pause();
        }
    } while (clock_now_ns() < until_ns);
    return false;
}

/* hot: one index of a share, from its front or its end; -1: it is empty. relaxed: `left` has ordered the job before. */
static int64_t share_take(struct pool_share *s, bool front)
{
    uint64_t span = atomic_load_explicit(&s->span, memory_order_relaxed), rest;
    uint32_t first, end;

    do {
        first = (uint32_t)span;
        end = (uint32_t)(span >> 32);
        if (first >= end)
            return -1;
        rest = front ? span + 1 : span - ((uint64_t)1 << 32);
    } while (!atomic_compare_exchange_weak_explicit(&s->span, &span, rest, memory_order_relaxed, memory_order_relaxed));
    return front ? first : end - 1;
}

/* hot: an index for who took one from `left`: there is one, since no more were taken than stand in the shares. */
static int64_t next_index(struct pool *p, int worker)
{
    int64_t i = share_take(&p->share[worker], true);

    for (int other = 1; i < 0; other++)
        i = share_take(&p->share[(worker + other) % p->threads], false);
    return i;
}

/* hot: takes indices until there are none, then reports how many it did. */
static void drain(struct pool *p, int worker)
{
    int64_t did = 0;

    while (atomic_fetch_sub_explicit(&p->left, 1, memory_order_acquire) > 0) {
        p->body(p->arg, next_index(p, worker), worker);
        did++;
    }
    if (did == 0)
        return;
    /* acq_rel: the last one has seen everybody's work, and hands it to the caller with `finished`. */
    if (atomic_fetch_sub_explicit(&p->unfinished, did, memory_order_acq_rel) == did) {
        atomic_store(&p->finished, 1); /* seq_cst, against caller_sleeps in wait_finished */
        if (atomic_load(&p->caller_sleeps))
            futex_wake(&p->finished, 1);
    }
}

/* Waits for a round after `seen`; returns it. seq_cst: either we see the new round or pool_run sees the sleeper. */
static uint32_t wait_round(struct pool *p, uint32_t seen)
{
    if (!spin_past(&p->round, seen)) {
        atomic_fetch_add(&p->sleepers, 1);
        while (atomic_load(&p->round) == seen)
            futex_wait(&p->round, seen);
        atomic_fetch_sub(&p->sleepers, 1);
    }
    return atomic_load_explicit(&p->round, memory_order_acquire);
}

static void *worker_run(void *arg)
{
    const struct pool_worker *w = arg;
    struct pool *p = w->pool;
    uint32_t round = 0;

    for (;;) {
        round = wait_round(p, round);
        if (atomic_load_explicit(&p->stop, memory_order_relaxed)) /* ordered by the round */
            return NULL;
        drain(p, w->number);
    }
}

static void ring_doorbell(struct pool *p)
{
    atomic_fetch_add(&p->round, 1);
    if (atomic_load(&p->sleepers) > 0)
        futex_wake(&p->round, INT_MAX);
}

static void wait_finished(struct pool *p)
{
    if (spin_past(&p->finished, 0))
        return;
    atomic_store(&p->caller_sleeps, true);
    while (atomic_load(&p->finished) == 0)
        futex_wait(&p->finished, 0);
    atomic_store(&p->caller_sleeps, false);
}

enum status pool_open(struct pool **out, int threads, struct err *err)
{
    struct pool *p;
    enum status st = ST_OK;

    if (threads < 1)
        return err_set(err, ST_EINVAL, "a pool of %d threads: at least 1 is needed", threads);
    p = mem_aligned(sizeof *p);
    *p = (struct pool){ .threads = threads };
    p->workers = mem_zero((size_t)threads, sizeof *p->workers);
    p->share = mem_aligned((size_t)threads * sizeof *p->share);
    for (int i = 1; i < threads; i++) {
        struct pool_worker *w = &p->workers[i - 1];
        char name[24];

        *w = (struct pool_worker){ .pool = p, .number = i };
        snprintf(name, sizeof name, "pool-%d", i);
        st = thread_start(&w->thread, name, worker_run, w, err);
        if (st != ST_OK) {
            pool_close(p);
            return st;
        }
        p->started++;
    }
    *out = p;
    return ST_OK;
}

void pool_close(struct pool *p)
{
    if (!p)
        return;
    atomic_store_explicit(&p->stop, true, memory_order_relaxed);
    ring_doorbell(p);
    for (int i = 0; i < p->started; i++)
        pthread_join(p->workers[i].thread, NULL);
    free(p->workers);
    free(p->share);
    free(p);
}

int pool_threads(const struct pool *p)
{
    return p->threads;
}

void pool_run(struct pool *p, int64_t count, void (*body)(void *arg, int64_t i, int worker), void *arg)
{
    if (p->threads == 1 || count <= 1) {
        for (int64_t i = 0; i < count; i++)
            body(arg, i, 0);
        return;
    }
    assert(atomic_load_explicit(&p->unfinished, memory_order_relaxed) == 0); /* one loop at a time */
    assert(count <= UINT32_MAX);
    for (int t = 0; t < p->threads; t++)
        atomic_store_explicit(&p->share[t].span,
                              (uint64_t)(count * t / p->threads) | (uint64_t)(count * (t + 1) / p->threads) << 32,
                              memory_order_relaxed); /* ordered by `left` */
    p->body = body;
    p->arg = arg;
    atomic_store_explicit(&p->finished, 0, memory_order_relaxed); /* ordered by `left` */
    atomic_store_explicit(&p->unfinished, count, memory_order_relaxed);
    atomic_store_explicit(&p->left, count, memory_order_release);
    ring_doorbell(p);
    drain(p, 0);
    wait_finished(p);
}
