/* SPDX-License-Identifier: Apache-2.0 */
/* control.c - what operators ask of any node: what it is, which presses it has. Unary, answered on the rpc thread. */
#include "common/node/control.h"

#include "common/base/arena.h"
#include "common/base/bytes.h"
#include "common/kv/wire.h"
#include "presses/chain.h"

#ifndef PLATEN_VERSION
#error "PLATEN_VERSION comes from the build"
#endif

static void fill_model(Platen__V1__ModelInfo *m, const struct node_parts *p)
{
    const struct hparams *hp = &p->weights->hp;

    platen__v1__model_info__init(m);
    m->path = (char *)checkpoint_name(p->checkpoint);
    m->arch = (char *)checkpoint_family(p->checkpoint);
    m->layers = hp->layers;
    m->q_heads = hp->q_heads;
    m->kv_heads = hp->kv_heads;
    m->head_dim = hp->head_dim;
    m->vocab = hp->vocab;
    m->max_positions = hp->max_positions;
    m->hparams_hash = p->identity.hparams;
    m->tokenizer_hash = p->tokenizer_hash;
    m->weights_hash = p->identity.weights;
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

void control_info_init(struct control_info *out, const struct node_parts *p, const char *role)
{
    Platen__V1__GetInfoResponse *reply = &out->reply;

    platen__v1__get_info_response__init(reply);
    platen__v1__limits__init(&out->limits);
    fill_model(&out->model, p);
    fill_bytes(&out->bytes, p->be);
    reply->node = (char *)p->name;
    reply->role = (char *)role;
    reply->version = (char *)PLATEN_VERSION;
    reply->wire_version = WIRE_VERSION;
    reply->model = &out->model;
    reply->backend = (char *)p->opt->backend;
    backend_describe(p->be, out->device, sizeof out->device);
    reply->device = out->device;
    reply->dtype = (char *)dtype_word(p->be->kv);
    reply->threads = p->threads;
    for (size_t i = 0; stations_at(p->stations, i); i++)
        out->transports[reply->n_transports++] = (char *)stations_at(p->stations, i)->name;
    reply->transports = out->transports;
    reply->limits = &out->limits;
    reply->bytes = &out->bytes;
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
    struct arena arena = { 0 };
    struct text *texts;
    size_t count = 0;

    (void)owner;
    (void)msg;
    while (press_at(count))
        count++;
    texts = arena_array(&arena, 2 * count, sizeof *texts);
    reply.presses = arena_array(&arena, count, sizeof(Platen__V1__PressInfo *));
    for (; reply.n_presses < count; reply.n_presses++) {
        const size_t i = reply.n_presses;

        reply.presses[i] = arena_alloc(&arena, sizeof **reply.presses);
        fill_press(reply.presses[i], press_at(i), &texts[2 * i], &texts[2 * i + 1]);
    }
    rpc_call_reply(call, &reply.base);
    for (size_t i = 0; i < 2 * count; i++)
        text_fini(&texts[i]);
    arena_fini(&arena);
}

static const struct rpc_events presses_events = { .message = on_presses };

void control_add(struct rpc_server *server, const struct control_events *events, void *node)
{
    const struct rpc_method methods[] = {
        { "/platen.v1.Control/GetInfo", RPC_UNARY, &platen__v1__get_info_request__descriptor, false, false,
          events->info, node },
        { "/platen.v1.Control/GetLoads", RPC_UNARY, &platen__v1__get_loads_request__descriptor, false, false,
          events->loads, node },
        { "/platen.v1.Control/ListPresses", RPC_UNARY, &platen__v1__list_presses_request__descriptor, false, false,
          &presses_events, NULL },
        { "/platen.v1.Control/SelfTest", RPC_UNARY, &platen__v1__self_test_request__descriptor, false, false,
          events->selftest, node },
    };

    rpc_server_add(server, methods, ARRAY_LEN(methods));
}
