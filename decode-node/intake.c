/* SPDX-License-Identifier: Apache-2.0 */
/* intake.c - stop 9 of 12: blocks that come beside the stream.    before: common/transport   after: adopt.c */
#include "decode-node/intake.h"

#include "common/base/arena.h"
#include "common/base/clock.h"
#include "common/base/thread.h"
#include "common/kv/wire.h"
#include "proto/platen/internal/v1/prefill.pb-c.h"

#include <assert.h>
#include <pthread.h>
#include <stdlib.h>

/* How long it rests while blocks are under way: transports that pull have nobody who would wake it. */
enum { PULL_REST_NS = 50000, REST_NS = 2000000, IDLE_NS = 1000000000 };

struct intake {
    struct staging *staging;
    pthread_t thread;
    struct filling *fillings; /* the thread's own */

    pthread_mutex_t lock; /* of what follows; never held while a transport is called */
    pthread_cond_t news_came;
    struct filling *incoming;
    bool news, stopped;
};

enum status filling_connect(struct filling *f, struct intake *in, const struct stations *stations,
                            const Platen__Internal__V1__Accepted *msg,
                            enum status (*ready)(void *ctx, int32_t layer, const struct ticket *ticket),
                            struct err *err)
{
    const struct transport *t = transport_find(msg->transport);
    struct link_config config = { .wake = intake_wake, .ctx = in };
    bool has = false;
    enum status st;

    if (t)
        config.station = stations_of(stations, t, &has);
    if (!has)
        return err_set(err, ST_EPRECONDITION, "order: %.64s chose transport `%.32s`, which was not offered",
                       msg->prefill_node, msg->transport);
    if (!t->recv)
        return ST_OK;
    config.hello = msg->transport_hello.data;
    config.hello_bytes = msg->transport_hello.len;
    st = t->connect(&f->link, &config, err);
    if (st != ST_OK)
        return st;
    f->transport = t;
    receiver_use(f->receiver, t, f->link, ready);
    return ST_OK;
}

enum status filling_say_ready(struct filling *f, int32_t layer, const struct ticket *ticket)
{
    Platen__Internal__V1__ToPrefill msg = PLATEN__INTERNAL__V1__TO_PREFILL__INIT;
    Platen__Internal__V1__Ready ready = PLATEN__INTERNAL__V1__READY__INIT;

    ready.layer = layer;
    ready.ticket.data = (uint8_t *)ticket->data;
    ready.ticket.len = ticket->bytes;
    msg.kind_case = PLATEN__INTERNAL__V1__TO_PREFILL__KIND_READY;
    msg.ready = &ready;
    return rpc_call_send(f->call, &msg.base) == ST_OK ? ST_OK : ST_EUNAVAILABLE;
}

static void list(struct intake *in, struct filling *f)
{
    if (!f->listed) {
        f->listed = true;
        f->next = in->incoming;
        in->incoming = f;
    }
    in->news = true;
    pthread_cond_signal(&in->news_came);
}

void intake_take(struct intake *in, struct filling *f)
{
    pthread_mutex_lock(&in->lock);
    list(in, f);
    pthread_mutex_unlock(&in->lock);
}

void intake_end(struct intake *in, struct filling *f)
{
    pthread_mutex_lock(&in->lock);
    f->ended = true;
    list(in, f);
    pthread_mutex_unlock(&in->lock);
}

void intake_wake(void *ctx)
{
    struct intake *in = ctx;

    pthread_mutex_lock(&in->lock);
    in->news = true;
    pthread_cond_signal(&in->news_came);
    pthread_mutex_unlock(&in->lock);
}

/* The bytes are in their place: proven, and the receiver goes on. */
static enum status block_came(struct intake *in, struct filling *f, struct err *err)
{
    const int32_t layer = receiver_awaits(f->receiver);
    const struct kv_block *b = &receiver_blocks(f->receiver)[layer];
    enum status st = receiver_taken(f->receiver, err);
    uint64_t sum;

