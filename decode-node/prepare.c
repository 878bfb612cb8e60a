/* SPDX-License-Identifier: Apache-2.0 */
/*
 * prepare.c - stop 2 of 12: tokenize, and everything that is asked of a request before work begins.
 *
 *                                                       before: generate.c   after: order.c
 *   context ─▶ template prefix + context ─▶ ids ─▶ cut to max_context_length ─▶ + query ids
 *   question ─▶ question + suffix + answer prefix ─▶ ids, one list each
 *
 * Context and questions are tokenized apart, as the reference pipeline does it: a pressed context must not depend on
 * what is asked later.
 */
#include "decode-node/prepare.h"

#include "common/base/arena.h"
#include "common/base/clock.h"
#include "common/kv/codec.h"
#include "common/rpc/rpc_message.h"
#include "decode-node/node.h"
#include "decode-node/repress.h"
#include "proto/platen/v1/inference.pb-c.h"
#include "presses/chain.h"

#include <stdio.h>
#include <string.h>

/* The fields that the three messages share; borrowed from the message. */
struct ask {
    ProtobufCBinaryData context, query, press, answer_prefix;
    const int32_t *context_tokens, *query_tokens;
    size_t context_token_count, query_token_count;
    const ProtobufCBinaryData *questions;
    size_t question_count;
    bool has_max_new, has_max_context, has_ttl;
    int32_t max_new;
    int64_t max_context, ttl_s;
    const char *position, *kv, *request_id, *handle;
};

#define SHARED(msg)                                                                                                   \
    .context = (msg)->context, .query = (msg)->query, .press = (msg)->press, .context_tokens = (msg)->context_tokens, \
    .query_tokens = (msg)->query_tokens, .context_token_count = (msg)->n_context_tokens,                              \
    .query_token_count = (msg)->n_query_tokens, .position = (msg)->position, .kv = (msg)->kv,                         \
    .request_id = (msg)->request_id, .max_context = (msg)->max_context_length

static void read_generate(struct ask *a, const Platen__V1__GenerateRequest *m)
{
    *a = (struct ask){ SHARED(m),
                       .answer_prefix = m->answer_prefix,
                       .questions = m->questions,
                       .question_count = m->n_questions,
                       .has_max_new = m->has_max_new_tokens_case != 0,
                       .max_new = m->max_new_tokens,
                       .has_max_context = m->has_max_context_length_case != 0 };
}

static void read_create(struct ask *a, const Platen__V1__CreateRequest *m)
{
    *a = (struct ask){ SHARED(m), .has_max_context = m->has_max_context_length_case != 0,
                       .has_ttl = m->has_ttl_seconds_case != 0, .ttl_s = m->ttl_seconds };
}

static void read_ask(struct ask *a, const Platen__V1__AskRequest *m)
{
    *a = (struct ask){ .answer_prefix = m->answer_prefix,
                       .questions = m->questions,
                       .question_count = m->n_questions,
                       .has_max_new = m->has_max_new_tokens_case != 0,
                       .max_new = m->max_new_tokens,
                       .request_id = m->request_id,
                       .handle = m->handle,
                       .position = "",
                       .kv = "" };
}

/* ---- plain fields ---------------------------------------------------------------------------------------------- */

static enum status take_id(struct request *r, const char *id, struct err *err)
{
    if (strlen(id) > REQUEST_ID_MAX)
        return err_set(err, ST_EINVAL, "request_id has %zu bytes, at most %d are allowed", strlen(id), REQUEST_ID_MAX);
    for (const char *c = id; *c; c++)
        if ((unsigned char)*c <= ' ' || *c == 0x7f)
            return err_set(err, ST_EINVAL, "request_id may not hold blanks or control characters");
    if (*id)
        snprintf(r->id, sizeof r->id, "%s", id);
    else
        snprintf(r->id, sizeof r->id, "%016llx", (unsigned long long)clock_wall_ns());
    return ST_OK;
}

static enum status take_counts(struct request *r, const struct ask *a, struct err *err)
{
    if (a->has_max_new && a->max_new < 0)
        return err_set(err, ST_EINVAL, "max_new_tokens is %d, it must be at least 0", a->max_new);
    if (a->has_max_new)
        r->max_new = a->max_new;
    if (a->has_max_context && a->max_context < 1)
        return err_set(err, ST_EINVAL, "max_context_length is %lld, it must be at least 1", (long long)a->max_context);
    if (a->has_ttl && (a->ttl_s < 1 || a->ttl_s > TTL_SECONDS_MAX))
        return err_set(err, ST_EINVAL, "ttl_seconds is %lld, allowed are 1 to %d", (long long)a->ttl_s,
                       TTL_SECONDS_MAX);
    if (a->has_ttl)
        r->ttl_s = a->ttl_s;
    if (a->question_count > QUESTIONS_MAX)
        return err_set(err, ST_EINVAL, "%zu questions, at most %d are allowed", a->question_count, QUESTIONS_MAX);
    return ST_OK;
}

