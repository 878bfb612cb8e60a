/* SPDX-License-Identifier: Apache-2.0 */
/*
 * rpc_server.c - slots wait for calls; a call that came is checked at the door and handed to its method.
 *
 *   gRPC ──new call──▶ slot (method, loop) ──▶ struct rpc_call ──▶ token? ──▶ open(), message() ...
 *                        └─ armed again first
 *
 * Each method has SLOTS slots on each loop, so that many calls may arrive at once; two slots per loop wait for methods
 * that nobody added (without them such calls would hang instead of being UNIMPLEMENTED).
 */
#include "common/rpc/rpc_server.h"

#include "common/base/arena.h"
#include "common/base/bytes.h"
#include "common/base/clock.h"
#include "common/base/thread.h"
#include "common/rpc/rpc_accept.h"
#include "common/rpc/rpc_inside.h"

#include <assert.h>
#include <grpc/slice.h>
#include <grpc/support/alloc.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { SLOTS = 16, SLOTS_UNKNOWN = 2, METHODS_MAX = 64, SERVER_ARGS = 16 };
static const int64_t SHUT_PATIENCE_NS = 300 * NS_PER_MS; /* for clients to hang up after they were told */
static const int64_t SETTLE_NS = 20 * NS_PER_S;          /* for cancelled calls to settle; gRPC needs milliseconds */

struct method {
    struct rpc_method def;
    void *core;
};

/* owned by: the server; touched only by its loop's thread once armed */
struct slot {
    struct rpc_tag tag;
    struct rpc_server *server;
    struct rpc_loop *loop;
    const struct method *method; /* NULL: unknown methods */
    grpc_call *call;
    gpr_timespec deadline;
    grpc_metadata_array headers;
    grpc_byte_buffer *payload;
    grpc_call_details details;
};

struct rpc_server {
    struct rpc_server_options o;
    grpc_server *core;
    struct tls_state *tls;
    struct rpc_loop *loops;
    int loop_count;
    struct method methods[METHODS_MAX];
    size_t method_count;
    struct slot *slots;
    size_t slot_count;
    char address[RPC_ADDRESS_MAX + 16];
    int port;
    struct call_list calls;
    bool started;

    struct rpc_tag shut_tag;
    bool shut_asked;
    bool shut;         /* guarded by calls.lock */
    size_t slots_home; /* guarded by calls.lock: slots that no call can reach any more */
};

void rpc_server_options_init(struct rpc_server_options *o)
{
    memset(o, 0, sizeof(*o));
    o->receive_max_bytes = (size_t)8 << 20;
    o->send_queue_bytes = (size_t)4 << 20;
    o->send_queue_messages = 256;
    o->streams_max = 1024;
    o->keepalive_ms = 20000;
    o->keepalive_timeout_ms = 10000;
}

/* The door. */

static bool same_token(const char *want, const char *got, size_t bytes)
{
    size_t length = strlen(want);
    unsigned differs = length != bytes;

    for (size_t i = 0; i < bytes; i++) /* every byte looked at: the time tells nothing */
        differs |= (unsigned char)got[i] ^ (unsigned char)want[length > 0 ? i % length : 0];
    return differs == 0;
}

static bool token_right(const struct rpc_server *s, const struct slot *slot, struct rpc_call *call)
{
    static const char scheme[] = "Bearer ";
    struct rpc_span value;

    if (s->o.token == NULL || (slot->method != NULL && slot->method->def.open_to_all))
        return true;
    if (!rpc_call_header(call, "authorization", &value) || value.bytes < sizeof(scheme) - 1 ||
        memcmp(value.data, scheme, sizeof(scheme) - 1) != 0)
        return false;
    return same_token(s->o.token, (const char *)value.data + sizeof(scheme) - 1, value.bytes - (sizeof(scheme) - 1));
}

static const struct rpc_events no_events = { 0 };

static void slot_arm(struct slot *slot);

