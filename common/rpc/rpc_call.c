/* SPDX-License-Identifier: Apache-2.0 */
/*
 * rpc_call.c - one call, server's or client's: a queue of messages out, one message at a time in, one end.
 *
 *   batches under way, each with a tag of the call:
 *
 *     end   server RECV_CLOSE, client RECV_STATUS     from the first moment; comes when the call is over for whatever reason
 *     send  [INITIAL_METADATA] [SEND_MESSAGE] [SEND_STATUS | SEND_CLOSE]    one at a time; `pump` starts the next
 *     recv  RECV_MESSAGE                                                    one at a time, when it is wanted
 *     meta  client RECV_INITIAL_METADATA
 *
 * gRPC aborts the process when a batch is started after the queue was shut down. So a call settles: when its end is
 * here and no batch is under way, done() is told, gRPC's call is let go, and from then on nothing is ever started.
 * A server shuts its queues down when all calls have settled. Who still holds the object then holds only memory.
 *
 * `lock` guards everything below it in the struct; it is never held during a callback. Borrowed slices may be released
 * while it is held (rpc_call.h tells what a release may do).
 */
#include "common/rpc/rpc_call.h"

#include "common/base/arena.h"
#include "common/base/clock.h"
#include "common/base/text.h"
#include "common/rpc/rpc_inside.h"
#include "common/rpc/rpc_message.h"

#include <assert.h>
#include <grpc/slice.h>
#include <grpc/status.h>
#include <grpc/support/alloc.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { HINT_BYTES_MAX = 16384, SENTENCE_MAX = 4096 };

/* The deadline travels rounded up, and the client, who has the exact one, hangs up first. */
static const int64_t DEADLINE_SLACK_NS = 50 * NS_PER_MS;

struct outgoing {
    struct outgoing *next;
    grpc_byte_buffer *buffer;
    size_t bytes;
};

/* owned by: its counts */
struct rpc_call {
    atomic_int refs;
    atomic_bool cancelled;
    bool server, bytes_are_text, keep;
    const struct rpc_events *events;
    void *owner, *user;
    void (*free_user)(void *user);
    const ProtobufCMessageDescriptor *type;
    grpc_metadata_array headers;
    char *peer;
    int64_t deadline_ns;
    size_t queue_bytes, queue_messages;
    struct call_list *list;
    struct rpc_call *next, *prev; /* guarded by the list's lock */

    pthread_mutex_t lock;
    pthread_cond_t room;
    grpc_call *core; /* NULL once settled */
    int batches;
    struct rpc_tag end_tag, send_tag, recv_tag, meta_tag;

    struct outgoing *first, **last; /* waiting */
    size_t bytes, messages;         /* waiting */
    struct outgoing *sending;       /* under way; NULL with send_busy: a batch without a message */
    bool send_busy, started, closing, closed, said_full;
    grpc_metadata metadata[2]; /* client: authorization; server: retry-after-ms */
    size_t metadata_count;
    grpc_slice sentence;
    enum status finish; /* what SEND_STATUS or abort says */

    grpc_byte_buffer *in;
    bool recv_busy, in_over;
    grpc_metadata_array initial;

    bool ended;
    int was_cancelled;            /* server */
    grpc_status_code code;        /* client */
    grpc_slice details;           /* client */
    grpc_metadata_array trailing; /* client */
};

/* Calls that are alive. */

void call_list_init(struct call_list *l)
{
    memset(l, 0, sizeof(*l));
    pthread_mutex_init(&l->lock, NULL);
    rpc_cond_init(&l->changed);
}

void call_list_fini(struct call_list *l)
{
    assert(l->count == 0);
    pthread_cond_destroy(&l->changed);
    pthread_mutex_destroy(&l->lock);
}

size_t call_list_count(struct call_list *l)
{
    size_t count;

    pthread_mutex_lock(&l->lock);
    count = l->count;
    pthread_mutex_unlock(&l->lock);
    return count;
}

bool call_list_wait_empty(struct call_list *l, int64_t deadline_ns)
{
    bool empty;

    pthread_mutex_lock(&l->lock);
    while (l->count > 0 && rpc_cond_wait(&l->changed, &l->lock, deadline_ns))
        ;
    empty = l->count == 0;
    pthread_mutex_unlock(&l->lock);
    return empty;
}

void call_list_cancel(struct call_list *l)
{
    pthread_mutex_lock(&l->lock);
    for (struct rpc_call *c = l->first; c != NULL; c = c->next)
        rpc_call_cancel(c);
    pthread_mutex_unlock(&l->lock);
}

