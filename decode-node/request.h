/* SPDX-License-Identifier: Apache-2.0 */
/*
 * request.h - one call of a client, from its first byte to its last: Generate, Contexts.Create or Contexts.Ask.
 *
 *   rpc thread     receives, hangs up         ─▶ front queue
 *   front thread   checks, tokenizes, orders     (stops 1 to 3)
 *   rpc thread     blocks arrive, commit         (order.c, adopt.c; stop 9)
 *   engine thread  runs the sequences            (batcher.c; stops 10, 11)
 *   stream thread  sends events, ends the call, frees the request   (stream.c; stop 12)
 *
 * They hand it on through `phase`, written with release by whoever finishes a phase, and wake the stream thread.
 */
#ifndef PLATEN_DECODE_REQUEST_H
#define PLATEN_DECODE_REQUEST_H

#include "common/base/status.h"
#include "common/model/tokenizer.h"
#include "common/rpc/rpc_call.h"
#include "decode-node/context.h"
#include "decode-node/sequence.h"

#include <stdbool.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

struct node;
struct order;
struct chain;

enum request_kind { REQUEST_GENERATE, REQUEST_CREATE, REQUEST_ASK };
enum request_phase {
    PHASE_FRONT,   /* waits for the front thread, or is with it */
    PHASE_ORDERED, /* a prefill node works on it */
    PHASE_READY,   /* the context is adopted, sequences were submitted */
    PHASE_FAILED   /* `failure` says why */
};

enum {
    QUESTIONS_MAX = 64,
    REQUEST_ID_MAX = 128,
    MAX_NEW_TOKENS_DEFAULT = 50,
    TTL_SECONDS_DEFAULT = 600,
    TTL_SECONDS_MAX = 86400
};

struct question {
    struct token_list prompt;
    struct sequence sequence;
    int32_t tail_rows; /* promised by the batcher; 0: none */
    /* stream thread */
    struct tok_stream text;
    int32_t sent;
    bool end_sent;
};

struct request {
    struct node *node;
    enum request_kind kind;
    struct rpc_call *call;       /* one count */
    const ProtobufCMessage *msg; /* kept; freed by the front thread */
    char id[REQUEST_ID_MAX + 1];
    int64_t begin_ns;
    int32_t refs;        /* atomic: the call's callbacks, and the stream thread */
    int32_t phase;       /* atomic, enum request_phase */
    bool cancelled;      /* atomic */
    int32_t layers_done; /* atomic */

    struct chain *chain;      /* of a new context, which takes it over */
    struct token_list tokens; /* context, then query */
    int64_t query_tokens;
    int64_t prefix_tokens;    /* template tokens before the user's text */
    struct token_list suffix; /* template tokens after it */
    enum kv_codec codec;
    int32_t max_new;
    int64_t ttl_s;
    char handle[HANDLE_CHARS + 1]; /* of a new context, once `kept` */
    bool kept, gone;               /* atomic: the table has the context; the caller went away without a status */
    bool compact;
    struct order *order;
    struct context *context; /* one count */
    struct question *question;
    int32_t questions;
    uint64_t dropped_bytes; /* of the questions; the context's own are in its figures */

    struct err failure;
    int64_t retry_ms;

    /* stream thread */
    struct request *next;
    int32_t layers_sent;
    int32_t ends_sent;
    int64_t stalled_ns; /* since when the caller does not read; 0: it does */
    bool cancel_told;
};

/* A request for a call that has just brought its message (kept from here on). Never fails. */
struct request *request_open(struct node *node, enum request_kind kind, struct rpc_call *call,
                             const ProtobufCMessage *msg);
void request_unref(struct request *r);

/* The request is over with this failure; the stream thread tells the caller. Whoever owns the phase. */
void request_fail(struct request *r, const struct err *err, int64_t retry_ms);

/* Gives the kept context of a caller that did not get its handle back to the table. Any thread, more than once. */
void request_forget(struct request *r);

/* Its context is there: sequences go to the engine. Whoever owns the phase. */
void request_ready(struct request *r);

#ifdef __cplusplus
}
#endif
#endif
