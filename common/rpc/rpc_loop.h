/* SPDX-License-Identifier: Apache-2.0 */
/*
 * rpc_loop.h - inside common/rpc only: one gRPC completion queue and the thread that serves it.
 *
 * Everything that gRPC finishes comes back as an event with a tag; the tag knows what to do. ThreadSanitizer cannot see
 * the order that gRPC's own code (not instrumented) makes between giving a tag away and getting it back, so it is told.
 */
#ifndef PLATEN_RPC_RPC_LOOP_H
#define PLATEN_RPC_RPC_LOOP_H

#include "common/base/status.h"

#include <grpc/grpc.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

#if defined(__SANITIZE_THREAD__)
void __tsan_acquire(void *addr);
void __tsan_release(void *addr);
#define TAG_GIVE(tag) __tsan_release(tag)
#define TAG_GET(tag) __tsan_acquire(tag)
#else
#define TAG_GIVE(tag) ((void)(tag))
#define TAG_GET(tag) ((void)(tag))
#endif

struct rpc_tag {
    void (*run)(struct rpc_tag *tag, bool ok);
};

/* owned by: a server or a client; `thread` serves `cq` alone */
struct rpc_loop {
    grpc_completion_queue *cq;
    pthread_t thread;
};

/* gRPC itself, counted: the first begins, the last ends. */
void rpc_core_begin(void);
void rpc_core_end(void);

enum status rpc_loop_open(struct rpc_loop *loop, struct err *err);

/* No batch may be started on the queue any more: all calls have settled. Serves what is left, ends the thread. */
void rpc_loop_stop(struct rpc_loop *loop);
void rpc_loop_close(struct rpc_loop *loop);

/* clock_now_ns time <-> gRPC's. INT64_MAX is "never" both ways. */
gpr_timespec rpc_time_to_core(int64_t deadline_ns);
int64_t rpc_time_from_core(gpr_timespec deadline);

#endif