static void list_enter(struct rpc_call *call)
{
    struct call_list *l = call->list;

    pthread_mutex_lock(&l->lock);
    call->next = l->first;
    if (call->next != NULL)
        call->next->prev = call;
    l->first = call;
    l->count++;
    pthread_mutex_unlock(&l->lock);
}

static void list_leave(struct rpc_call *call)
{
    struct call_list *l = call->list;

    pthread_mutex_lock(&l->lock);
    if (call->prev != NULL)
        call->prev->next = call->next;
    else
        l->first = call->next;
    if (call->next != NULL)
        call->next->prev = call->prev;
    l->count--;
    pthread_cond_broadcast(&l->changed);
    pthread_mutex_unlock(&l->lock);
}

/* Counts. */

void rpc_call_ref(struct rpc_call *call)
{
    atomic_fetch_add(&call->refs, 1);
}

void rpc_call_unref(struct rpc_call *call)
{
    if (call == NULL || atomic_fetch_sub(&call->refs, 1) != 1)
        return;
    assert(call->core == NULL && call->first == NULL && call->sending == NULL);
    if (call->free_user != NULL)
        call->free_user(call->user);
    grpc_slice_unref(call->sentence);
    for (size_t i = 0; i < call->metadata_count; i++)
        grpc_slice_unref(call->metadata[i].value);
    pthread_cond_destroy(&call->room);
    pthread_mutex_destroy(&call->lock);
    gpr_free(call->peer);
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

const char *rpc_call_peer(const struct rpc_call *call)
{
    return call->peer != NULL ? call->peer : "";
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
    return atomic_load_explicit(&((struct rpc_call *)call)->cancelled, memory_order_relaxed);
}

/* Sending. Everything here runs with the lock held unless it says otherwise. */

static void batch_start(struct rpc_call *call, const grpc_op *ops, size_t count, struct rpc_tag *tag)
{
    grpc_call_error e;

    call->batches++;
    TAG_GIVE(tag);
    e = grpc_call_start_batch(call->core, ops, count, tag, NULL);
    assert(e == GRPC_CALL_OK);
    (void)e;
}

static bool has_room(const struct rpc_call *call)
{
    return call->messages == 0 || (call->messages < call->queue_messages && call->bytes < call->queue_bytes);
}

static bool sends_over(const struct rpc_call *call)
{
    return call->core == NULL || call->ended || call->closing;
}

static void queue_put_last(struct rpc_call *call, grpc_byte_buffer *buffer)
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

/* Empties the queue; the caller gives the list to outgoing_free, best after unlocking. */
static struct outgoing *queue_drop(struct rpc_call *call)
{
    struct outgoing *list = call->first;

    call->first = NULL;
    call->last = &call->first;
    call->bytes = call->messages = 0;
    return list;
}

static void outgoing_free(struct outgoing *o)
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
static void pump(struct rpc_call *call)
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
    batch_start(call, ops, n, &call->send_tag);
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
        queue_put_last(call, buffer_pack(msg));
        pump(call);
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
        queue_put_last(call, buffer_chunk(chunk, head, spans, count, release, arg));
        pump(call);
    }
    pthread_mutex_unlock(&call->lock);
    return st;
}

enum status rpc_call_wait_room(struct rpc_call *call, int64_t deadline_ns)
{
    enum status st;

