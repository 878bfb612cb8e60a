/* SPDX-License-Identifier: Apache-2.0 */
/*
 * stream.c - stop 12 of 12: stream.                        before: forward.c   after: the client
 *
 *   made[0..n) of each question ─▶ whole UTF-8 text ─▶ Event on the client's call ─▶ figures ─▶ status
 *
 * One thread for all requests: the engine only counts up and posts a semaphore. A client that does not read stops its own
 * events, nobody else's; tokens wait in the sequence, whose room was promised at the door. One that has not read for
 * STALL_S is cut off, so that nothing waits for ever.
 */
#include "decode-node/stream.h"

#include "common/base/arena.h"
#include "common/base/clock.h"
#include "common/base/log.h"
#include "common/base/thread.h"
#include "decode-node/node.h"
#include "decode-node/order.h"
#include "decode-node/reply.h"
#include "decode-node/repress.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <time.h>

enum { STALL_S = 120, LOOK_MS = 200 };

struct stream {
    pthread_t thread;
    sem_t wake;
    int32_t stopping;     /* atomic */
    pthread_mutex_t lock; /* guards joining */
    struct request *joining;
    struct request *active; /* the thread's own */
    struct text text;
};

void stream_wake(struct stream *s)
{
    sem_post(&s->wake);
}

sem_t *stream_semaphore(struct stream *s)
{
    return &s->wake;
}

void stream_take(struct stream *s, struct request *r)
{
    pthread_mutex_lock(&s->lock);
    r->next = s->joining;
    s->joining = r;
    pthread_mutex_unlock(&s->lock);
    stream_wake(s);
}

/* ST_OK: sent. ST_AGAIN: the caller does not read at the moment. A caller who is gone counts as sent. */
static enum status send_event(struct request *r, const Platen__V1__Event *event)
{
    enum status st = rpc_call_send(r->call, &event->base);

    if (st == ST_AGAIN) {
        if (r->stalled_ns == 0)
            r->stalled_ns = clock_now_ns();
        return ST_AGAIN;
    }
    r->stalled_ns = 0;
    return ST_OK;
}

static enum status send_progress(struct request *r)
{
    int32_t done = __atomic_load_n(&r->layers_done, __ATOMIC_RELAXED);
    Platen__V1__Event event = PLATEN__V1__EVENT__INIT;
    Platen__V1__Progress progress = PLATEN__V1__PROGRESS__INIT;

    if (r->kind == REQUEST_CREATE || done == r->layers_sent)
        return ST_OK;
    progress.layers_done = done;
    progress.layers = r->node->parts.weights->hp.layers;
    progress.context_tokens = (int64_t)r->tokens.count;
    event.progress = &progress;
    if (send_event(r, &event) == ST_OK)
        r->layers_sent = done;
    return ST_OK;
}

/* What a decode part did to the answer. NULL: it could not come to anything. */
static void fill_compressed(Platen__V1__Event *event, const struct repressed *a, Platen__V1__Compressed *out,
                            Platen__V1__RowCounts *held)
{
    platen__v1__compressed__init(out);
    platen__v1__row_counts__init(held);
    event->compressed = out;
    if (!a || a->steps == 0)
        return;
    out->compressions = a->compressions;
    held->min = a->held_min;
    held->mean = a->held_sum / (double)a->steps;
    held->max = a->held_max;
    out->held_rows = held;
}

/* Sends token n of a question, or (n == count of an ended one) its end. */
static enum status send_step(struct stream *s, struct request *r, int32_t index, int32_t count, enum finish finish)
{
    struct question *q = &r->question[index];
    struct tok_stream before = q->text;
    Platen__V1__Event event = PLATEN__V1__EVENT__INIT;
    Platen__V1__Compressed compressed;
    Platen__V1__RowCounts held;
    struct chain_decode part;
    bool is_end = q->sent == count;

