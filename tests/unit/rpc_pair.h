/* SPDX-License-Identifier: Apache-2.0 */
/*
 * rpc_pair.h - a server and a client in one process, with methods that do one thing each.
 *
 *   /test.T/Echo    unary   answers the context as an event's text; "fail" fails with a retry delay, "slow" never answers
 *   /test.T/Count   stream  max_new_tokens events, as fast as the queue takes them; then OK
 *   /test.T/Flood   stream  events until the queue is full, then nothing; `flooded` counts them
 *   /test.T/Chat    bidi    every request comes back as an event; ends when the client half-closes
 *   /test.T/Bulk    bidi    answers ToPrefill{transfer.bytes} with chunks of BULK_PIECE bytes
 */
#ifndef PLATEN_TESTS_RPC_PAIR_H
#define PLATEN_TESTS_RPC_PAIR_H

#include "common/base/bytes.h"
#include "common/base/clock.h"
#include "common/rpc/rpc_channel.h"
#include "common/rpc/rpc_server.h"
#include "proto/platen/internal/v1/prefill.pb-c.h"
#include "proto/platen/v1/inference.pb-c.h"

#include <pthread.h>
#include <stdatomic.h>

enum { BULK_PIECE = 1 << 20 };

typedef Platen__V1__GenerateRequest Request;
typedef Platen__V1__Event Event;

extern const struct rpc_chunk bulk_chunk;

struct rpc_pair {
    struct rpc_server *server;
    struct rpc_client *client;
    struct rpc_channel *channel;
    char target[64];

    /* What the handlers saw. */
    atomic_int opened, done, cancelled, messages, flooded, released, half_closed;
    atomic_int last_status;
    pthread_mutex_t lock;
    struct rpc_call *held; /* a count of its own; guarded by lock */
};

/* Default options where NULL. Fails the test when it cannot. */
void rpc_pair_open(struct rpc_pair *p, const struct rpc_server_options *so, const struct rpc_channel_options *co);
void rpc_pair_close(struct rpc_pair *p);

/* The call that /Echo "slow" or /Flood holds, with a count for the caller; waits at most ten seconds for it. */
struct rpc_call *rpc_pair_held(struct rpc_pair *p);

/* Waits at most ten seconds until *counter >= want. */
int reaches(const atomic_int *counter, int want);

/* A request with this context. Borrows the text. */
Request request_of(const char *context);

#endif
