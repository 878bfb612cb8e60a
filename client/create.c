/* SPDX-License-Identifier: Apache-2.0 */
/* create.c - platen create: presses a context once and keeps it on the server, to be asked many times. */
#include "client/command.h"
#include "client/connect.h"
#include "client/figures.h"
#include "client/message.h"
#include "client/sources.h"
#include "client/terminal.h"

#include "common/base/bytes.h"
#include "common/rpc/rpc_message.h"

#include <stdio.h>

struct create_options {
    bool help;
    struct server_options server;
    struct source_options source;
    const char *press, *kv, *request_id;
    int64_t max_context_length, ttl_seconds;
    int64_t position; /* index into "original|compact" */
    bool json;
};

#define AT(field) offsetof(struct create_options, field)

static const struct opt rows[] = {
    HELP_ROW,
    SERVER_ROWS(struct create_options, server, true),
    SOURCE_ROWS(struct create_options, source),
    { "press", OPT_TEXT, AT(press), 0, 0, NULL, NULL, "TEXT",
      "what to keep, such as `snapkv | adakv | ratio=0.5`, see platen presses; everything unless given", false },
    { "max-context-length", OPT_INT, AT(max_context_length), 1, 1e15, NULL, NULL, "N",
      "keeps the first N tokens of a longer context", false },
    { "position", OPT_WORD, AT(position), 0, 0, "original|compact", "original", NULL,
      "where answers go on: at the uncompressed length, or at the kept one", false },
    { "kv", OPT_TEXT, AT(kv), 0, 0, NULL, NULL, "CODEC", "how rows are coded: plain (unless given), int8, fp8, int4",
      false },
    { "ttl", OPT_INT, AT(ttl_seconds), 1, 86400, NULL, "600", "SECONDS", "kept so long after its last use", false },
    { "request-id", OPT_TEXT, AT(request_id), 0, 0, NULL, NULL, "TEXT", "the request's name in logs", false },
    { "json", OPT_FLAG, AT(json), 0, 0, NULL, "off", NULL, "prints one object", false },
};

static const struct opt_set options = { rows, ARRAY_LEN(rows) };

static enum status check(const void *options_, struct err *err)
{
    const struct create_options *o = options_;
    enum status st = server_check(&o->server, err);

    return st == ST_OK ? sources_check(&o->source, false, err) : st;
}

static void fill(Platen__V1__CreateRequest *m, const struct create_options *o, const struct source *context,
                 const struct source *query)
{
    platen__v1__create_request__init(m);
    m->context = message_bytes(context->text.data, context->text.bytes);
    m->context_tokens = context->token;
    m->n_context_tokens = context->tokens;
    m->query = message_bytes(query->text.data, query->text.bytes);
    m->query_tokens = query->token;
    m->n_query_tokens = query->tokens;
    m->press = message_text(o->press);
    m->position = message_word(o->position ? "compact" : "original");
    m->kv = message_word(o->kv);
    m->request_id = message_word(o->request_id);
    m->has_ttl_seconds_case = PLATEN__V1__CREATE_REQUEST__HAS_TTL_SECONDS_TTL_SECONDS;
    m->ttl_seconds = o->ttl_seconds;
    if (o->max_context_length > 0) {
        m->has_max_context_length_case = PLATEN__V1__CREATE_REQUEST__HAS_MAX_CONTEXT_LENGTH_MAX_CONTEXT_LENGTH;
        m->max_context_length = o->max_context_length;
    }
}

static void show(const Platen__V1__CreateResponse *r, bool json)
{
    struct text out = { 0 };

    terminal_clear();
    if (json) {
        text_printf(&out, "{\"handle\":\"%s\",\"ttl_seconds\":%lld", r->handle, (long long)r->ttl_seconds);
        if (r->figures) {
            text_puts(&out, ",");
            figures_json(&out, r->figures);
        }
        text_puts(&out, "}\n");
    } else {
        text_printf(&out, "handle %s\nkept for %lld s after its last use\n", r->handle, (long long)r->ttl_seconds);
        if (r->figures)
            figures_lines(&out, r->figures);
    }
    fwrite(text_str(&out), 1, out.bytes, stdout);
    text_fini(&out);
}

static enum status run(const void *options_, struct arena *arena, struct err *err)
{
    const struct create_options *o = options_;
    struct source context, query;
    struct connection c;
    Platen__V1__CreateRequest request;
    ProtobufCMessage *reply = NULL;
    enum status st = sources_open(&context, &query, &o->source, err);

    (void)arena;
    if (st != ST_OK)
        return st;
    fill(&request, o, &context, &query);
    st = connection_open(&c, &o->server, err);
    if (st != ST_OK)
        goto out;
    terminal_progress("prefill");
    st = rpc_call_unary(c.channel, "/platen.v1.Contexts/Create", &request.base,
                        &platen__v1__create_response__descriptor, c.deadline_ns, &reply, err);
    st = connection_explain(&c, st, err);
    if (st == ST_OK)
        show((const Platen__V1__CreateResponse *)reply, o->json);
    rpc_message_free(reply);
    connection_close(&c);
out:
    source_close(&context);
    source_close(&query);
    return st;
}

const struct command command_create = {
    .name = "create",
    .summary = "presses a context and keeps it on the server; prints its handle",
    .usage = "--server HOST:PORT (--context TEXT | --context-file FILE | --context-tokens FILE) [--press TEXT]",
    .options = &options,
    .options_bytes = sizeof(struct create_options),
    .check = check,
    .run = run,
};