/* Gives the call at the slot away and arms the slot for the next one. */
static void slot_serve(struct slot *slot)
{
    struct rpc_server *s = slot->server;
    const struct method *m = slot->method;
    struct slot came = *slot;
    struct call_setup setup = { .server = true, .core = came.call, .headers = came.headers, .list = &s->calls };
    struct rpc_call *call;
    char sentence[400] = "", *name;
    enum status refused = ST_OK;

    setup.events = m != NULL ? m->def.events : &no_events;
    setup.owner = m != NULL ? m->def.owner : NULL;
    setup.type = m != NULL ? m->def.request : NULL;
    setup.bytes_are_text = m != NULL && m->def.bytes_are_text;
    setup.deadline_ns = rpc_time_from_core(m != NULL ? came.deadline : came.details.deadline);
    setup.queue_bytes = s->o.send_queue_bytes;
    setup.queue_messages = s->o.send_queue_messages;
    if (m == NULL) {
        name = grpc_slice_to_c_string(came.details.method);
        snprintf(sentence, sizeof(sentence), "no method %.300s here", name);
        gpr_free(name);
        grpc_call_details_destroy(&came.details);
        refused = ST_EUNIMPLEMENTED;
    }
    call = call_make(&setup);
    slot_arm(slot);
    if (!token_right(s, slot, call)) {
        refused = ST_EUNAUTHENTICATED;
        snprintf(sentence, sizeof(sentence), "the call carries no valid token");
    }
    if (refused != ST_OK)
        call_refuse(call, refused, sentence);
    else
        call_serve(call, m->def.kind == RPC_BIDI, came.payload);
    if (refused != ST_OK && came.payload != NULL)
        grpc_byte_buffer_destroy(came.payload);
    rpc_call_unref(call);
}

static void slot_home(struct rpc_server *s)
{
    pthread_mutex_lock(&s->calls.lock);
    s->slots_home++;
    pthread_cond_broadcast(&s->calls.changed);
    pthread_mutex_unlock(&s->calls.lock);
}

static void on_slot(struct rpc_tag *tag, bool ok)
{
    struct slot *slot = CONTAINER_OF(tag, struct slot, tag);

    if (ok) {
        slot_serve(slot);
        return;
    }
    grpc_metadata_array_destroy(&slot->headers); /* the server goes down */
    if (slot->method == NULL)
        grpc_call_details_destroy(&slot->details);
    slot_home(slot->server);
}

static void slot_arm(struct slot *slot)
{
    struct rpc_server *s = slot->server;
    grpc_completion_queue *cq = slot->loop->cq;
    grpc_call_error e;

    slot->call = NULL;
    slot->payload = NULL;
    grpc_metadata_array_init(&slot->headers);
    TAG_GIVE(&slot->tag);
    if (slot->method == NULL) {
        grpc_call_details_init(&slot->details);
        e = grpc_server_request_call(s->core, &slot->call, &slot->details, &slot->headers, cq, cq, &slot->tag);
    } else {
        e = grpc_server_request_registered_call(
            s->core, slot->method->core, &slot->call, &slot->deadline, &slot->headers,
            slot->method->def.kind == RPC_BIDI ? NULL : &slot->payload, cq, cq, &slot->tag);
    }
    assert(e == GRPC_CALL_OK);
    (void)e;
}

/* Opening. */

