/* SPDX-License-Identifier: Apache-2.0 */
/*
 * run.c - an order's stream, at the prefill end.     before: decode-node/order.c   after: scheduler.c
 *
 *   Order ─▶ proven (admit.c) ─▶ room reserved ─▶ Accepted ─▶ scheduler, mover     everything after that is the job's
 *   Ready, Adopted ─▶ told to the job          the stream ends ─▶ the job is gone
 *
 * The stream is the lease: nothing is held for an order whose stream has ended, and a job that is over ends its stream.
 * Callbacks run on rpc threads and do not wait.
 */
#include "prefill-node/run.h"

#include "common/base/arena.h"
#include "common/base/bytes.h"
#include "common/base/log.h"
#include "common/base/text.h"
#include "common/transport/lease.h"
#include "prefill-node/admit.h"
#include "prefill-node/job.h"
#include "proto/platen/internal/v1/prefill.pb-c.h"

#include <stdlib.h>
#include <string.h>

/* The stream's own state; on its rpc thread, but for what the job's peer does. */
struct run {
    struct prefill_node *node;
    struct rpc_call *call; /* counted while a job has this as its peer */
    enum lease_state lease;
    struct job *job; /* counted; NULL before it was accepted */
};

/* ---- the job's peer: called by the mover ----------------------------------------------------------------------- */

static enum status peer_say(void *ctx, const Platen__Internal__V1__FromPrefill *msg)
{
    struct run *r = ctx;

    return rpc_call_send(r->call, &msg->base);
}

static bool peer_gone(void *ctx)
{
    struct run *r = ctx;

    return rpc_call_cancelled(r->call);
}

/* After a failure nothing that is queued may still leave: the slots are wanted back. */
static void peer_end(void *ctx, const struct err *why)
{
    struct run *r = ctx;

    if (why->code == ST_OK)
        rpc_call_finish(r->call, ST_OK, NULL, -1);
    else
        rpc_call_abort(r->call, why->code, why->text);
}

static void peer_free(void *ctx)
{
    struct run *r = ctx;

    rpc_call_unref(r->call);
}

static void transfer_free(void *ctx)
{
    struct run *r = ctx;

    __atomic_sub_fetch(&r->node->transfers, 1, __ATOMIC_RELAXED);
    rpc_call_unref(r->call);
}

static const struct job_peer order_peer = { peer_say, peer_gone, peer_end, peer_free };
static const struct job_peer transfer_peer = { peer_say, peer_gone, peer_end, transfer_free };

/* ---- what comes ------------------------------------------------------------------------------------------------ */

/* Meets the decode node over the chosen transport, as far as that must be done before Accepted; *answer goes with it. */
static enum status meet(struct run *r, struct job *j, ProtobufCBinaryData hello, struct text *answer, struct err *err)
{
    const struct transport *t = j->transport;
    enum status st;

    j->link.stream = r->call;
    j->link.sends = true;
    j->link.station = stations_of(r->node->parts.stations, t, NULL);
    j->link.wake = mover_wake;
    j->link.ctx = r->node->mover;
    if (!j->link.station)
        return ST_OK; /* the shipper connects when there is something to ship */
    stations_hello_of(hello.data, hello.len, t->name, &j->link.hello, &j->link.hello_bytes);
    st = t->connect(&j->made, &j->link, err);
    j->link.hello = NULL;
    if (st == ST_OK && t->answer)
        st = t->answer(j->made, answer, err);
    if (st != ST_OK)
        err_prefix(err, "order");
    return st;
}

static enum status say_accepted(struct run *r, const struct job *j, const char *note, const struct text *answer,
                                int64_t ahead)
{
    Platen__Internal__V1__FromPrefill msg = PLATEN__INTERNAL__V1__FROM_PREFILL__INIT;
    Platen__Internal__V1__Accepted accepted = PLATEN__INTERNAL__V1__ACCEPTED__INIT;

    accepted.prefill_node = (char *)r->node->parts.name;
    accepted.transport = (char *)j->transport->name;
    accepted.transport_note = (char *)note;
    accepted.transport_hello.data = (uint8_t *)answer->data;
    accepted.transport_hello.len = answer->bytes;
    accepted.layers = j->layers;
    accepted.queue_tokens = ahead;
    accepted.press = j->chain ? (char *)chain_text(j->chain) : (char *)"";
    msg.kind_case = PLATEN__INTERNAL__V1__FROM_PREFILL__KIND_ACCEPTED;
    msg.accepted = &accepted;
    return rpc_call_send(r->call, &msg.base);
}

