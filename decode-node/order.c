/* SPDX-License-Identifier: Apache-2.0 */
/*
 * order.c - stop 3 of 12: order.                 before: generate.c   after: prefill-node/scheduler.c
 *
 * One bidirectional stream per attempt, and the stream is the lease: while it lives the prefill node works for us, when
 * it breaks both sides give back. Before the commit a lost order is asked again, of another node where there is one;
 * after it nothing the prefill node does matters.
 *
 *   who may call     start: front thread · attempt: front, engine (after compaction), rpc (after a loss), watch (parked)
 *                    never two at a time: each is reached only when the one before is over
 */
#include "common/base/arena.h"
#include "common/base/bytes.h"
#include "common/base/clock.h"
#include "common/base/log.h"
#include "common/kv/codec.h"
#include "common/kv/wire.h"
#include "common/rpc/rpc_channel.h"
#include "decode-node/order_state.h"
#include "proto/platen/internal/v1/prefill.pb-c.h"
#include "presses/chain.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct orders {
    pthread_mutex_t lock; /* guards the list; taken before an order's own lock, never after */
    struct order *first;
};

static void attempt(struct order *o);

/* ---- the list ------------------------------------------------------------------------------------------------ */

struct orders *orders_open(void)
{
    struct orders *all = mem_zero(1, sizeof *all);

    pthread_mutex_init(&all->lock, NULL);
    return all;
}

void orders_close(struct orders *all)
{
    if (all == NULL)
        return;
    assert(all->first == NULL);
    pthread_mutex_destroy(&all->lock);
    free(all);
}

static void list(struct order *o)
{
    struct orders *all = o->node->orders;

    pthread_mutex_lock(&all->lock);
    o->next = all->first;
    if (o->next)
        o->next->link = &o->next;
    o->link = &all->first;
    all->first = o;
    pthread_mutex_unlock(&all->lock);
}

static void unlist(struct order *o)
{
    struct orders *all = o->node->orders;

    pthread_mutex_lock(&all->lock);
    *o->link = o->next;
    if (o->next)
        o->next->link = o->link;
    pthread_mutex_unlock(&all->lock);
}

static void order_ref(struct order *o)
{
    __atomic_fetch_add(&o->refs, 1, __ATOMIC_RELAXED);
}

void order_unref(struct order *o)
{
    if (__atomic_sub_fetch(&o->refs, 1, __ATOMIC_ACQ_REL) > 0)
        return;
    pthread_mutex_destroy(&o->lock);
    free(o);
}

/* ---- the end ------------------------------------------------------------------------------------------------- */

static void finish(struct order *o, const struct err *err, int64_t retry_ms)
{
    unlist(o);
    metric_add(o->node->m_orders_running, -1);
    o->spec.done(o->spec.ctx, err, retry_ms);
    order_unref(o);
}

static bool is_cancelled(const struct order *o)
{
    return __atomic_load_n(&o->cancelled, __ATOMIC_RELAXED);
}

/* Whether another attempt may help, and is allowed. */
static bool worth_another(const struct order *o)
{
    if (is_cancelled(o) || o->stuck || o->attempts >= ORDER_ATTEMPTS || clock_now_ns() >= o->spec.deadline_ns)
        return false;
    switch (o->last.code) {
    case ST_EUNAVAILABLE:
    case ST_EINTERNAL:
    case ST_EEXHAUSTED:
    case ST_ECANCELLED:
        return true;
    case ST_EDATALOSS:
        return o->losses_of_data < 2;
    default:
        return false;
    }
}

/* Waits for a prefill node to answer; orders_tick goes on with it or gives it up. */
static void park(struct order *o)
{
    pthread_mutex_lock(&o->lock);
    if (o->parked_ns == 0)
        o->parked_ns = clock_now_ns();
    o->waiting = true;
    pthread_mutex_unlock(&o->lock);
}

/* ---- one attempt ----------------------------------------------------------------------------------------------- */

static void send_adopted(struct order *o)
{
    Platen__Internal__V1__ToPrefill msg = PLATEN__INTERNAL__V1__TO_PREFILL__INIT;
    Platen__Internal__V1__Adopted adopted = PLATEN__INTERNAL__V1__ADOPTED__INIT;

    msg.kind_case = PLATEN__INTERNAL__V1__TO_PREFILL__KIND_ADOPTED;
    msg.adopted = &adopted;
    rpc_call_send(o->at.call, &msg.base);
    rpc_call_half_close(o->at.call);
}