    pthread_mutex_lock(&call->lock);
    while ((st = send_allowed(call)) == ST_AGAIN && rpc_cond_wait(&call->room, &call->lock, deadline_ns))
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

/* Ending. */

/* gRPC percent-encodes the sentence; what it says is cut where a header would grow too large. */
static void finish_set(struct rpc_call *call, enum status st, const char *sentence, int64_t retry_ms)
{
    char text[24];
    size_t bytes = sentence != NULL ? strlen(sentence) : 0;

    if (bytes > SENTENCE_MAX)
        bytes = utf8_prefix(sentence, SENTENCE_MAX);
    call->closing = true;
    call->finish = st;
    call->sentence = grpc_slice_from_copied_buffer(sentence != NULL ? sentence : "", bytes);
    if (retry_ms >= 0) {
        snprintf(text, sizeof(text), "%lld", (long long)retry_ms);
        call->metadata[0].key = grpc_slice_from_static_string("retry-after-ms");
        call->metadata[0].value = grpc_slice_from_copied_string(text);
        call->metadata_count = 1;
    }
}

void rpc_call_finish(struct rpc_call *call, enum status st, const char *sentence, int64_t retry_ms)
{
    assert(call->server && st != ST_AGAIN);
    pthread_mutex_lock(&call->lock);
    if (!sends_over(call)) {
        finish_set(call, st, sentence, retry_ms);
        pump(call);
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
        queue_put_last(call, buffer_pack(msg));
        finish_set(call, ST_OK, NULL, -1);
        pump(call);
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
        dropped = queue_drop(call);
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
        pump(call);
        pthread_cond_broadcast(&call->room);
    }
    pthread_mutex_unlock(&call->lock);
}

void rpc_call_cancel(struct rpc_call *call)
{
    pthread_mutex_lock(&call->lock);
    if (call->core != NULL)
        grpc_call_cancel(call->core, NULL);
    pthread_mutex_unlock(&call->lock);
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

/* Without the lock, on the rpc thread, after any batch came back: was it the last one? */
static void settle(struct rpc_call *call)
{
    struct outgoing *dropped;
    struct rpc_end end;
    grpc_call *core;
    char *text = NULL;

    pthread_mutex_lock(&call->lock);
    if (!call->ended || call->batches > 0 || call->core == NULL) {
        pthread_mutex_unlock(&call->lock);
        return;
    }
    core = call->core;
    call->core = NULL;
    dropped = queue_drop(call);
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
    list_leave(call);
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
    batch_start(call, &op, 1, &call->recv_tag);
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

    pthread_mutex_lock(&call->lock);
    call->batches--;
    pthread_mutex_unlock(&call->lock);
    settle(call);
}

static void on_send(struct rpc_tag *tag, bool ok)
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
        dropped = queue_drop(call);
    }
    pump(call);
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

    pthread_mutex_lock(&call->lock);
    call->batches--;
    pthread_mutex_unlock(&call->lock);
    settle(call);
}

static void on_end(struct rpc_tag *tag, bool ok)
{
    struct rpc_call *call = CONTAINER_OF(tag, struct rpc_call, end_tag);

    (void)ok;
    pthread_mutex_lock(&call->lock);
    call->ended = true;
    call->batches--;
    if (call->server ? call->was_cancelled != 0 : call->code != GRPC_STATUS_OK)
        atomic_store(&call->cancelled, true);
    pthread_cond_broadcast(&call->room);
    pthread_mutex_unlock(&call->lock);
    settle(call);
}

static void on_meta(struct rpc_tag *tag, bool ok)
{
    struct rpc_call *call = CONTAINER_OF(tag, struct rpc_call, meta_tag);

    (void)ok;
    pthread_mutex_lock(&call->lock);
    call->batches--;
    pthread_mutex_unlock(&call->lock);
    settle(call);
}

/* Making. */

static const struct rpc_events no_events = { 0 };

struct rpc_call *call_make(const struct call_setup *setup)
{
    struct rpc_call *call = (struct rpc_call *)mem_zero(1, sizeof(*call));
    char text[1100];

    atomic_init(&call->refs, 2);
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
    rpc_cond_init(&call->room);
    call->core = setup->core;
    call->last = &call->first;
    call->sentence = grpc_empty_slice();
    call->end_tag.run = on_end;
    call->send_tag.run = on_send;
    call->recv_tag.run = on_recv;
    call->meta_tag.run = on_meta;
    grpc_metadata_array_init(&call->initial);
    grpc_metadata_array_init(&call->trailing);
    if (setup->server)
        call->peer = grpc_call_get_peer(setup->core);
    if (setup->token != NULL) {
        snprintf(text, sizeof(text), "Bearer %s", setup->token);
        call->metadata[0].key = grpc_slice_from_static_string("authorization");
        call->metadata[0].value = grpc_slice_from_copied_string(text);
        call->metadata_count = 1;
    }
    list_enter(call);
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
    batch_start(call, &op, 1, &call->end_tag);
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
    queue_put_last(call, first);
    pump(call);
    memset(&op, 0, sizeof(op));
    op.op = GRPC_OP_RECV_STATUS_ON_CLIENT;
    op.data.recv_status_on_client.trailing_metadata = &call->trailing;
    op.data.recv_status_on_client.status = &call->code;
    op.data.recv_status_on_client.status_details = &call->details;
    batch_start(call, &op, 1, &call->end_tag);
    memset(&op, 0, sizeof(op));
    op.op = GRPC_OP_RECV_INITIAL_METADATA;
    op.data.recv_initial_metadata.recv_initial_metadata = &call->initial;
    batch_start(call, &op, 1, &call->meta_tag);
    recv_start(call);
    pthread_mutex_unlock(&call->lock);
}
