/* SPDX-License-Identifier: Apache-2.0 */
/*
 * rpc_call_inside.h - the struct of a call, shared by the three files that make it one: rpc_call.c (its life), rpc_send.c
 * (what goes out), rpc_call_list.c (all that are alive).
 *
 * `lock` guards everything below it in the struct; it is never held during a callback. Borrowed slices may be released
 * while it is held (rpc_call.h tells what a release may do).
 */
#ifndef PLATEN_RPC_RPC_CALL_INSIDE_H
#define PLATEN_RPC_RPC_CALL_INSIDE_H

#include "common/rpc/rpc_inside.h"

#include <grpc/status.h>

struct outgoing {
    struct outgoing *next;
    grpc_byte_buffer *buffer;
    size_t bytes;
};

/* owned by: its counts */
struct rpc_call {
    int refs;       /* atomic, through the compiler's __atomic functions: headers know no _Atomic */
    bool cancelled; /* atomic */
    bool server, bytes_are_text, keep;
    const struct rpc_events *events;
    void *owner, *user;
    void (*free_user)(void *user);
    const ProtobufCMessageDescriptor *type;
    grpc_metadata_array headers;
    int64_t deadline_ns;
    size_t queue_bytes, queue_messages;
    struct call_list *list;
    struct rpc_call *next, *prev; /* guarded by the list's lock */

    pthread_mutex_t lock;
    pthread_cond_t room;
    grpc_call *core; /* NULL once settled */
    int batches;
    struct rpc_tag end_tag, send_tag, recv_tag, meta_tag;

    struct outgoing *first, **last; /* waiting */
    size_t bytes, messages;         /* waiting */
    struct outgoing *sending;       /* under way; NULL with send_busy: a batch without a message */
    bool send_busy, started, closing, closed, said_full;
    grpc_metadata metadata[2]; /* client: authorization; server: when to come again, in two forms */
    size_t metadata_count;
    grpc_slice sentence;
    enum status finish; /* what SEND_STATUS or abort says */

    grpc_byte_buffer *in;
    bool recv_busy, in_over;
    grpc_metadata_array initial;

    bool ended;
    int was_cancelled;            /* server */
    grpc_status_code code;        /* client */
    grpc_slice details;           /* client */
    grpc_metadata_array trailing; /* client */
};

/* In and out of the list of calls that are alive. Takes the list's lock. */
void call_list_enter(struct rpc_call *call);
void call_list_leave(struct rpc_call *call);

/* Starts a batch and counts it. With the lock held. */
void call_batch(struct rpc_call *call, const grpc_op *ops, size_t count, struct rpc_tag *tag);

/* Without the lock, on the rpc thread, after a batch came back and did its work: counts it off, and settles the call when
 * it was the last one after the end. The call may be gone afterwards. */
void call_batch_over(struct rpc_call *call);

/* Queues a first message (taken), with the lock held; starts the next send batch when none is under way. */
void call_queue(struct rpc_call *call, grpc_byte_buffer *buffer);
void call_pump(struct rpc_call *call);

/* Empties the queue, with the lock held; the list is freed best after unlocking. */
struct outgoing *call_queue_drop(struct rpc_call *call);
void outgoing_free(struct outgoing *o);

/* The tag of send batches. */
void call_on_send(struct rpc_tag *tag, bool ok);

#endif