    text_clear(&s->text);
    event.question_index = index;
    if (is_end) {
        tok_stream_flush(&q->text, &s->text);
        event.finish_reason = (char *)finish_word(finish);
        event.question_tokens = (int32_t)q->prompt.count;
        event.generated_tokens = count;
        if (r->context->chain && chain_decode_part(r->context->chain, &part))
            fill_compressed(&event, q->sequence.own, &compressed, &held);
    } else {
        tok_stream_push(&q->text, q->sequence.made[q->sent], &s->text);
        event.has_token_case = PLATEN__V1__EVENT__HAS_TOKEN_TOKEN_ID;
        event.token_id = q->sequence.made[q->sent];
    }
    event.text.data = (uint8_t *)s->text.data;
    event.text.len = s->text.bytes;
    if (send_event(r, &event) == ST_AGAIN) {
        q->text = before;
        return ST_AGAIN;
    }
    if (is_end)
        q->end_sent = true;
    else
        q->sent++;
    return ST_OK;
}

/* Sends what a question has made so far. finish is read before the count, so that an end never hides a token. */
static enum status send_question(struct stream *s, struct request *r, int32_t index)
{
    struct question *q = &r->question[index];
    enum finish finish = (enum finish)__atomic_load_n(&q->sequence.finish, __ATOMIC_ACQUIRE);
    int32_t count = __atomic_load_n(&q->sequence.made_count, __ATOMIC_ACQUIRE);

    while (q->sent < count)
        if (send_step(s, r, index, count, FINISH_NONE) == ST_AGAIN)
            return ST_AGAIN;
    if (finish == FINISH_NONE)
        return ST_OK;
    if (send_step(s, r, index, count, finish) == ST_AGAIN)
        return ST_AGAIN;
    r->ends_sent++;
    return ST_OK;
}

/* How the call ends once every question has: one failed question fails the call. */
static enum status how_ended(const struct request *r, struct err *err)
{
    for (int32_t i = 0; i < r->questions; i++) {
        const struct sequence *q = &r->question[i].sequence;

        switch ((enum finish)q->finish) {
        case FINISH_FAILED:
            if (q->own && q->own->failure.text[0])
                return err_set(err, ST_EINTERNAL, "decode part: %s", q->own->failure.text);
            return err_set(err, ST_EINTERNAL, "decode: the device failed");
        case FINISH_DEADLINE:
            return err_set(err, ST_EDEADLINE, "decode: the deadline passed");
        case FINISH_CANCELLED:
            return err_set(err, ST_ECANCELLED, "decode: %s",
                           r->cancelled ? "the caller went away" : "the node is going down");
        default:
            break;
        }
    }
    return ST_OK;
}

static void log_end(const struct request *r, const struct err *err)
{
    const struct figures *f = r->context ? &r->context->figures : NULL;
    struct log_text why;
    int64_t made = 0;

    for (int32_t i = 0; i < r->questions; i++)
        made += r->question[i].sequence.made_count;
    log_event(
        err->code == ST_OK || err->code == ST_ECANCELLED ? LOG_INFO : LOG_WARN, "request",
        "request=%s status=%s tokens=%lld kept_bytes=%lld wire_bytes=%lld generated=%lld prefill_node=%s ms=%.1f%s%s",
        r->id, status_word(err->code), f ? (long long)f->context_tokens : 0LL, f ? (long long)f->kept_bytes : 0LL,
        f ? (long long)f->wire_bytes : 0LL, (long long)made, f ? f->prefill_node : "",
        (double)(clock_now_ns() - r->begin_ns) / 1e6, err->text[0] ? " why=" : "",
        err->text[0] ? log_quote(&why, err->text) : "");
}

static void finish(struct request *r, const struct err *err, int64_t retry_ms)
{
    if (err->code == ST_OK)
        rpc_call_finish(r->call, ST_OK, NULL, -1);
    else
        rpc_call_finish(r->call, err->code, err->text, retry_ms);
    metric_add(err->code == ST_OK ? r->node->m_requests_ok : r->node->m_requests_failed, 1);
    log_end(r, err);
}

/* Nobody would ever name a context whose handle did not arrive. A caller goes away at any moment: on_end sees `kept`, or we
 * see `gone`. */
static enum status keep(struct request *r, struct err *err)
{
    enum status st = contexts_keep(r->node->contexts, r->context, r->ttl_s, r->handle, err);

    if (st != ST_OK)
        return st;
    __atomic_store_n(&r->kept, true, __ATOMIC_SEQ_CST);
    if (!__atomic_load_n(&r->gone, __ATOMIC_SEQ_CST) && !rpc_call_cancelled(r->call))
        return ST_OK;
    request_forget(r);
    return err_set(err, ST_ECANCELLED, "the caller went away");
}

