/* SPDX-License-Identifier: Apache-2.0 */
/*
 * rpc_call.c - one call, server's or client's: a queue of messages out, one message at a time in, one end.
 *
 *   batches under way, each with a tag of the call:
 *
 *     end   server RECV_CLOSE, client RECV_STATUS     from the first moment; comes when the call is over for whatever reason
 *     send  [INITIAL_METADATA] [SEND_MESSAGE] [SEND_STATUS | SEND_CLOSE]    one at a time (rpc_send.c)
 *     recv  RECV_MESSAGE                                                    one at a time, when it is wanted
 *     meta  client RECV_INITIAL_METADATA
 *
 * gRPC aborts the process when a batch is started after the queue was shut down. So a call settles: when its end is
 * here and no batch is under way, done() is told, gRPC's call is let go, and from then on nothing is ever started.
 * A server shuts its queues down when all calls have settled. Who still holds the object then holds only memory.
 */
#include "common/rpc/rpc_call_inside.h"

#include "common/base/arena.h"
#include "common/base/bytes.h"
#include "common/base/clock.h"
#include "common/base/text.h"
#include "common/base/thread.h"
#include "common/rpc/rpc_message.h"

#include <assert.h>
#include <grpc/slice.h>
#include <grpc/support/alloc.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* The deadline travels rounded up, and the client, who has the exact one, hangs up first. */
static const int64_t DEADLINE_SLACK_NS = 50 * NS_PER_MS;

void rpc_call_ref(struct rpc_call *call)
{
    __atomic_fetch_add(&call->refs, 1, __ATOMIC_RELAXED);
}

void rpc_call_unref(struct rpc_call *call)
{
    if (call == NULL || __atomic_fetch_sub(&call->refs, 1, __ATOMIC_ACQ_REL) != 1)
        return;
    assert(call->core == NULL && call->first == NULL && call->sending == NULL);
    if (call->free_user != NULL)
        call->free_user(call->user);
    grpc_slice_unref(call->sentence);
    for (size_t i = 0; i < call->metadata_count; i++)
        grpc_slice_unref(call->metadata[i].value);
    pthread_cond_destroy(&call->room);
    pthread_mutex_destroy(&call->lock);
    free(call);
}

void rpc_call_set_user(struct rpc_call *call, void *user, void (*free_user)(void *user))
{
    call->user = user;
    call->free_user = free_user;
}

void *rpc_call_user(const struct rpc_call *call)
{
    return call->user;
}

bool rpc_call_header(const struct rpc_call *call, const char *key, struct rpc_span *value)
{
    for (size_t i = 0; i < call->headers.count; i++) {
        const grpc_metadata *m = &call->headers.metadata[i];

        if (grpc_slice_str_cmp(m->key, key) == 0) {
            value->data = GRPC_SLICE_START_PTR(m->value);
            value->bytes = GRPC_SLICE_LENGTH(m->value);
            return true;
        }
    }
    return false;
}

int64_t rpc_call_deadline_ns(const struct rpc_call *call)
{
    return call->deadline_ns;
}

bool rpc_call_cancelled(const struct rpc_call *call)
{
    return __atomic_load_n(&call->cancelled, __ATOMIC_RELAXED);
}

/* Batches. */

void call_batch(struct rpc_call *call, const grpc_op *ops, size_t count, struct rpc_tag *tag)
{
    grpc_call_error e;

    call->batches++;
    TAG_GIVE(tag);
    e = grpc_call_start_batch(call->core, ops, count, tag, NULL);
    assert(e == GRPC_CALL_OK);
    (void)e;
}

/* How the call ended, for done(). After settling: nothing changes these fields any more. */
static struct rpc_end end_of(struct rpc_call *call, char **text)
{
    struct rpc_end end = { ST_OK, "", -1 };

    if (call->server) {
        if (call->was_cancelled != 0)
            end.status = call->closed && call->finish < 0                          ? call->finish
                         : clock_now_ns() >= call->deadline_ns - DEADLINE_SLACK_NS ? ST_EDEADLINE
                                                                                   : ST_ECANCELLED;
        return end;
    }
    end.status = call->code == GRPC_STATUS_OK ? ST_OK : status_from_grpc((int)call->code);
    end.sentence = *text = grpc_slice_to_c_string(call->details);
    for (size_t i = 0; i < call->trailing.count; i++) {
        char *value;

        if (grpc_slice_str_cmp(call->trailing.metadata[i].key, "retry-after-ms") != 0)
            continue;
        value = grpc_slice_to_c_string(call->trailing.metadata[i].value);
        if (!text_to_i64(value, 0, INT32_MAX, &end.retry_ms))
            end.retry_ms = -1;
        gpr_free(value);
    }
    return end;
}

