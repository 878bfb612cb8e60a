/* SPDX-License-Identifier: Apache-2.0 */
/*
 * selftest.c - an order that this node gives itself.
 *
 *   64 fixed tokens, `knorm | ratio=0.5`
 *   scheduler ─▶ engine ─▶ mover ─▶ loopback ─▶ receiver: headers, offsets, checksums, totals ─▶ Adopted
 *
 * Nothing is faked but the wire: it waits its turn like any order, and the receiver is the decode node's. Both ends of the
 * loopback are on the mover thread.
 */
#include "prefill-node/selftest.h"

#include "common/base/arena.h"
#include "common/kv/wire.h"
#include "common/rpc/rpc_chunk.h"
#include "common/transport/loopback.h"
#include "common/transport/receiver.h"
#include "proto/platen/internal/v1/prefill.pb-c.h"
#include "proto/platen/v1/control.pb-c.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { SELFTEST_TOKENS = 64 };

struct selftest {
    struct prefill_node *node;
    struct rpc_call *call; /* counted */
    struct job *job;       /* borrowed: the mover's */
    struct station *station;
    struct link *link; /* the receiver's end */
    struct receiver *receiver;
    struct receiver_sink sink;
    void *place;       /* room for one block, used again and again: nobody reads the cache */
    int32_t awaited;   /* layer whose bytes are under way; -1: none */
    struct err damage; /* what the receiver found */
};

/* ---- the receiving end ----------------------------------------------------------------------------------------- */

static enum status on_place(void *ctx, const struct kv_block *plan, void **place, struct err *err)
{
    struct selftest *s = ctx;

    (void)err;
    s->awaited = plan->layer;
    *place = s->place;
    return ST_OK;
}

static enum status on_ready(void *ctx, int32_t layer, const struct ticket *ticket)
{
    struct selftest *s = ctx;

    (void)ticket;
    __atomic_store_n(&s->job->ready, layer + 1, __ATOMIC_RELAXED);
    mover_wake(s->node->mover);
    return ST_OK;
}

static void on_committed(void *ctx, const Platen__Internal__V1__Commit *msg)
{
    struct selftest *s = ctx;

    (void)msg;
    __atomic_store_n(&s->job->adopted, true, __ATOMIC_RELAXED);
    mover_wake(s->node->mover);
}

/* The loopback may have carried the block over. */
static void on_wake(void *ctx)
{
    struct selftest *s = ctx;
    const int32_t layer = s->awaited;
    const struct kv_block *b;

    if (layer < 0 || transport_find("loopback")->poll(s->link, &s->damage) != ST_OK)
        return;
    s->awaited = -1;
    b = &receiver_blocks(s->receiver)[layer];
    if (receiver_filled(s->receiver, layer, wire_checksum(b->data, b->bytes), &s->damage) < 0)
        job_fail(s->job, &s->damage);
}

/* ---- the job's peer -------------------------------------------------------------------------------------------- */

static enum status peer_say(void *ctx, const Platen__Internal__V1__FromPrefill *msg)
{
    struct selftest *s = ctx;
    const size_t bytes = protobuf_c_message_get_packed_size(&msg->base);
    uint8_t *packed = mem_alloc(bytes + 1);
    enum status st;

    protobuf_c_message_pack(&msg->base, packed);
    st = receiver_message(s->receiver, rpc_buffer_copy(packed, bytes), &s->damage);
    free(packed);
    if (st < 0)
        job_fail(s->job, &s->damage);
    return st < 0 ? ST_ECANCELLED : ST_OK;
}

static bool peer_gone(void *ctx)
{
    struct selftest *s = ctx;

    return rpc_call_cancelled(s->call);
}

static void peer_end(void *ctx, const struct err *why)
{
    struct selftest *s = ctx;
    Platen__V1__SelfTestResponse reply = PLATEN__V1__SELF_TEST_RESPONSE__INIT;

    reply.ok = why->code == ST_OK;
    reply.detail = (char *)why->text;
    rpc_call_reply(s->call, &reply.base);
}

