/* SPDX-License-Identifier: Apache-2.0 */
/* clock.h - monotonic time. Every wait in the program takes a deadline in these nanoseconds. */
#ifndef PLATEN_BASE_CLOCK_H
#define PLATEN_BASE_CLOCK_H

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define NS_PER_MS INT64_C(1000000)
#define NS_PER_S INT64_C(1000000000)

/* CLOCK_MONOTONIC in nanoseconds. Does not wait. */
int64_t clock_now_ns(void);

/* now + ms, saturating. */
int64_t clock_in_ms(int64_t ms);

/* CLOCK_REALTIME in nanoseconds since 1970, for logs and time to live shown to people only. */
int64_t clock_wall_ns(void);

#ifdef __cplusplus
}
#endif
#endif