void call_batch_over(struct rpc_call *call)
{
    struct outgoing *dropped;
    struct rpc_end end;
    grpc_call *core;
    char *text = NULL;

    pthread_mutex_lock(&call->lock);
    call->batches--;
    if (!call->ended || call->batches > 0) {
        pthread_mutex_unlock(&call->lock);
        return;
    }
    core = call->core;
    call->core = NULL;
    dropped = call_queue_drop(call);
    pthread_cond_broadcast(&call->room);
    pthread_mutex_unlock(&call->lock);
    outgoing_free(dropped);

    end = end_of(call, &text);
    if (call->events->done != NULL)
        call->events->done(call, call->owner, &end);
    gpr_free(text);
    call->headers.count = 0;
    grpc_metadata_array_destroy(&call->headers);
    grpc_metadata_array_destroy(&call->initial);
    grpc_metadata_array_destroy(&call->trailing);
    if (!call->server)
        grpc_slice_unref(call->details);
    grpc_call_unref(core);
    call_list_leave(call);
    rpc_call_unref(call);
}

/* Receiving. */

static void recv_start(struct rpc_call *call)
{
    grpc_op op;

    if (call->core == NULL || call->ended || call->recv_busy || call->in_over)
        return;
    memset(&op, 0, sizeof(op));
    op.op = GRPC_OP_RECV_MESSAGE;
    op.data.recv_message.recv_message = &call->in;
    call->recv_busy = true;
    call_batch(call, &op, 1, &call->recv_tag);
}

void rpc_call_want(struct rpc_call *call)
{
    pthread_mutex_lock(&call->lock);
    recv_start(call);
    pthread_mutex_unlock(&call->lock);
}

void rpc_call_keep(struct rpc_call *call)
{
    call->keep = true;
}

static void message_refused(struct rpc_call *call, const struct err *err)
{
    if (call->server) {
        rpc_call_finish(call, err->code, err->text, -1);
        return;
    }
    pthread_mutex_lock(&call->lock);
    if (call->core != NULL)
        grpc_call_cancel_with_status(call->core, GRPC_STATUS_INTERNAL, err->text, NULL);
    pthread_mutex_unlock(&call->lock);
}

/* Hands a message that came (taken) to the handler. */
static void deliver(struct rpc_call *call, grpc_byte_buffer *in)
{
    struct rpc_buffer *buffer = buffer_of(in);
    ProtobufCMessage *msg = NULL;
    struct err err = { 0 };

    if (call->type == NULL && call->events->buffer != NULL) {
        call->events->buffer(call, call->owner, buffer);
        return;
    }
    if (call->type != NULL && rpc_buffer_unpack(buffer, call->type, call->bytes_are_text, &msg, &err) != ST_OK) {
        message_refused(call, &err);
    } else if (call->events->message != NULL && msg != NULL) {
        call->keep = false;
        call->events->message(call, call->owner, msg);
        if (call->keep)
            msg = NULL;
    }
    rpc_message_free(msg);
    rpc_buffer_free(buffer);
}

static void on_recv(struct rpc_tag *tag, bool ok)
{
    struct rpc_call *call = CONTAINER_OF(tag, struct rpc_call, recv_tag);
    grpc_byte_buffer *in;
    bool half_closed;

    pthread_mutex_lock(&call->lock);
    in = call->in;
    call->in = NULL;
    call->recv_busy = false;
    call->in_over = call->in_over || in == NULL;
    half_closed = ok && in == NULL && call->server && !call->ended && !grpc_call_failed_before_recv_message(call->core);
    pthread_mutex_unlock(&call->lock);
    if (in != NULL)
        deliver(call, in);
    else if (half_closed && call->events->half_close != NULL)
        call->events->half_close(call, call->owner);
    call_batch_over(call);
}

static void on_end(struct rpc_tag *tag, bool ok)
{
    struct rpc_call *call = CONTAINER_OF(tag, struct rpc_call, end_tag);

    (void)ok;
    pthread_mutex_lock(&call->lock);
    call->ended = true;
    if (call->server ? call->was_cancelled != 0 : call->code != GRPC_STATUS_OK)
        __atomic_store_n(&call->cancelled, true, __ATOMIC_RELAXED);
    pthread_cond_broadcast(&call->room);
    pthread_mutex_unlock(&call->lock);
    call_batch_over(call);
}

