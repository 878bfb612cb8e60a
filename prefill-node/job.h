/* SPDX-License-Identifier: Apache-2.0 */
/*
 * job.h - one order at work: what it asked for, how far it is, and to whom its blocks go.
 *
 *   rpc thread     makes it, accepts it, sees the peer go             (gone, adopted, ready)
 *   engine thread  computes and packs its layers                      (pass, slots; `packed` tells the mover)
 *   mover thread   ships, commits, and alone ends it                  (shipper, shipped, the end)
 *
 * Counted: the stream's count and the mover's. Fields say who writes them; what several threads look at goes through
 * __atomic builtins, or job_fail's lock.
 */
#ifndef PLATEN_PREFILL_JOB_H
#define PLATEN_PREFILL_JOB_H

#include "common/base/status.h"
#include "common/kv/layout.h"
#include "common/transport/shipper.h"
#include "common/transport/transfer.h"
#include "common/transport/transport.h"
#include "prefill-node/forward.h"
#include "prefill-node/scheduler.h"
#include "presses/chain.h"

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

enum { JOB_NAME_MAX = 129 };

struct Platen__Internal__V1__FromPrefill;
struct handoff_slot;
struct held;
struct trace;

/* Who asked: a decode node's stream, or this node's own self test. Called by the mover only, but for `free`. */
struct job_peer {
    enum status (*say)(void *ctx, const struct Platen__Internal__V1__FromPrefill *msg); /* as shipper_config.say */
    bool (*gone)(void *ctx);                                                            /* nobody waits any more */
    void (*end)(void *ctx, const struct err *why); /* exactly once; why->code ST_OK: it went well */
    void (*free)(void *ctx);                       /* after end */
};

/* Nanoseconds a job spent in each stage. */
struct job_times {
    int64_t arrived, begun, computed; /* moments (clock_now_ns) */
    int64_t forward, press, pack;     /* engine */
    int64_t ship;                     /* mover: while bytes were under way */
    int64_t committed;                /* moment; mover */
};

struct job {
    struct turn turn;
    struct job *next; /* mover's list */
    int refs;

    /* Set before the mover and the scheduler get it; only read after. */
    const struct job_peer *peer;
    void *peer_ctx;
    char request_id[JOB_NAME_MAX], decode_node[JOB_NAME_MAX];
    int32_t attempt;
    struct trace *trace; /* NULL: nothing is traced */
    uint64_t trace_order;
    int32_t *token;
    int64_t tokens, query_tokens;
    struct chain *chain;
    struct chain_needs needs;
    uint64_t room_bytes;        /* that it takes of the device besides what is open */
    struct press_prompt prompt; /* where needs.second_pass; token and tokens are the job's */
    int32_t *suffix;            /* of the prompt; owned */
    bool compact;
    enum kv_codec codec; /* of every block */
    int32_t layers;      /* blocks that will be shipped */
    const struct transport *transport;
    struct link_config link;
    struct link *made; /* met when the order was accepted, until the shipper takes it; NULL: the shipper connects */
    struct transfer *transfer; /* instead of a forward pass; NULL for orders */
    void *transfer_device;     /* its block's bytes on the device */

    /* Engine. */
    struct pass pass;
    struct held *held;                /* while needs.all_layers: every layer, until the last has been packed */
    struct handoff_slot *slots;       /* [SCHEDULER_SLOTS] of its track; set before the first `packed` */
    int32_t slot_of[SCHEDULER_SLOTS]; /* where layer l lies, at l % SLOTS; before `packed` says that it does */
    int64_t next_position;
    uint64_t rows;
    struct job_times times;
    int32_t packed; /* layers packed; release by the engine, acquire by the mover */

    /* rpc threads, relaxed; the mover is woken after. */
    bool gone, adopted;
    struct ticket ticket; /* of the Ready; before `ready` */
    int32_t ready;        /* layer + 1; release, acquire by the mover */

    /* Mover. */
    struct shipper *shipper;
    struct kv_block transfer_block; /* the one under way, where it lies on the device */
    uint64_t sum;                   /* of the block of layer summed - 1 */
    int32_t summed;
    int32_t shipped; /* layers whose blocks have left; release, acquire by the engine */
    int32_t told;    /* `ready` as the shipper knows it */
    bool moving, committed;
    int64_t moving_ns, progress_ns, beat_ns;
    uint64_t progress_bytes, shipped_bytes;

    pthread_mutex_t lock; /* of why */
    struct err why;
    bool failed; /* why holds the reason; relaxed */
};

/* A new job with one count. */
struct job *job_open(const struct job_peer *peer, void *peer_ctx);
void job_ref(struct job *j);
void job_unref(struct job *j);

/* It cannot go on, for this reason; the first reason counts. Any thread; wake the mover after. */
void job_fail(struct job *j, const struct err *why);
bool job_failed(const struct job *j);

/* For beats and logs: where it is now. */
const char *job_stage(const struct job *j);

#ifdef __cplusplus
}
#endif
#endif
