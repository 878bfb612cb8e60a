/* SPDX-License-Identifier: Apache-2.0 */
/*
 * forward.h - stop 5 of 12: the model over a whole context, one layer at a time.
 *
 * Between two layers a context is only its residual x, f32 [T][dim]; the dense K, V of a layer live until the next layer of
 * any context. So contexts can take turns layer by layer, and no more than one layer's K, V (two on devices where the
 * press overlaps the next layer) is ever held. Used by the prefill node and by the local runs of `platen`.
 *
 * One engine thread owns it, together with the back end and the weights.
 */
#ifndef PLATEN_PREFILL_FORWARD_H
#define PLATEN_PREFILL_FORWARD_H

#include "common/base/status.h"
#include "kernels/backend.h"
#include "kernels/block.h"
#include "kernels/weights.h"
#include "presses/press.h"

#include <stdbool.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

struct prefill;

/* One context under way. Zero-initialise; owned by whoever runs it. */
struct pass {
    const int32_t *token; /* [tokens], host; must live until the pass is over */
    int64_t tokens;
    float *x;      /* device, prefill_x_bytes(tokens): the residual */
    int32_t layer; /* the next to be computed; hp.layers: done */
    bool logits;   /* prefill_logits will be asked for: the last layer is computed to its end */
    /* Held layers (held.h): where each layer's K, V go and stay, prefill_kv_bytes(kv_rows) each, and how many rows a head
     * has there. NULL: a buffer that the next layer writes over. */
    void **kv;
    int64_t kv_rows;
    int64_t base; /* tokens that stand there already: these are fed on top of them, at positions from base on */
};

/* Rows that go through a layer at once; a back end must be opened with at least as many rows_max. */
int64_t prefill_rows(const char *backend_name, int64_t tokens_max);

/* Buffers for contexts of up to tokens_max tokens; sets the rotation. The back end and the weights are borrowed until
 * close. ST_EEXHAUSTED. */
enum status prefill_open(struct prefill **out, struct backend *be, struct weights *w, int64_t tokens_max,
                         struct err *err);
void prefill_close(struct prefill *p); /* NULL is fine */

/* Bytes of the residual of so many tokens, f32 on every back end. */
uint64_t prefill_x_bytes(const struct prefill *p, int64_t tokens);

/* Bytes of one layer's dense K, V with so many rows per head. */
uint64_t prefill_kv_bytes(const struct prefill *p, int64_t rows);

/* Rows per head that held layers of so many tokens, those that will be fed counted, are given. On devices a multiple of 2,048
 * and of a sixteenth of the longest context: attention is planned by it (40 ms), and all contexts share a few plans. */
int64_t prefill_held_rows(const struct prefill *p, int64_t tokens);

/* Positions that a pass may reach: base + tokens. */
int64_t prefill_positions(const struct prefill *p);

/* Bytes of what `needs` keep of a layer besides K and V, by kind, for a pass of `tokens` on top of `base`. Any thread. */
enum { PREFILL_KEPT = 5 };
void prefill_kept_bytes(const struct prefill *p, const struct chain_needs *needs, int64_t tokens, int64_t base,
                        uint64_t bytes[PREFILL_KEPT]);

/* Gives back what passes before made it keep; the next pass takes its own. No pass is in the middle of a layer. */
void prefill_trim(struct prefill *p);

/* Begins a pass: x becomes the embeddings. token, tokens, x (and logits) are set; 1 <= tokens <= tokens_max, every id in
 * [0, vocab). Queued, does not wait. */
void prefill_begin(struct prefill *p, struct pass *pass);

/* Layers whose K, V and taps stay at once: 1, or 2 where the press of a layer overlaps the next one (devices). */
int32_t prefill_layers_kept(const struct prefill *p);

/* Computes the next layer and fills *out with what a press may look at; everything in it is borrowed until the next call,
 * of any context, or the one after that where two layers are kept.
 * `needs` says what to keep besides K and V (NULL: nothing); query_tokens goes into *out. Queued; does not wait. May
 * allocate when `needs` are larger than any before: ST_EEXHAUSTED. */
enum status prefill_layer(struct prefill *p, struct pass *pass, const struct chain_needs *needs, int64_t query_tokens,
                          struct press_layer *out, struct err *err);

/* The logits [vocab] after the context's last token, f32, host. The pass is done and asked for them. Waits. */
enum status prefill_logits(struct prefill *p, const struct pass *pass, float *out, struct err *err);

#ifdef __cplusplus
}
#endif
#endif
