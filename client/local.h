/* SPDX-License-Identifier: Apache-2.0 */
/*
 * local.h - a model, a device and a press in this process: what `inspect` and `bench` run, with the very forward pass of
 * the prefill node and the very presses, but no network and one thread.
 *
 *   local_open_model ─▶ local_open_device ─▶ local_prefill(tap) ─▶ the tap sees each layer and what its press keeps
 */
#ifndef PLATEN_CLIENT_LOCAL_H
#define PLATEN_CLIENT_LOCAL_H

#include "common/base/status.h"
#include "common/model/chat.h"
#include "common/model/checkpoint.h"
#include "common/model/tokenizer.h"
#include "kernels/weights.h"
#include "prefill-node/forward.h"
#include "presses/run.h"

#include <stdbool.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

struct local_options {
    const char *model;   /* path; NULL with `random` */
    const char *random;  /* name of a shape whose weights are random numbers; NULL: none */
    const char *backend; /* "cpu", "cuda:0" */
    enum dtype dtype;
    int32_t threads;
};

/* Owned by whoever declares it; zero-initialise. All NULL where not opened (random weights have no checkpoint). */
struct local {
    struct hparams hp;
    struct checkpoint *checkpoint;
    struct tokenizer *tokenizer;
    struct chat *chat;
    struct backend *be;
    struct weights *weights;
    struct prefill *prefill;
    struct press_run *press;
    struct fence *computed, *pressed; /* what the last layer's lanes have done */
    struct press_prompt prompt;       /* for chains with a second pass; token and tokens are filled in */
    void *x;                          /* residual of one context of tokens_max tokens */
};

/* Checkpoint, tokenizer and chat, or the numbers of a random shape. ST_EINVAL names the shapes there are. */
enum status local_open_model(struct local *l, const struct local_options *o, struct err *err);

/* Device, weights and room for contexts of up to tokens_max tokens and steps of up to rows_max rows. */
enum status local_open_device(struct local *l, const struct local_options *o, int64_t tokens_max, int64_t rows_max,
                              struct err *err);
void local_close(struct local *l);

/* What is done with a layer; `result` is what its press keeps (a layer with a window: NULL). */
typedef enum status (*local_tap)(void *ctx, const struct press_layer *layer, const struct press_result *result,
                                 struct err *err);

struct local_times {
    int64_t forward_ns,
        press_ns; /* press: choosing rows and the tap, but what was hidden behind the next layer (devices) */
};

/* Runs a context through the model and `chain`. logits: host [vocab] of the last token, or NULL. chain NULL: layers are
 * not looked at, tap is not called. */
enum status local_prefill(struct local *l, const int32_t *token, int64_t tokens, int64_t query_tokens,
                          const struct chain *chain, local_tap tap, void *ctx, float *logits, struct local_times *times,
                          struct err *err);

#ifdef __cplusplus
}
#endif
#endif
