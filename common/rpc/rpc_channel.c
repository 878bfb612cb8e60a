/* SPDX-License-Identifier: Apache-2.0 */
/*
 * rpc_channel.c - channels and the start of a call on them.
 *
 * Time limits come from channel arguments: a connection attempt is given up after RPC_CONNECT_MS and tried again at
 * most that much later; a silent connection is pinged, with and without calls, as often as our servers allow.
 */
#include "common/rpc/rpc_channel.h"

#include "common/base/arena.h"
#include "common/base/bytes.h"
#include "common/base/clock.h"
#include "common/base/thread.h"
#include "common/rpc/rpc_inside.h"
#include "common/rpc/rpc_token.h"

#include <assert.h>
#include <grpc/slice.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { CHANNEL_ARGS = 24 };
static const int64_t SETTLE_NS = 20 * NS_PER_S;  /* for cancelled calls to settle; gRPC needs milliseconds */
static const int64_t WATCH_NS = 250 * NS_PER_MS; /* a state is looked at again at least so often */
static const int64_t AGAIN_NS = NS_PER_S;

struct rpc_client {
    struct rpc_loop *loops;
    int loop_count;
    atomic_uint next;
    struct call_list calls;
};

struct rpc_channel {
    struct rpc_client *client;
    struct rpc_channel_options o;
    grpc_channel *core;
    char *target;
};

enum status rpc_client_open(struct rpc_client **out, int threads, struct err *err)
{
    struct rpc_client *c = (struct rpc_client *)mem_zero(1, sizeof(*c));
    enum status st = ST_OK;

    assert(threads >= 1);
    rpc_core_begin();
    call_list_init(&c->calls);
    c->loops = (struct rpc_loop *)mem_zero((size_t)threads, sizeof(*c->loops));
    while (c->loop_count < threads && (st = rpc_loop_open(&c->loops[c->loop_count], err)) == ST_OK)
        c->loop_count++;
    if (st != ST_OK) {
        rpc_client_close(c);
        return st;
    }
    *out = c;
    return ST_OK;
}

void rpc_client_close(struct rpc_client *c)
{
    if (c == NULL)
        return;
    call_list_cancel(&c->calls);
    call_list_wait_empty(&c->calls, clock_now_ns() + SETTLE_NS);
    assert(call_list_count(&c->calls) == 0); /* an event handler blocks its rpc thread */
    for (int i = 0; i < c->loop_count; i++) {
        rpc_loop_stop(&c->loops[i]);
        rpc_loop_close(&c->loops[i]);
    }
    call_list_fini(&c->calls);
    rpc_core_end();
    free(c->loops);
    free(c);
}

void rpc_channel_options_init(struct rpc_channel_options *o)
{
    memset(o, 0, sizeof(*o));
    o->receive_max_bytes = (size_t)8 << 20;
    o->send_queue_bytes = (size_t)4 << 20;
    o->send_queue_messages = 256;
    o->keepalive_ms = 10000;
    o->keepalive_timeout_ms = 10000;
}

