/* SPDX-License-Identifier: Apache-2.0 */
/*
 * rpc_channel.h - the calling side: a client (its rpc threads), channels to peers, calls on them.
 *
 * A call is either asynchronous (rpc_call_start: events on the client's rpc thread) or, for programs with nothing else
 * to do, blocking (rpc_call_unary, rpc_stream_*). Every call has a deadline. A server that is not there answers
 * UNAVAILABLE within RPC_CONNECT_MS; one that froze within keepalive + timeout (20 s), also while a call is silent.
 * Nothing is retried here: whoever knows what a retry costs does it.
 */
#ifndef PLATEN_RPC_RPC_CHANNEL_H
#define PLATEN_RPC_RPC_CHANNEL_H

#include "common/base/status.h"
#include "common/rpc/rpc.h"
#include "common/rpc/rpc_call.h"

#include <protobuf-c/protobuf-c.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

enum { RPC_CONNECT_MS = 4000 };

struct rpc_client;
struct rpc_channel;

/* `threads` rpc threads (>= 1) for all channels of the client. */
enum status rpc_client_open(struct rpc_client **out, int threads, struct err *err);

/* Cancels calls that still run and waits for them. Its channels must be closed. NULL is fine. */
void rpc_client_close(struct rpc_client *c);

/* Texts are borrowed until the channel is closed. */
struct rpc_channel_options {
    struct rpc_tls tls;
    const char *token;            /* sent as `authorization: Bearer TOKEN`; NULL: none */
    bool own_connection;          /* does not share a connection with other channels to the same target: bulk */
    size_t receive_max_bytes;     /* largest message taken */
    size_t send_queue_bytes;      /* per call */
    size_t send_queue_messages;   /* per call */
    int64_t keepalive_ms;         /* pings a silent server after so long, also between calls */
    int64_t keepalive_timeout_ms; /* and gives it up after so long */
};

/* 8 MiB in, 4 MiB or 256 messages queued out, 10 s / 10 s keepalive. */
void rpc_channel_options_init(struct rpc_channel_options *o);

/* A way to `target`: HOST:PORT or dns:NAME:PORT. Does not connect yet. `o` may be NULL. ST_EINVAL: target, TLS files. */
enum status rpc_channel_open(struct rpc_channel **out, struct rpc_client *client, const char *target,
                             const struct rpc_channel_options *o, struct err *err);

/* Calls that run go on to their end; NULL is fine. */
void rpc_channel_close(struct rpc_channel *ch);
const char *rpc_channel_target(const struct rpc_channel *ch);

/* Connects and waits until it stands. ST_OK; ST_EUNAVAILABLE with a sentence, at the first failed attempt or when
 * deadline_ns passed. Not from an rpc thread. */
enum status rpc_channel_connect(struct rpc_channel *ch, int64_t deadline_ns, struct err *err);

/* True while a connection stands. Does not wait, does not connect. */
bool rpc_channel_ready(struct rpc_channel *ch);

struct rpc_call_options {
    const char *method;                      /* "/platen.internal.v1.Prefill/Run" */
    const ProtobufCMessageDescriptor *reply; /* NULL: raw buffers */
    int64_t deadline_ns;                     /* clock_now_ns time; INT64_MAX: none (a stream that is a lease) */
    bool one_message;                        /* the first message is the only one: half-close goes with it */
    const struct rpc_events *events;
    void *owner;
    void *user; /* rpc_call_set_user */
    void (*free_user)(void *user);
};

/* Starts a call with its first message. *out carries a count of the caller's (rpc_call_unref). Never waits. Failures
 * of the connection come through done(); ST_EINVAL when there is no such method name. Events may come before this
 * returns. Replies are not checked for UTF-8 in bytes fields. */
enum status rpc_call_start(struct rpc_call **out, struct rpc_channel *ch, const struct rpc_call_options *o,
                           const ProtobufCMessage *first, struct err *err);

/* One question, one answer. *reply (given back with rpc_message_free) only after ST_OK; else the server's status and
 * sentence. Waits at most until deadline_ns. Not from an rpc thread. */
enum status rpc_call_unary(struct rpc_channel *ch, const char *method, const ProtobufCMessage *request,
                           const ProtobufCMessageDescriptor *reply_type, int64_t deadline_ns, ProtobufCMessage **reply,
                           struct err *err);

/* A server stream read one message after the other. Owned by one thread; cancel may come from any. */
struct rpc_stream;

enum status rpc_stream_open(struct rpc_stream **out, struct rpc_channel *ch, const char *method,
                            const ProtobufCMessage *request, const ProtobufCMessageDescriptor *reply_type,
                            int64_t deadline_ns, struct err *err);

/* The next message in *out (rpc_message_free). ST_OK with *out == NULL: the stream ended well. ST_AGAIN: nothing until
 * wait_until_ns. Else the server's status and sentence; ST_ECANCELLED after rpc_stream_cancel. */
enum status rpc_stream_next(struct rpc_stream *s, int64_t wait_until_ns, ProtobufCMessage **out, struct err *err);

/* The retry delay the server asked for when it ended the stream, in ms; -1: none. */
int64_t rpc_stream_retry_ms(const struct rpc_stream *s);
void rpc_stream_cancel(struct rpc_stream *s);
void rpc_stream_close(struct rpc_stream *s); /* cancels what still runs; NULL is fine */

#ifdef __cplusplus
}
#endif
#endif
