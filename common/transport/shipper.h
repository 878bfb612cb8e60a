/* SPDX-License-Identifier: Apache-2.0 */
/*
 * shipper.h - stop 8 of 12: a packed block leaves for the peer.      before: prefill-node/handoff.c   after: receiver.h
 *
 *   IDLE ──block──▶ ANNOUNCE ──Block said──▶ [WAIT for Ready] ──▶ MOVE ──bytes left──▶ IDLE      once per layer
 *                                             beside the stream only
 *
 * Where the transport pulls, Ready says that the bytes were taken, and there is no MOVE.
 *
 * One order's sending end: announces, moves the bytes through a transport, counts what left, and makes the Commit. One
 * block at a time; the mover thread owns it and polls. Nothing here waits.
 */
#ifndef PLATEN_TRANSPORT_SHIPPER_H
#define PLATEN_TRANSPORT_SHIPPER_H

#include "common/base/status.h"
#include "common/kv/layout.h"
#include "common/transport/transport.h"

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

struct Platen__Internal__V1__Commit;
struct Platen__Internal__V1__FromPrefill;
struct shipper;

struct shipper_config {
    const struct transport *transport;
    struct link_config link;
    struct link *made; /* a link that is there already: the shipper's from now on; NULL: made from `link` */
    int32_t layers;

    /* Puts a message on the stream. ST_OK; ST_AGAIN: full, nothing happened; ST_ECANCELLED: the stream ended. */
    enum status (*say)(void *ctx, const struct Platen__Internal__V1__FromPrefill *msg);
    void *ctx;
};

/* Connects the link. Errors: the transport's. */
enum status shipper_open(struct shipper **out, const struct shipper_config *config, struct err *err);

/* Ends the link; where blocks are under way the stream must have ended before. A place that the peer made ready is filled
 * all the same: otherwise both ends would lose what they share with other orders. NULL is fine. */
void shipper_close(struct shipper *s);

/* Before close: the stream broke, the peer may be no more. NULL is fine. */
void shipper_doubt(struct shipper *s);

/* Takes the next block; the shipper must be idle, and the block (struct and bytes) stays as it is until it is again. */
void shipper_block(struct shipper *s, const struct kv_block *block, uint64_t checksum);

/* The peer said Ready{layer, ticket}; NULL: without one. The thread that polls. */
void shipper_ready(struct shipper *s, int32_t layer, const struct ticket *ticket);

/* Goes on. ST_OK: idle, the last block has left. ST_AGAIN: under way. Else lost, with the sentence. */
enum status shipper_poll(struct shipper *s, struct err *err);

/* Bytes that have left, and how many layers are whole; bytes that were handed over, to see whether anything moves. */
uint64_t shipper_moved(const struct shipper *s);
uint64_t shipper_bytes(const struct shipper *s);
int32_t shipper_layers(const struct shipper *s);

/* Every layer has left: fills layers, rows, bytes and checksum of `commit`. Asserts that all of them did. */
void shipper_totals(const struct shipper *s, struct Platen__Internal__V1__Commit *commit);

#ifdef __cplusplus
}
#endif
#endif
