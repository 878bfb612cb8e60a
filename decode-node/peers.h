/* SPDX-License-Identifier: Apache-2.0 */
/*
 * peers.h - the prefill nodes that this decode node knows: found by list or DNS, watched, picked by load.
 *
 * Each target is looked up again every few seconds; each address is one peer, asked for its loads about once a second. A
 * peer that does not answer is not picked; when it answers again it is.
 */
#ifndef PLATEN_DECODE_PEERS_H
#define PLATEN_DECODE_PEERS_H

#include "common/base/status.h"
#include "common/rpc/rpc_channel.h"

#include <stdbool.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

struct peers;
struct peer;

enum { PEER_ADDRESS_MAX = 300, PEER_CHANNELS_MAX = 16 };

struct peers_config {
    struct rpc_client *client;
    const struct rpc_channel_options *channel;
    const char *const *target; /* HOST:PORT or dns:NAME:PORT */
    size_t targets;
    int32_t channels;  /* connections that orders take in turn; 1: the one that loads are asked on */
    double floor_gb_s; /* a peer whose link is slower does not count as answering; 0: every one does */
    void (*changed)(void *ctx, int32_t alive); /* how many answer; on the watching thread */
    void (*tick)(void *ctx);                   /* about once a second, on the watching thread */
    void *ctx;
};

/* Checks the targets' form and number. ST_EINVAL names a target that is none. */
enum status peers_check(const char *const *target, size_t targets, struct err *err);

/* The same, and starts watching. */
enum status peers_open(struct peers **out, const struct peers_config *config, struct err *err);
void peers_close(struct peers *p); /* every peer must be given back; NULL is fine */

/* The live peer with the least work, but none of `tried`, and none with a link below the floor, where there is another. The caller gives it back. Counts `tokens`
 * as its work until then. ST_EUNAVAILABLE: none answers, with the reason. Any thread, never waits. */
enum status peers_pick(struct peers *p, int64_t tokens, const char (*tried)[PEER_ADDRESS_MAX], int32_t tried_count,
                       struct peer **out, struct err *err);
void peer_give_back(struct peer *peer, int64_t tokens);

const char *peer_address(const struct peer *peer);

/* The connection for the next order: a connection is one HTTP/2 transport with one writer, so orders of one time go faster
 * over several. The first use of each connects. Any thread. */
struct rpc_channel *peer_channel(struct peer *peer);

/* The peer failed an order: it is not picked again before it has answered. */
void peer_suspect(struct peer *peer);

/* A peer that answers and whose link was not measured since it began to, or was found slow a while ago. False:
 * none. Peers live as long as the table. */
bool peers_unmeasured(struct peers *p, struct peer **out);

/* What its link moves, in GB/s; 0: it could not be measured. Tells `changed` where that matters. */
void peer_measured(struct peer *peer, double gb_s);

int32_t peers_alive(struct peers *p);

/* Why none of them counts as answering; "" while one does. Any thread. */
enum { PEERS_WHY_MAX = ERR_TEXT_MAX + 100 };
void peers_why_none(struct peers *p, char out[PEERS_WHY_MAX]);

#ifdef __cplusplus
}
#endif
#endif
