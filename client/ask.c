/* SPDX-License-Identifier: Apache-2.0 */
/*
 * ask.c - platen ask: a context, questions, answers as they are made.
 *
 *   options ─▶ GenerateRequest (or AskRequest, with --handle) ─▶ stream of events ─▶ progress, text, figures
 */
#include "client/answers.h"
#include "client/command.h"
#include "client/connect.h"
#include "client/figures.h"
#include "client/message.h"
#include "client/sources.h"
#include "client/terminal.h"

#include "common/base/clock.h"
#include "common/rpc/rpc_message.h"

#include <stdio.h>
#include <string.h>

enum { REDRAW_MS = 100 };

struct ask_options {
    bool help;
    struct server_options server;
    struct source_options source;
    const char *handle, *answer_prefix, *press, *kv, *request_id;
    struct opt_list questions;
    int64_t max_new_tokens, max_context_length;
    int64_t position; /* index into "original|compact" */
    bool json;
};

#define AT(field) offsetof(struct ask_options, field)

static const struct opt rows[] = {
    HELP_ROW,
    SERVER_ROWS(struct ask_options, server, true),
    SOURCE_ROWS(struct ask_options, source),
    { "handle", OPT_TEXT, AT(handle), 0, 0, NULL, NULL, "HANDLE", "asks a context that `platen create` has kept",
      false },
    { "question", OPT_LIST, AT(questions), 0, 0, NULL, NULL, "TEXT", "asked of the pressed context; may be given again",
      false },
    { "press", OPT_TEXT, AT(press), 0, 0, NULL, NULL, "TEXT",
      "what to keep, such as `snapkv | adakv | ratio=0.5`, see platen presses; everything unless given", false },
    { "answer-prefix", OPT_TEXT, AT(answer_prefix), 0, 0, NULL, NULL, "TEXT", "begins every answer", false },
    { "max-new-tokens", OPT_INT, AT(max_new_tokens), 0, INT32_MAX, NULL, "50", "N", "most tokens of an answer", false },
    { "max-context-length", OPT_INT, AT(max_context_length), 1, 1e15, NULL, NULL, "N",
      "keeps the first N tokens of a longer context", false },
    { "position", OPT_WORD, AT(position), 0, 0, "original|compact", "original", NULL,
      "where answers go on: at the uncompressed length, or at the kept one", false },
    { "kv", OPT_TEXT, AT(kv), 0, 0, NULL, NULL, "CODEC", "how rows are coded: plain (unless given), int8, fp8, int4",
      false },
    { "request-id", OPT_TEXT, AT(request_id), 0, 0, NULL, NULL, "TEXT", "the request's name in logs", false },
    { "json", OPT_FLAG, AT(json), 0, 0, NULL, "off", NULL, "prints one object when all is done", false },
};

static const struct opt_set options = { rows, ARRAY_LEN(rows) };

/* Flags that say something of a context that is still to be pressed. */
static const char *pressing_flag(const struct ask_options *o)
{
    const struct source_options *s = &o->source;

    if (s->context || s->context_file || s->context_tokens)
        return "a context";
    if (s->query || s->query_tokens)
        return "a query";
    if (o->max_context_length > 0)
        return "--max-context-length";
    return o->press ? "--press" : o->kv ? "--kv" : o->position ? "--position compact" : NULL;
}

static enum status check(const void *options_, struct err *err)
{
    const struct ask_options *o = options_;
    enum status st = server_check(&o->server, err);

    if (st == ST_OK && o->handle && pressing_flag(o))
        st = err_set(err, ST_EINVAL, "--handle names a context that was pressed already; %s cannot be given with it",
                     pressing_flag(o));
    return st == ST_OK ? sources_check(&o->source, o->handle != NULL, err) : st;
}

static ProtobufCBinaryData *questions_of(const struct ask_options *o, struct arena *arena)
{
    ProtobufCBinaryData *list = arena_array(arena, o->questions.count + 1, sizeof *list);

    for (size_t i = 0; i < o->questions.count; i++)
        list[i] = message_text(o->questions.items[i]);
    return list;
}

static void fill_generate(Platen__V1__GenerateRequest *m, const struct ask_options *o, const struct source *context,
                          const struct source *query, struct arena *arena)
{
    platen__v1__generate_request__init(m);
    m->context = message_bytes(context->text.data, context->text.bytes);
    m->context_tokens = context->token;
    m->n_context_tokens = context->tokens;
    m->query = message_bytes(query->text.data, query->text.bytes);
    m->query_tokens = query->token;
    m->n_query_tokens = query->tokens;
    m->questions = questions_of(o, arena);
    m->n_questions = o->questions.count;
    m->answer_prefix = message_text(o->answer_prefix);
    m->press = message_text(o->press);
    m->position = message_word(o->position ? "compact" : "original");
    m->kv = message_word(o->kv);
    m->request_id = message_word(o->request_id);
    m->has_max_new_tokens_case = PLATEN__V1__GENERATE_REQUEST__HAS_MAX_NEW_TOKENS_MAX_NEW_TOKENS;
    m->max_new_tokens = (int32_t)o->max_new_tokens;
    if (o->max_context_length > 0) {
        m->has_max_context_length_case = PLATEN__V1__GENERATE_REQUEST__HAS_MAX_CONTEXT_LENGTH_MAX_CONTEXT_LENGTH;
        m->max_context_length = o->max_context_length;
    }
}

