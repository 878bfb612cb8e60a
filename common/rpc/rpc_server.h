/* SPDX-License-Identifier: Apache-2.0 */
/*
 * rpc_server.h - a listening port, methods in, calls out.
 *
 * open -> add methods -> start -> ... -> drain -> close. A method that nobody added is UNIMPLEMENTED, a message that is
 * none INVALID_ARGUMENT, one that is too large RESOURCE_EXHAUSTED, a caller without the token UNAUTHENTICATED: all
 * before a handler is called.
 */
#ifndef PLATEN_RPC_RPC_SERVER_H
#define PLATEN_RPC_RPC_SERVER_H

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

struct rpc_server;

enum rpc_kind {
    RPC_UNARY,         /* one message in, one out */
    RPC_SERVER_STREAM, /* one in, many out */
    RPC_BIDI           /* many in, many out (client streaming too) */
};

/* Strings, events and owner are borrowed until the server is closed. */
struct rpc_method {
    const char *name; /* "/platen.v1.Inference/Generate" */
    enum rpc_kind kind;
    const ProtobufCMessageDescriptor *request; /* NULL: the handler takes raw buffers */
    bool bytes_are_text;                       /* rpc_message.h */
    bool open_to_all;                          /* asked without a token too (health) */
    const struct rpc_events *events;
    void *owner;
};

/* All texts are borrowed until close. */
struct rpc_server_options {
    const char *listen;         /* HOST:PORT; port 0 picks one */
    struct rpc_tls tls;         /* files are read again when they change; connections that stand keep what they have */
    const char *token;          /* NULL: everybody may call; else `authorization: Bearer TOKEN` is asked for */
    int threads;                /* rpc threads; 0: min(4, cores) */
    size_t receive_max_bytes;   /* largest message taken */
    size_t send_queue_bytes;    /* per call; one message is always taken */
    size_t send_queue_messages; /* per call */
    int64_t streams_max;        /* concurrent calls of one connection */
    int64_t memory_bytes;       /* soft limit of gRPC's own buffers; 0: none */
    int64_t keepalive_ms;       /* pings a silent client after so long */
    int64_t keepalive_timeout_ms; /* and gives it up when no answer came for so long */
};

/* 8 MiB in, 4 MiB or 256 messages queued out, 1024 streams, 20 s / 10 s keepalive. */
void rpc_server_options_init(struct rpc_server_options *o);

/* Binds, does not serve yet. ST_EINVAL (address, TLS files), ST_EUNAVAILABLE (port in use: another server on the same
 * port is refused, never shared), each with the sentence that names it. */
enum status rpc_server_open(struct rpc_server **out, const struct rpc_server_options *o, struct err *err);

/* Before start. The table is copied, what it points to is borrowed. */
void rpc_server_add(struct rpc_server *s, const struct rpc_method *methods, size_t count);

enum status rpc_server_start(struct rpc_server *s, struct err *err);

/* HOST:PORT with the port that was bound. Borrowed. */
const char *rpc_server_address(const struct rpc_server *s);
int rpc_server_port(const struct rpc_server *s);

/* The i-th method's name; NULL past the end. For reflection. */
const char *rpc_server_method(const struct rpc_server *s, size_t i);

/* Calls alive at this moment. */
size_t rpc_server_calls(struct rpc_server *s);

/* Takes no new calls or connections, tells clients so, waits for the running calls until deadline_ns, then cancels
 * them. Returns when no call is left: true if none had to be cancelled. Not from an rpc thread. Twice is fine. */
bool rpc_server_drain(struct rpc_server *s, int64_t deadline_ns);

/* Drains without patience where that was not done, ends the threads. NULL is fine. */
void rpc_server_close(struct rpc_server *s);

#ifdef __cplusplus
}
#endif
#endif
