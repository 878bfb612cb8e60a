/* SPDX-License-Identifier: Apache-2.0 */
/*
 * transport.h - one table per way of moving a block's bytes to the peer.
 *
 *   station   one per process and transport: what it needs once (a library, a device, peers it has met)
 *   link      one per order: the station's end of one transfer
 *
 * The order's stream always carries the messages: Order, Accepted, Block (the announcement), Commit, Adopted. A
 * transport moves only the bytes that a Block has announced. There are two kinds:
 *
 *   in the stream      grpc: bytes follow their Block as Chunk messages; `recv` is NULL, the receiver reads them itself
 *   beside the stream  loopback here, NCCL and CUDA IPC later: the receiver posts `recv` and says Ready, the sender sends
 *
 * shipper.h and receiver.h are the two ends that use this table; nodes talk to those. Nothing here falls back: which
 * transport an order uses is chosen once, in transport_choose, and named in Accepted.
 *
 * Threads: a link belongs to one thread (sender: the mover); `wake` may be called from any.
 */
#ifndef PLATEN_TRANSPORT_TRANSPORT_H
#define PLATEN_TRANSPORT_TRANSPORT_H

#include "common/base/status.h"
#include "common/base/text.h"
#include "common/kv/layout.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

struct rpc_call;
struct station;
struct link;

/* Where the bytes of a block must lie for `send` and `recv`. */
enum transport_place { PLACE_HOST, PLACE_DEVICE };

/* What a link needs. All borrowed; the link must be closed before any of them goes. */
struct link_config {
    struct station *station; /* NULL for a transport without one */
    struct rpc_call *stream; /* the order's stream; NULL in process */
    const void *hello;       /* what the peer's station said of itself (Order or Accepted.transport_hello) */
    size_t hello_bytes;
    void (*wake)(void *ctx); /* poll may have news; any thread, short, takes no lock held while polling */
    void *ctx;
};

struct transport {
    const char *name;
    const char *summary; /* one sentence for docs and --help */
    enum transport_place place;

    /* Appends what the peer needs to meet this station; NULL: nothing. */
    enum status (*hello)(struct station *station, struct text *out, struct err *err);

    /* Makes one end of a transfer. Does not wait: a link that is not up yet says ST_AGAIN in poll. */
    enum status (*connect)(struct link **out, const struct link_config *config, struct err *err);

    /* Begins to send the bytes of `block`, which was announced (and, beside the stream, asked for by Ready). One block at
     * a time. Its memory must stay as it is until poll said ST_OK or the link was closed. Does not wait. */
    enum status (*send)(struct link *l, const struct kv_block *block, struct err *err);

    /* Posts the place of a block that was announced; NULL: bytes come in the stream. Does not wait. */
    enum status (*recv)(struct link *l, const struct kv_block *into, struct err *err);

    /* Goes on with what was begun. ST_OK: nothing is under way any more, memory is free to be used again; ST_AGAIN: not
     * yet, `wake` will be called; else the transfer is lost, with the sentence. Does not wait. */
    enum status (*poll)(struct link *l, struct err *err);

    /* Bytes of the block under way that were handed over so far, to see whether anything moves; NULL: not known. */
    uint64_t (*moved)(const struct link *l);

    /* Ends the link, also in the middle of a transfer (the stream must have ended then). It waits about a second at most
     * for the transport to let go of the block; memory of blocks must outlive the stream. NULL is fine. */
    void (*close)(struct link *l);
};

/* The transport called `name`, or NULL. */
const struct transport *transport_find(const char *name);

/* The i-th of transport.def; NULL past the end. */
const struct transport *transport_at(size_t i);

/*
 * The first offered transport that this node may use. allowed: names separated by commas ("grpc"), in the operator's
 * order; offered: the peer's, best first. *note (may be NULL) tells, where it is not the first offered, why; it is empty
 * otherwise. ST_EPRECONDITION when there is none, naming both lists.
 */
enum status transport_choose(const struct transport **out, const char *allowed, const char *const *offered,
                             size_t count, struct text *note, struct err *err);

/* ST_EINVAL when `allowed` names a transport that is not in this program. */
enum status transport_list_check(const char *allowed, struct err *err);

#ifdef __cplusplus
}
#endif
#endif
