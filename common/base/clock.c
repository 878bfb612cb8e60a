/* SPDX-License-Identifier: Apache-2.0 */
/* clock.c - two clocks of the kernel in nanoseconds. */
#include "common/base/clock.h"

#include <time.h>

static int64_t clock_read(clockid_t id)
{
    struct timespec ts;

    clock_gettime(id, &ts);
    return (int64_t)ts.tv_sec * NS_PER_S + ts.tv_nsec;
}

int64_t clock_now_ns(void)
{
    return clock_read(CLOCK_MONOTONIC);
}

int64_t clock_in_ms(int64_t ms)
{
    int64_t ns;

    if (__builtin_mul_overflow(ms, NS_PER_MS, &ns) || __builtin_add_overflow(ns, clock_now_ns(), &ns))
        return ms < 0 ? INT64_MIN : INT64_MAX;
    return ns;
}

int64_t clock_wall_ns(void)
{
    return clock_read(CLOCK_REALTIME);
}
