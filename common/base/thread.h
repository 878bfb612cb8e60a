/* SPDX-License-Identifier: Apache-2.0 */
/*
 * thread.h - named threads, waits with a deadline, and the fixed pool that runs one parallel loop at a time.
 *
 * The pool spins for some microseconds, then sleeps on a futex: a busy neighbour costs little and an idle node costs
 * nothing. Nothing in it allocates after open.
 */
#ifndef PLATEN_BASE_THREAD_H
#define PLATEN_BASE_THREAD_H

#include "common/base/status.h"

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Starts `run(arg)` on a thread called `name` (15 bytes at most), with SIGINT, SIGTERM, SIGHUP blocked. */
enum status thread_start(pthread_t *out, const char *name, void *(*run)(void *), void *arg, struct err *err);

/* A condition for cond_wait; pthread_cond_signal, _broadcast and _destroy as ever. */
void cond_init(pthread_cond_t *cond);

/* Waits for the condition; `lock` is held, and let go meanwhile, also when deadline_ns (of clock_now_ns; INT64_MAX: never) is
 * past, which gives false. May wake for nothing. */
bool cond_wait(pthread_cond_t *cond, pthread_mutex_t *lock, int64_t deadline_ns);

/* Cores this process may use (affinity and cgroup quota counted), at least 1. */
int thread_cores(void);

/* `cores`, or the whole cores (at least 1) that FOLDER/cpu.max of cgroup v2 allows where that is less. */
int thread_cut_by_quota(int cores, const char *folder);

struct pool;

/* A pool of `threads` (>= 1) workers, the caller of pool_run counted as one of them. */
enum status pool_open(struct pool **out, int threads, struct err *err);
void pool_close(struct pool *p);
int pool_threads(const struct pool *p);

/* Runs body(arg, i, worker) for every i in [0, count), count < 2^32, each once, on all workers; returns when all are done.
 * worker is in [0, threads). Worker w begins with the w-th of `threads` equal runs of neighbouring indices, in order; who
 * is done helps the others. One caller at a time (the engine thread). hot. */
void pool_run(struct pool *p, int64_t count, void (*body)(void *arg, int64_t i, int worker), void *arg);

#ifdef __cplusplus
}
#endif
#endif
