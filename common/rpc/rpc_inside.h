/* SPDX-License-Identifier: Apache-2.0 */
/* rpc_inside.h - inside common/rpc only: buffers as gRPC has them, credentials, and what a server or client gives a call. */
#ifndef PLATEN_RPC_RPC_INSIDE_H
#define PLATEN_RPC_RPC_INSIDE_H

#include "common/rpc/rpc.h"
#include "common/rpc/rpc_call.h"
#include "common/rpc/rpc_loop.h"

#include <grpc/byte_buffer.h>
#include <grpc/grpc.h>
#include <grpc/grpc_security.h>
#include <pthread.h>

/* A buffer is gRPC's byte buffer under our name. */
static inline grpc_byte_buffer *buffer_core(const struct rpc_buffer *b)
{
    return (grpc_byte_buffer *)b;
}

static inline struct rpc_buffer *buffer_of(grpc_byte_buffer *b)
{
    return (struct rpc_buffer *)b;
}

/* `msg` packed into a new byte buffer: one copy. */
grpc_byte_buffer *buffer_pack(const ProtobufCMessage *msg);

/* The chunk's head, tags and lengths, then the spans as borrowed slices. `release` as in rpc_call_send_bulk. */
grpc_byte_buffer *buffer_chunk(const struct rpc_chunk *chunk, const ProtobufCMessage *head,
                               const struct rpc_span *spans, size_t count, void (*release)(void *arg), void *arg);

/* The calls of one server or client that have not settled. A call lock may be taken inside its lock, not the other way. */
struct call_list {
    pthread_mutex_t lock;
    pthread_cond_t changed;
    size_t count;
    struct rpc_call *first;
};

void call_list_init(struct call_list *l);
void call_list_fini(struct call_list *l);
size_t call_list_count(struct call_list *l);
bool call_list_wait_empty(struct call_list *l, int64_t deadline_ns);
void call_list_cancel(struct call_list *l);

/* What is needed to make a call of a gRPC call. */
struct call_setup {
    bool server;
    grpc_call *core;             /* taken */
    grpc_metadata_array headers; /* server: taken */
    const struct rpc_events *events;
    void *owner;
    const ProtobufCMessageDescriptor *type; /* of messages that come in; NULL: raw */
    bool bytes_are_text;
    int64_t deadline_ns;
    size_t queue_bytes, queue_messages;
    struct call_list *list;
    const char *token; /* client: borrowed from the channel */
    void *user;
    void (*free_user)(void *user);
};

/* One count for the caller, one for gRPC. */
struct rpc_call *call_make(const struct call_setup *setup);

/* Server: waits for the end, tells open(), delivers the first message (taken; NULL with `stream` false: there was none). */
void call_serve(struct rpc_call *call, bool stream, grpc_byte_buffer *first);

/* Server: ends a call that no handler saw. */
void call_refuse(struct rpc_call *call, enum status st, const char *sentence);

/* Client: sends the first message (taken), waits for messages and the end. */
void call_begin(struct rpc_call *call, grpc_byte_buffer *first, bool only);

/* Credentials. NULL (and err) when files cannot be read. A server's are read again when the files change; *state belongs
 * to the server and is freed with tls_state_free after it. */
struct tls_state;
enum status tls_server(grpc_server_credentials **out, struct tls_state **state, const struct rpc_tls *tls,
                       struct err *err);
enum status tls_channel(grpc_channel_credentials **out, const struct rpc_tls *tls, struct err *err);
void tls_state_free(struct tls_state *s);

/* Can a server listen at every address of host:port? Says why not: a second server would otherwise share the port, or
 * get one address of two. */
enum status address_free(const char *text, const char *host, int port, struct err *err);

/* An integer channel argument. */
static inline grpc_arg arg_int(const char *key, int64_t value)
{
    grpc_arg a;

    a.type = GRPC_ARG_INTEGER;
    a.key = (char *)key;
    a.value.integer = value > 0x7fffffff ? 0x7fffffff : (int)value;
    return a;
}

#endif
