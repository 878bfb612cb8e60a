/* SPDX-License-Identifier: Apache-2.0 */
/* ask.h - what the three messages that make a request have in common, and the checks that need no text of it. */
#ifndef PLATEN_DECODE_ASK_H
#define PLATEN_DECODE_ASK_H

#include "common/base/status.h"

#include <protobuf-c/protobuf-c.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

struct request;

/* Borrowed from the message. */
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

/* The fields of the request's message, whichever it is; those that it does not have are empty. */
void ask_read(struct ask *a, const struct request *r);

/* Identity, counts and limits of the request. ST_EINVAL names the field. */
enum status ask_take_counts(struct request *r, const struct ask *a, struct err *err);

/* Position, codec and press of a context. ST_EINVAL, or what this node's device lacks. The chain is the request's. */
enum status ask_take_words(struct request *r, const struct ask *a, struct err *err);

#ifdef __cplusplus
}
#endif
#endif