static grpc_channel *core_make(const char *target, const struct rpc_channel_options *o, grpc_channel_credentials *creds)
{
    grpc_arg list[CHANNEL_ARGS];
    grpc_channel_args args = { 0, list };

    list[args.num_args++] = arg_int(GRPC_ARG_MAX_RECEIVE_MESSAGE_LENGTH, (int64_t)o->receive_max_bytes);
    list[args.num_args++] = arg_int(GRPC_ARG_MAX_SEND_MESSAGE_LENGTH, -1);
    list[args.num_args++] = arg_int(GRPC_ARG_KEEPALIVE_TIME_MS, o->keepalive_ms);
    list[args.num_args++] = arg_int(GRPC_ARG_KEEPALIVE_TIMEOUT_MS, o->keepalive_timeout_ms);
    list[args.num_args++] = arg_int(GRPC_ARG_KEEPALIVE_PERMIT_WITHOUT_CALLS, 1);
    list[args.num_args++] = arg_int(GRPC_ARG_HTTP2_MAX_PINGS_WITHOUT_DATA, 0);
    list[args.num_args++] = arg_int(GRPC_ARG_MIN_RECONNECT_BACKOFF_MS, RPC_CONNECT_MS);
    list[args.num_args++] = arg_int(GRPC_ARG_INITIAL_RECONNECT_BACKOFF_MS, RPC_CONNECT_MS / 4);
    list[args.num_args++] = arg_int(GRPC_ARG_MAX_RECONNECT_BACKOFF_MS, RPC_CONNECT_MS);
    list[args.num_args++] = arg_int(GRPC_ARG_DNS_ARES_QUERY_TIMEOUT_MS, RPC_CONNECT_MS);
    list[args.num_args++] = arg_int(GRPC_ARG_ENABLE_RETRIES, 0);
    list[args.num_args++] = arg_int(GRPC_ARG_ENABLE_HTTP_PROXY, 0); /* the environment does not steer us */
    list[args.num_args++] = arg_int(GRPC_ARG_SERVICE_CONFIG_DISABLE_RESOLUTION, 1);
    list[args.num_args++] = arg_int(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, o->own_connection);
    list[args.num_args++] = arg_int(GRPC_ARG_HTTP2_BDP_PROBE, 0);
    list[args.num_args++] = arg_int(GRPC_ARG_HTTP2_STREAM_LOOKAHEAD_BYTES, 4 << 20);
    list[args.num_args++] = arg_int(GRPC_ARG_HTTP2_MAX_FRAME_SIZE, 1 << 20);
    if (o->tls.peer_name != NULL) {
        list[args.num_args].type = GRPC_ARG_STRING;
        list[args.num_args].key = (char *)GRPC_SSL_TARGET_NAME_OVERRIDE_ARG;
        list[args.num_args++].value.string = (char *)o->tls.peer_name;
    }
    assert(args.num_args <= CHANNEL_ARGS);
    return grpc_channel_create(target, creds, &args);
}

static enum status target_check(const char *target, struct err *err)
{
    char host[RPC_ADDRESS_MAX];
    int port;
    enum status st = rpc_address_parse(strncmp(target, "dns:", 4) == 0 ? target + 4 : target, host, &port, err);

    if (st == ST_OK && port == 0)
        return err_set(err, ST_EINVAL, "%s: nobody can be called at port 0", target);
    return st;
}

enum status rpc_channel_open(struct rpc_channel **out, struct rpc_client *client, const char *target,
                             const struct rpc_channel_options *o, struct err *err)
{
    struct rpc_channel_options standard;
    grpc_channel_credentials *creds = NULL;
    struct rpc_channel *ch;
    enum status st = target_check(target, err);

    if (o == NULL) {
        rpc_channel_options_init(&standard);
        o = &standard;
    }
    if (st == ST_OK && o->token != NULL && strlen(o->token) > RPC_TOKEN_MAX)
        st = err_set(err, ST_EINVAL, "the token is longer than %d bytes", RPC_TOKEN_MAX);
    if (st == ST_OK)
        st = tls_channel(&creds, &o->tls, err);
    if (st != ST_OK)
        return st;
    ch = (struct rpc_channel *)mem_zero(1, sizeof(*ch));
    ch->client = client;
    ch->o = *o;
    ch->target = mem_strdup(target);
    ch->core = core_make(target, o, creds);
    grpc_channel_credentials_release(creds);
    *out = ch;
    return ST_OK;
}

void rpc_channel_close(struct rpc_channel *ch)
{
    if (ch == NULL)
        return;
    grpc_channel_destroy(ch->core);
    free(ch->target);
    free(ch);
}

const char *rpc_channel_target(const struct rpc_channel *ch)
{
    return ch->target;
}

bool rpc_channel_ready(struct rpc_channel *ch)
{
    return grpc_channel_check_connectivity_state(ch->core, 0) == GRPC_CHANNEL_READY;
}

