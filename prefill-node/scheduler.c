/* SPDX-License-Identifier: Apache-2.0 */
/*
 * scheduler.c - stop 4 of 12: queue.                before: run.c   after: engine.c, forward.c
 *
 * A list of turns and a choice of the earliest due. The list is walked at every take; it holds at most queue_orders
 * turns, and a take comes once per layer.
 */
#include "prefill-node/scheduler.h"

#include "common/base/arena.h"
#include "common/base/clock.h"
#include "common/base/thread.h"

#include <assert.h>
#include <pthread.h>
#include <stdlib.h>

struct scheduler {
    struct scheduler_config config;
    pthread_mutex_t lock;
    pthread_cond_t news;
    struct turn *first; /* waiting and running ones */
    int64_t reserved_tokens, reserved_orders;
    bool track_used[SCHEDULER_TRACKS];
    int32_t buffers;
    double ns_per_token;
    bool stopped;
};

struct scheduler *scheduler_open(const struct scheduler_config *config)
{
    struct scheduler *s = mem_zero(1, sizeof *s);

    s->config = *config;
    if (!s->config.now_ns)
        s->config.now_ns = clock_now_ns;
    s->ns_per_token = config->ns_per_token > 0 ? config->ns_per_token : 1e6;
    pthread_mutex_init(&s->lock, NULL);
    cond_init(&s->news);
    return s;
}

void scheduler_close(struct scheduler *s)
{
    if (!s)
        return;
    assert(!s->first);
    pthread_cond_destroy(&s->news);
    pthread_mutex_destroy(&s->lock);
    free(s);
}

static void look(const struct scheduler *s, struct scheduler_load *out)
{
    *out = (struct scheduler_load){ .buffers = s->buffers };
    for (const struct turn *t = s->first; t; t = t->next) {
        if (t->state == TURN_WAITING) {
            out->queued++;
            out->queued_tokens += t->tokens;
            out->left_tokens += t->tokens;
        } else {
            out->left_tokens += t->tokens * t->layers / t->layers_all;
        }
    }
    for (int i = 0; i < SCHEDULER_TRACKS; i++)
        out->running += s->track_used[i];
}

void scheduler_look(struct scheduler *s, struct scheduler_load *out)
{
    pthread_mutex_lock(&s->lock);
    look(s, out);
    pthread_mutex_unlock(&s->lock);
}

/* When it may be worth asking again: about when what is there will have been computed. */
static int64_t retry_after(const struct scheduler *s, const struct scheduler_load *load)
{
    const double ms = (double)load->left_tokens * s->ns_per_token / 1e6;

    return ms < 100 ? 100 : ms > 60000 ? 60000 : (int64_t)ms;
}

/* Whether so many more tokens may wait; a node that has nothing to do takes any. */
static enum status queue_admits(const struct scheduler *s, const struct scheduler_load *load, int64_t tokens,
                                struct err *err)
{
    const int64_t waiting = load->queued_tokens + s->reserved_tokens, orders = load->queued + s->reserved_orders;

    if (orders == 0 && load->running == 0)
        return ST_OK;
    if (orders >= s->config.queue_orders)
        return err_set(err, ST_EEXHAUSTED, "%lld orders wait here, more are too many (limit %lld orders)",
                       (long long)orders, (long long)s->config.queue_orders);
    if (waiting + tokens > s->config.queue_tokens)
        return err_set(err, ST_EEXHAUSTED, "%lld tokens wait here, %lld more are too many (limit %lld tokens)",
                       (long long)waiting, (long long)tokens, (long long)s->config.queue_tokens);
    return ST_OK;
}

enum status scheduler_reserve(struct scheduler *s, int64_t tokens, int64_t *ahead, int64_t *retry_ms, struct err *err)
{
    struct scheduler_load load;
    enum status st;

    pthread_mutex_lock(&s->lock);
    look(s, &load);
    *ahead = load.left_tokens;
    *retry_ms = retry_after(s, &load);
    st = s->stopped ? err_set(err, ST_EUNAVAILABLE, "this node is going away") : queue_admits(s, &load, tokens, err);
    if (st == ST_OK) {
        s->reserved_tokens += tokens;
        s->reserved_orders++;
    }
    pthread_mutex_unlock(&s->lock);
    return st;
}

void scheduler_revoke(struct scheduler *s, int64_t tokens)
{
    pthread_mutex_lock(&s->lock);
    s->reserved_tokens -= tokens;
    s->reserved_orders--;
    pthread_mutex_unlock(&s->lock);
}

void scheduler_put(struct scheduler *s, struct turn *t)
{
    assert(t->tokens > 0 && t->layers > 0);
    pthread_mutex_lock(&s->lock);
    s->reserved_tokens -= t->tokens;
    s->reserved_orders--;
    t->layers_all = t->layers;
    t->state = TURN_WAITING;
    t->track = -1;
    t->due_ns = s->config.now_ns() + (int64_t)(SCHEDULER_STRETCH * (double)t->tokens * s->ns_per_token);
    t->next = s->first;
    s->first = t;
    pthread_cond_signal(&s->news);
    pthread_mutex_unlock(&s->lock);
}