static enum status take_words(struct request *r, const struct ask *a, struct err *err)
{
    enum status st;

    if (strcmp(a->position, "compact") == 0)
        r->compact = true;
    else if (strcmp(a->position, "original") != 0 && *a->position)
        return err_set(err, ST_EINVAL, "position is '%.32s', allowed are original and compact", a->position);
    st = codec_parse(a->kv, &r->codec, err);
    if (st == ST_OK)
        st = codec_admit(r->codec, r->node->parts.be->ops->codecs, r->node->parts.be->ops->name, err);
    if (st != ST_OK)
        return st;
    return chain_parse(&r->chain, a->press.data ? (const char *)a->press.data : "", a->press.len, r->node->parts.files,
                       err);
}

/* ---- texts to tokens ------------------------------------------------------------------------------------------- */

static enum status encode(struct request *r, const char *text, size_t bytes, const struct tok_span *special,
                          struct token_list *ids, uint64_t *dropped, struct err *err)
{
    bool plain = r->node->opt.special_text == 1;

    return tokenizer_encode(r->node->parts.tokenizer, text, bytes, plain ? special : NULL, ids, dropped, err);
}

static enum status take_ids(struct request *r, const char *what, const int32_t *ids, size_t count, struct err *err)
{
    int32_t vocab = r->node->parts.weights->hp.vocab;

    for (size_t i = 0; i < count; i++) {
        if (ids[i] < 0 || ids[i] >= vocab)
            return err_set(err, ST_EINVAL, "%s: id %d at %zu, allowed are 0 to %d", what, ids[i], i, vocab - 1);
        token_list_add(&r->tokens, ids[i]);
    }
    return ST_OK;
}

/* How many tokens the template puts before the user's text, and which after it. */
static enum status take_frame(struct request *r, struct err *err)
{
    const struct chat *chat = r->node->chat;
    struct text text = { 0 };
    struct token_list ids = { 0 };
    struct tok_span span;
    enum status st;

    chat_context(chat, "", 0, &text, &span);
    st = encode(r, text_str(&text), text.bytes, &span, &ids, NULL, err);
    r->prefix_tokens = (int64_t)ids.count;
    text_clear(&text);
    chat_question(chat, 0, "", 0, "", 0, &text, &span);
    if (st == ST_OK)
        st = encode(r, text_str(&text), text.bytes, &span, &r->suffix, NULL, err);
    token_list_fini(&ids);
    text_fini(&text);
    return st;
}

static enum status take_context_text(struct request *r, const struct ask *a, uint64_t *dropped, struct err *err)
{
    struct text text = { 0 };
    struct tok_span span;
    enum status st;

    r->context->hashes = chat_context(r->node->chat, (const char *)a->context.data, a->context.len, &text, &span);
    st = encode(r, text_str(&text), text.bytes, &span, &r->tokens, dropped, err);
    text_fini(&text);
    if (st != ST_OK)
        err_prefix(err, "context");
    return st;
}

static enum status take_query(struct request *r, const struct ask *a, uint64_t *dropped, struct err *err)
{
    static const struct tok_span none = { 0, 0 };
    size_t before = r->tokens.count;
    enum status st = ST_OK;

    if (a->query.len > 0 && a->query_token_count > 0)
        return err_set(err, ST_EINVAL, "both query and query_tokens are given; give one of them");
    if (a->query_token_count > 0)
        st = take_ids(r, "query_tokens", a->query_tokens, a->query_token_count, err);
    else if (a->query.len > 0)
        st = encode(r, (const char *)a->query.data, a->query.len, &none, &r->tokens, dropped, err);
    r->query_tokens = (int64_t)(r->tokens.count - before);
    return st;
}

static enum status take_context(struct request *r, const struct ask *a, struct err *err)
{
    uint64_t dropped = 0;
    struct figures *f;
    enum status st;