static void on_buffer(struct rpc_call *call, void *owner, struct rpc_buffer *buffer)
{
    struct order *o = rpc_call_user(call);
    enum status st;

    (void)owner;
    __atomic_store_n(&o->at.heard_ns, clock_now_ns(), __ATOMIC_RELAXED);
    if (o->at.why.code != ST_OK || o->at.committed) {
        rpc_buffer_free(buffer);
        return;
    }
    o->at.wire_bytes += rpc_buffer_bytes(buffer);
    o->at.filling.call = call;
    st = receiver_message(o->at.receiver, buffer, &o->at.why);
    if (st < 0) {
        o->at.why.code = st;
        rpc_call_cancel(call);
        return;
    }
    if (o->at.committed)
        send_adopted(o);
    if (receiver_awaits(o->at.receiver) >= 0)
        intake_take(o->node->intake, &o->at.filling); /* asks for the next message when the block is there */
    else
        rpc_call_want(call);
}

/* The sentence of a lost attempt names the stage and the node. */
static void tell_loss(struct order *o, struct err *out)
{
    const struct rpc_end *end = &o->at.end;

    err_clear(out);
    if (o->at.why.code != ST_OK) {
        *out = o->at.why;
        err_prefix(out, "%s: prefill node %s", o->at.stage, peer_address(o->at.peer));
    } else if (end->status == ST_OK) {
        err_set(out, ST_EUNAVAILABLE, "%s: prefill node %s ended the stream before the commit", o->at.stage,
                peer_address(o->at.peer));
    } else if (end->status == ST_EUNAVAILABLE || end->status == ST_ECANCELLED || end->status == ST_EINTERNAL) {
        err_set(out, end->status == ST_ECANCELLED ? ST_EUNAVAILABLE : end->status, "%s: prefill node %s: %s",
                o->at.stage, peer_address(o->at.peer), end->sentence);
    } else {
        err_set(out, end->status, "%s", end->sentence);
    }
}

static void attempt_close(struct order *o)
{
    struct rpc_call *call;

    peer_give_back(o->at.peer, (int64_t)o->spec.tokens->count);
    adopt_close(o);
    pthread_mutex_lock(&o->lock);
    call = o->at.call;
    o->at.call = NULL;
    pthread_mutex_unlock(&o->lock);
    if (call)
        rpc_call_unref(call);
}

/* What was lost over a transport beside the stream is asked for again without it: the order must not fail thrice the same
 * way. Orders after this one try it again. */
static void shun(struct order *o)
{
    const struct transport *t = o->at.transport;

    if (!t || !t->recv || (o->at.first_block_ns == 0 && o->at.why.code == ST_OK))
        return;
    for (size_t i = 0; stations_at(o->node->parts.stations, i); i++) {
        if (stations_at(o->node->parts.stations, i) == t)
            o->shunned |= 1u << i;
    }
    metric_add(node_transport_metric(o->node->m_transport_losses, t->name), 1);
}

/* The stream has ended and its link is closed. rpc thread, or the intake's. */
static void attempt_over(struct order *o)
{
    bool committed = o->at.committed;
    struct err ok = { 0 };

    if (!committed) {
        tell_loss(o, &o->last);
        o->retry_ms = o->at.end.retry_ms;
        shun(o);
        o->losses_of_data += o->last.code == ST_EDATALOSS;
        if (o->last.code == ST_EUNAVAILABLE && !is_cancelled(o))
            peer_suspect(o->at.peer);
    }
    attempt_close(o);
    if (committed) {
        finish(o, &ok, -1);
        return;
    }
    log_event(LOG_WARN, "order-lost", "request=%s attempt=%d status=%s why=%s", o->spec.request_id, o->attempts,
              status_word(o->last.code), o->last.text);
    attempt(o);
}

static void on_closed(struct filling *f, enum status st)
{
    struct order *o = CONTAINER_OF(f, struct order, at.filling);

    if (st != ST_OK) {
        log_event(LOG_ERROR, "transport-stuck", "request=%s transport=%s why=\"it does not let go of its place\"",
                  o->spec.request_id, f->transport->name);
        context_ref(o->spec.context); /* for ever: the place may still be written */
        o->stuck = true;
    }
    attempt_over(o);
}

static void on_failed(struct filling *f, enum status st, const struct err *err)
{
    struct order *o = CONTAINER_OF(f, struct order, at.filling);

    err_set(&o->at.why, st, "%s", err->text[0] ? err->text : status_word(st));
}

static void on_done(struct rpc_call *call, void *owner, const struct rpc_end *end)
{
    struct order *o = rpc_call_user(call);

    (void)owner;
    o->at.end = *end;
    snprintf(o->at.end_sentence, sizeof o->at.end_sentence, "%s", end->sentence);
    o->at.end.sentence = o->at.end_sentence;
    if (o->at.filling.link == NULL) {
        attempt_over(o);
        return;
    }
    o->at.filling.broken = !o->at.committed;
    intake_end(o->node->intake, &o->at.filling);
}

