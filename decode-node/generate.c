/* SPDX-License-Identifier: Apache-2.0 */
/*
 * generate.c - stop 1 of 12: ask.              before: a client   after: tokenize (prepare.c), order.c
 *
 *   rpc thread    message ─▶ struct request ─▶ front queue           nothing that takes time
 *   front thread  prepare: checked, tokenized ─▶ room promised ─▶ order, or (Ask) straight to the engine
 *
 * Tokenizing a megabyte takes a while, and an rpc thread that is busy answers nobody's health check; hence the thread of
 * its own. A full front queue is an answer, not a wait.
 */
#include "decode-node/generate.h"

#include "common/base/clock.h"
#include "common/base/thread.h"
#include "decode-node/node.h"
#include "decode-node/prepare.h"
#include "decode-node/reply.h"
#include "proto/platen/v1/inference.pb-c.h"

#include <string.h>

/* ---- the order of a request ----------------------------------------------------------------------------------- */

static void on_progress(void *ctx, int32_t layers)
{
    struct request *r = ctx;

    __atomic_store_n(&r->layers_done, layers, __ATOMIC_RELAXED);
    stream_wake(r->node->stream);
}

static void on_done(void *ctx, const struct err *err, int64_t retry_ms)
{
    struct request *r = ctx;

    if (err->code == ST_OK)
        request_ready(r);
    else
        request_fail(r, err, retry_ms);
}

static void order(struct request *r)
{
    struct order_spec spec = { .request_id = r->id,
                               .tokens = &r->tokens,
                               .query_tokens = r->query_tokens,
                               .chain = r->chain,
                               .codec = r->codec,
                               .compact = r->compact,
                               .prefix_tokens = r->prefix_tokens,
                               .suffix = &r->suffix,
                               .context = r->context,
                               .progress = on_progress,
                               .done = on_done,
                               .ctx = r };

    struct order *o;

    spec.deadline_ns = rpc_call_deadline_ns(r->call);
    r->order = o = order_open(r->node, &spec);
    __atomic_store_n(&r->phase, PHASE_ORDERED, __ATOMIC_RELEASE);
    order_begin(o); /* last: the request may be over when it returns */
}

/* Stops 1 to 3 of one request. */
static void front_one(struct request *r)
{
    struct err err = { 0 };
    int64_t retry_ms = -1;
    enum status st = prepare(r, &retry_ms, &err);

    if (st != ST_OK)
        request_fail(r, &err, retry_ms);
    else if (r->kind == REQUEST_ASK)
        request_ready(r);
    else
        order(r);
}

static void *front(void *arg)
{
    struct node *n = arg;
    void *item;

    for (;;) {
        enum status st = queue_take(n->front, &item, clock_in_ms(1000));
        if (st == ST_ECANCELLED)
            return NULL;
        if (st == ST_OK)
            front_one(item);
    }
}

enum status front_open(struct node *n, struct err *err)
{
    enum status st;

    n->front = queue_open("front", FRONT_QUEUE_MAX);
    st = thread_start(&n->front_thread, "front", front, n, err);
    if (st != ST_OK) {
        queue_close(n->front);
        n->front = NULL;
    }
    return st;
}

void front_close(struct node *n)
{
    if (n->front == NULL)
        return;
    queue_shut(n->front);
    pthread_join(n->front_thread, NULL);
    queue_close(n->front);
    n->front = NULL;
}

/* ---- calls that take a request --------------------------------------------------------------------------------- */

static void take(struct rpc_call *call, void *owner, const ProtobufCMessage *msg, enum request_kind kind)
{
    struct node *n = owner;
    struct request *r = request_open(n, kind, call, msg);

    rpc_call_keep(call);
    rpc_call_set_user(call, r, NULL);
    if (queue_put(n->front, r) == ST_OK) {
        stream_take(n->stream, r);
        return;
    }
    rpc_call_finish(call, ST_EEXHAUSTED, "queue: too many requests wait to be looked at", 1000);
    request_unref(r);
}

