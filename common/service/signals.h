/* SPDX-License-Identifier: Apache-2.0 */
/*
 * signals.h - SIGTERM and SIGINT: the first asks, the second insists; SIGUSR1 wants to know.
 *
 * Open it first in main, before any other thread is there: it blocks the signals for all threads to come and waits for
 * them on one of its own, so a callback may do what a signal handler may not.
 */
#ifndef PLATEN_SERVICE_SIGNALS_H
#define PLATEN_SERVICE_SIGNALS_H

#include "common/base/status.h"

#include <stdbool.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

struct signals;

/* `on_first(arg)` (may be NULL) runs on the signal thread at the first signal and must not block. The second signal
 * ends the process at once with exit code 1. */
enum status signals_open(struct signals **out, void (*on_first)(void *arg), void *arg, struct err *err);

/* Waits for the first signal (or signals_raise) until deadline_ns: true when it came. */
bool signals_wait(struct signals *s, int64_t deadline_ns);

/* As if the first signal had come: a node that cannot go on ends itself this way. */
void signals_raise(struct signals *s);
bool signals_raised(const struct signals *s);

/* `on_user(arg)` runs on the signal thread at every SIGUSR1, which is ignored while there is none (NULL). When it returns,
 * the function that was there before is not running any more. */
void signals_on_user(struct signals *s, void (*on_user)(void *arg), void *arg);
void signals_close(struct signals *s); /* NULL is fine */

#ifdef __cplusplus
}
#endif
#endif