static const struct rpc_events order_events = { .buffer = on_buffer, .done = on_done };

void order_identity(Platen__Internal__V1__Identity *id, const struct node *n)
{
    platen__internal__v1__identity__init(id);
    id->wire_version = WIRE_VERSION;
    id->hparams_hash = n->parts.identity.hparams;
    id->tokenizer_hash = n->parts.tokenizer_hash;
    id->weights_hash = n->parts.identity.weights;
    id->dtype = (char *)dtype_word(n->parts.shape.dtype);
}

/* What this attempt offers, best first: what the node has, but for what was lost in this order or does not work. */
static size_t offer(const struct order *o, char *offered[STATIONS_MAX])
{
    const struct stations *s = o->node->parts.stations;
    const struct transport *t;
    size_t count = 0;

    for (size_t i = 0; (t = stations_at(s, i)); i++) {
        struct err why = { 0 };

        if (o->shunned & 1u << i)
            continue;
        if (t->health && t->health(stations_of(s, t, NULL), &why) != ST_OK) {
            log_event(LOG_WARN, "transport-broken", "transport=%s why=\"%s\"", t->name, why.text);
            continue;
        }
        offered[count++] = (char *)t->name;
    }
    if (count == 0) /* the operator forbids everything else: once more, then */
        offered[count++] = (char *)stations_at(s, 0)->name;
    return count;
}

static enum status send_order(struct order *o, struct err *err)
{
    const struct order_spec *spec = &o->spec;
    const char *text = chain_text(spec->chain);
    char *offered[STATIONS_MAX];
    struct text hello = { 0 };
    Platen__Internal__V1__ToPrefill msg = PLATEN__INTERNAL__V1__TO_PREFILL__INIT;
    Platen__Internal__V1__Order order = PLATEN__INTERNAL__V1__ORDER__INIT;
    Platen__Internal__V1__Identity id;
    struct rpc_call_options options = { .method = "/platen.internal.v1.Prefill/Run",
                                        .deadline_ns = spec->deadline_ns,
                                        .events = &order_events,
                                        .user = o };

    enum status st = stations_hello(o->node->parts.stations, &hello, err);

    order_identity(&id, o->node);
    order.identity = &id;
    order.request_id = (char *)spec->request_id;
    order.decode_node = (char *)o->node->parts.name;
    order.n_token = spec->tokens->count;
    order.token = spec->tokens->ids;
    order.query_tokens = spec->query_tokens;
    order.press.data = (uint8_t *)text;
    order.press.len = strlen(text);
    order.kv = (char *)codec_word(spec->codec);
    order.compact = spec->compact;
    order.n_transport = offer(o, offered);
    order.transport = offered;
    order.transport_hello.data = (uint8_t *)hello.data;
    order.transport_hello.len = hello.bytes;
    order.prefix_tokens = spec->prefix_tokens;
    order.n_suffix_token = spec->suffix ? spec->suffix->count : 0;
    order.suffix_token = spec->suffix ? spec->suffix->ids : NULL;
    order.attempt = o->attempts;
    msg.kind_case = PLATEN__INTERNAL__V1__TO_PREFILL__KIND_ORDER;
    msg.order = &order;
    if (st == ST_OK)
        st = rpc_call_start(&o->at.call, peer_channel(o->at.peer), &options, &msg.base, err);
    text_fini(&hello);
    return st;
}

/* Starts the stream to the peer that was picked. Its events wait for the lock until `call` is set. */
static void begin(struct order *o, struct peer *peer)
{
    struct err err = { 0 };
    enum status st;

    memset(&o->at, 0, sizeof o->at);
    o->at.peer = peer;
    o->at.stage = "order";
    o->at.filling.failed = on_failed;
    o->at.filling.closed = on_closed;
    o->at.begin_ns = o->at.heard_ns = clock_now_ns();
    snprintf(o->tried[o->attempts], PEER_ADDRESS_MAX, "%s", peer_address(peer));
    if (o->attempts++ > 0)
        metric_add(o->node->m_retries, 1);
    adopt_open(o);
    order_ref(o); /* the call may be over before we look at it again */
    pthread_mutex_lock(&o->lock);
    st = send_order(o, &err);
    if (st == ST_OK && is_cancelled(o))
        rpc_call_cancel(o->at.call);
    pthread_mutex_unlock(&o->lock);
    if (st != ST_OK) {
        attempt_close(o);
        finish(o, &err, -1);
    }
    order_unref(o); /* NOLINT(clang-analyzer-unix.Malloc): it was counted above, which the analyzer does not follow */
}