static int32_t free_track(const struct scheduler *s)
{
    for (int32_t i = 0; i < SCHEDULER_TRACKS; i++) {
        if (!s->track_used[i])
            return i;
    }
    return -1;
}

static bool stands_still(const struct turn *t)
{
    return t->unshipped >= SCHEDULER_SLOTS;
}

/* Whether its memory is free. */
static bool fits(const struct scheduler *s, const struct turn *turn)
{
    double share = turn->share;

    for (const struct turn *t = s->first; t; t = t->next) {
        if (t->state == TURN_RUNNING)
            share += t->share;
    }
    return share <= 1;
}

static struct turn *sooner(struct turn *a, struct turn *b)
{
    return a && a->due_ns <= b->due_ns ? a : b;
}

/* Whose turn it is now; NULL: nobody's. */
static struct turn *choose(struct scheduler *s)
{
    struct turn *running = NULL, *waiting = NULL;

    for (struct turn *t = s->first; t; t = t->next) {
        if (t->state == TURN_RUNNING && t->dropped)
            return t;
        if (t->state == TURN_WAITING)
            waiting = sooner(waiting, t);
        else if (!stands_still(t))
            running = sooner(running, t);
    }
    if (waiting && free_track(s) >= 0 && fits(s, waiting) && (!running || waiting->due_ns < running->due_ns))
        return waiting;
    return running;
}

static bool runs(const struct scheduler *s)
{
    for (const struct turn *t = s->first; t; t = t->next) {
        if (t->state == TURN_RUNNING)
            return true;
    }
    return false;
}

enum status scheduler_take(struct scheduler *s, struct turn **out, bool *dropped, int64_t deadline_ns)
{
    enum status st = ST_OK;
    struct turn *t;

    pthread_mutex_lock(&s->lock);
    while (st == ST_OK && !(t = choose(s))) {
        if (s->stopped && !runs(s))
            st = ST_ECANCELLED;
        else if (!cond_wait(&s->news, &s->lock, deadline_ns))
            st = ST_AGAIN;
    }
    if (st == ST_OK) {
        if (t->state == TURN_WAITING) {
            t->state = TURN_RUNNING;
            t->track = free_track(s);
            s->track_used[t->track] = true;
        }
        *dropped = t->dropped;
        *out = t;
    }
    pthread_mutex_unlock(&s->lock);
    return st;
}

void scheduler_layer(struct scheduler *s, struct turn *t)
{
    pthread_mutex_lock(&s->lock);
    assert(t->state == TURN_RUNNING && t->layers > 0 && t->unshipped < SCHEDULER_SLOTS);
    t->layers--;
    t->unshipped++;
    s->buffers++;
    if (t->layers > 0 && stands_still(t))
        t->stalled_ns = s->config.now_ns();
    pthread_mutex_unlock(&s->lock);
}

void scheduler_shipped(struct scheduler *s, struct turn *t)
{
    pthread_mutex_lock(&s->lock);
    assert(t->unshipped > 0);
    t->unshipped--;
    s->buffers--;
    if (t->stalled_ns > 0)
        t->stall_ns += s->config.now_ns() - t->stalled_ns;
    t->stalled_ns = 0;
    pthread_cond_signal(&s->news);
    pthread_mutex_unlock(&s->lock);
}

static void unlist(struct scheduler *s, struct turn *t)
{
    struct turn **at = &s->first;

    while (*at != t)
        at = &(*at)->next;
    *at = t->next;
    t->next = NULL;
    t->state = TURN_LEFT;
}

void scheduler_leave(struct scheduler *s, struct turn *t)
{
    pthread_mutex_lock(&s->lock);
    unlist(s, t);
    pthread_mutex_unlock(&s->lock);
}

void scheduler_drop(struct scheduler *s, struct turn *t)
{
    pthread_mutex_lock(&s->lock);
    if (t->state == TURN_WAITING) {
        unlist(s, t);
    } else if (t->state == TURN_RUNNING && !t->dropped) {
        t->dropped = true;
        pthread_cond_signal(&s->news);
    }
    pthread_mutex_unlock(&s->lock);
}

bool scheduler_has_left(struct scheduler *s, const struct turn *t)
{
    bool left;

    pthread_mutex_lock(&s->lock);
    left = t->state == TURN_LEFT;
    pthread_mutex_unlock(&s->lock);
    return left;
}

void scheduler_end(struct scheduler *s, struct turn *t)
{
    pthread_mutex_lock(&s->lock);
    assert(t->state == TURN_LEFT);
    if (t->track >= 0)
        s->track_used[t->track] = false;
    s->buffers -= t->unshipped;
    t->unshipped = 0;
    t->track = -1;
    pthread_cond_signal(&s->news);
    pthread_mutex_unlock(&s->lock);
}

void scheduler_measure(struct scheduler *s, int64_t tokens, int64_t ns)
{
    const double now = (double)ns / (double)tokens;

    pthread_mutex_lock(&s->lock);
    s->ns_per_token += 0.3 * (now - s->ns_per_token);
    pthread_mutex_unlock(&s->lock);
}

void scheduler_stop(struct scheduler *s)
{
    pthread_mutex_lock(&s->lock);
    s->stopped = true;
    pthread_cond_broadcast(&s->news);
    pthread_mutex_unlock(&s->lock);
}
