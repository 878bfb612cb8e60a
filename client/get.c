/* SPDX-License-Identifier: Apache-2.0 */
/* get.c - platen get and platen release: what is known of a kept context, and its end. */
#include "client/command.h"
#include "client/connect.h"
#include "client/figures.h"
#include "client/message.h"

#include "common/base/bytes.h"
#include "common/rpc/rpc_message.h"

#include <stdio.h>

struct get_options {
    bool help;
    struct server_options server;
    const char *handle;
    bool json;
};

#define AT(field) offsetof(struct get_options, field)

static const struct opt rows[] = {
    HELP_ROW,
    SERVER_ROWS(struct get_options, server, true),
    { "handle", OPT_TEXT, AT(handle), 0, 0, NULL, NULL, "HANDLE", "as platen create printed it", true },
    { "json", OPT_FLAG, AT(json), 0, 0, NULL, "off", NULL, "prints one object", false },
};

static const struct opt_set options = { rows, ARRAY_LEN(rows) };

static enum status check(const void *options_, struct err *err)
{
    return server_check(&((const struct get_options *)options_)->server, err);
}

static void show_get(const Platen__V1__GetResponse *r, bool json)
{
    struct text out = { 0 };

    if (json) {
        text_printf(&out, "{\"handle\":\"%s\",\"ttl_seconds\":%lld,\"running\":%d", r->handle,
                    (long long)r->ttl_seconds, r->running);
        if (r->figures) {
            text_puts(&out, ",");
            figures_json(&out, r->figures);
        }
        text_puts(&out, "}\n");
    } else {
        text_printf(&out, "handle %s\nkept for %lld s unless it is used, %d answers running\n", r->handle,
                    (long long)r->ttl_seconds, r->running);
        if (r->figures)
            figures_lines(&out, r->figures);
    }
    fwrite(text_str(&out), 1, out.bytes, stdout);
    text_fini(&out);
}

/* One question, one answer; *reply is the caller's. */
static enum status ask_server(const struct get_options *o, const char *method, const ProtobufCMessage *request,
                              const ProtobufCMessageDescriptor *type, ProtobufCMessage **reply, struct err *err)
{
    struct connection c;
    enum status st = connection_open(&c, &o->server, err);

    if (st != ST_OK)
        return st;
    st = connection_explain(&c, rpc_call_unary(c.channel, method, request, type, c.deadline_ns, reply, err), err);
    connection_close(&c);
    return st;
}

static enum status run_get(const void *options_, struct arena *arena, struct err *err)
{
    const struct get_options *o = options_;
    Platen__V1__GetRequest request = PLATEN__V1__GET_REQUEST__INIT;
    ProtobufCMessage *reply = NULL;
    enum status st;

    (void)arena;
    request.handle = message_word(o->handle);
    st = ask_server(o, "/platen.v1.Contexts/Get", &request.base, &platen__v1__get_response__descriptor, &reply, err);
    if (st == ST_OK)
        show_get((const Platen__V1__GetResponse *)reply, o->json);
    rpc_message_free(reply);
    return st;
}

static enum status run_release(const void *options_, struct arena *arena, struct err *err)
{
    const struct get_options *o = options_;
    Platen__V1__ReleaseRequest request = PLATEN__V1__RELEASE_REQUEST__INIT;
    ProtobufCMessage *reply = NULL;
    enum status st;

    (void)arena;
    request.handle = message_word(o->handle);
    st = ask_server(o, "/platen.v1.Contexts/Release", &request.base, &platen__v1__release_response__descriptor, &reply,
                    err);
    if (st == ST_OK)
        printf(o->json ? "{\"released\":\"%s\"}\n" : "released %s\n", o->handle);
    rpc_message_free(reply);
    return st;
}

const struct command command_get = {
    .name = "get",
    .summary = "tells what is known of a kept context",
    .usage = "--server HOST:PORT --handle HANDLE",
    .options = &options,
    .options_bytes = sizeof(struct get_options),
    .check = check,
    .run = run_get,
};

const struct command command_release = {
    .name = "release",
    .summary = "gives a kept context's memory back",
    .usage = "--server HOST:PORT --handle HANDLE",
    .options = &options,
    .options_bytes = sizeof(struct get_options),
    .check = check,
    .run = run_release,
};
