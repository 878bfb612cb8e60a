/* SPDX-License-Identifier: Apache-2.0 */
/* rpc_pair.c - the handlers and the wiring of rpc_pair.h. */
#include "tests/unit/rpc_pair.h"

#include "tests/support/cmocka_main.h"

#include <stdlib.h>
#include <unistd.h>

const struct rpc_chunk bulk_chunk = { &platen__internal__v1__chunk__descriptor, 15, 15 };

Request request_of(const char *context)
{
    Request r = PLATEN__V1__GENERATE_REQUEST__INIT;

    r.context.data = (uint8_t *)context;
    r.context.len = strlen(context);
    return r;
}

int reaches(const atomic_int *counter, int want)
{
    for (int i = 0; i < 10000 && atomic_load(counter) < want; i++)
        usleep(1000);
    return atomic_load(counter) >= want;
}

static void hold(struct rpc_pair *p, struct rpc_call *call)
{
    rpc_call_ref(call);
    pthread_mutex_lock(&p->lock);
    if (p->held != NULL)
        rpc_call_unref(p->held);
    p->held = call;
    pthread_mutex_unlock(&p->lock);
}

struct rpc_call *rpc_pair_held(struct rpc_pair *p)
{
    struct rpc_call *call = NULL;

    for (int i = 0; i < 10000 && call == NULL; i++) {
        pthread_mutex_lock(&p->lock);
        call = p->held;
        if (call != NULL)
            rpc_call_ref(call);
        pthread_mutex_unlock(&p->lock);
        if (call == NULL)
            usleep(1000);
    }
    assert_non_null(call);
    return call;
}

static void on_open(struct rpc_call *call, void *owner)
{
    struct rpc_pair *p = (struct rpc_pair *)owner;

    (void)call;
    atomic_fetch_add(&p->opened, 1);
}

static void on_half_close(struct rpc_call *call, void *owner)
{
    struct rpc_pair *p = (struct rpc_pair *)owner;

    (void)call;
    atomic_fetch_add(&p->half_closed, 1);
}

static void on_done(struct rpc_call *call, void *owner, const struct rpc_end *end)
{
    struct rpc_pair *p = (struct rpc_pair *)owner;

    if (rpc_call_cancelled(call))
        atomic_fetch_add(&p->cancelled, 1);
    atomic_store(&p->last_status, end->status);
    atomic_fetch_add(&p->done, 1);
}

static void echo(struct rpc_call *call, void *owner, const ProtobufCMessage *msg)
{
    struct rpc_pair *p = (struct rpc_pair *)owner;
    const Request *r = (const Request *)msg;
    Event e = PLATEN__V1__EVENT__INIT;

    atomic_fetch_add(&p->messages, 1);
    if (r->context.len == 4 && memcmp(r->context.data, "fail", 4) == 0) {
        rpc_call_finish(call, ST_EEXHAUSTED, "full: \xE2\x9C\x93\n  ^ here", 250);
        return;
    }
    if (r->context.len == 4 && memcmp(r->context.data, "slow", 4) == 0) {
        hold(p, call);
        return;
    }
    e.text = r->context;
    rpc_call_reply(call, &e.base);
}

/* The state of /Count: how many are left. Events are sent until the queue is full, then from room(). */
static void count_go_on(struct rpc_call *call, void *owner)
{
    int *left = (int *)rpc_call_user(call);
    Event e = PLATEN__V1__EVENT__INIT;
    enum status st = ST_OK;

    (void)owner;
    while (*left > 0) {
        e.question_index = *left;
        st = rpc_call_send(call, &e.base);
        if (st != ST_OK)
            return;
        --*left;
    }
    rpc_call_finish(call, ST_OK, NULL, -1);
}

static void count_start(struct rpc_call *call, void *owner, const ProtobufCMessage *msg)
{
    const Request *r = (const Request *)msg;
    int *left = (int *)malloc(sizeof(*left));

    *left = r->max_new_tokens;
    rpc_call_set_user(call, left, free);
    count_go_on(call, owner);
}

static void flood(struct rpc_call *call, void *owner, const ProtobufCMessage *msg)
{
    struct rpc_pair *p = (struct rpc_pair *)owner;
    static const uint8_t text[10000] = "much text";
    Event e = PLATEN__V1__EVENT__INIT;

    (void)msg;
    e.text.data = (uint8_t *)text;
    e.text.len = sizeof(text);
    while (rpc_call_send(call, &e.base) == ST_OK)
        atomic_fetch_add(&p->flooded, 1);
    hold(p, call);
}

static void flood_on(struct rpc_call *call, void *owner)
{
    flood(call, owner, NULL);
}

static void chat(struct rpc_call *call, void *owner, const ProtobufCMessage *msg)
{
    struct rpc_pair *p = (struct rpc_pair *)owner;
    const Request *r = (const Request *)msg;
    Event e = PLATEN__V1__EVENT__INIT;

    atomic_fetch_add(&p->messages, 1);
    e.text = r->context;
    rpc_call_send(call, &e.base);
    rpc_call_want(call);
}

