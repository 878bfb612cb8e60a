/* SPDX-License-Identifier: Apache-2.0 */
/* control.c - what operators ask of a decode node: what it is, what it does, whether it works. */
#include "decode-node/control.h"

#include "common/base/arena.h"
#include "common/base/bytes.h"
#include "common/base/clock.h"
#include "common/kv/wire.h"
#include "decode-node/node.h"
#include "proto/platen/v1/control.pb-c.h"
#include "presses/chain.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void fill_model(Platen__V1__ModelInfo *m, const struct node *n)
{
    const struct hparams *hp = &n->weights->hp;

    platen__v1__model_info__init(m);
    m->path = (char *)checkpoint_name(n->checkpoint);
    m->arch = (char *)checkpoint_family(n->checkpoint);
    m->layers = hp->layers;
    m->q_heads = hp->q_heads;
    m->kv_heads = hp->kv_heads;
    m->head_dim = hp->head_dim;
    m->vocab = hp->vocab;
    m->max_positions = hp->max_positions;
    m->hparams_hash = n->identity.hparams;
    m->tokenizer_hash = n->tokenizer_hash;
    m->weights_hash = n->identity.weights;
}

static void fill_bytes(Platen__V1__DeviceBytes *out, struct backend *be)
{
    struct device_bytes bytes = { 0 };

    be->ops->device_bytes(be, &bytes);
    platen__v1__device_bytes__init(out);
    out->capacity = (int64_t)bytes.capacity;
    out->weights = (int64_t)bytes.weights;
    out->activations = (int64_t)bytes.activations;
    out->blocks = (int64_t)bytes.blocks;
    out->tails = (int64_t)bytes.tails;
    out->other = (int64_t)bytes.other;
}

static void on_info(struct rpc_call *call, void *owner, const ProtobufCMessage *msg)
{
    const struct node *n = owner;
    char *transports[STATIONS_MAX];
    Platen__V1__GetInfoResponse reply = PLATEN__V1__GET_INFO_RESPONSE__INIT;
    Platen__V1__Limits limits = PLATEN__V1__LIMITS__INIT;
    Platen__V1__DeviceBytes bytes;
    Platen__V1__ModelInfo model;

    (void)msg;
    fill_model(&model, n);
    fill_bytes(&bytes, n->be);
    limits.context_tokens = n->weights->hp.max_positions;
    limits.block_bytes = (int64_t)blocks_capacity(n->blocks);
    limits.tail_tokens = n->opt.tail_tokens;
    limits.sequences = (int32_t)n->opt.sequences;
    reply.node = (char *)n->name;
    reply.role = (char *)"decode";
    reply.version = (char *)PLATEN_VERSION;
    reply.wire_version = WIRE_VERSION;
    reply.model = &model;
    reply.backend = (char *)n->opt.backend;
    reply.device = (char *)n->be->ops->describe(n->be);
    reply.dtype = (char *)dtype_word(n->be->kv);
    reply.threads = (int32_t)n->opt.threads;
    while (stations_at(n->stations, reply.n_transports)) {
        transports[reply.n_transports] = (char *)stations_at(n->stations, reply.n_transports)->name;
        reply.n_transports++;
    }
    reply.transports = transports;
    reply.limits = &limits;
    reply.bytes = &bytes;
    rpc_call_reply(call, &reply.base);
}

/* As node.c decides it: the device works and a prefill node counts as answering. */
static void not_serving(struct node *n, char why[PEERS_WHY_MAX])
{
    struct err err = { 0 };

    if (batcher_health(n->batcher, &err) != ST_OK)
        snprintf(why, PEERS_WHY_MAX, "device: %s", err.text);
    else if (signals_raised(n->signals))
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
    reply.draining = signals_raised(n->signals);
    rpc_call_reply(call, &reply.base);
}

static void fill_press(Platen__V1__PressInfo *out, const struct press *p, struct text *usage, struct text *needs)
{
    platen__v1__press_info__init(out);
    press_usage(p, usage);
    press_needs_text(p, needs);
    out->name = (char *)p->name;
    out->kind = (char *)press_kind_word(p->kind);
    out->text = (char *)text_str(usage);
    out->summary = (char *)p->summary;
    out->source = (char *)p->source;
    out->reference = (char *)p->reference;
    out->needs = (char *)text_str(needs);
    out->built = press_built(p);
}

static void on_presses(struct rpc_call *call, void *owner, const ProtobufCMessage *msg)
{
    Platen__V1__ListPressesResponse reply = PLATEN__V1__LIST_PRESSES_RESPONSE__INIT;
    size_t count = 0;

    (void)owner;
    (void)msg;
    while (press_at(count))
        count++;
    Platen__V1__PressInfo *info = mem_zero(count, sizeof *info);
    Platen__V1__PressInfo **list = mem_zero(count, sizeof *list);
    struct text *texts = mem_zero(2 * count, sizeof *texts);
    for (size_t i = 0; i < count; i++) {
        fill_press(&info[i], press_at(i), &texts[2 * i], &texts[2 * i + 1]);
        list[i] = &info[i];
    }
    reply.n_presses = count;
    reply.presses = list;
    rpc_call_reply(call, &reply.base);
    for (size_t i = 0; i < 2 * count; i++)
        text_fini(&texts[i]);
    free(texts);
    free(list);
    free(info);
}

static const struct rpc_events info_events = { .message = on_info };
static const struct rpc_events loads_events = { .message = on_loads };
static const struct rpc_events presses_events = { .message = on_presses };

void control_add(struct node *n, struct rpc_server *server)
{
    const struct rpc_method methods[] = {
        { "/platen.v1.Control/GetInfo", RPC_UNARY, &platen__v1__get_info_request__descriptor, false, false,
          &info_events, n },
        { "/platen.v1.Control/GetLoads", RPC_UNARY, &platen__v1__get_loads_request__descriptor, false, false,
          &loads_events, n },
        { "/platen.v1.Control/ListPresses", RPC_UNARY, &platen__v1__list_presses_request__descriptor, false, false,
          &presses_events, n },
    };

    rpc_server_add(server, methods, ARRAY_LEN(methods));
}