static bool was_tried(const struct order *o, const struct peer *peer)
{
    for (int32_t i = 0; i < o->attempts; i++)
        if (strcmp(o->tried[i], peer_address(peer)) == 0)
            return true;
    return false;
}

/* A node that was full a moment ago still is. */
static bool begin_or_leave(struct order *o, struct peer *peer)
{
    if (o->last.code == ST_EEXHAUSTED && was_tried(o, peer)) {
        peer_give_back(peer, (int64_t)o->spec.tokens->count);
        return false;
    }
    begin(o, peer);
    return true;
}

static void attempt(struct order *o)
{
    struct peer *peer;
    struct err err = { 0 };

    if (is_cancelled(o))
        err_set(&err, ST_ECANCELLED, "the caller went away");
    else if (clock_now_ns() >= o->spec.deadline_ns)
        err_set(&err, ST_EDEADLINE, "order: the deadline passed");
    else if (o->last.code != ST_OK && !worth_another(o))
        err = o->last;
    else if (peers_pick(o->node->peers, (int64_t)o->spec.tokens->count, (const char(*)[PEER_ADDRESS_MAX])o->tried,
                        o->attempts, &peer, &err) == ST_OK) {
        if (begin_or_leave(o, peer))
            return;
        err = o->last;
    } else {
        if (o->last.code == ST_OK)
            o->last = err;
        park(o);
        return;
    }
    finish(o, &err, o->retry_ms);
}

/* ---- from outside ---------------------------------------------------------------------------------------------- */

static void reserved_or_not(struct order *o)
{
    struct err err = { 0 };

    if (adopt_reserve(o, NULL, &err) == ST_OK)
        attempt(o);
    else
        finish(o, &err, 1000);
}

struct order *order_open(struct node *node, const struct order_spec *spec)
{
    struct order *o = mem_zero(1, sizeof *o);

    o->node = node;
    o->spec = *spec;
    o->refs = 1;
    o->retry_ms = -1;
    o->trace_order = trace_order(spec->request_id);
    pthread_mutex_init(&o->lock, NULL);
    return o;
}

void order_begin(struct order *o)
{
    struct err err = { 0 };
    enum status st;

    order_ref(o);
    o->begin_ns = clock_now_ns();
    list(o);
    metric_add(o->node->m_orders_running, 1);
    st = adopt_reserve(o, reserved_or_not, &err);
    if (st == ST_OK)
        attempt(o);
    else if (st != ST_AGAIN)
        finish(o, &err, 1000);
}

void order_cancel(struct order *o)
{
    pthread_mutex_lock(&o->lock);
    __atomic_store_n(&o->cancelled, true, __ATOMIC_RELAXED);
    if (o->at.call)
        rpc_call_cancel(o->at.call);
    pthread_mutex_unlock(&o->lock);
}

/* What is to be done with an order at a tick. Lock of the order held inside. */
static bool take_parked(struct order *o, bool *give_up)
{
    bool taken;

    pthread_mutex_lock(&o->lock);
    taken = o->waiting;
    *give_up = taken && (is_cancelled(o) || clock_now_ns() - o->parked_ns > ORDER_PARK_MS * NS_PER_MS ||
                         clock_now_ns() >= o->spec.deadline_ns);
    if (taken)
        o->waiting = false;
    else if (o->at.call &&
             clock_now_ns() - __atomic_load_n(&o->at.heard_ns, __ATOMIC_RELAXED) > ORDER_SILENCE_MS * NS_PER_MS)
        rpc_call_cancel(o->at.call);
    pthread_mutex_unlock(&o->lock);
    return taken;
}

static void go_on(struct order *o, bool give_up)
{
    struct err err = o->last;

    if (!give_up) {
        attempt(o);
        return;
    }
    if (is_cancelled(o)) {
        err_clear(&err);
        err_set(&err, ST_ECANCELLED, "the caller went away");
    }
    finish(o, &err, 1000);
}

void orders_tick(struct orders *all)
{
    for (;;) {
        struct order *parked = NULL;
        bool give_up = false;

        pthread_mutex_lock(&all->lock);
        for (struct order *o = all->first; o && !parked; o = o->next)
            if (take_parked(o, &give_up))
                parked = o;
        pthread_mutex_unlock(&all->lock);
        if (parked == NULL)
            return;
        go_on(parked, give_up);
        if (!give_up)
            return; /* it may be parked again: next tick */
    }
}
