/* SPDX-License-Identifier: Apache-2.0 */
/*
 * rpc_stream.c - blocking calls, for programs that have one thing to do at a time.
 *
 *   rpc thread   message() ─▶ [one place] ─▶ rpc_stream_next     caller's thread; it asks for the next message when it
 *                done()    ─▶ end                                  takes one
 *
 * The stream lives as long as its call, so events that come late find it.
 */
#include "common/base/arena.h"
#include "common/base/clock.h"
#include "common/base/thread.h"
#include "common/rpc/rpc_channel.h"
#include "common/rpc/rpc_inside.h"
#include "common/rpc/rpc_message.h"

#include <stdlib.h>
#include <string.h>

/* owned by: its call's counts */
struct rpc_stream {
    struct rpc_call *call;
    pthread_mutex_t lock;
    pthread_cond_t changed;
    ProtobufCMessage *came;
    bool ended;
    enum status status;
    int64_t retry_ms;
    struct err err;
};

static void on_message(struct rpc_call *call, void *owner, const ProtobufCMessage *msg)
{
    struct rpc_stream *s = (struct rpc_stream *)rpc_call_user(call);

    (void)owner;
    rpc_call_keep(call);
    pthread_mutex_lock(&s->lock);
    s->came = (ProtobufCMessage *)msg; /* kept: ours now */
    pthread_cond_signal(&s->changed);
    pthread_mutex_unlock(&s->lock);
}

static void on_done(struct rpc_call *call, void *owner, const struct rpc_end *end)
{
    struct rpc_stream *s = (struct rpc_stream *)rpc_call_user(call);

    (void)owner;
    pthread_mutex_lock(&s->lock);
    s->ended = true;
    s->status = end->status;
    s->retry_ms = end->retry_ms;
    if (end->status != ST_OK)
        err_set(&s->err, end->status, "%s", end->sentence);
    pthread_cond_signal(&s->changed);
    pthread_mutex_unlock(&s->lock);
}

static const struct rpc_events stream_events = { .message = on_message, .done = on_done };

static void stream_free(void *user)
{
    struct rpc_stream *s = (struct rpc_stream *)user;

    rpc_message_free(s->came);
    pthread_cond_destroy(&s->changed);
    pthread_mutex_destroy(&s->lock);
    free(s);
}

enum status rpc_stream_open(struct rpc_stream **out, struct rpc_channel *ch, const char *method,
                            const ProtobufCMessage *request, const ProtobufCMessageDescriptor *reply_type,
                            int64_t deadline_ns, struct err *err)
{
    struct rpc_stream *s = (struct rpc_stream *)mem_zero(1, sizeof(*s));
    struct rpc_call_options o = { .method = method,
                                  .reply = reply_type,
                                  .deadline_ns = deadline_ns,
                                  .one_message = true,
                                  .events = &stream_events,
                                  .user = s,
                                  .free_user = stream_free };
    enum status st;

    pthread_mutex_init(&s->lock, NULL);
    cond_init(&s->changed);
    s->retry_ms = -1;
    st = rpc_call_start(&s->call, ch, &o, request, err);
    if (st != ST_OK) {
        stream_free(s);
        return st;
    }
    *out = s;
    return ST_OK;
}

enum status rpc_stream_next(struct rpc_stream *s, int64_t wait_until_ns, ProtobufCMessage **out, struct err *err)
{
    enum status st = ST_OK;

    *out = NULL;
    pthread_mutex_lock(&s->lock);
    while (s->came == NULL && !s->ended && cond_wait(&s->changed, &s->lock, wait_until_ns))
        ;
    if (s->came != NULL) {
        *out = s->came;
        s->came = NULL;
    } else if (!s->ended) {
        st = ST_AGAIN;
    } else if (s->status != ST_OK) {
        st = err_set(err, s->status, "%s", s->err.text);
    }
    pthread_mutex_unlock(&s->lock);
    if (*out != NULL)
        rpc_call_want(s->call);
    return st;
}

int64_t rpc_stream_retry_ms(const struct rpc_stream *s)
{
    return s->retry_ms;
}

void rpc_stream_cancel(struct rpc_stream *s)
{
    rpc_call_cancel(s->call);
}

void rpc_stream_close(struct rpc_stream *s)
{
    if (s == NULL)
        return;
    rpc_call_cancel(s->call);
    rpc_call_unref(s->call);
}

enum status rpc_call_unary(struct rpc_channel *ch, const char *method, const ProtobufCMessage *request,
                           const ProtobufCMessageDescriptor *reply_type, int64_t deadline_ns, ProtobufCMessage **reply,
                           struct err *err)
{
    ProtobufCMessage *answer = NULL, *more = NULL;
    struct rpc_stream *s;
    enum status st = rpc_stream_open(&s, ch, method, request, reply_type, deadline_ns, err);

    if (st != ST_OK)
        return st;
    st = rpc_stream_next(s, deadline_ns, &answer, err);
    if (st == ST_OK && answer != NULL)
        st = rpc_stream_next(s, deadline_ns, &more, err); /* the status that follows the answer */
    if (st == ST_AGAIN)
        st = err_set(err, ST_EDEADLINE, "no answer from %s within the time given", rpc_channel_target(ch));
    if (st == ST_OK && (answer == NULL || more != NULL))
        st = err_set(err, ST_EINTERNAL, "%s: the server sent %s", method,
                     answer == NULL ? "no answer" : "more than one answer");
    if (st == ST_OK) {
        *reply = answer;
        answer = NULL;
    }
    rpc_message_free(answer);
    rpc_message_free(more);
    rpc_stream_close(s);
    return st;
}
