/* SPDX-License-Identifier: Apache-2.0 */
/*
 * rpc_send.c - what goes out of a call: a bounded queue, one batch under way, at last the word that there is no more.
 *
 *   batch   [INITIAL_METADATA] [SEND_MESSAGE] [SEND_STATUS | SEND_CLOSE]
 *            the first time     the oldest     nothing is queued and the call is closing
 *
 * A sender's thread starts a batch itself when none is under way; else the rpc thread does when the last one came back.
 * A unary answer is one batch of all three.
 */
#include "common/rpc/rpc_call_inside.h"

#include "common/base/arena.h"
#include "common/base/bytes.h"
#include "common/base/text.h"
#include "common/base/thread.h"
#include "common/rpc/rpc_details.h"

#include <assert.h>
#include <grpc/slice.h>
#include <grpc/support/alloc.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { HINT_BYTES_MAX = 16384, SENTENCE_MAX = 4096 };

static bool has_room(const struct rpc_call *call)
{
    return call->messages == 0 || (call->messages < call->queue_messages && call->bytes < call->queue_bytes);
}

static bool sends_over(const struct rpc_call *call)
{
    return call->core == NULL || call->ended || call->closing;
}

void call_queue(struct rpc_call *call, grpc_byte_buffer *buffer)
{
    struct outgoing *o = (struct outgoing *)mem_zero(1, sizeof(*o));

    o->buffer = buffer;
    o->bytes = grpc_byte_buffer_length(buffer);
    *call->last = o;
    call->last = &o->next;
    call->bytes += o->bytes;
    call->messages++;
}

static struct outgoing *queue_take_first(struct rpc_call *call)
{
    struct outgoing *o = call->first;

    call->first = o->next;
    if (call->first == NULL)
        call->last = &call->first;
    o->next = NULL;
    call->bytes -= o->bytes;
    call->messages--;
    return o;
}

struct outgoing *call_queue_drop(struct rpc_call *call)
{
    struct outgoing *list = call->first;

    call->first = NULL;
    call->last = &call->first;
    call->bytes = call->messages = 0;
    return list;
}

void outgoing_free(struct outgoing *o)
{
    while (o != NULL) {
        struct outgoing *next = o->next;

        grpc_byte_buffer_destroy(o->buffer);
        free(o);
        o = next;
    }
}

/* The op that says "no more": the status of a server, the half-close of a client. */
static void close_op(struct rpc_call *call, grpc_op *op)
{
    call->closed = true;
    if (!call->server) {
        op->op = GRPC_OP_SEND_CLOSE_FROM_CLIENT;
        return;
    }
    op->op = GRPC_OP_SEND_STATUS_FROM_SERVER;
    op->data.send_status_from_server.status = (grpc_status_code)status_grpc(call->finish);
    op->data.send_status_from_server.status_details = &call->sentence;
    op->data.send_status_from_server.trailing_metadata = call->metadata;
    op->data.send_status_from_server.trailing_metadata_count = call->metadata_count;
}

/* Starts the next send batch, when none is under way and there is something to say. The very first may not carry the
 * buffer hint (such a batch never completes), and the last message may not either. */
void call_pump(struct rpc_call *call)
{
    grpc_op ops[3];
    size_t n = 0;

    if (call->core == NULL || call->ended || call->send_busy || call->closed)
        return;
    if (call->first == NULL && !call->closing)
        return;
    memset(ops, 0, sizeof(ops));
    if (!call->started) {
        ops[n].op = GRPC_OP_SEND_INITIAL_METADATA;
        ops[n].data.send_initial_metadata.metadata = call->server ? NULL : call->metadata;
        ops[n].data.send_initial_metadata.count = call->server ? 0 : call->metadata_count;
        n++;
    }
    if (call->first != NULL) {
        call->sending = queue_take_first(call);
        ops[n].op = GRPC_OP_SEND_MESSAGE;
        ops[n].data.send_message.send_message = call->sending->buffer;
        if (call->started && call->first != NULL && call->sending->bytes < HINT_BYTES_MAX)
            ops[n].flags = GRPC_WRITE_BUFFER_HINT;
        n++;
    }
    if (call->closing && call->first == NULL)
        close_op(call, &ops[n++]);
    call->started = call->send_busy = true;
    call_batch(call, ops, n, &call->send_tag);
}

static enum status send_allowed(struct rpc_call *call)
{
    if (sends_over(call))
        return ST_ECANCELLED;
    if (has_room(call))
        return ST_OK;
    call->said_full = true;
    return ST_AGAIN;
}

enum status rpc_call_send(struct rpc_call *call, const ProtobufCMessage *msg)
{
    enum status st;

    pthread_mutex_lock(&call->lock);
    st = send_allowed(call);
    if (st == ST_OK) {
        call_queue(call, buffer_pack(msg));
        call_pump(call);
    }
    pthread_mutex_unlock(&call->lock);
    return st;
}

enum status rpc_call_send_bulk(struct rpc_call *call, const struct rpc_chunk *chunk, const ProtobufCMessage *head,
                               const struct rpc_span *spans, size_t count, void (*release)(void *arg), void *arg)
{
    enum status st;

    pthread_mutex_lock(&call->lock);
    st = send_allowed(call);
    if (st == ST_OK) {
        call_queue(call, buffer_chunk(chunk, head, spans, count, release, arg));
        call_pump(call);
    }
    pthread_mutex_unlock(&call->lock);
    return st;
}

