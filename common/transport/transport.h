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
 *   beside the stream  nccl, loopback: the receiver posts `recv` and says Ready, the sender sends
 *                      ipc (`pulls`): the receiver takes them from the sender's memory and then says Ready
 *
 * shipper.h and receiver.h are the two ends that use this table; nodes talk to those. Nothing here falls back: which
 * transport an order uses is chosen once, in stations_choose, and named in Accepted.
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

/* What a transport adds to a Ready, or (where it pulls) to a Block; its own business alone. */
enum { TICKET_BYTES_MAX = 96 };
struct ticket {
    uint32_t bytes;
    uint8_t data[TICKET_BYTES_MAX];
};

/* What a station needs. Borrowed while it is open. */
struct cuda_table;
struct nccl_table;
struct nccl_times;
struct station_config {
    int32_t device;                /* CUDA ordinal; -1: blocks lie in the host's memory */
    const struct cuda_table *cuda; /* NULL: the machine's own libraries; tests bring theirs */
    const struct nccl_table *nccl;
    const struct nccl_times *times; /* NULL: nccl_times_default */
    int64_t keep_ms;                /* what is kept of a peer that nobody uses; 0: some seconds */
};

/* What a link needs. All borrowed; the link must be closed before any of them goes. */
struct link_config {
    struct station *station; /* NULL for a transport without one */
    bool sends;              /* which end it is */
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
    bool pulls; /* the receiver takes the bytes: `lend` says where they are, Ready that it has them; `send` is NULL */

    /* One per process, before any link. ST_EUNAVAILABLE: not on this machine, with the sentence. NULL: needs none. */
    enum status (*open)(struct station **out, const struct station_config *config, struct err *err);
    void (*shut)(struct station *station); /* after its links */

    /* ST_OK, or what is wrong with this process that only a restart helps. NULL: nothing can be. Any thread. */
    enum status (*health)(struct station *station, struct err *err);

    /* About once a second: lets go of what nobody has used for some time; a peer that is no more needs it most. It may
     * wait for the device. NULL: nothing is kept. Any thread. */
    void (*tick)(struct station *station);

    /* Receiver: appends what the peer needs to meet this station; NULL: nothing. */
    enum status (*hello)(struct station *station, struct text *out, struct err *err);

    /* Sender: whether it can meet the station that said this; else the sentence. NULL: always. */
    enum status (*meets)(struct station *station, const void *hello, size_t hello_bytes, struct err *why);

    /* Sender: appends what the peer's end of this very link needs; NULL: nothing. */
    enum status (*answer)(struct link *l, struct text *out, struct err *err);

    /* Makes one end of a transfer. Does not wait: a link that is not up yet says ST_AGAIN in poll. */
    enum status (*connect)(struct link **out, const struct link_config *config, struct err *err);

    /* Begins to send the bytes of `block`, which was announced (and, beside the stream, asked for by Ready). One block at
     * a time. Its memory must stay as it is until poll said ST_OK or the link was closed. `ticket` is Ready's. Does not
     * wait. */
    enum status (*send)(struct link *l, const struct kv_block *block, const struct ticket *ticket, struct err *err);

    /* Where it pulls: fills the ticket that the block's announcement carries. Its memory is lent until Ready came. */
    enum status (*lend)(struct link *l, const struct kv_block *block, struct ticket *ticket, struct err *err);

    /* Posts the place of a block that was announced; NULL: bytes come in the stream. Takes the announcement's ticket and
     * leaves Ready's there. Does not wait. */
    enum status (*recv)(struct link *l, const struct kv_block *into, struct ticket *ticket, struct err *err);

    /* Goes on with what was begun. ST_OK: nothing is under way any more, memory is free to be used again; ST_AGAIN: not
     * yet, `wake` will be called; else the transfer is lost, with the sentence. Does not wait. */
    enum status (*poll)(struct link *l, struct err *err);

    /* Bytes of the block under way that were handed over so far, to see whether anything moves; NULL: not known. */
    uint64_t (*moved)(const struct link *l);

    /* Before close: the order's stream broke, so the peer may be no more; what is kept for it must not be kept for long.
     * NULL: nothing is kept. */
    void (*doubt)(struct link *l);

    /* Ends the link, also in the middle of a transfer (the stream must have ended then). It waits some two seconds at
     * most for the transport to let go of the block; memory of blocks must outlive the stream. ST_EDEADLINE: it did not
     * let go, and the memory must not be used again while this process lives. NULL is fine. */
    enum status (*close)(struct link *l);
};

/* The transport called `name`, or NULL. */
const struct transport *transport_find(const char *name);

/* The i-th of transport.def; NULL past the end. */
const struct transport *transport_at(size_t i);

/* ST_EINVAL when `allowed` names a transport that is not in this program. */
enum status transport_list_check(const char *allowed, struct err *err);

#ifdef __cplusplus
}
#endif
#endif