static void core_make(struct rpc_server *s)
{
    const struct rpc_server_options *o = &s->o;
    grpc_resource_quota *quota = NULL;
    grpc_arg list[SERVER_ARGS];
    grpc_channel_args args = { 0, list };

    list[args.num_args++] = arg_int(GRPC_ARG_ALLOW_REUSEPORT, 0);
    list[args.num_args++] = arg_int(GRPC_ARG_MAX_RECEIVE_MESSAGE_LENGTH, (int64_t)o->receive_max_bytes);
    list[args.num_args++] = arg_int(GRPC_ARG_MAX_SEND_MESSAGE_LENGTH, -1);
    list[args.num_args++] = arg_int(GRPC_ARG_MAX_CONCURRENT_STREAMS, o->streams_max);
    list[args.num_args++] = arg_int(GRPC_ARG_KEEPALIVE_TIME_MS, o->keepalive_ms);
    list[args.num_args++] = arg_int(GRPC_ARG_KEEPALIVE_TIMEOUT_MS, o->keepalive_timeout_ms);
    list[args.num_args++] = arg_int(GRPC_ARG_KEEPALIVE_PERMIT_WITHOUT_CALLS, 1);
    list[args.num_args++] = arg_int(GRPC_ARG_HTTP2_MAX_PINGS_WITHOUT_DATA, 0);
    list[args.num_args++] = arg_int(GRPC_ARG_HTTP2_MIN_RECV_PING_INTERVAL_WITHOUT_DATA_MS, 1000);
    list[args.num_args++] = arg_int(GRPC_ARG_HTTP2_BDP_PROBE, 0);
    list[args.num_args++] = arg_int(GRPC_ARG_HTTP2_STREAM_LOOKAHEAD_BYTES, 4 << 20);
    list[args.num_args++] = arg_int(GRPC_ARG_HTTP2_MAX_FRAME_SIZE, 1 << 20);
    if (o->memory_bytes > 0) {
        quota = grpc_resource_quota_create("platen");
        grpc_resource_quota_resize(quota, (size_t)o->memory_bytes);
        list[args.num_args].type = GRPC_ARG_POINTER;
        list[args.num_args].key = (char *)GRPC_ARG_RESOURCE_QUOTA;
        list[args.num_args].value.pointer.p = quota;
        list[args.num_args++].value.pointer.vtable = grpc_resource_quota_arg_vtable();
    }
    assert(args.num_args <= SERVER_ARGS);
    s->core = grpc_server_create(&args, NULL);
    if (quota != NULL)
        grpc_resource_quota_unref(quota);
}

static enum status port_bind(struct rpc_server *s, struct err *err)
{
    grpc_server_credentials *creds = NULL;
    char host[RPC_ADDRESS_MAX];
    int port;
    enum status st = rpc_address_parse(s->o.listen, host, &port, err);

    if (st == ST_OK)
        st = address_free(s->o.listen, host, port, err);
    if (st == ST_OK)
        st = tls_server(&creds, &s->tls, &s->o.tls, err);
    if (st != ST_OK)
        return st;
    s->port = grpc_server_add_http2_port(s->core, s->o.listen, creds);
    grpc_server_credentials_release(creds);
    if (s->port == 0 && s->tls != NULL)
        return err_set(err, ST_EINVAL, "%s: cannot serve with certificate %s and key %s", s->o.listen,
                       s->o.tls.cert_path, s->o.tls.key_path);
    if (s->port == 0)
        return err_set(err, ST_EUNAVAILABLE, "cannot listen on %s", s->o.listen);
    snprintf(s->address, sizeof(s->address), strchr(host, ':') != NULL ? "[%s]:%d" : "%s:%d", host, s->port);
    return ST_OK;
}

enum status rpc_server_open(struct rpc_server **out, const struct rpc_server_options *o, struct err *err)
{
    struct rpc_server *s = (struct rpc_server *)mem_zero(1, sizeof(*s));
    int threads = o->threads > 0 ? o->threads : thread_cores() < 4 ? thread_cores() : 4;
    enum status st = ST_OK;

    s->o = *o;
    rpc_accept_hold();
    rpc_core_begin();
    call_list_init(&s->calls);
    core_make(s);
    s->loops = (struct rpc_loop *)mem_zero((size_t)threads, sizeof(*s->loops));
    while (st == ST_OK && s->loop_count < threads) {
        st = rpc_loop_open(&s->loops[s->loop_count], err);
        if (st != ST_OK)
            break;
        grpc_server_register_completion_queue(s->core, s->loops[s->loop_count].cq, NULL);
        s->loop_count++;
    }
    if (st == ST_OK)
        st = port_bind(s, err);
    if (st != ST_OK) {
        rpc_server_close(s);
        return st;
    }
    *out = s;
    return ST_OK;
}

void rpc_server_add(struct rpc_server *s, const struct rpc_method *methods, size_t count)
{
    assert(!s->started && s->method_count + count <= METHODS_MAX);
    for (size_t i = 0; i < count; i++) {
        struct method *m = &s->methods[s->method_count++];

        m->def = methods[i];
        m->core = grpc_server_register_method(
            s->core, m->def.name, NULL,
            m->def.kind == RPC_BIDI ? GRPC_SRM_PAYLOAD_NONE : GRPC_SRM_PAYLOAD_READ_INITIAL_BYTE_BUFFER, 0);
        assert(m->core != NULL); /* NULL: the name is there already */
    }
}

