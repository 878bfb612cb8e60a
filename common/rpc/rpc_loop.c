/* SPDX-License-Identifier: Apache-2.0 */
/*
 * rpc_loop.c - a thread takes events from a completion queue and runs their tags; gRPC's log becomes ours.
 *
 * gRPC tells of trouble with one line per failure: a port scan would flood the log. At most LOG_BURST lines go through
 * in a window of time; the first line of the next window says how many did not.
 */
#include "common/rpc/rpc_loop.h"

#include "common/base/clock.h"
#include "common/base/log.h"
#include "common/base/thread.h"

#include <assert.h>
#include <grpc/support/log.h>
#include <grpc/support/time.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>

#if defined(__SANITIZE_THREAD__)
/* gRPC's library is not instrumented; what it does inside is not judged. */
const char *__tsan_default_options(void);
const char *__tsan_default_options(void)
{
    return "ignore_noninstrumented_modules=1";
}
#endif

enum { LOG_BURST = 5 };
static const int64_t LOG_WINDOW_NS = 10 * NS_PER_S;

/* gpr_set_log_function takes no context, so these three are the process's: counts for the rate limit. */
static atomic_llong log_window_ns;
static atomic_int log_lines;
static atomic_int log_dropped;

static void log_bridge(gpr_log_func_args *args)
{
    long long now = clock_now_ns(), window = atomic_load(&log_window_ns);
    struct log_text text;

    if (now - window > LOG_WINDOW_NS && atomic_compare_exchange_strong(&log_window_ns, &window, now)) {
        int dropped = atomic_exchange(&log_dropped, 0);

        atomic_store(&log_lines, 0);
        if (dropped > 0)
            log_event(LOG_WARN, "grpc_lines_dropped", "lines=%d", dropped);
    }
    if (atomic_fetch_add(&log_lines, 1) >= LOG_BURST) {
        atomic_fetch_add(&log_dropped, 1);
        return;
    }
    log_event(LOG_WARN, "grpc", "text=%s", log_quote(&text, args->message));
}

static void core_once(void)
{
    signal(SIGPIPE, SIG_IGN); /* a peer that went away is an error of a write, not the end of the process */
    gpr_set_log_function(log_bridge);
    gpr_set_log_verbosity(GPR_LOG_SEVERITY_ERROR);
}

void rpc_core_begin(void)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;

    pthread_once(&once, core_once);
    grpc_init();
}

void rpc_core_end(void)
{
    grpc_shutdown();
}

static void *loop_run(void *arg)
{
    struct rpc_loop *loop = (struct rpc_loop *)arg;

    for (;;) {
        grpc_event ev = grpc_completion_queue_next(loop->cq, gpr_inf_future(GPR_CLOCK_MONOTONIC), NULL);
        struct rpc_tag *tag = (struct rpc_tag *)ev.tag;

        if (ev.type == GRPC_QUEUE_SHUTDOWN)
            return NULL;
        if (ev.type != GRPC_OP_COMPLETE)
            continue;
        TAG_GET(tag);
        tag->run(tag, ev.success != 0);
    }
}

enum status rpc_loop_open(struct rpc_loop *loop, struct err *err)
{
    enum status st;

    loop->cq = grpc_completion_queue_create_for_next(NULL);
    st = thread_start(&loop->thread, "rpc", loop_run, loop, err);
    if (st != ST_OK) {
        grpc_completion_queue_shutdown(loop->cq);
        rpc_loop_close(loop);
    }
    return st;
}

void rpc_loop_stop(struct rpc_loop *loop)
{
    grpc_completion_queue_shutdown(loop->cq);
    pthread_join(loop->thread, NULL);
}

void rpc_loop_close(struct rpc_loop *loop)
{
    if (loop->cq != NULL)
        grpc_completion_queue_destroy(loop->cq);
    loop->cq = NULL;
}

gpr_timespec rpc_time_to_core(int64_t deadline_ns)
{
    gpr_timespec now = gpr_now(GPR_CLOCK_MONOTONIC);

    if (deadline_ns == INT64_MAX)
        return gpr_inf_future(GPR_CLOCK_MONOTONIC);
    return gpr_time_add(now, gpr_time_from_nanos(deadline_ns - clock_now_ns(), GPR_TIMESPAN));
}

int64_t rpc_time_from_core(gpr_timespec deadline)
{
    gpr_timespec left;

    if (gpr_time_cmp(deadline, gpr_inf_future(deadline.clock_type)) == 0)
        return INT64_MAX;
    left = gpr_time_sub(deadline, gpr_now(deadline.clock_type));
    return clock_now_ns() + left.tv_sec * NS_PER_S + left.tv_nsec;
}