/* One look at a channel's state that comes back through the loop. */
struct watch {
    struct rpc_tag tag;
    pthread_mutex_t lock;
    pthread_cond_t changed;
    bool back;
};

static void on_watch(struct rpc_tag *tag, bool ok)
{
    struct watch *w = CONTAINER_OF(tag, struct watch, tag);

    (void)ok;
    pthread_mutex_lock(&w->lock);
    w->back = true;
    pthread_cond_signal(&w->changed);
    pthread_mutex_unlock(&w->lock);
}

/* Waits until the state is not `state` any more or deadline_ns passed (gRPC keeps that deadline). */
static void watch_wait(struct rpc_channel *ch, grpc_connectivity_state state, int64_t deadline_ns)
{
    struct watch w = { .tag = { on_watch }, .lock = PTHREAD_MUTEX_INITIALIZER };

    cond_init(&w.changed);
    TAG_GIVE(&w.tag);
    grpc_channel_watch_connectivity_state(ch->core, state, rpc_time_to_core(deadline_ns), ch->client->loops[0].cq,
                                          &w.tag);
    pthread_mutex_lock(&w.lock);
    while (!w.back)
        pthread_cond_wait(&w.changed, &w.lock);
    pthread_mutex_unlock(&w.lock);
    pthread_cond_destroy(&w.changed);
    pthread_mutex_destroy(&w.lock);
}

/* A channel that failed before goes on saying so while it tries again; it is given AGAIN_NS to do better. */
enum status rpc_channel_connect(struct rpc_channel *ch, int64_t deadline_ns, struct err *err)
{
    grpc_connectivity_state state = grpc_channel_check_connectivity_state(ch->core, 1);
    int64_t failed_ns = clock_now_ns();

    if (state == GRPC_CHANNEL_TRANSIENT_FAILURE) {
        failed_ns += AGAIN_NS;
        grpc_channel_reset_connect_backoff(ch->core);
    }
    while (state != GRPC_CHANNEL_READY) {
        int64_t now = clock_now_ns(), look = now + WATCH_NS < deadline_ns ? now + WATCH_NS : deadline_ns;

        if (state == GRPC_CHANNEL_TRANSIENT_FAILURE && now >= failed_ns)
            return err_set(err, ST_EUNAVAILABLE, "cannot connect to %s", ch->target);
        if (now >= deadline_ns)
            return err_set(err, ST_EUNAVAILABLE, "no connection to %s within the time given", ch->target);
        watch_wait(ch, state, look);
        state = grpc_channel_check_connectivity_state(ch->core, 1);
    }
    return ST_OK;
}

enum status rpc_call_start(struct rpc_call **out, struct rpc_channel *ch, const struct rpc_call_options *o,
                           const ProtobufCMessage *first, struct err *err)
{
    struct rpc_client *c = ch->client;
    struct rpc_loop *loop = &c->loops[atomic_fetch_add(&c->next, 1) % (unsigned)c->loop_count];
    struct call_setup setup = { .events = o->events, .owner = o->owner, .type = o->reply, .list = &c->calls };
    struct rpc_call *call;
    grpc_slice method;

    if (o->method[0] != '/' || strchr(o->method + 1, '/') == NULL)
        return err_set(err, ST_EINVAL, "%s: a method is /SERVICE/METHOD", o->method);
    method = grpc_slice_from_copied_string(o->method);
    setup.core = grpc_channel_create_call(ch->core, NULL, GRPC_PROPAGATE_DEFAULTS, loop->cq, method, NULL,
                                          rpc_time_to_core(o->deadline_ns), NULL);
    grpc_slice_unref(method);
    setup.deadline_ns = o->deadline_ns;
    setup.queue_bytes = ch->o.send_queue_bytes;
    setup.queue_messages = ch->o.send_queue_messages;
    setup.token = ch->o.token;
    setup.user = o->user;
    setup.free_user = o->free_user;
    call = call_make(&setup);
    *out = call;
    call_begin(call, buffer_pack(first), o->one_message);
    return ST_OK;
}
