/* SPDX-License-Identifier: Apache-2.0 */
/*
 * room.h - what a context takes of the device besides what is open already, told before anything is done.
 *
 *      all layers' K, V, queries, a second pass's residual     chains that must see every layer (held.h)
 *      what the press looks at besides K and V                 (chain_needs), and its scratch
 *
 * An order that cannot fit is refused at the door with these numbers; two that do not fit together take turns
 * (scheduler.h). Any thread: everything it looks at never changes.
 */
#ifndef PLATEN_PREFILL_ROOM_H
#define PLATEN_PREFILL_ROOM_H

#include "prefill-node/forward.h"
#include "presses/run.h"

#ifdef __cplusplus
extern "C" {
#endif

/* All borrowed for the call. */
struct room_ask {
    const struct prefill *prefill;
    const struct backend *be;
    const struct hparams *hp;
    const struct chain *chain; /* NULL: keep everything */
    const struct chain_needs *needs;
    const struct press_prompt *prompt; /* token and tokens set; of a second pass */
    int64_t tokens;
    bool compact;
};

/* Upper bound of the bytes for the ask's first `tokens` tokens. */
uint64_t room_bytes(const struct room_ask *ask, int64_t tokens);

/* Bytes that are left of the device now. */
uint64_t room_left(struct backend *be);

/* Whether the ask fits `room`; *bytes is what it takes. ST_ERANGE: it does not, or its second pass goes past the positions
 * there are; the sentence says what is needed, what there is, and how many tokens would fit. */
enum status room_admit(const struct room_ask *ask, uint64_t room, uint64_t *bytes, struct err *err);

#ifdef __cplusplus
}
#endif
#endif