static void on_meta(struct rpc_tag *tag, bool ok)
{
    struct rpc_call *call = CONTAINER_OF(tag, struct rpc_call, meta_tag);

    (void)ok;
    call_batch_over(call);
}

void rpc_call_cancel(struct rpc_call *call)
{
    pthread_mutex_lock(&call->lock);
    if (call->core != NULL)
        grpc_call_cancel(call->core, NULL);
    pthread_mutex_unlock(&call->lock);
}

/* Making. */

static const struct rpc_events no_events = { 0 };

struct rpc_call *call_make(const struct call_setup *setup)
{
    struct rpc_call *call = (struct rpc_call *)mem_zero(1, sizeof(*call));
    char text[1100];

    call->refs = 2;
    call->server = setup->server;
    call->bytes_are_text = setup->bytes_are_text;
    call->events = setup->events;
    call->owner = setup->owner;
    call->user = setup->user;
    call->free_user = setup->free_user;
    call->type = setup->type;
    call->headers = setup->headers;
    call->deadline_ns = setup->deadline_ns;
    call->queue_bytes = setup->queue_bytes;
    call->queue_messages = setup->queue_messages;
    call->list = setup->list;
    pthread_mutex_init(&call->lock, NULL);
    cond_init(&call->room);
    call->core = setup->core;
    call->last = &call->first;
    call->sentence = grpc_empty_slice();
    call->end_tag.run = on_end;
    call->send_tag.run = call_on_send;
    call->recv_tag.run = on_recv;
    call->meta_tag.run = on_meta;
    grpc_metadata_array_init(&call->initial);
    grpc_metadata_array_init(&call->trailing);
    if (setup->token != NULL) {
        snprintf(text, sizeof(text), "Bearer %s", setup->token);
        call->metadata[0].key = grpc_slice_from_static_string("authorization");
        call->metadata[0].value = grpc_slice_from_copied_string(text);
        call->metadata_count = 1;
    }
    call_list_enter(call);
    return call;
}

/* gRPC tells the end of a server's call only to those who asked. */
static void end_expect(struct rpc_call *call, bool stream)
{
    grpc_op op;

    memset(&op, 0, sizeof(op));
    op.op = GRPC_OP_RECV_CLOSE_ON_SERVER;
    op.data.recv_close_on_server.cancelled = &call->was_cancelled;
    pthread_mutex_lock(&call->lock);
    call_batch(call, &op, 1, &call->end_tag);
    call->in_over = !stream;
    pthread_mutex_unlock(&call->lock);
}

void call_refuse(struct rpc_call *call, enum status st, const char *sentence)
{
    call->events = &no_events;
    end_expect(call, false);
    rpc_call_finish(call, st, sentence, -1);
}

void call_serve(struct rpc_call *call, bool stream, grpc_byte_buffer *first)
{
    end_expect(call, stream);
    if (call->events->open != NULL)
        call->events->open(call, call->owner);
    if (stream) {
        rpc_call_want(call);
    } else if (first == NULL) {
        rpc_call_finish(call, ST_EINVAL, "the call carries no message", -1);
    } else {
        deliver(call, first);
        if (call->events->half_close != NULL)
            call->events->half_close(call, call->owner);
    }
}

void call_begin(struct rpc_call *call, grpc_byte_buffer *first, bool only)
{
    grpc_op op;

    pthread_mutex_lock(&call->lock);
    call->closing = only;
    call_queue(call, first);
    call_pump(call);
    memset(&op, 0, sizeof(op));
    op.op = GRPC_OP_RECV_STATUS_ON_CLIENT;
    op.data.recv_status_on_client.trailing_metadata = &call->trailing;
    op.data.recv_status_on_client.status = &call->code;
    op.data.recv_status_on_client.status_details = &call->details;
    call_batch(call, &op, 1, &call->end_tag);
    memset(&op, 0, sizeof(op));
    op.op = GRPC_OP_RECV_INITIAL_METADATA;
    op.data.recv_initial_metadata.recv_initial_metadata = &call->initial;
    call_batch(call, &op, 1, &call->meta_tag);
    recv_start(call);
    pthread_mutex_unlock(&call->lock);
}
