/* SPDX-License-Identifier: Apache-2.0 */
/*
 * order.c - stop 3 of 12: order.                 before: generate.c   after: attempt.c, prefill-node/scheduler.c
 *
 *   begin ─▶ room for what may come ─▶ a prefill node is picked ─▶ attempt ─▶ whole ─▶ done
 *                                        ▲  none answers: parked      └ lost: another node, or the same again
 *
 * Before the commit a lost order is asked again, of another node where there is one; after it nothing the prefill node
 * does matters.
 *
 *   who may call     begin: front thread · go_on: front, engine (after compaction), rpc (after a loss), watch (parked)
 *                    never two at a time: each is reached only when the one before is over
 */
#include "common/base/arena.h"
#include "common/base/clock.h"
#include "decode-node/order_state.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

struct orders {
    pthread_mutex_t lock; /* guards the list; taken before an order's own lock, never after */
    struct order *first;
};

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

void order_ref(struct order *o)
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

void order_finish(struct order *o, const struct err *err, int64_t retry_ms)
{
    unlist(o);
    metric_add(o->node->m_orders_running, -1);
    o->spec.done(o->spec.ctx, err, retry_ms);
    order_unref(o);
}

bool order_is_cancelled(const struct order *o)
{
    return __atomic_load_n(&o->cancelled, __ATOMIC_RELAXED);
}

/* The order asks for what that node is not, whenever it is asked. */
static bool is_for_good(enum status st)
{
    return st == ST_ERANGE || st == ST_EPRECONDITION;
}

void order_lost(struct order *o, const struct err *why, int64_t retry_ms)
{
    o->losses_of_data += why->code == ST_EDATALOSS;
    if (is_for_good(why->code)) {
        o->refused |= 1u << (o->attempts - 1);
        if (o->last.code == ST_EEXHAUSTED)
            return;
    }
    o->last = *why;
    o->retry_ms = retry_ms;
}

/* Whether another attempt may help, and is allowed. */
static bool worth_another(const struct order *o)
{
    if (order_is_cancelled(o) || o->stuck || o->attempts >= ORDER_ATTEMPTS || clock_now_ns() >= o->spec.deadline_ns)
        return false;
    switch (o->last.code) {
    case ST_EUNAVAILABLE:
    case ST_EINTERNAL:
    case ST_EEXHAUSTED:
    case ST_ECANCELLED:
    case ST_ERANGE: /* a larger one may be there, or one of our version */
    case ST_EPRECONDITION:
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

/* ---- the next attempt ---------------------------------------------------------------------------------------- */

/* A node that was full a moment ago still is. */
static bool has_refused(const struct order *o, const struct peer *peer)
{
    for (int32_t i = 0; i < o->attempts; i++) {
        if (strcmp(o->tried[i], peer_address(peer)) == 0 && (o->last.code == ST_EEXHAUSTED || o->refused & 1u << i))
            return true;
    }
    return false;
}

static bool begin_or_leave(struct order *o, struct peer *peer)
{
    if (has_refused(o, peer)) {
        peer_give_back(peer, (int64_t)o->spec.tokens->count);
        return false;
    }
    attempt_begin(o, peer);
    return true;
}

void order_go_on(struct order *o)
{
    struct peer *peer;
    struct err err = { 0 };

    if (order_is_cancelled(o))
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
    } else if (is_for_good(o->last.code)) {
        err = o->last;
    } else {
        if (o->last.code == ST_OK)
            o->last = err;
        park(o);
        return;
    }
    order_finish(o, &err, o->retry_ms);
}

/* ---- from outside ---------------------------------------------------------------------------------------------- */

static void reserved_or_not(struct order *o)
{
    struct err err = { 0 };

    if (adopt_reserve(o, NULL, &err) == ST_OK)
        order_go_on(o);
    else
        order_finish(o, &err, 1000);
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
        order_go_on(o);
    else if (st != ST_AGAIN)
        order_finish(o, &err, 1000);
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
    *give_up = taken && (order_is_cancelled(o) || clock_now_ns() - o->parked_ns > ORDER_PARK_MS * NS_PER_MS ||
                         clock_now_ns() >= o->spec.deadline_ns);
    if (taken)
        o->waiting = false;
    else if (o->at.call &&
             clock_now_ns() - __atomic_load_n(&o->at.heard_ns, __ATOMIC_RELAXED) > ORDER_SILENCE_MS * NS_PER_MS)
        rpc_call_cancel(o->at.call);
    pthread_mutex_unlock(&o->lock);
    return taken;
}

static void unpark(struct order *o, bool give_up)
{
    struct err err = o->last;

    if (!give_up) {
        order_go_on(o);
        return;
    }
    if (order_is_cancelled(o)) {
        err_clear(&err);
        err_set(&err, ST_ECANCELLED, "the caller went away");
    }
    order_finish(o, &err, 1000);
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
        unpark(parked, give_up);
        if (!give_up)
            return; /* it may be parked again: next tick */
    }
}