static void peer_free(void *ctx)
{
    struct selftest *s = ctx;

    receiver_close(s->receiver);
    transport_find("loopback")->close(s->link);
    loopback_close(s->station);
    free(s->place);
    rpc_call_unref(s->call);
    free(s);
}

static const struct job_peer selftest_peer = { peer_say, peer_gone, peer_end, peer_free };

/* ---- making one ------------------------------------------------------------------------------------------------ */

static enum status make_receiver(struct selftest *s, int64_t tokens, struct err *err)
{
    const struct transport *loopback = transport_find("loopback");
    const struct link_config link = { .station = s->station, .wake = on_wake, .ctx = s };
    struct receiver_config config = { .shape = s->node->parts.shape, .codec = KV_PLAIN, .rows_max = tokens };
    enum status st = loopback->connect(&s->link, &link, err);

    if (st != ST_OK)
        return st;
    s->sink = (struct receiver_sink){ .ctx = s, .place = on_place, .committed = on_committed };
    s->place = mem_aligned(kv_block_bytes_max(&config.shape, KV_PLAIN, tokens));
    config.sink = &s->sink;
    config.transport = loopback;
    config.link = s->link;
    config.ready = on_ready;
    s->receiver = receiver_open(&config);
    return ST_OK;
}

static enum status make_job(struct selftest *s, struct err *err)
{
    static const char press[] = "knorm | ratio=0.5";
    const struct hparams *hp = &s->node->parts.weights->hp;
    struct job *j = s->job;
    enum status st;

    j->transport = transport_find("loopback");
    j->link.station = s->station;
    j->layers = hp->layers;
    j->tokens = SELFTEST_TOKENS < s->node->tokens_max ? SELFTEST_TOKENS : s->node->tokens_max;
    j->turn.tokens = j->tokens;
    j->turn.layers = j->layers;
    j->token = mem_alloc((size_t)j->tokens * sizeof *j->token);
    for (int64_t i = 0; i < j->tokens; i++)
        j->token[i] = (int32_t)((100 + 7919 * i % 40000) % hp->vocab);
    snprintf(j->request_id, sizeof j->request_id, "selftest");
    st = chain_parse(&j->chain, press, strlen(press), s->node->parts.files, err);
    if (st == ST_OK)
        chain_needs_of(j->chain, 0, false, &j->needs);
    return st;
}

static enum status say_accepted(struct selftest *s)
{
    Platen__Internal__V1__FromPrefill msg = PLATEN__INTERNAL__V1__FROM_PREFILL__INIT;
    Platen__Internal__V1__Accepted accepted = PLATEN__INTERNAL__V1__ACCEPTED__INIT;

    accepted.layers = s->job->layers;
    msg.kind_case = PLATEN__INTERNAL__V1__FROM_PREFILL__KIND_ACCEPTED;
    msg.accepted = &accepted;
    return peer_say(s, &msg);
}

void selftest_start(struct prefill_node *n, struct rpc_call *call)
{
    struct selftest *s = mem_zero(1, sizeof *s);
    struct err err = { 0 };
    int64_t ahead, retry_ms = -1;
    enum status st;

    s->node = n;
    s->call = call;
    s->awaited = -1;
    rpc_call_ref(call);
    s->station = loopback_open(NULL);
    s->job = job_open(&selftest_peer, s);
    st = make_job(s, &err);
    if (st == ST_OK)
        st = make_receiver(s, s->job->tokens, &err);
    if (st == ST_OK)
        st = say_accepted(s);
    if (st == ST_OK)
        st = scheduler_reserve(n->scheduler, s->job->tokens, &ahead, &retry_ms, &err);
    if (st != ST_OK) {
        rpc_call_finish(call, st, err.text, retry_ms);
        job_unref(s->job);
        peer_free(s);
        return;
    }
    scheduler_put(n->scheduler, &s->job->turn);
    mover_take(n->mover, s->job);
}

void selftest_done(struct rpc_call *call, void *owner, const struct rpc_end *end)
{
    struct prefill_node *n = owner;

    (void)call;
    (void)end;
    mover_wake(n->mover);
}
