/* SPDX-License-Identifier: Apache-2.0 */
/* order_state.h - an order's fields, for order.c (whom to ask, how often), attempt.c (one stream) and adopt.c (what arrives) alone. */
#ifndef PLATEN_DECODE_ORDER_STATE_H
#define PLATEN_DECODE_ORDER_STATE_H

#include "common/rpc/rpc_call.h"
#include "common/transport/receiver.h"
#include "decode-node/intake.h"
#include "decode-node/node.h"
#include "decode-node/order.h"

#ifdef __cplusplus
extern "C" {
#endif

/* One attempt at one prefill node. Callbacks of its call come one after the other from one rpc thread. */
struct attempt {
    struct peer *peer;
    struct rpc_call *call; /* one count; guarded by the order's lock */
    struct receiver *receiver;
    struct receiver_sink sink;
    const struct transport *transport; /* from Accepted on */
    struct filling filling;            /* where blocks come beside the stream */
    struct rpc_end end;                /* of the call, from its end on */
    char end_sentence[ERR_TEXT_MAX];
    const char *stage; /* where the prefill node is, as far as we know; static */
    uint64_t wire_bytes;
    uint64_t placed_bytes;       /* of the extent */
    void *place;                 /* of the block that is under way: device memory */
    struct stage_buffer *staged; /* where it lands first; NULL where the host writes the device's memory */
    int64_t begin_ns, accepted_ns, first_block_ns;
    int64_t block_ns, arrived_ns; /* the last block got its place, was whole */
    int64_t heard_ns;             /* atomic: last message */
    bool committed;
    struct err why; /* what we found wrong ourselves; code 0: nothing */
};

struct order {
    struct node *node;
    struct order_spec spec;
    int32_t refs;               /* atomic */
    pthread_mutex_t lock;       /* guards call of the attempt, waiting */
    bool cancelled;             /* atomic */
    bool waiting;               /* parked: no prefill node answers */
    struct order *next, **link; /* in the node's list; guarded by its lock */
    int64_t begin_ns, parked_ns;
    uint64_t trace_order;
    int32_t attempts;
    int32_t losses_of_data;
    uint32_t shunned; /* transports that were lost in this order: bits, in the order of the node's stations */
    bool stuck;       /* a transport did not let go of our place: no other attempt may use it */
    char tried[ORDER_ATTEMPTS][PEER_ADDRESS_MAX];
    uint32_t refused; /* bits, of tried: by nodes that will never do this order */
    struct err last;  /* what is told if there is no other attempt */
    int64_t retry_ms;
    struct attempt at;
};

/* ---- order.c ------------------------------------------------------------------------------------------------ */

void order_ref(struct order *o);
bool order_is_cancelled(const struct order *o);

/* The next attempt, or the end: picks a prefill node, or parks the order until one answers. When it returns the order may
 * be over. */
void order_go_on(struct order *o);

/* What an attempt was lost by. A node that will never do this order (too small, another model) is not asked again, and
 * does not hide that another one has no room just now. */
void order_lost(struct order *o, const struct err *why, int64_t retry_ms);

/* Tells whoever asked, and drops the order's own count. */
void order_finish(struct order *o, const struct err *err, int64_t retry_ms);

/* ---- attempt.c ---------------------------------------------------------------------------------------------- */

/* Starts the stream to a prefill node that was picked; order_go_on or order_finish follow when it has ended. */
void attempt_begin(struct order *o, struct peer *peer);

/* ---- adopt.c ------------------------------------------------------------------------------------------------ */

/* Takes room for what the press can keep at most. ST_OK; ST_AGAIN: compaction was asked for, `then` will be called on
 * the engine thread; ST_EEXHAUSTED. */
enum status adopt_reserve(struct order *o, void (*then)(struct order *o), struct err *err);

/* A receiver for the attempt, whose sink puts blocks into the order's extent. */
void adopt_open(struct order *o);
void adopt_close(struct order *o); /* after the last message */

#ifdef __cplusplus
}
#endif
#endif
