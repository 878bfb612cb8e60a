/* SPDX-License-Identifier: Apache-2.0 */
/* forward.h - one step of the decode node through the model. Engine thread only. */
#ifndef PLATEN_DECODE_FORWARD_H
#define PLATEN_DECODE_FORWARD_H

#include "kernels/backend.h"
#include "kernels/block.h"
#include "kernels/weights.h"

#ifdef __cplusplus
extern "C" {
#endif

/* What a press wants of some rows of a step: of every full layer l, l * stride bytes on. */
struct forward_take {
    int32_t row, rows;
    char *plain;  /* all their queries before the rotation; NULL: not wanted */
    char *turned; /* the last one's query, rotated; NULL: not wanted */
    char *hidden; /* what their queries were made of: the normed input of attention; NULL: not wanted */
    uint64_t plain_stride, turned_stride, hidden_stride;
};

struct forward {
    struct backend *be;
    const struct weights *weights;
    struct scratch scratch;
    void *x;                   /* f32 [rows_max][dim] */
    void *last;                /* f32 [outputs_max][dim]: rows whose logits are wanted */
    void *normed;              /* act [outputs_max][dim] */
    void *logits;              /* act [outputs_max][V] */
    struct forward_take *take; /* [outputs_max]: of the next step */
    int32_t takes;
};

/* Buffers for steps of up to rows_max rows, outputs_max of them with logits. `w` is borrowed. ST_EEXHAUSTED. */
enum status forward_open(struct forward *f, struct backend *be, const struct weights *w, int32_t rows_max,
                         int32_t outputs_max, struct err *err);
void forward_close(struct forward *f);

/* Queues one step: tokens in, K and V of every layer appended to the tails, the next token of each wanted sequence
 * chosen. Results come from ops->step_result. Does not wait. hot. */
void forward_step(struct forward *f, const struct step *step);

#ifdef __cplusplus
}
#endif
#endif