static void refuse(struct run *r, const char *request_id, const struct err *why, int64_t retry_ms)
{
    struct log_text quoted;

    metric_add(r->node->stats.orders_refused, 1);
    log_event(LOG_INFO, "order-refused", "request=%.128s status=%s why=%s", request_id, status_word(why->code),
              log_quote(&quoted, why->text));
    rpc_call_finish(r->call, why->code, why->text, retry_ms);
}

/* From here on the job lives by itself. The mover takes it last: it may end it at once. */
static void hand_over(struct run *r, struct job *j)
{
    rpc_call_ref(r->call);
    job_ref(j);
    r->job = j;
    if (!j->transfer)
        scheduler_put(r->node->scheduler, &j->turn);
    mover_take(r->node->mover, j);
}

static void on_order(struct run *r, const Platen__Internal__V1__Order *order)
{
    struct job *j = job_open(&order_peer, r);
    struct text note = { 0 }, answer = { 0 };
    struct log_text quoted;
    struct err err = { 0 };
    int64_t ahead = 0, retry_ms = -1;
    enum status st = admit_order(r->node, order, j, &note, &err);

    if (st == ST_OK)
        st = meet(r, j, order->transport_hello, &answer, &err);
    if (st == ST_OK) {
        st = scheduler_reserve(r->node->scheduler, j->tokens, &ahead, &retry_ms, &err);
        if (st != ST_OK)
            err_prefix(&err, "queue");
    }
    if (st != ST_OK) {
        refuse(r, order->request_id, &err, st == ST_EEXHAUSTED ? retry_ms : -1);
        goto out;
    }
    if (say_accepted(r, j, text_str(&note), &answer, ahead) != ST_OK) {
        scheduler_revoke(r->node->scheduler, j->tokens);
        goto out; /* the stream has ended already */
    }
    lease_step(&r->lease, LEASE_ACCEPTED, NULL);
    if (note.bytes > 0)
        log_event(LOG_INFO, "transport-chosen", "request=%s transport=%s note=%s", j->request_id, j->transport->name,
                  log_quote(&quoted, text_str(&note)));
    hand_over(r, j);
    text_fini(&answer);
    text_fini(&note);
    return;
out:
    text_fini(&answer);
    text_fini(&note);
    job_unref(j);
}

static void on_transfer(struct run *r, const Platen__Internal__V1__Transfer *transfer)
{
    struct job *j = job_open(&transfer_peer, r);
    struct text answer = { 0 };
    struct err err = { 0 };
    bool begun = false;

    if (admit_transfer(r->node, transfer, j, &err) != ST_OK) {
        refuse(r, "transfer", &err, err.code == ST_EEXHAUSTED ? 1000 : -1);
        goto out;
    }
    if (meet(r, j, transfer->transport_hello, &answer, &err) != ST_OK)
        refuse(r, "transfer", &err, -1);
    else
        begun = say_accepted(r, j, "", &answer, 0) == ST_OK;
    if (!begun) {
        __atomic_sub_fetch(&r->node->transfers, 1, __ATOMIC_RELAXED);
        goto out;
    }
    lease_step(&r->lease, LEASE_ACCEPTED, NULL);
    hand_over(r, j);
    j = NULL;
out:
    text_fini(&answer);
    if (j)
        job_unref(j);
}

static enum lease_event event_of(const Platen__Internal__V1__ToPrefill *m)
{
    switch (m->kind_case) {
    case PLATEN__INTERNAL__V1__TO_PREFILL__KIND_READY:
        return LEASE_READY;
    case PLATEN__INTERNAL__V1__TO_PREFILL__KIND_ADOPTED:
        return LEASE_ADOPTED;
    default:
        return LEASE_ORDER;
    }
}

