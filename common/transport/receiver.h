/* SPDX-License-Identifier: Apache-2.0 */
/*
 * receiver.h - stop 9's lower half: the messages of one order as they come from the prefill node, proven, and each byte
 * of every block put into its place exactly once.
 *
 *   rpc thread   stream ─▶ receiver_message ─┬▶ accepted, beat                  told to the sink
 *                                            ├▶ Block: header proven ─▶ place() the sink gives memory
 *                                            ├▶ Chunk: one copy, stream slices ─▶ place, checksum on the way
 *                                            │          whole and right ─▶ arrived()
 *                                            └▶ Commit: every layer, rows, bytes, checksum ─▶ committed()
 *
 * Chunks of a layer must come in order without gap or overlap, so a byte is never written twice and never left out;
 * blocks may come in any order of layers. Whatever is wrong with what came (damage, nonsense, messages that may not stand
 * there) is ST_EDATALOSS and ends the order. After an error the receiver takes nothing more; the caller cancels the stream and gives the places
 * back. The receiver owns no block memory.
 *
 * One thread at a time; callbacks come from inside receiver_message.
 */
#ifndef PLATEN_TRANSPORT_RECEIVER_H
#define PLATEN_TRANSPORT_RECEIVER_H

#include "common/base/status.h"
#include "common/kv/block.h"
#include "common/kv/layout.h"
#include "common/transport/transport.h"

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* proto/platen/internal/v1/prefill.pb-c.h */
struct Platen__Internal__V1__Accepted;
struct Platen__Internal__V1__Beat;
struct Platen__Internal__V1__Commit;

struct rpc_buffer;
struct receiver;

/* What the decode node does with what comes. `ctx` goes to every function. Only place is required. */
struct receiver_sink {
    void *ctx;

    /* The order was accepted. The message is borrowed during the call. An error ends the order. */
    enum status (*accepted)(void *ctx, const struct Platen__Internal__V1__Accepted *msg, struct err *err);

    /* The prefill node lives and tells where it is. */
    void (*beat)(void *ctx, const struct Platen__Internal__V1__Beat *msg);

    /* A block's header is proven: where do its plan->bytes bytes go? ST_OK with *place (64-byte aligned memory that the
     * transport can write: host for grpc); anything else ends the order. */
    enum status (*place)(void *ctx, const struct kv_block *plan, void **place, struct err *err);

    /* All bytes of the block are in its place and their checksum is right. */
    void (*arrived)(void *ctx, const struct kv_block *block);

    /* Every layer has arrived and the totals are right: adopt, then say Adopted. */
    void (*committed)(void *ctx, const struct Platen__Internal__V1__Commit *msg);
};

struct receiver_config {
    struct kv_shape shape;            /* of the model. A Transfer's blocks: `layers` is what Accepted says */
    enum kv_codec codec;              /* that was ordered */
    int64_t rows_max;                 /* rows a head can have at most: the tokens that were ordered */
    int64_t position_min;             /* where a Commit may say that generation goes on: from here */
    int64_t position_max;             /* to here; 0 for a Transfer, where nothing goes on */
    const struct receiver_sink *sink; /* borrowed */

    /* For transports beside the stream; both NULL for grpc. `ready` says Ready{layer, ticket} on the stream. */
    const struct transport *transport;
    struct link *link;
    enum status (*ready)(void *ctx, int32_t layer, const struct ticket *ticket);
};

/* Never fails but for a shape that is none (assert). Allocates everything it will need, about 2 KiB a layer. */
struct receiver *receiver_open(const struct receiver_config *config);
void receiver_close(struct receiver *r); /* NULL is fine; touches no place */

/*
 * Takes the next message of the stream (a FromPrefill as raw buffer; owned by the receiver from here on). ST_OK: ask for
 * the next. Else the order failed. One copy of the bulk; allocates nothing for chunks.
 */
enum status receiver_message(struct receiver *r, struct rpc_buffer *buffer, struct err *err);

/* Blocks come beside the stream, over this link: from inside the sink's accepted(), where the transport is known. */
void receiver_use(struct receiver *r, const struct transport *transport, struct link *link,
                  enum status (*ready)(void *ctx, int32_t layer, const struct ticket *ticket));

/* The layer whose bytes are under way beside the stream: poll the link, then say receiver_filled; -1: none. */
int32_t receiver_awaits(const struct receiver *r);

/* For transports beside the stream: the link has the bytes in their place. Where it pulls, the peer is told that its memory
 * is free again; say it before the checksum is made. */
enum status receiver_taken(struct receiver *r, struct err *err);

/* For transports beside the stream: the bytes of `layer` are in their place and have this checksum. */
enum status receiver_filled(struct receiver *r, int32_t layer, uint64_t checksum, struct err *err);

/* The blocks of all layers, planned as they are announced, data set when placed; [shape.layers], owned by the receiver. */
const struct kv_block *receiver_blocks(const struct receiver *r);

/* How many layers have arrived whole, and the bytes of blocks that have come so far. */
int32_t receiver_layers(const struct receiver *r);
uint64_t receiver_bytes(const struct receiver *r);

#ifdef __cplusplus
}
#endif
#endif