static void chat_end(struct rpc_call *call, void *owner)
{
    struct rpc_pair *p = (struct rpc_pair *)owner;

    atomic_fetch_add(&p->half_closed, 1);
    rpc_call_finish(call, ST_OK, NULL, -1);
}

struct piece {
    struct rpc_pair *pair;
    uint8_t bytes[BULK_PIECE];
};

static void piece_release(void *arg)
{
    struct piece *piece = (struct piece *)arg;

    memset(piece->bytes, 0xEE, sizeof(piece->bytes)); /* who still looks at it reads damage */
    atomic_fetch_add(&piece->pair->released, 1);
    free(piece);
}

struct bulk_job {
    uint64_t left, at;
};

static void bulk_go_on(struct rpc_call *call, void *owner)
{
    struct rpc_pair *p = (struct rpc_pair *)owner;
    struct bulk_job *job = (struct bulk_job *)rpc_call_user(call);
    Platen__Internal__V1__Chunk head = PLATEN__INTERNAL__V1__CHUNK__INIT;

    while (job->left > 0) {
        struct piece *piece = (struct piece *)malloc(sizeof(*piece));
        struct rpc_span spans[3];
        uint64_t bytes = job->left < BULK_PIECE ? job->left : BULK_PIECE;

        for (uint64_t i = 0; i < bytes; i++)
            piece->bytes[i] = (uint8_t)((job->at + i) * 31 >> 3);
        piece->pair = p;
        head.layer = 3;
        head.offset = job->at;
        spans[0] = (struct rpc_span){ piece->bytes, (size_t)bytes / 2 };
        spans[1] = (struct rpc_span){ piece->bytes, 0 };
        spans[2] = (struct rpc_span){ piece->bytes + bytes / 2, (size_t)(bytes - bytes / 2) };
        if (rpc_call_send_bulk(call, &bulk_chunk, &head.base, spans, 3, piece_release, piece) != ST_OK) {
            free(piece);
            return;
        }
        job->at += bytes;
        job->left -= bytes;
    }
    rpc_call_finish(call, ST_OK, NULL, -1);
}

static void bulk_start(struct rpc_call *call, void *owner, const ProtobufCMessage *msg)
{
    const Platen__Internal__V1__ToPrefill *m = (const Platen__Internal__V1__ToPrefill *)msg;
    struct bulk_job *job = (struct bulk_job *)calloc(1, sizeof(*job));

    job->left = m->transfer->bytes;
    rpc_call_set_user(call, job, free);
    bulk_go_on(call, owner);
}

static const struct rpc_events echo_events = {
    .open = on_open, .message = echo, .half_close = on_half_close, .done = on_done
};
static const struct rpc_events count_events = { .message = count_start, .room = count_go_on, .done = on_done };
static const struct rpc_events flood_events = { .message = flood, .room = flood_on, .done = on_done };
static const struct rpc_events chat_events = {
    .open = on_open, .message = chat, .half_close = chat_end, .done = on_done
};
static const struct rpc_events bulk_events = { .message = bulk_start, .room = bulk_go_on, .done = on_done };

static void methods_add(struct rpc_pair *p)
{
    const ProtobufCMessageDescriptor *type = &platen__v1__generate_request__descriptor;
    const struct rpc_method methods[] = {
        { "/test.T/Echo", RPC_UNARY, type, true, false, &echo_events, p },
        { "/test.T/Count", RPC_SERVER_STREAM, type, true, false, &count_events, p },
        { "/test.T/Flood", RPC_SERVER_STREAM, type, true, false, &flood_events, p },
        { "/test.T/Chat", RPC_BIDI, type, true, false, &chat_events, p },
        { "/test.T/Bulk", RPC_BIDI, &platen__internal__v1__to_prefill__descriptor, false, false, &bulk_events, p },
        { "/test.T/Open", RPC_UNARY, type, true, true, &echo_events, p },
    };

    rpc_server_add(p->server, methods, ARRAY_LEN(methods));
}

void rpc_pair_open(struct rpc_pair *p, const struct rpc_server_options *so, const struct rpc_channel_options *co)
{
    struct rpc_server_options standard;
    struct err err = { 0 };

    memset(p, 0, sizeof(*p));
    pthread_mutex_init(&p->lock, NULL);
    rpc_server_options_init(&standard);
    standard.listen = "127.0.0.1:0";
    if (rpc_server_open(&p->server, so != NULL ? so : &standard, &err) != ST_OK)
        fail_msg("server: %s", err.text);
    methods_add(p);
    assert_int_equal(rpc_server_start(p->server, &err), ST_OK);
    assert_int_equal(rpc_client_open(&p->client, 1, &err), ST_OK);
    snprintf(p->target, sizeof(p->target), "%s", rpc_server_address(p->server));
    if (rpc_channel_open(&p->channel, p->client, p->target, co, &err) != ST_OK)
        fail_msg("channel: %s", err.text);
}

void rpc_pair_close(struct rpc_pair *p)
{
    rpc_channel_close(p->channel);
    rpc_client_close(p->client);
    rpc_server_close(p->server);
    if (p->held != NULL)
        rpc_call_unref(p->held);
    pthread_mutex_destroy(&p->lock);
}
