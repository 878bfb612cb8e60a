/* SPDX-License-Identifier: Apache-2.0 */
/*
 * lease.h - the order in which the messages of Prefill.Run may come; the same table on both nodes.
 *
 *   FREE ──Order──▶ ORDERED ──Accepted──▶ OPEN ──Commit──▶ COMMITTED ──Adopted──▶ ENDED
 *                      Beat                 Beat, Block, Chunk, Ready
 *
 * The stream is the lease: when it breaks, in any state, both sides give everything back. A message that may not stand
 * where it came is the peer's fault and ends the stream.
 */
#ifndef PLATEN_TRANSPORT_LEASE_H
#define PLATEN_TRANSPORT_LEASE_H

#include "common/base/status.h"

#ifdef __cplusplus
extern "C" {
#endif

enum lease_state { LEASE_FREE, LEASE_ORDERED, LEASE_OPEN, LEASE_COMMITTED, LEASE_ENDED, LEASE_STATES };

enum lease_event {
    LEASE_ORDER, /* or Transfer */
    LEASE_ACCEPTED,
    LEASE_BEAT,
    LEASE_BLOCK,
    LEASE_CHUNK,
    LEASE_READY,
    LEASE_COMMIT,
    LEASE_ADOPTED,
    LEASE_EVENTS
};

/* Moves *state over `event`. ST_EINVAL, and *state as it was, when the event may not come there; the sentence names both. */
enum status lease_step(enum lease_state *state, enum lease_event event, struct err *err);

const char *lease_state_word(enum lease_state state);
const char *lease_event_word(enum lease_event event);

#ifdef __cplusplus
}
#endif
#endif
