/* SPDX-License-Identifier: Apache-2.0 */
/*
 * queue.c - a ring of pointers under one mutex, with one condition for those who wait for an item.
 *
 *      put ──▶ [ head+length ........ head ] ──▶ take
 *
 * Putting never waits, so one condition is enough. The clock of the condition is CLOCK_MONOTONIC: a deadline does not
 * move when somebody sets the time of day.
 */
#include "common/base/queue.h"
#include "common/base/arena.h"
#include "common/base/thread.h"

#include <assert.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdlib.h>

/* owned by: whoever opened it; every field behind `mutex` is read and written under it. */
struct queue {
    const char *name;
    size_t capacity;
    pthread_mutex_t mutex;
    pthread_cond_t filled;
    size_t head, length, waiters;
    bool shut;
    void **ring;
};

struct queue *queue_open(const char *name, size_t capacity)
{
    struct queue *q = mem_zero(1, sizeof *q);

    assert(capacity >= 1);
    q->name = name;
    q->capacity = capacity;
    q->ring = mem_zero(capacity, sizeof *q->ring);
    pthread_mutex_init(&q->mutex, NULL);
    cond_init(&q->filled);
    return q;
}

void queue_close(struct queue *q)
{
    if (!q)
        return;
    pthread_mutex_lock(&q->mutex); /* a taker that has just been given the last item may still hold it */
    assert(q->waiters == 0);
    pthread_mutex_unlock(&q->mutex);
    pthread_cond_destroy(&q->filled);
    pthread_mutex_destroy(&q->mutex);
    free(q->ring);
    free(q);
}

enum status queue_put(struct queue *q, void *item)
{
    enum status st = ST_OK;

    pthread_mutex_lock(&q->mutex);
    if (q->shut) {
        st = ST_ECANCELLED;
    } else if (q->length == q->capacity) {
        st = ST_EEXHAUSTED;
    } else {
        q->ring[(q->head + q->length) % q->capacity] = item;
        q->length++;
        pthread_cond_signal(&q->filled);
    }
    pthread_mutex_unlock(&q->mutex);
    return st;
}

/* Waits, under the mutex, until there is an item, the queue is shut or the deadline has passed. */
static void wait_for_item(struct queue *q, int64_t deadline_ns)
{
    if (deadline_ns <= 0)
        return;
    q->waiters++;
    while (q->length == 0 && !q->shut && cond_wait(&q->filled, &q->mutex, deadline_ns))
        ;
    q->waiters--;
}

enum status queue_take(struct queue *q, void **item, int64_t deadline_ns)
{
    enum status st = ST_OK;

    pthread_mutex_lock(&q->mutex);
    wait_for_item(q, deadline_ns);
    if (q->length > 0) {
        *item = q->ring[q->head];
        q->head = (q->head + 1) % q->capacity;
        q->length--;
    } else {
        st = q->shut ? ST_ECANCELLED : ST_AGAIN;
    }
    pthread_mutex_unlock(&q->mutex);
    return st;
}

void queue_shut(struct queue *q)
{
    pthread_mutex_lock(&q->mutex);
    q->shut = true;
    pthread_cond_broadcast(&q->filled);
    pthread_mutex_unlock(&q->mutex);
}

size_t queue_length(struct queue *q)
{
    size_t length;

    pthread_mutex_lock(&q->mutex);
    length = q->length;
    pthread_mutex_unlock(&q->mutex);
    return length;
}