    if (a->context.len > 0 && a->context_token_count > 0)
        return err_set(err, ST_EINVAL, "both context and context_tokens are given; give one of them");
    if (a->context.len == 0 && a->context_token_count == 0)
        return err_set(err, ST_EINVAL, "the context is empty; give context or context_tokens");
    r->context = context_open(r->node->blocks, r->node->parts.shape.layers);
    r->context->chain = r->chain;
    f = &r->context->figures;
    st = take_frame(r, err);
    if (st == ST_OK && a->context_token_count > 0) {
        r->prefix_tokens = 0;
        st = take_ids(r, "context_tokens", a->context_tokens, a->context_token_count, err);
    } else if (st == ST_OK) {
        st = take_context_text(r, a, &dropped, err);
    }
    if (st == ST_OK && r->tokens.count == 0)
        st = err_set(err, ST_EINVAL, "the context has no tokens: none of its bytes is in the vocabulary");
    if (st != ST_OK)
        return st;
    if (a->has_max_context && (int64_t)r->tokens.count > a->max_context) {
        f->truncated_tokens = (int64_t)r->tokens.count - a->max_context;
        r->tokens.count = (size_t)a->max_context;
    }
    st = take_query(r, a, &dropped, err);
    f->dropped_bytes = (int64_t)dropped;
    f->context_tokens = (int64_t)r->tokens.count;
    f->codec = codec_word(r->codec);
    snprintf(f->press, sizeof f->press, "%s", chain_text(r->chain));
    return st;
}

/* ---- questions --------------------------------------------------------------------------------------------------- */

static enum status take_question(struct request *r, struct question *q, const ProtobufCBinaryData *text,
                                 const struct ask *a, struct err *err)
{
    struct text whole = { 0 };
    struct tok_span span;
    struct sequence *s = &q->sequence;
    enum status st;

    chat_question(r->node->chat, r->context->hashes, text ? (const char *)text->data : "", text ? text->len : 0,
                  a->answer_prefix.data ? (const char *)a->answer_prefix.data : "", a->answer_prefix.len, &whole,
                  &span);
    st = encode(r, text_str(&whole), whole.bytes, &span, &q->prompt, &r->dropped_bytes, err);
    text_fini(&whole);
    if (st == ST_OK && q->prompt.count == 0)
        st = err_set(err, ST_EINVAL,
                     "a question without a single token: it, the template's suffix and answer_prefix are empty");
    if (st != ST_OK)
        return st;
    tok_stream_init(&q->text, r->node->parts.tokenizer);
    s->prompt = q->prompt.ids;
    s->prompt_tokens = (int32_t)q->prompt.count;
    s->max_new = r->max_new;
    s->cancelled = &r->cancelled;
    s->deadline_ns = rpc_call_deadline_ns(r->call);
    if (s->deadline_ns != INT64_MAX)
        s->deadline_ns -= 20 * NS_PER_MS; /* so that the last event still reaches the caller */
    return ST_OK;
}

static enum status fits_model(const struct request *r, const struct question *q, int64_t position, struct err *err)
{
    int64_t limit = r->node->parts.weights->hp.max_positions;
    int64_t all = position + q->sequence.prompt_tokens + r->max_new;

    if (all <= limit)
        return ST_OK;
    return err_set(err, ST_ERANGE,
                   "context, question and answer would need %lld positions (%lld + %d + %d), the model has %lld",
                   (long long)all, (long long)position, q->sequence.prompt_tokens, r->max_new, (long long)limit);
}

/* Most rows of a layer of the context, all heads, and of one head of it. */
static void measure_context(const struct request *r, struct repress_ask *ask)
{
    const struct hparams *hp = &r->node->parts.weights->hp;
    const struct context *c = r->context;

    ask->context_tokens = c->figures.context_tokens;
    for (int32_t l = 0; l < hp->layers; l++) {
        int64_t rows = r->kind == REQUEST_ASK ? kv_block_rows(&c->block[l])
                       : hparams_layer_is_full(hp, l)
                           ? chain_rows_max(c->chain, hp, l, ask->context_tokens)
                           : (hp->window[l] < ask->context_tokens ? hp->window[l] : ask->context_tokens) * hp->kv_heads;

        ask->context_rows = rows > ask->context_rows ? rows : ask->context_rows;
    }
}

/* Blocks of its own for an answer with a decode part. */
static enum status promise_own(struct request *r, struct question *q, int64_t position, struct err *err)
{
    struct repress_ask ask = { .context = r->context,
                               .next_position = position,
                               .prompt_tokens = q->sequence.prompt_tokens,
                               .max_new = r->max_new };