static bool create_reply(struct request *r)
{
    struct err err = { 0 };

    if (keep(r, &err) != ST_OK) {
        finish(r, &err, err.code == ST_EEXHAUSTED ? 1000 : -1);
        return true;
    }
    reply_create(r, r->handle);
    metric_add(r->node->m_requests_ok, 1);
    log_end(r, &err);
    return true;
}

/* The context is there: tokens, ends, figures, status. True when the request is over. */
static bool stream_answers(struct stream *s, struct request *r)
{
    struct err err = { 0 };

    if (r->kind == REQUEST_CREATE)
        return create_reply(r);
    for (int32_t i = 0; i < r->questions; i++)
        if (!r->question[i].end_sent && send_question(s, r, i) == ST_AGAIN)
            return false;
    if (r->ends_sent < r->questions)
        return false;
    if (how_ended(r, &err) == ST_OK && reply_figures(r, send_event) == ST_AGAIN)
        return false;
    finish(r, &err, -1);
    return true;
}

static void hang_up(struct request *r)
{
    if (r->cancel_told || !rpc_call_cancelled(r->call))
        return;
    r->cancel_told = true;
    __atomic_store_n(&r->cancelled, true, __ATOMIC_RELAXED);
    if (r->order)
        order_cancel(r->order);
}

/* True when the request is over and its call ended. */
static bool look_at(struct stream *s, struct request *r)
{
    int32_t phase = __atomic_load_n(&r->phase, __ATOMIC_ACQUIRE);

    if (phase != PHASE_FRONT)
        hang_up(r);
    if (r->stalled_ns && clock_now_ns() - r->stalled_ns > STALL_S * NS_PER_S && !r->cancel_told)
        rpc_call_abort(r->call, ST_EEXHAUSTED, "the caller does not read its events");
    switch (phase) {
    case PHASE_FAILED:
        finish(r, &r->failure, r->retry_ms);
        return true;
    case PHASE_READY:
        return stream_answers(s, r);
    case PHASE_ORDERED:
        send_progress(r);
        return false;
    default:
        return false;
    }
}

static void join_new(struct stream *s)
{
    pthread_mutex_lock(&s->lock);
    while (s->joining) {
        struct request *r = s->joining;
        s->joining = r->next;
        r->next = s->active;
        s->active = r;
    }
    pthread_mutex_unlock(&s->lock);
}

/* Waits for news, at most LOOK_MS; several posts are one look. */
static void wait_for_news(struct stream *s)
{
    struct timespec until;

    clock_gettime(CLOCK_REALTIME, &until);
    until.tv_nsec += LOOK_MS * NS_PER_MS;
    until.tv_sec += until.tv_nsec / NS_PER_S;
    until.tv_nsec %= NS_PER_S;
    while (sem_timedwait(&s->wake, &until) != 0 && errno == EINTR)
        ;
    while (sem_trywait(&s->wake) == 0)
        ;
}

static void *run(void *arg)
{
    struct stream *s = arg;

    while (!__atomic_load_n(&s->stopping, __ATOMIC_RELAXED) || s->active) {
        wait_for_news(s);
        join_new(s);
        for (struct request **at = &s->active; *at;) {
            struct request *r = *at;
            if (!look_at(s, r)) {
                at = &r->next;
                continue;
            }
            *at = r->next;
            if (r->order)
                order_unref(r->order);
            r->order = NULL;
            request_unref(r);
        }
    }
    return NULL;
}

enum status stream_open(struct stream **out, struct err *err)
{
    struct stream *s = mem_zero(1, sizeof *s);
    enum status st;

    sem_init(&s->wake, 0, 0);
    pthread_mutex_init(&s->lock, NULL);
    st = thread_start(&s->thread, "stream", run, s, err);
    if (st != ST_OK) {
        free(s);
        return st;
    }
    *out = s;
    return ST_OK;
}

void stream_end(struct stream *s)
{
    if (s == NULL)
        return;
    __atomic_store_n(&s->stopping, 1, __ATOMIC_RELAXED);
    stream_wake(s);
    pthread_join(s->thread, NULL);
}

void stream_close(struct stream *s)
{
    if (s == NULL)
        return;
    sem_destroy(&s->wake);
    pthread_mutex_destroy(&s->lock);
    text_fini(&s->text);
    free(s);
}
