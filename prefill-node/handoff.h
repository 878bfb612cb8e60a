/* SPDX-License-Identifier: Apache-2.0 */
/*
 * handoff.h - stops 6 and 7 of 12: a layer's K, V are pressed and packed into a slot, which the mover ships.
 *
 * A track is what one context under way holds on the device: its residual, the press's scratch, and two slots for packed
 * blocks. Engine thread; the mover only reads a slot between job.packed and scheduler_shipped.
 */
#ifndef PLATEN_PREFILL_HANDOFF_H
#define PLATEN_PREFILL_HANDOFF_H

#include "common/base/status.h"
#include "common/kv/block.h"
#include "kernels/backend.h"
#include "prefill-node/job.h"
#include "presses/run.h"

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

struct handoff_slot {
    struct kv_block block; /* data: what the transport reads; the same as `device` where the host can read that */
    void *device, *host;
};

struct track {
    struct backend *be;
    struct kv_shape shape;
    void *x; /* residual of a context of tokens_max tokens */
    struct press_run *press;
    int32_t *window_index; /* device: rows of a windowed layer; NULL until there is one */
    int64_t window_rows;   /* that window_index was made for */
    struct handoff_slot slot[SCHEDULER_SLOTS];
};

/* Everything for contexts of up to tokens_max tokens. On failure nothing is left open. ST_EEXHAUSTED. */
enum status track_open(struct track *t, struct backend *be, const struct hparams *hp, uint64_t x_bytes,
                       int64_t tokens_max, struct err *err);
void track_close(struct track *t); /* zeroed is fine */

/* Begins a job on its track: its press. Errors begin with "press: ". */
enum status handoff_begin(struct track *t, struct job *job, struct err *err);

/* Presses and packs a layer into a slot that is free (job.slot_of says which). Waits for the press; the slot can be read
 * when it returns. Errors begin with "press: " or "pack: ". */
enum status handoff_layer(struct track *t, struct job *job, const struct press_layer *in, struct err *err);

#ifdef __cplusplus
}
#endif
#endif