enum status rpc_server_start(struct rpc_server *s, struct err *err)
{
    size_t at = 0;

    (void)err;
    assert(!s->started);
    s->slot_count = (size_t)s->loop_count * (s->method_count * SLOTS + SLOTS_UNKNOWN);
    s->slots = (struct slot *)mem_zero(s->slot_count, sizeof(*s->slots));
    s->started = true;
    grpc_server_start(s->core);
    for (int l = 0; l < s->loop_count; l++) {
        for (size_t i = 0; i < s->method_count * SLOTS + SLOTS_UNKNOWN; i++) {
            struct slot *slot = &s->slots[at++];

            slot->tag.run = on_slot;
            slot->server = s;
            slot->loop = &s->loops[l];
            slot->method = i < s->method_count * SLOTS ? &s->methods[i / SLOTS] : NULL;
            slot_arm(slot);
        }
    }
    return ST_OK;
}

const char *rpc_server_address(const struct rpc_server *s)
{
    return s->address;
}

int rpc_server_port(const struct rpc_server *s)
{
    return s->port;
}

const char *rpc_server_method(const struct rpc_server *s, size_t i)
{
    return i < s->method_count ? s->methods[i].def.name : NULL;
}

size_t rpc_server_calls(struct rpc_server *s)
{
    return call_list_count(&s->calls);
}

/* Ending. */

static void on_shut(struct rpc_tag *tag, bool ok)
{
    struct rpc_server *s = CONTAINER_OF(tag, struct rpc_server, shut_tag);

    (void)ok;
    pthread_mutex_lock(&s->calls.lock);
    s->shut = true;
    pthread_cond_broadcast(&s->calls.changed);
    pthread_mutex_unlock(&s->calls.lock);
}

static bool wait_shut(struct rpc_server *s, int64_t deadline_ns)
{
    bool shut;

    pthread_mutex_lock(&s->calls.lock);
    while (!s->shut && cond_wait(&s->calls.changed, &s->calls.lock, deadline_ns))
        ;
    shut = s->shut;
    pthread_mutex_unlock(&s->calls.lock);
    return shut;
}

/* A call that came before the server was shut may still stand in a queue when it is: its slot is armed once more, and comes
 * home with the others. Only then may the queues end. */
static void wait_slots_home(struct rpc_server *s, int64_t deadline_ns)
{
    pthread_mutex_lock(&s->calls.lock);
    while (s->slots_home < s->slot_count && cond_wait(&s->calls.changed, &s->calls.lock, deadline_ns))
        ;
    pthread_mutex_unlock(&s->calls.lock);
}

bool rpc_server_drain(struct rpc_server *s, int64_t deadline_ns)
{
    bool clean;

    if (s->loop_count == 0)
        return true;
    if (!s->shut_asked) {
        s->shut_asked = true;
        s->shut_tag.run = on_shut;
        TAG_GIVE(&s->shut_tag);
        grpc_server_shutdown_and_notify(s->core, s->loops[0].cq, &s->shut_tag);
    }
    clean = call_list_wait_empty(&s->calls, deadline_ns);
    if (!clean || !wait_shut(s, clock_now_ns() + SHUT_PATIENCE_NS))
        grpc_server_cancel_all_calls(s->core); /* hangs up on clients that did not */
    wait_slots_home(s, clock_now_ns() + SETTLE_NS);
    call_list_wait_empty(&s->calls, clock_now_ns() + SETTLE_NS);
    wait_shut(s, clock_now_ns() + SETTLE_NS);
    return clean;
}

void rpc_server_close(struct rpc_server *s)
{
    if (s == NULL)
        return;
    rpc_server_drain(s, 0);
    assert(call_list_count(&s->calls) == 0); /* a handler blocks its rpc thread */
    for (int i = 0; i < s->loop_count; i++)
        rpc_loop_stop(&s->loops[i]);
    grpc_server_destroy(s->core);
    for (int i = 0; i < s->loop_count; i++)
        rpc_loop_close(&s->loops[i]);
    tls_state_free(s->tls);
    call_list_fini(&s->calls);
    rpc_core_end();
    free(s->slots);
    free(s->loops);
    free(s);
}