    measure_context(r, &ask);
    return batcher_repress(r->node->batcher, &ask, &q->sequence.own, err);
}

static enum status promise_room(struct request *r, struct question *q, int64_t position, int64_t *retry_ms,
                                struct err *err)
{
    struct chain_decode part;
    bool decodes = r->context->chain && chain_decode_part(r->context->chain, &part);
    int32_t prompt = q->sequence.prompt_tokens;
    int32_t rows = decodes ? repress_tail_rows(&part, prompt, r->max_new) : sequence_tail_rows(prompt, r->max_new);
    enum status st;

    if (r->max_new == 0)
        return ST_OK;
    st = batcher_reserve(r->node->batcher, rows, err);
    if (st == ST_OK) {
        q->tail_rows = rows;
        q->sequence.made = mem_zero((size_t)r->max_new, sizeof(int32_t));
        if (decodes && repress_ever_due(&part, prompt, r->max_new))
            st = promise_own(r, q, position, err);
    }
    if (st == ST_EEXHAUSTED)
        *retry_ms = 500;
    return st;
}

static enum status take_questions(struct request *r, const struct ask *a, int64_t *retry_ms, struct err *err)
{
    size_t count = a->question_count > 0 ? a->question_count : 1;
    int64_t position = r->kind == REQUEST_ASK ? r->context->next_position : r->context->figures.context_tokens;

    r->question = mem_zero(count, sizeof *r->question);
    r->questions = (int32_t)count;
    for (size_t i = 0; i < count; i++) {
        struct question *q = &r->question[i];
        enum status st = take_question(r, q, a->question_count > 0 ? &a->questions[i] : NULL, a, err);
        if (st == ST_OK)
            st = fits_model(r, q, position, err);
        if (st == ST_OK)
            st = promise_room(r, q, position, retry_ms, err);
        if (st != ST_OK)
            return st;
    }
    return ST_OK;
}

/* ---- the whole --------------------------------------------------------------------------------------------------- */

static enum status check_length(const struct request *r, struct err *err)
{
    int64_t limit = r->node->parts.weights->hp.max_positions;

    if ((int64_t)r->tokens.count <= limit)
        return ST_OK;
    return err_set(err, ST_ERANGE, "the context has %zu tokens, the model has %lld positions", r->tokens.count,
                   (long long)limit);
}

static enum status prepare_context(struct request *r, const struct ask *a, struct err *err)
{
    enum status st = take_words(r, a, err);

    if (st == ST_OK)
        st = take_context(r, a, err);
    if (st == ST_OK)
        st = check_length(r, err);
    if (st == ST_OK)
        st = repress_admit(r->chain, r->node->parts.be, err);
    if (st == ST_OK)
        st = chain_check(r->chain, &r->node->parts.weights->hp, r->node->parts.be->ops, (int64_t)r->tokens.count,
                         r->query_tokens, err);
    return st;
}

static enum status prepare_asked(struct request *r, const struct ask *a, int64_t *retry_ms, struct err *err)
{
    enum status st = take_id(r, a->request_id, err);

    if (st == ST_OK)
        st = take_counts(r, a, err);
    if (st != ST_OK)
        return st;
    if (r->kind == REQUEST_ASK)
        st = contexts_find(r->node->contexts, a->handle, true, &r->context, NULL, err);
    else
        st = prepare_context(r, a, err);
    if (st == ST_OK && r->kind != REQUEST_CREATE)
        st = take_questions(r, a, retry_ms, err);
    if (st == ST_OK && rpc_call_cancelled(r->call))
        st = err_set(err, ST_ECANCELLED, "the caller went away");
    return st;
}

enum status prepare(struct request *r, int64_t *retry_ms, struct err *err)
{
    int64_t begin = clock_now_ns();
    struct ask a;
    enum status st;

    switch (r->kind) {
    case REQUEST_GENERATE:
        read_generate(&a, (const Platen__V1__GenerateRequest *)r->msg);
        break;
    case REQUEST_CREATE:
        read_create(&a, (const Platen__V1__CreateRequest *)r->msg);
        break;
    default:
        read_ask(&a, (const Platen__V1__AskRequest *)r->msg);
        break;
    }
    st = prepare_asked(r, &a, retry_ms, err);
    rpc_message_free((ProtobufCMessage *)r->msg);
    r->msg = NULL;
    if (st == ST_OK && r->kind != REQUEST_ASK)
        r->context->figures.ms.tokenize = (double)(clock_now_ns() - begin) / 1e6;
    return st;
}
