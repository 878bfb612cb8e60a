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
#include "decode-node/ask.h"
#include "decode-node/node.h"
#include "decode-node/promise.h"
#include "decode-node/repress.h"
#include "presses/chain.h"

#include <stdio.h>

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
        if (r->prefix_tokens > a->max_context)
            r->prefix_tokens = a->max_context;
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
    enum status st = ask_take_words(r, a, err);

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
    enum status st = ask_take_counts(r, a, err);

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

    ask_read(&a, r);
    st = prepare_asked(r, &a, retry_ms, err);
    rpc_message_free((ProtobufCMessage *)r->msg);
    r->msg = NULL;
    if (st == ST_OK && r->kind != REQUEST_ASK)
        r->context->figures.ms.tokenize = (double)(clock_now_ns() - begin) / 1e6;
    return st;
}
