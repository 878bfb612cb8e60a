/* SPDX-License-Identifier: Apache-2.0 */
/*
 * nccl_pair.h - a communicator of two ranks, and the one thread that calls NCCL for it.
 *
 *   MAKING ──up──▶ UP ──error, silence, closed──▶ LOST ──abort has come back──▶ ENDED
 *      └──────── deadline, error, closed ───────────┘
 *
 * NCCL may hang: a send to a peer that died neither fails nor finishes, an abort may not come back. So every call is made
 * on the pair's own thread, and everybody else waits for that thread with a deadline. A pair that hangs costs its thread and
 * its communicator until the process ends, nothing else: the next pair with the same peer is a new one.
 *
 * A peer that dies while nothing is under way tells nobody. So a pair whose last order broke is doubted: unless its peer
 * comes again within doubt_ms it is lost, and its device memory goes back.
 *
 * Sends and receives of one communicator are matched by their order alone. Several orders share a pair, so each receive
 * gets a number when it is posted, the peer is told it (Ready), and sends go out in the order of these numbers.
 */
#ifndef PLATEN_TRANSPORT_NCCL_PAIR_H
#define PLATEN_TRANSPORT_NCCL_PAIR_H

#include "common/base/status.h"
#include "common/transport/nccl_table.h"

#include <stdbool.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* How long each wait may last. */
struct nccl_times {
    int64_t make_ms;  /* a communicator */
    int64_t post_ms;  /* one send or receive, once it is NCCL's */
    int64_t grace_ms; /* for what is under way when its order has ended */
    int64_t abort_ms;
    int64_t doubt_ms; /* until a peer whose order broke must have come again */
    int64_t idle_ms;  /* and any other: it may have left without a word */
};
extern const struct nccl_times nccl_times_default;

enum { NCCL_SENDER, NCCL_RECEIVER }; /* ranks */

struct pair_config {
    const struct cuda_table *cuda;
    const struct nccl_table *nccl;
    void *context; /* of the device */
    struct nccl_id id;
    int rank;
    uint64_t generation; /* the sender's number for it */
    struct nccl_times times;
};

enum pair_state { PAIR_MAKING, PAIR_UP, PAIR_LOST, PAIR_ENDED };

struct pair;
struct pair_post;

/* Starts making it; counted once. Does not wait. */
enum status pair_open(struct pair **out, const struct pair_config *config, struct err *err);
void pair_ref(struct pair *p);
void pair_unref(struct pair *p);

/* Aborts it. Any thread, does not wait. Everything under way is lost, for this reason; the first reason counts. */
void pair_lose(struct pair *p, const char *why);

/* Nobody uses it: lost after so long, unless pair_trust is said before. Any thread. */
void pair_doubt(struct pair *p, int64_t ms);
void pair_trust(struct pair *p);

enum pair_state pair_state(struct pair *p, struct err *why); /* why (may be NULL): where it is LOST or ENDED */
uint64_t pair_generation(const struct pair *p);
struct nccl_id pair_id(const struct pair *p);

/* Nanoseconds since its thread entered a call of NCCL that has not come back; 0: none. */
int64_t pair_in_call_ns(struct pair *p);

/* Posts one transfer; `wake` (any thread, short) when it has ended. A receive gets its number; a send has the number that
 * its peer told. Does not wait. The post lives until pair_forget. */
struct pair_post *pair_recv(struct pair *p, void *into, uint64_t bytes, void (*wake)(void *ctx), void *ctx,
                            uint64_t *number);
struct pair_post *pair_send(struct pair *p, const void *from, uint64_t bytes, void (*wake)(void *ctx), void *ctx,
                            uint64_t number);

/* ST_OK: done; ST_AGAIN; ST_EUNAVAILABLE: the pair is lost, with the reason. */
enum status pair_poll(struct pair *p, struct pair_post *post, struct err *err);

/* Gives a post back. Where it is under way: lets it finish for grace_ms, else loses the pair. ST_OK: its memory is free.
 * ST_EDEADLINE: NCCL did not come back; the memory stays NCCL's. NULL is fine. */
enum status pair_forget(struct pair *p, struct pair_post *post);

#ifdef __cplusplus
}
#endif
#endif
