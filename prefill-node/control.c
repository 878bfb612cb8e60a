/* SPDX-License-Identifier: Apache-2.0 */
/* control.c - what operators ask of a prefill node. Unary, answered on the rpc thread; only the self test takes a turn. */
#include "prefill-node/control.h"

#include "common/node/control.h"
#include "prefill-node/selftest.h"

static void on_info(struct rpc_call *call, void *owner, const ProtobufCMessage *msg)
{
    const struct prefill_node *n = owner;
    struct control_info info;

    (void)msg;
    control_info_init(&info, &n->parts, "prefill");
    info.limits.context_tokens = n->tokens_max;
    info.limits.queued_tokens = n->queue_tokens;
    rpc_call_reply(call, &info.reply.base);
}

static void on_loads(struct rpc_call *call, void *owner, const ProtobufCMessage *msg)
{
    struct prefill_node *n = owner;
    Platen__V1__GetLoadsResponse reply = PLATEN__V1__GET_LOADS_RESPONSE__INIT;
    struct scheduler_load load;

    (void)msg;
    scheduler_look(n->scheduler, &load);
    reply.queued_orders = load.queued;
    reply.queued_tokens = load.left_tokens;
    reply.running_orders = load.running;
    reply.draining = signals_raised(n->parts.signals);
    rpc_call_reply(call, &reply.base);
}

static void on_selftest(struct rpc_call *call, void *owner, const ProtobufCMessage *msg)
{
    const Platen__V1__SelfTestRequest *request = (const Platen__V1__SelfTestRequest *)msg;

    if (request->n_transfer > 0)
        rpc_call_finish(call, ST_EINVAL, "a prefill node has no peer to move bytes to; ask a decode node", -1);
    else
        selftest_start(owner, call);
}

static const struct rpc_events info_events = { .message = on_info };
static const struct rpc_events loads_events = { .message = on_loads };
static const struct rpc_events selftest_events = { .message = on_selftest, .done = selftest_done };
static const struct control_events events = { &info_events, &loads_events, &selftest_events };

void prefill_control_add(struct prefill_node *n, struct rpc_server *server)
{
    control_add(server, &events, n);
}
