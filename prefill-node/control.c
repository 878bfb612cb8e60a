/* SPDX-License-Identifier: Apache-2.0 */
/* control.c - what operators ask of a prefill node. Unary, answered on the rpc thread; only the self test takes a turn. */
#include "prefill-node/control.h"

#include "common/base/arena.h"
#include "common/base/bytes.h"
#include "common/kv/wire.h"
#include "platen/v1/control.pb-c.h"
#include "prefill-node/selftest.h"
#include "presses/chain.h"

#include <stdlib.h>
#include <string.h>

#ifndef PLATEN_VERSION
#error "PLATEN_VERSION comes from the build"
#endif

enum { TRANSPORTS_MAX = 8 };

static void fill_model(Platen__V1__ModelInfo *m, const struct prefill_node *n)
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

/* The operator's list of transports as words. `copy` is written to and must live as long as `words`. */
static size_t split(char *copy, char *words[TRANSPORTS_MAX])
{
    char *save = NULL;
    size_t count = 0;

    for (char *w = strtok_r(copy, ", ", &save); w && count < TRANSPORTS_MAX; w = strtok_r(NULL, ", ", &save))
        words[count++] = w;
    return count;
}

static void on_info(struct rpc_call *call, void *owner, const ProtobufCMessage *msg)
{
    const struct prefill_node *n = owner;
    char *copy = mem_strdup(stations_list(n->stations)), *words[TRANSPORTS_MAX];
    Platen__V1__GetInfoResponse reply = PLATEN__V1__GET_INFO_RESPONSE__INIT;
    Platen__V1__Limits limits = PLATEN__V1__LIMITS__INIT;
    Platen__V1__DeviceBytes bytes;
    Platen__V1__ModelInfo model;

    (void)msg;
    fill_model(&model, n);
    fill_bytes(&bytes, n->be);
    limits.context_tokens = n->tokens_max;
    limits.queued_tokens = n->queue_tokens;
    reply.node = (char *)n->name;
    reply.role = (char *)"prefill";
    reply.version = (char *)PLATEN_VERSION;
    reply.wire_version = WIRE_VERSION;
    reply.model = &model;
    reply.backend = (char *)n->opt.backend;
    reply.device = (char *)n->be->ops->describe(n->be);
    reply.dtype = (char *)dtype_word(n->be->kv);
    reply.threads = n->threads;
    reply.n_transports = split(copy, words);
    reply.transports = words;
    reply.limits = &limits;
    reply.bytes = &bytes;
    rpc_call_reply(call, &reply.base);
    free(copy);
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
static const struct rpc_events presses_events = { .message = on_presses };
static const struct rpc_events selftest_events = { .message = on_selftest, .done = selftest_done };

void prefill_control_add(struct prefill_node *n, struct rpc_server *server)
{
    const struct rpc_method methods[] = {
        { "/platen.v1.Control/GetInfo", RPC_UNARY, &platen__v1__get_info_request__descriptor, false, false,
          &info_events, n },
        { "/platen.v1.Control/GetLoads", RPC_UNARY, &platen__v1__get_loads_request__descriptor, false, false,
          &loads_events, n },
        { "/platen.v1.Control/ListPresses", RPC_UNARY, &platen__v1__list_presses_request__descriptor, false, false,
          &presses_events, n },
        { "/platen.v1.Control/SelfTest", RPC_UNARY, &platen__v1__self_test_request__descriptor, false, false,
          &selftest_events, n },
    };

    rpc_server_add(server, methods, ARRAY_LEN(methods));
}
