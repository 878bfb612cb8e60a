/* SPDX-License-Identifier: Apache-2.0 */
/*
 * held.h - a context whose press must see every layer before any is cut: all layers' dense K, V are held meanwhile.
 *
 *      held_step, again and again:  layer 0 .. L-1 of the context ─▶ layer 0 .. L-1 of every feed ─▶ settled
 *      held_layer(l):               layer l as the forward pass left it, for press_run_layer
 *
 * Costs L (T + feed) rows of K, V, and the overlap of forward and ship. Engine thread.
 */
#ifndef PLATEN_PREFILL_HELD_H
#define PLATEN_PREFILL_HELD_H

#include "prefill-node/forward.h"
#include "presses/run.h"

#ifdef __cplusplus
extern "C" {
#endif

struct held;

struct held_config {
    struct backend *be;
    struct prefill *prefill;
    const struct hparams *hp;
    struct press_run *press; /* begun with the chain */
    struct pass *pass;       /* of the context: token, tokens, x, logits; begun here */
    int64_t query_tokens;
    struct chain_needs needs;
    struct press_prompt prompt; /* borrowed; token may be NULL without a second pass */
};

/* Room for all layers; begins the pass. ST_EEXHAUSTED: never, where room_admit was asked before (room.h). */
enum status held_open(struct held **out, const struct held_config *config, struct err *err);
void held_close(struct held *h); /* NULL is fine */

/* One layer more, of the context or of a feed. The pass's layer is hp.layers once the context is through. */
enum status held_step(struct held *h, struct err *err);

/* The context is through: the steps that are left are what the press reads it again for, and their time the press's. */
bool held_reads_again(const struct held *h);

bool held_ready(const struct held *h); /* every layer was held and fed, and all is decided */

/* Layer l for press_run_layer: K, V, and the last queries. */
void held_layer(const struct held *h, int32_t layer, struct press_layer *out);

#ifdef __cplusplus
}
#endif
#endif
