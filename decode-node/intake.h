/* SPDX-License-Identifier: Apache-2.0 */
/*
 * intake.h - stop 9 of 12: the thread that waits for blocks which come beside the stream.
 *
 *   rpc thread   Block ─▶ place, receive posted, Ready ─▶ intake_take      asks for no next message meanwhile
 *   intake       link polled ─▶ bytes are there ─▶ checksum ─▶ receiver_filled ─▶ next message
 *   rpc thread   the stream ends ─▶ intake_end ─▶ intake: link closed, which may wait ─▶ closed()
 *
 * So a receiver has one user at a time, and no rpc thread ever waits for a transport.
 */
#ifndef PLATEN_DECODE_INTAKE_H
#define PLATEN_DECODE_INTAKE_H

#include "common/base/status.h"
#include "common/rpc/rpc_call.h"
#include "common/transport/receiver.h"
#include "common/transport/stations.h"
#include "decode-node/staging.h"

#include <stdbool.h>

#ifdef __cplusplus
extern "C" {
#endif

struct Platen__Internal__V1__Accepted;
struct intake;

/* What one order or self test gives to the intake. Owned by it; zeroed, then filled where the transport becomes known. */
struct filling {
    const struct transport *transport; /* NULL: blocks come in the stream, and the intake has nothing to do */
    struct link *link;                 /* the intake's from intake_end on */
    struct receiver *receiver;
    struct rpc_call *call;
    bool broken; /* before intake_end: the stream ended before its commit */

    /* On the intake thread. `failed`: the block under way is lost; the intake cancels the call after. `closed`: the link is,
     * and the filling may go; ST_EDEADLINE: its transport did not let go of the place. */
    void (*failed)(struct filling *f, enum status st, const struct err *err);
    void (*closed)(struct filling *f, enum status st);

    struct filling *next; /* the intake's own from here on */
    bool listed, ended;   /* under its lock */
};

/* staging: whose copy lane is used for checksums of device memory; NULL: blocks lie in host memory. Borrowed. */
enum status intake_open(struct intake **out, struct staging *staging, struct err *err);
void intake_close(struct intake *in); /* nothing may be under way; NULL is fine */

/* The prefill node has chosen: opens the filling's link where blocks come beside the stream, and tells its receiver. From
 * inside the sink's accepted(). ST_EPRECONDITION: it chose what was not offered. */
enum status filling_connect(struct filling *f, struct intake *in, const struct stations *stations,
                            const struct Platen__Internal__V1__Accepted *msg,
                            enum status (*ready)(void *ctx, int32_t layer, const struct ticket *ticket),
                            struct err *err);

/* Says Ready on the filling's call: the body of every `ready`. */
enum status filling_say_ready(struct filling *f, int32_t layer, const struct ticket *ticket);

/* A block is under way (receiver_awaits). Any thread; does not wait. */
void intake_take(struct intake *in, struct filling *f);

/* The stream has ended: closed() will come. Any thread; does not wait. */
void intake_end(struct intake *in, struct filling *f);

/* A link's wake; ctx is the intake. */
void intake_wake(void *ctx);

#ifdef __cplusplus
}
#endif
#endif
