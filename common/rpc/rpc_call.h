/* SPDX-License-Identifier: Apache-2.0 */
/*
 * rpc_call.h - one call. The same object at the server and at the client, because most of a call is the same there.
 *
 *        any thread ──send──▶ [bounded queue] ──one message at a time──▶ wire ──▶ message()   on the peer's rpc thread
 *
 * Messages arrive in the order of their sends. At most one message is read ahead of the receiver's rpc_call_want, so a
 * slow receiver slows the sender; the sender's queue then fills and rpc_call_send says ST_AGAIN.
 *
 * A call is counted. The rpc thread holds one count until done() has returned; a worker that keeps the pointer longer
 * takes its own with rpc_call_ref. A call that has ended stays a valid object: sends give ST_ECANCELLED, nothing else
 * happens, and no gRPC resource is held. So a worker may find out late.
 */
#ifndef PLATEN_RPC_RPC_CALL_H
#define PLATEN_RPC_RPC_CALL_H

#include "common/base/status.h"
#include "common/rpc/rpc_chunk.h"

#include <protobuf-c/protobuf-c.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

struct rpc_call;

/* How a call ended. */
struct rpc_end {
    enum status status; /* server: ST_OK when our status left, ST_ECANCELLED or ST_EDEADLINE when the peer went away */
    const char *sentence; /* client: the server's or gRPC's; server: "". Never NULL; valid during done() */
    int64_t retry_ms;     /* client: the server asks to try again after so long; -1: did not say */
};

/* What happens to a call, told on its rpc thread. Any of them may be NULL. `owner` is what the method was registered
 * with (server) or what rpc_call_start was given (client). */
struct rpc_events {
    /* server: the call is here; before any message. A good place for rpc_call_set_user. */
    void (*open)(struct rpc_call *call, void *owner);

    /* A message came, checked and unpacked. It is freed after the callback unless rpc_call_keep was called. */
    void (*message)(struct rpc_call *call, void *owner, const ProtobufCMessage *msg);

    /* Instead of `message`, where the method has no message type: the callee owns `buffer`. */
    void (*buffer)(struct rpc_call *call, void *owner, struct rpc_buffer *buffer);

    /* The peer sends no more (server side of bidirectional methods; after the one message of the others). */
    void (*half_close)(struct rpc_call *call, void *owner);

    /* There is room again after a send said ST_AGAIN. */
    void (*room)(struct rpc_call *call, void *owner);

    /* The call is over: exactly once, last. */
    void (*done)(struct rpc_call *call, void *owner, const struct rpc_end *end);
};

void rpc_call_ref(struct rpc_call *call);
void rpc_call_unref(struct rpc_call *call);

/* The handler's own state of this call. `free_user` (may be NULL) gets it when the last count is gone, on whatever
 * thread that is. Set it in open(), or (client) in struct rpc_call_options. */
void rpc_call_set_user(struct rpc_call *call, void *user, void (*free_user)(void *user));
void *rpc_call_user(const struct rpc_call *call);

/* Server: the first value of a request header (lower-case key); false where there is none. In callbacks only. */
bool rpc_call_header(const struct rpc_call *call, const char *key, struct rpc_span *value);

/* clock_now_ns time; INT64_MAX: none. gRPC itself ends the call then: done() comes, rpc_call_cancelled says so. */
int64_t rpc_call_deadline_ns(const struct rpc_call *call);

/* True as soon as the peer hung up, cancelled, died or let the deadline pass. Any thread, one atomic load. */
bool rpc_call_cancelled(const struct rpc_call *call);

/* Sends a message. Any thread. ST_OK: copied and on its way. ST_AGAIN: the queue is full, nothing happened.
 * ST_ECANCELLED: the call has ended or was finished. Never waits. */
enum status rpc_call_send(struct rpc_call *call, const ProtobufCMessage *msg);

/* Sends a chunk: `head` (whose bulk field is empty) with that field's bytes taken from `spans` without a copy. After
 * ST_OK the bytes belong to the call until release(arg), which comes exactly once, also when the call ends early, on any
 * thread, perhaps inside some send: it must be short and take no lock that is held while sending. After anything else
 * than ST_OK nothing was taken and release is not called. Statuses as rpc_call_send. */
enum status rpc_call_send_bulk(struct rpc_call *call, const struct rpc_chunk *chunk, const ProtobufCMessage *head,
                               const struct rpc_span *spans, size_t count, void (*release)(void *arg), void *arg);

/* Waits until a message may be queued. ST_OK, ST_AGAIN when deadline_ns passed, ST_ECANCELLED when the call ended. Not
 * from an rpc thread. */
enum status rpc_call_wait_room(struct rpc_call *call, int64_t deadline_ns);

/* Asks for the next message of a stream. The first one is asked for already. Any thread; asking twice is asking once. */
void rpc_call_want(struct rpc_call *call);

/* Inside message(): the callee keeps `msg` and gives it back with rpc_message_free. */
void rpc_call_keep(struct rpc_call *call);

/* Server: ends the call after what is queued was sent. `sentence` goes to the caller (NULL: none); retry_ms >= 0 tells
 * when to try again. Any thread; the first end counts, later ones do nothing. */
void rpc_call_finish(struct rpc_call *call, enum status st, const char *sentence, int64_t retry_ms);

/* Server: finish with what `err` says; unary failure in one line. */
void rpc_call_fail(struct rpc_call *call, const struct err *err);

/* Server: sends `msg` and finishes with ST_OK, in one piece: the answer of a unary method. */
void rpc_call_reply(struct rpc_call *call, const ProtobufCMessage *msg);

/* Server: ends now; what is queued is dropped. For a peer that does not read. Any thread. */
void rpc_call_abort(struct rpc_call *call, enum status st, const char *sentence);

/* Client: sends no more; the server sees half_close after what is queued. Any thread. */
void rpc_call_half_close(struct rpc_call *call);

/* Client: cancels; done() comes with ST_ECANCELLED. Any thread, no signal handler (service/signals.h). */
void rpc_call_cancel(struct rpc_call *call);

/* Bytes that wait in the queue at this moment; what gRPC holds already is not counted. */
size_t rpc_call_queued_bytes(struct rpc_call *call);

#ifdef __cplusplus
}
#endif
#endif
