/* SPDX-License-Identifier: Apache-2.0 */
/* info.c - platen info: what a node is and what it is doing. */
#include "client/command.h"
#include "client/connect.h"

#include "common/base/bytes.h"
#include "common/rpc/rpc_message.h"
#include "proto/platen/v1/control.pb-c.h"

#include <stdio.h>
#include <string.h>

struct info_options {
    bool help;
    struct server_options server;
    bool json;
};

#define AT(field) offsetof(struct info_options, field)

static const struct opt rows[] = {
    HELP_ROW,
    SERVER_ROWS(struct info_options, server, true),
    { "json", OPT_FLAG, AT(json), 0, 0, NULL, "off", NULL, "prints one object", false },
};

static const struct opt_set options = { rows, ARRAY_LEN(rows) };

static enum status check(const void *options_, struct err *err)
{
    return server_check(&((const struct info_options *)options_)->server, err);
}

/* A message as JSON: names, numbers and texts as they stand in the .proto; messages inside it too. */
static void json_message(struct text *out, const ProtobufCMessage *m);

static void json_value(struct text *out, const ProtobufCFieldDescriptor *f, const void *at)
{
    switch (f->type) {
    case PROTOBUF_C_TYPE_STRING:
        text_json(out, *(char *const *)at, strlen(*(char *const *)at));
        break;
    case PROTOBUF_C_TYPE_MESSAGE:
        json_message(out, *(ProtobufCMessage *const *)at);
        break;
    case PROTOBUF_C_TYPE_BOOL:
        text_puts(out, *(const protobuf_c_boolean *)at ? "true" : "false");
        break;
    case PROTOBUF_C_TYPE_DOUBLE:
        text_printf(out, "%.6g", *(const double *)at);
        break;
    case PROTOBUF_C_TYPE_INT64:
        text_printf(out, "%lld", (long long)*(const int64_t *)at);
        break;
    case PROTOBUF_C_TYPE_FIXED64: /* hashes: a JSON number would lose digits */
        text_printf(out, "\"%016llx\"", (unsigned long long)*(const uint64_t *)at);
        break;
    case PROTOBUF_C_TYPE_UINT32:
        text_printf(out, "%u", *(const uint32_t *)at);
        break;
    default:
        text_printf(out, "%d", *(const int32_t *)at);
        break;
    }
}

static void json_field(struct text *out, const ProtobufCMessage *m, const ProtobufCFieldDescriptor *f)
{
    const char *at = (const char *)m + f->offset;

    text_printf(out, "\"%s\":", f->name);
    if (f->label == PROTOBUF_C_LABEL_REPEATED) { /* texts and messages: arrays of pointers */
        size_t count = *(const size_t *)((const char *)m + f->quantifier_offset);

        text_puts(out, "[");
        for (size_t i = 0; i < count; i++) {
            text_puts(out, i > 0 ? "," : "");
            json_value(out, f, *(char *const *)at + i * sizeof(void *));
        }
        text_puts(out, "]");
        return;
    }
    json_value(out, f, at);
}

static void json_message(struct text *out, const ProtobufCMessage *m)
{
    if (!m) {
        text_puts(out, "null");
        return;
    }
    text_puts(out, "{");
    for (unsigned i = 0; i < m->descriptor->n_fields; i++) {
        text_puts(out, i > 0 ? "," : "");
        json_field(out, m, &m->descriptor->fields[i]);
    }
    text_puts(out, "}");
}

static void lines_model(struct text *out, const Platen__V1__ModelInfo *m)
{
    text_printf(out, "model     %s (%s): %d layers, %d query and %d KV heads of %d, vocabulary %d, %lld positions\n",
                m->path, m->arch, m->layers, m->q_heads, m->kv_heads, m->head_dim, m->vocab,
                (long long)m->max_positions);
}

static void lines_node(struct text *out, const Platen__V1__GetInfoResponse *i)
{
    text_printf(out, "node      %s (%s), platen %s, wire version %u\n", i->node, i->role, i->version, i->wire_version);
    if (i->model)
        lines_model(out, i->model);
    if (strncmp(i->backend, "cpu", 3) == 0) /* its description has the rest */
        text_printf(out, "device    %s\n", i->device);
    else
        text_printf(out, "device    %s: %s, %s\n", i->backend, i->device, i->dtype);
    text_puts(out, "transport");
    for (size_t t = 0; t < i->n_transports; t++)
        text_printf(out, " %s", i->transports[t]);
    text_puts(out, "\n");
    if (i->bytes)
        text_printf(out, "memory    weights %lld, activations %lld, blocks %lld, tails %lld, other %lld bytes\n",
                    (long long)i->bytes->weights, (long long)i->bytes->activations, (long long)i->bytes->blocks,
                    (long long)i->bytes->tails, (long long)i->bytes->other);
}

static void lines_loads(struct text *out, const Platen__V1__GetLoadsResponse *l)
{
    text_printf(out, "orders    %d queued (%lld tokens), %d running\n", l->queued_orders, (long long)l->queued_tokens,
                l->running_orders);
    text_printf(out, "answers   %d running, %d contexts held, %lld bytes of blocks, %lld rows of tails%s\n",
                l->sequences, l->contexts, (long long)l->block_bytes, (long long)l->tail_tokens,
                l->draining ? "; draining" : "");
    if (l->not_serving[0])
        text_printf(out, "health    NOT_SERVING: %s\n", l->not_serving);
}

static void show(const ProtobufCMessage *info, const ProtobufCMessage *loads, bool json)
{
    struct text out = { 0 };

    if (json) {
        text_puts(&out, "{\"info\":");
        json_message(&out, info);
        text_puts(&out, ",\"loads\":");
        json_message(&out, loads);
        text_puts(&out, "}\n");
    } else {
        lines_node(&out, (const Platen__V1__GetInfoResponse *)info);
        lines_loads(&out, (const Platen__V1__GetLoadsResponse *)loads);
    }
    fwrite(text_str(&out), 1, out.bytes, stdout);
    text_fini(&out);
}

static enum status run(const void *options_, struct arena *arena, struct err *err)
{
    const struct info_options *o = options_;
    Platen__V1__GetInfoRequest ask_info = PLATEN__V1__GET_INFO_REQUEST__INIT;
    Platen__V1__GetLoadsRequest ask_loads = PLATEN__V1__GET_LOADS_REQUEST__INIT;
    ProtobufCMessage *info = NULL, *loads = NULL;
    struct connection c;
    enum status st = connection_open(&c, &o->server, err);

    (void)arena;
    if (st != ST_OK)
        return st;
    st = rpc_call_unary(c.channel, "/platen.v1.Control/GetInfo", &ask_info.base,
                        &platen__v1__get_info_response__descriptor, c.deadline_ns, &info, err);
    if (st == ST_OK)
        st = rpc_call_unary(c.channel, "/platen.v1.Control/GetLoads", &ask_loads.base,
                            &platen__v1__get_loads_response__descriptor, c.deadline_ns, &loads, err);
    if (st == ST_OK)
        show(info, loads, o->json);
    rpc_message_free(info);
    rpc_message_free(loads);
    connection_close(&c);
    return st;
}

const struct command command_info = {
    .name = "info",
    .summary = "tells what a node is and what it is doing",
    .usage = "--server HOST:PORT",
    .options = &options,
    .options_bytes = sizeof(struct info_options),
    .check = check,
    .run = run,
};