enum status rpc_call_wait_room(struct rpc_call *call, int64_t deadline_ns)
{
    enum status st;

    pthread_mutex_lock(&call->lock);
    while ((st = send_allowed(call)) == ST_AGAIN && cond_wait(&call->room, &call->lock, deadline_ns))
        ;
    pthread_mutex_unlock(&call->lock);
    return st;
}

size_t rpc_call_queued_bytes(struct rpc_call *call)
{
    size_t bytes;

    pthread_mutex_lock(&call->lock);
    bytes = call->bytes;
    pthread_mutex_unlock(&call->lock);
    return bytes;
}

/* When to come again: as a number for whoever reads trailers, and as the detail that gRPC's libraries know. */
static void retry_set(struct rpc_call *call, enum status st, const char *sentence, size_t bytes, int64_t retry_ms)
{
    struct text details = { 0 };
    char text[24];

    snprintf(text, sizeof(text), "%lld", (long long)retry_ms);
    call->metadata[0].key = grpc_slice_from_static_string("retry-after-ms");
    call->metadata[0].value = grpc_slice_from_copied_string(text);
    rpc_details_retry(&details, status_grpc(st), sentence, bytes, retry_ms);
    call->metadata[1].key = grpc_slice_from_static_string("grpc-status-details-bin");
    call->metadata[1].value = grpc_slice_from_copied_buffer(text_str(&details), details.bytes);
    call->metadata_count = 2;
    text_fini(&details);
}

/* gRPC percent-encodes the sentence; what it says is cut where a header would grow too large. */
static void finish_set(struct rpc_call *call, enum status st, const char *sentence, int64_t retry_ms)
{
    size_t bytes = sentence != NULL ? strlen(sentence) : 0;

    if (bytes > SENTENCE_MAX)
        bytes = utf8_prefix(sentence, SENTENCE_MAX);
    call->closing = true;
    call->finish = st;
    call->sentence = grpc_slice_from_copied_buffer(sentence != NULL ? sentence : "", bytes);
    if (retry_ms >= 0)
        retry_set(call, st, sentence != NULL ? sentence : "", bytes, retry_ms);
}

void rpc_call_finish(struct rpc_call *call, enum status st, const char *sentence, int64_t retry_ms)
{
    assert(call->server && st != ST_AGAIN);
    pthread_mutex_lock(&call->lock);
    if (!sends_over(call)) {
        finish_set(call, st, sentence, retry_ms);
        call_pump(call);
        pthread_cond_broadcast(&call->room);
    }
    pthread_mutex_unlock(&call->lock);
}

void rpc_call_fail(struct rpc_call *call, const struct err *err)
{
    rpc_call_finish(call, err->code != ST_OK ? err->code : ST_EINTERNAL, err->text, -1);
}

void rpc_call_reply(struct rpc_call *call, const ProtobufCMessage *msg)
{
    assert(call->server);
    pthread_mutex_lock(&call->lock);
    if (!sends_over(call)) {
        call_queue(call, buffer_pack(msg));
        finish_set(call, ST_OK, NULL, -1);
        call_pump(call);
    }
    pthread_mutex_unlock(&call->lock);
}

void rpc_call_abort(struct rpc_call *call, enum status st, const char *sentence)
{
    struct outgoing *dropped = NULL;
    char *text;

    assert(call->server && st < 0);
    pthread_mutex_lock(&call->lock);
    if (call->core != NULL && !call->ended) {
        dropped = call_queue_drop(call);
        if (!call->closing)
            finish_set(call, st, sentence, -1);
        call->closed = true;
        text = grpc_slice_to_c_string(call->sentence);
        grpc_call_cancel_with_status(call->core, (grpc_status_code)status_grpc(call->finish), text, NULL);
        gpr_free(text);
        pthread_cond_broadcast(&call->room);
    }
    pthread_mutex_unlock(&call->lock);
    outgoing_free(dropped);
}

void rpc_call_half_close(struct rpc_call *call)
{
    assert(!call->server);
    pthread_mutex_lock(&call->lock);
    if (!sends_over(call)) {
        call->closing = true;
        call_pump(call);
        pthread_cond_broadcast(&call->room);
    }
    pthread_mutex_unlock(&call->lock);
}

void call_on_send(struct rpc_tag *tag, bool ok)
{
    struct rpc_call *call = CONTAINER_OF(tag, struct rpc_call, send_tag);
    struct outgoing *sent, *dropped = NULL;
    bool tell;

    pthread_mutex_lock(&call->lock);
    sent = call->sending;
    call->sending = NULL;
    call->send_busy = false;
    if (!ok) { /* the call is broken; its end is on the way */
        call->closing = call->closed = true;
        dropped = call_queue_drop(call);
    }
    call_pump(call);
    tell = call->said_full && (has_room(call) || sends_over(call));
    if (tell) {
        call->said_full = false;
        pthread_cond_broadcast(&call->room);
    }
    pthread_mutex_unlock(&call->lock);
    outgoing_free(sent);
    outgoing_free(dropped);
    if (tell && ok && call->events->room != NULL)
        call->events->room(call, call->owner);
    call_batch_over(call);
}
