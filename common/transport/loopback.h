/* SPDX-License-Identifier: Apache-2.0 */
/*
 * loopback.h - both ends in one process, with the faults of a wire as knobs. For tests and for a node's own self test.
 *
 * A station joins two links: the first connect is the sender's, the second the receiver's. Bytes go beside the stream, as
 * they do with NCCL: the receiver posts its place, the sender copies into it. Both ends on one thread, or locked by the
 * caller.
 */
#ifndef PLATEN_TRANSPORT_LOOPBACK_H
#define PLATEN_TRANSPORT_LOOPBACK_H

#include "common/transport/transport.h"

#include <stdbool.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* All zero: a perfect wire. */
struct loopback_knobs {
    int64_t latency_ns; /* from send to arrival */
    uint64_t damage_at; /* the byte of all bytes sent that is flipped, counted from 1; 0: none */
    uint64_t die_at;    /* the wire breaks (ST_EUNAVAILABLE, both ends) after so many bytes; 0: never */
    bool silent;        /* nothing arrives and nothing is said */
};

struct station *loopback_open(const struct loopback_knobs *knobs);
void loopback_close(struct station *s); /* after both links; NULL is fine */

#ifdef __cplusplus
}
#endif
#endif
