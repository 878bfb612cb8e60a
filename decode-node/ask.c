/* SPDX-License-Identifier: Apache-2.0 */
/* ask.c - a request's message, of three kinds, read into one struct; its plain fields checked. */
#include "decode-node/ask.h"

#include "common/base/clock.h"
#include "common/kv/codec.h"
#include "decode-node/node.h"
#include "decode-node/request.h"
#include "proto/platen/v1/inference.pb-c.h"
#include "presses/chain.h"

#include <stdio.h>
#include <string.h>

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

void ask_read(struct ask *a, const struct request *r)
{
    switch (r->kind) {
    case REQUEST_GENERATE:
        read_generate(a, (const Platen__V1__GenerateRequest *)r->msg);
        break;
    case REQUEST_CREATE:
        read_create(a, (const Platen__V1__CreateRequest *)r->msg);
        break;
    default:
        read_ask(a, (const Platen__V1__AskRequest *)r->msg);
        break;
    }
}

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

enum status ask_take_counts(struct request *r, const struct ask *a, struct err *err)
{
    enum status st = take_id(r, a->request_id, err);

    if (st != ST_OK)
        return st;
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

enum status ask_take_words(struct request *r, const struct ask *a, struct err *err)
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