static void on_generate(struct rpc_call *call, void *owner, const ProtobufCMessage *msg)
{
    take(call, owner, msg, REQUEST_GENERATE);
}

static void on_create(struct rpc_call *call, void *owner, const ProtobufCMessage *msg)
{
    take(call, owner, msg, REQUEST_CREATE);
}

static void on_ask(struct rpc_call *call, void *owner, const ProtobufCMessage *msg)
{
    take(call, owner, msg, REQUEST_ASK);
}

static void on_room(struct rpc_call *call, void *owner)
{
    (void)call;
    stream_wake(((struct node *)owner)->stream);
}

static void on_end(struct rpc_call *call, void *owner, const struct rpc_end *end)
{
    struct request *r = rpc_call_user(call);

    if (r == NULL)
        return;
    __atomic_store_n(&r->gone, end->status != ST_OK, __ATOMIC_SEQ_CST);
    if (end->status != ST_OK && __atomic_load_n(&r->kept, __ATOMIC_SEQ_CST))
        request_forget(r);
    rpc_call_set_user(call, NULL, NULL);
    request_unref(r);
    stream_wake(((struct node *)owner)->stream);
}

/* ---- calls that are answered at once --------------------------------------------------------------------------- */

static void on_get(struct rpc_call *call, void *owner, const ProtobufCMessage *msg)
{
    struct node *n = owner;
    const Platen__V1__GetRequest *request = (const Platen__V1__GetRequest *)msg;
    Platen__V1__GetResponse reply = PLATEN__V1__GET_RESPONSE__INIT;
    struct figures_message figures;
    struct context *c;
    struct err err = { 0 };

    if (contexts_find(n->contexts, request->handle, false, &c, &reply.ttl_seconds, &err) != ST_OK) {
        rpc_call_fail(call, &err);
        return;
    }
    reply_fill(&figures, c, n->parts.name, NULL);
    reply.handle = request->handle;
    reply.figures = &figures.figures;
    reply.running = context_refs(c) - 2; /* the table's count, and ours */
    rpc_call_reply(call, &reply.base);
    context_unref(c);
}

static void on_release(struct rpc_call *call, void *owner, const ProtobufCMessage *msg)
{
    struct node *n = owner;
    const Platen__V1__ReleaseRequest *request = (const Platen__V1__ReleaseRequest *)msg;
    Platen__V1__ReleaseResponse reply = PLATEN__V1__RELEASE_RESPONSE__INIT;
    struct err err = { 0 };

    if (contexts_drop(n->contexts, request->handle, &err) != ST_OK)
        rpc_call_fail(call, &err);
    else
        rpc_call_reply(call, &reply.base);
}

static const struct rpc_events generate_events = { .message = on_generate, .room = on_room, .done = on_end };
static const struct rpc_events create_events = { .message = on_create, .done = on_end };
static const struct rpc_events ask_events = { .message = on_ask, .room = on_room, .done = on_end };
static const struct rpc_events get_events = { .message = on_get };
static const struct rpc_events release_events = { .message = on_release };

void generate_add(struct node *n, struct rpc_server *server)
{
    const struct rpc_method methods[] = {
        { "/platen.v1.Inference/Generate", RPC_SERVER_STREAM, &platen__v1__generate_request__descriptor, true, false,
          &generate_events, n },
        { "/platen.v1.Contexts/Create", RPC_UNARY, &platen__v1__create_request__descriptor, true, false, &create_events,
          n },
        { "/platen.v1.Contexts/Ask", RPC_SERVER_STREAM, &platen__v1__ask_request__descriptor, true, false, &ask_events,
          n },
        { "/platen.v1.Contexts/Get", RPC_UNARY, &platen__v1__get_request__descriptor, true, false, &get_events, n },
        { "/platen.v1.Contexts/Release", RPC_UNARY, &platen__v1__release_request__descriptor, true, false,
          &release_events, n },
    };

    rpc_server_add(server, methods, sizeof methods / sizeof methods[0]);
}
