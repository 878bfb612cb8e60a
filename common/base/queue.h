/* SPDX-License-Identifier: Apache-2.0 */
/*
 * queue.h - the only thing threads share: a bounded queue of pointers. Many put, many take.
 *
 * Full is an answer (ST_EEXHAUSTED), not a wait; empty waits until a deadline. Closing wakes every waiter; what is left
 * can still be taken, so nothing queued is lost without somebody seeing it.
 */
#ifndef PLATEN_BASE_QUEUE_H
#define PLATEN_BASE_QUEUE_H

#include "common/base/status.h"

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

struct queue;

/* A queue for at most `capacity` (>= 1) items. `name` (static) is for assertions and logs. Never fails. */
struct queue *queue_open(const char *name, size_t capacity);

/* Must be empty of waiters; items still inside are not freed. NULL is fine. */
void queue_close(struct queue *q);

/* ST_OK, ST_EEXHAUSTED when full, ST_ECANCELLED when shut. Never waits beyond the lock. */
enum status queue_put(struct queue *q, void *item);

/* Takes the oldest item into *item. Waits until deadline_ns (clock_now_ns time; 0: does not wait). ST_OK, ST_AGAIN when
 * the deadline passed, ST_ECANCELLED when shut and empty. */
enum status queue_take(struct queue *q, void **item, int64_t deadline_ns);

/* Nothing more can be put; takers drain what is left, then see ST_ECANCELLED. */
void queue_shut(struct queue *q);

/* How many items are inside at this moment. */
size_t queue_length(struct queue *q);

#ifdef __cplusplus
}
#endif
#endif
