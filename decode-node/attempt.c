/* SPDX-License-Identifier: Apache-2.0 */
/*
 * attempt.c - stop 3 of 12: one attempt of an order, at one prefill node.       before: order.c   after: adopt.c
 *
 *   Order ─▶ (Accepted, Beat, Block ..., Commit) ─▶ Adopted ─▶ the stream ends
 *                     what arrives is adopt.c's          └─▶ whole: the order is over; else order.c asks again
 *
 * The stream is the lease: while it lives the prefill node works for us, when it breaks both sides give back. Blocks that
 * come beside it are the intake's, and the attempt is not over before their link is closed.
 */
#include "common/base/bytes.h"
#include "common/base/clock.h"
#include "common/base/log.h"
#include "common/kv/codec.h"
#include "common/kv/wire.h"
#include "common/rpc/rpc_channel.h"
#include "decode-node/order_state.h"
#include "proto/platen/internal/v1/prefill.pb-c.h"
#include "presses/chain.h"

#include <stdio.h>
#include <string.h>

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
    struct err ok = { 0 }, why;
    struct log_text quoted;

    if (!committed) {
        tell_loss(o, &why);
        order_lost(o, &why, o->at.end.retry_ms);
        shun(o);
        if (why.code == ST_EUNAVAILABLE && !order_is_cancelled(o))
            peer_suspect(o->at.peer);
    }
    attempt_close(o);
    if (committed) {
        order_finish(o, &ok, -1);
        return;
    }
    log_event(LOG_WARN, "order-lost", "request=%s attempt=%d status=%s why=%s", o->spec.request_id, o->attempts,
              status_word(why.code), log_quote(&quoted, why.text));
    order_go_on(o);
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
        struct log_text quoted;

        if (o->shunned & 1u << i)
            continue;
        if (t->health && t->health(stations_of(s, t, NULL), &why) != ST_OK) {
            log_event(LOG_WARN, "transport-broken", "transport=%s why=%s", t->name, log_quote(&quoted, why.text));
            continue;
        }
        offered[count++] = (char *)t->name;
    }
    if (count == 0) /* the operator forbids everything else: once more, then */
        offered[count++] = (char *)stations_at(s, 0)->name;
    return count;
}

/* All but the hello. Borrows from the order. */
static void fill_order(const struct order *o, char *offered[STATIONS_MAX], Platen__Internal__V1__Identity *id,
                       Platen__Internal__V1__Order *out)
{
    const struct order_spec *spec = &o->spec;

    platen__internal__v1__order__init(out);
    order_identity(id, o->node);
    out->identity = id;
    out->request_id = (char *)spec->request_id;
    out->decode_node = (char *)o->node->parts.name;
    out->n_token = spec->tokens->count;
    out->token = spec->tokens->ids;
    out->query_tokens = spec->query_tokens;
    out->press.data = (uint8_t *)chain_text(spec->chain);
    out->press.len = strlen(chain_text(spec->chain));
    out->kv = (char *)codec_word(spec->codec);
    out->compact = spec->compact;
    out->n_transport = offer(o, offered);
    out->transport = offered;
    out->prefix_tokens = spec->prefix_tokens;
    out->n_suffix_token = spec->suffix ? spec->suffix->count : 0;
    out->suffix_token = spec->suffix ? spec->suffix->ids : NULL;
    out->attempt = o->attempts;
}

static enum status send_order(struct order *o, struct err *err)
{
    char *offered[STATIONS_MAX];
    struct text hello = { 0 };
    Platen__Internal__V1__ToPrefill msg = PLATEN__INTERNAL__V1__TO_PREFILL__INIT;
    Platen__Internal__V1__Order order;
    Platen__Internal__V1__Identity id;
    const struct rpc_call_options options = { .method = "/platen.internal.v1.Prefill/Run",
                                              .deadline_ns = o->spec.deadline_ns,
                                              .events = &order_events,
                                              .user = o };
    enum status st = stations_hello(o->node->parts.stations, &hello, err);

    fill_order(o, offered, &id, &order);
    order.transport_hello.data = (uint8_t *)hello.data;
    order.transport_hello.len = hello.bytes;
    msg.kind_case = PLATEN__INTERNAL__V1__TO_PREFILL__KIND_ORDER;
    msg.order = &order;
    if (st == ST_OK)
        st = rpc_call_start(&o->at.call, peer_channel(o->at.peer), &options, &msg.base, err);
    text_fini(&hello);
    return st;
}

/* The events of the stream wait for the lock until `call` is set. */
void attempt_begin(struct order *o, struct peer *peer)
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
    if (st == ST_OK && order_is_cancelled(o))
        rpc_call_cancel(o->at.call);
    pthread_mutex_unlock(&o->lock);
    if (st != ST_OK) {
        attempt_close(o);
        order_finish(o, &err, -1);
    }
    order_unref(o); /* NOLINT(clang-analyzer-unix.Malloc): it was counted above, which the analyzer does not follow */
}
