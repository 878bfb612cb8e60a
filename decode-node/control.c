/* SPDX-License-Identifier: Apache-2.0 */
/* control.c - what operators ask of a decode node: what it is, what it does, whether it works. */
#include "decode-node/control.h"

#include "common/node/control.h"
#include "decode-node/node.h"
#include "decode-node/selftest.h"

#include <stdio.h>

static void on_info(struct rpc_call *call, void *owner, const ProtobufCMessage *msg)
{
    const struct node *n = owner;
    struct control_info info;

    (void)msg;
    control_info_init(&info, &n->parts, "decode");
    info.limits.context_tokens = n->parts.weights->hp.max_positions;
    info.limits.block_bytes = (int64_t)blocks_capacity(n->blocks);
    info.limits.tail_tokens = n->opt.tail_tokens;
    info.limits.sequences = (int32_t)n->opt.sequences;
    rpc_call_reply(call, &info.reply.base);
}

/* As node.c decides it: the device works and a prefill node counts as answering. */
static void not_serving(struct node *n, char why[PEERS_WHY_MAX])
{
    struct err err = { 0 };

    if (batcher_health(n->batcher, &err) != ST_OK)
        snprintf(why, PEERS_WHY_MAX, "device: %s", err.text);
    else if (signals_raised(n->parts.signals))
        snprintf(why, PEERS_WHY_MAX, "it is draining");
    else
        peers_why_none(n->peers, why);
}

static void on_loads(struct rpc_call *call, void *owner, const ProtobufCMessage *msg)
{
    struct node *n = owner;
    Platen__V1__GetLoadsResponse reply = PLATEN__V1__GET_LOADS_RESPONSE__INIT;
    char why[PEERS_WHY_MAX];

    (void)msg;
    not_serving(n, why);
    reply.not_serving = why;
    reply.running_orders = (int32_t)metric_value(n->m_orders_running);
    reply.sequences = batcher_sequences(n->batcher);
    reply.contexts = contexts_count(n->contexts);
    reply.block_bytes = (int64_t)blocks_used(n->blocks);
    reply.tail_tokens = batcher_tail_tokens(n->batcher);
    reply.draining = signals_raised(n->parts.signals);
    rpc_call_reply(call, &reply.base);
}

static const struct rpc_events info_events = { .message = on_info };
static const struct rpc_events loads_events = { .message = on_loads };
static const struct rpc_events selftest_events = { .message = selftest_message };
static const struct control_events events = { &info_events, &loads_events, &selftest_events };

void decode_control_add(struct node *n, struct rpc_server *server)
{
    control_add(server, &events, n);
}