static void fill_ask(Platen__V1__AskRequest *m, const struct ask_options *o, struct arena *arena)
{
    platen__v1__ask_request__init(m);
    m->handle = message_word(o->handle);
    m->questions = questions_of(o, arena);
    m->n_questions = o->questions.count;
    m->answer_prefix = message_text(o->answer_prefix);
    m->request_id = message_word(o->request_id);
    m->has_max_new_tokens_case = PLATEN__V1__ASK_REQUEST__HAS_MAX_NEW_TOKENS_MAX_NEW_TOKENS;
    m->max_new_tokens = (int32_t)o->max_new_tokens;
}

static void show_progress(const Platen__V1__Progress *p, double seconds)
{
    if (!p)
        terminal_progress("waiting, %.1f s", seconds);
    else
        terminal_progress("prefill of %lld tokens: layer %d of %d, %.1f s", (long long)p->context_tokens,
                          p->layers_done, p->layers, seconds);
}

/* Reads the stream to its end. */
static enum status read_events(struct rpc_stream *s, struct answers *a, bool quiet, struct err *err)
{
    int64_t begin_ns = clock_now_ns();
    Platen__V1__Progress progress = PLATEN__V1__PROGRESS__INIT;
    bool known = false, answering = false;

    for (;;) {
        ProtobufCMessage *msg = NULL;
        enum status st = rpc_stream_next(s, clock_in_ms(REDRAW_MS), &msg, err);
        Platen__V1__Event *event = (Platen__V1__Event *)msg;

        if (st < 0 || (st == ST_OK && !event))
            return st;
        if (event && event->progress) {
            progress = *event->progress;
            known = true;
        }
        if (event && event->has_token_case)
            answering = true;
        if (event)
            st = answers_take(a, event, err);
        if (st < 0)
            return st;
        if (!answering)
            show_progress(known ? &progress : NULL, (double)(clock_now_ns() - begin_ns) / 1e9);
        if (!quiet)
            st = answers_stream(a, err);
        if (st < 0) /* what is left would be made for nobody */
            return st;
    }
}

static enum status finish(const struct answers *a, bool json, struct err *err)
{
    struct text out = { 0 };

    terminal_clear();
    if (!a->last)
        return err_set(err, ST_EINTERNAL, "the server ended the stream without its figures");
    if (json) {
        answers_json(a, &out);
        text_puts(&out, "\n");
    } else {
        text_puts(&out, "\n");
        figures_lines(&out, a->last->figures);
    }
    fwrite(text_str(&out), 1, out.bytes, stdout);
    text_fini(&out);
    return ST_OK;
}

static enum status stream(const struct ask_options *o, const char *method, const ProtobufCMessage *request,
                          struct err *err)
{
    struct connection c;
    struct rpc_stream *s = NULL;
    struct answers answers;
    enum status st = connection_open(&c, &o->server, err);

    if (st != ST_OK)
        return st;
    answers_open(&answers, &o->questions);
    st = rpc_stream_open(&s, c.channel, method, request, &platen__v1__event__descriptor, c.deadline_ns, err);
    if (st == ST_OK)
        st = connection_explain(&c, read_events(s, &answers, o->json, err), err);
    if (st == ST_OK)
        st = finish(&answers, o->json, err);
    else if (answers.begun)
        putchar('\n'); /* the error's line begins a line */
    rpc_stream_close(s);
    answers_close(&answers);
    connection_close(&c);
    return st;
}

static enum status run(const void *options_, struct arena *arena, struct err *err)
{
    const struct ask_options *o = options_;
    struct source context, query;
    Platen__V1__GenerateRequest generate;
    Platen__V1__AskRequest ask;
    enum status st;

    if (o->handle) {
        fill_ask(&ask, o, arena);
        return stream(o, "/platen.v1.Contexts/Ask", &ask.base, err);
    }
    st = sources_open(&context, &query, &o->source, err);
    if (st != ST_OK)
        return st;
    fill_generate(&generate, o, &context, &query, arena);
    st = stream(o, "/platen.v1.Inference/Generate", &generate.base, err);
    source_close(&context);
    source_close(&query);
    return st;
}

const struct command command_ask = {
    .name = "ask",
    .summary = "asks questions of a context and prints the answers as they are made",
    .usage = "--server HOST:PORT (--context TEXT | --context-file FILE | --context-tokens FILE) --question TEXT [...]",
    .options = &options,
    .options_bytes = sizeof(struct ask_options),
    .check = check,
    .run = run,
};