/* The mover commits on its own thread; a stream that says Adopted has seen the Commit, or lies and gets no further. */
static void on_ready(struct job *j, const Platen__Internal__V1__Ready *ready)
{
    const size_t bytes = ready->ticket.len;

    if (ready->layer < 0 || ready->layer >= j->layers || bytes > TICKET_BYTES_MAX)
        return; /* means nothing; the stall watch ends a job whose peer means nothing */
    j->ticket.bytes = (uint32_t)bytes;
    if (bytes > 0)
        memcpy(j->ticket.data, ready->ticket.data, bytes);
    __atomic_store_n(&j->ready, ready->layer + 1, __ATOMIC_RELEASE);
}

static void on_answer(struct run *r, const Platen__Internal__V1__ToPrefill *m)
{
    if (m->kind_case == PLATEN__INTERNAL__V1__TO_PREFILL__KIND_READY)
        on_ready(r->job, m->ready);
    else
        __atomic_store_n(&r->job->adopted, true, __ATOMIC_RELAXED);
    mover_wake(r->node->mover);
}

static void on_message(struct rpc_call *call, void *owner, const ProtobufCMessage *msg)
{
    const Platen__Internal__V1__ToPrefill *m = (const Platen__Internal__V1__ToPrefill *)msg;
    struct run *r = rpc_call_user(call);
    const enum lease_event event = event_of(m);
    struct err err = { 0 };

    (void)owner;
    if (m->kind_case == PLATEN__INTERNAL__V1__TO_PREFILL__KIND__NOT_SET) {
        rpc_call_want(call); /* a message of a later minor version */
        return;
    }
    if (event == LEASE_ADOPTED && r->lease == LEASE_OPEN)
        lease_step(&r->lease, LEASE_COMMIT, NULL);
    if (lease_step(&r->lease, event, &err) != ST_OK) {
        err_prefix(&err, "order");
        if (r->job) {
            job_fail(r->job, &err);
            mover_wake(r->node->mover);
        } else {
            rpc_call_finish(call, err.code, err.text, -1);
        }
        return;
    }
    if (event != LEASE_ORDER)
        on_answer(r, m);
    else if (m->kind_case == PLATEN__INTERNAL__V1__TO_PREFILL__KIND_ORDER)
        on_order(r, m->order);
    else
        on_transfer(r, m->transfer);
    rpc_call_want(call);
}

/* ---- the stream ------------------------------------------------------------------------------------------------ */

static void run_free(void *user)
{
    struct run *r = user;

    if (r->job)
        job_unref(r->job);
    free(r);
}

static void on_open(struct rpc_call *call, void *owner)
{
    struct run *r = mem_zero(1, sizeof *r);

    r->node = owner;
    r->call = call;
    rpc_call_set_user(call, r, run_free);
}

/* Half-closing before the order, or before Adopted, means that the decode node will never answer. */
static void on_half_close(struct rpc_call *call, void *owner)
{
    struct run *r = rpc_call_user(call);

    (void)owner;
    if (r->lease == LEASE_FREE) {
        rpc_call_finish(call, ST_EINVAL, "order: the stream ended before an Order came", -1);
    } else if (r->job && r->lease != LEASE_ENDED) {
        __atomic_store_n(&r->job->gone, true, __ATOMIC_RELAXED);
        mover_wake(r->node->mover);
    }
}

static void on_done(struct rpc_call *call, void *owner, const struct rpc_end *end)
{
    struct run *r = rpc_call_user(call);

    (void)owner;
    (void)end;
    if (!r || !r->job)
        return;
    __atomic_store_n(&r->job->gone, true, __ATOMIC_RELAXED);
    mover_wake(r->node->mover);
}

static void on_room(struct rpc_call *call, void *owner)
{
    struct prefill_node *n = owner;

    (void)call;
    mover_wake(n->mover);
}

static const struct rpc_events run_events = {
    .open = on_open,
    .message = on_message,
    .half_close = on_half_close,
    .room = on_room,
    .done = on_done,
};

void run_add(struct prefill_node *n, struct rpc_server *server)
{
    const struct rpc_method method = {
        .name = "/platen.internal.v1.Prefill/Run",
        .kind = RPC_BIDI,
        .request = &platen__internal__v1__to_prefill__descriptor,
        .events = &run_events,
        .owner = n,
    };

    rpc_server_add(server, &method, 1);
}