    if (st != ST_OK)
        return st;
    sum = in->staging ? staging_checksum(in->staging, b->data, b->bytes) : wire_checksum(b->data, b->bytes);
    return receiver_filled(f->receiver, layer, sum, err);
}

/* Out of the list, unless the stream has ended meanwhile. */
static bool unlist(struct intake *in, struct filling *f)
{
    bool out;

    pthread_mutex_lock(&in->lock);
    out = !f->ended;
    f->listed = !out;
    pthread_mutex_unlock(&in->lock);
    return out;
}

static bool has_ended(struct intake *in, struct filling *f)
{
    bool ended;

    pthread_mutex_lock(&in->lock);
    ended = f->ended;
    pthread_mutex_unlock(&in->lock);
    return ended;
}

/* One look; true when it left the list. After `closed` the filling is no more. */
static bool tend(struct intake *in, struct filling *f)
{
    struct rpc_call *call = f->call;
    struct err err = { 0 };
    enum status st;

    if (has_ended(in, f)) {
        if (f->broken && f->transport->doubt)
            f->transport->doubt(f->link);
        st = f->transport->close(f->link);
        f->link = NULL;
        f->closed(f, st);
        return true;
    }
    st = f->transport->poll(f->link, &err);
    if (st == ST_AGAIN)
        return false;
    if (st == ST_OK)
        st = block_came(in, f, &err);
    if (st < 0)
        f->failed(f, st, &err);
    if (!unlist(in, f))
        return false;
    if (st < 0)
        rpc_call_cancel(call);
    else
        rpc_call_want(call);
    return true;
}

static int64_t rest_ns(const struct intake *in)
{
    int64_t ns = in->fillings ? REST_NS : IDLE_NS;

    for (const struct filling *f = in->fillings; f; f = f->next) {
        if (f->transport->pulls)
            ns = PULL_REST_NS;
    }
    return ns;
}

/* Waits for news or a while; takes in what came. False: stopped. */
static bool wait_for_news(struct intake *in)
{
    const int64_t deadline = clock_now_ns() + rest_ns(in);
    bool going_on;

    pthread_mutex_lock(&in->lock);
    while (!in->news && !in->stopped && cond_wait(&in->news_came, &in->lock, deadline))
        ;
    in->news = false;
    while (in->incoming) {
        struct filling *f = in->incoming;

        in->incoming = f->next;
        f->next = in->fillings;
        in->fillings = f;
    }
    going_on = !in->stopped;
    pthread_mutex_unlock(&in->lock);
    return going_on;
}

static void *intake_run(void *arg)
{
    struct intake *in = arg;

    while (wait_for_news(in)) {
        for (struct filling **at = &in->fillings; *at;) {
            struct filling *f = *at, *next = f->next;

            *at = next; /* before it may be listed again by somebody else */
            if (tend(in, f))
                continue;
            f->next = next;
            *at = f;
            at = &f->next;
        }
    }
    return NULL;
}

enum status intake_open(struct intake **out, struct staging *staging, struct err *err)
{
    struct intake *in = mem_zero(1, sizeof *in);
    enum status st;

    in->staging = staging;
    pthread_mutex_init(&in->lock, NULL);
    cond_init(&in->news_came);
    st = thread_start(&in->thread, "intake", intake_run, in, err);
    if (st != ST_OK) {
        free(in);
        return st;
    }
    *out = in;
    return ST_OK;
}

void intake_close(struct intake *in)
{
    if (!in)
        return;
    pthread_mutex_lock(&in->lock);
    in->stopped = true;
    pthread_cond_signal(&in->news_came);
    pthread_mutex_unlock(&in->lock);
    pthread_join(in->thread, NULL);
    assert(!in->fillings && !in->incoming);
    pthread_cond_destroy(&in->news_came);
    pthread_mutex_destroy(&in->lock);
    free(in);
}
