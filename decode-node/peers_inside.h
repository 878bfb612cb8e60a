/* SPDX-License-Identifier: Apache-2.0 */
/* peers_inside.h - the structs of peers, shared by peers.c (who is there) and peers_pick.c (who is asked). */
#ifndef PLATEN_DECODE_PEERS_INSIDE_H
#define PLATEN_DECODE_PEERS_INSIDE_H

#include "decode-node/peers.h"

#include <pthread.h>

#ifdef __cplusplus
extern "C" {
#endif

struct peer {
    struct peers *owner;
    struct peer *next;
    size_t target; /* which one it was found by */
    char address[PEER_ADDRESS_MAX];
    struct rpc_channel *channel;                   /* what is asked and answered in a moment */
    struct rpc_channel *orders[PEER_CHANNELS_MAX]; /* [cfg.channels], where there are several */
    uint32_t turn;                                 /* atomic: the next of orders */
    pthread_t thread;
    /* guarded by the owner's lock */
    bool listed, alive, told;
    double gb_s;         /* of its link */
    int64_t measured_ns; /* 0: not since it answers */
    int64_t reported;    /* tokens that it said are waiting */
    int64_t assigned;    /* tokens of orders that are there from us */
    char why[200];       /* not alive: what the last try said */
};

struct peers {
    struct peers_config cfg;
    struct peer *first;
    int32_t count;
    int64_t ticked_ns; /* the watch thread's */
    bool full;         /* told that an address finds no room; the watch thread's */
    pthread_t thread;
    char unknown[300];    /* a dns: target whose name is not found, and why; "" where all are; guarded by the lock */
    pthread_mutex_t lock; /* guards the list, the peers' states, stopping */
    pthread_cond_t stop;  /* signalled once */
    bool stopping;
};

/* peers_pick.c: prefill nodes that answer over a link that is fast enough. Lock held. */
int32_t peers_alive_now(const struct peers *p);

#ifdef __cplusplus
}
#endif
#endif
