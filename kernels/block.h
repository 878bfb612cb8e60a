/* SPDX-License-Identifier: Apache-2.0 */
/*
 * block.h - the two half-layers that both nodes share; what lies between them (attention) is where the nodes differ.
 *
 *   x ─┬─ norm ─ qkv ─▶ [attention of the node] ─ o ─(post norm)─ + ─┬─ norm ─ gate,up ─ act ─ down ─(post norm)─ + ─▶ x
 *      └──────────────────────────────────────────────────────────┘ └──────────────────────────────────────────┘
 *
 * All pointers are device memory of `be`. x, to which both add, and qkv are f32 on every back end; what products read and
 * give, and attention, is in be->act. Nothing waits, nothing allocates. hot.
 */
#ifndef PLATEN_KERNELS_BLOCK_H
#define PLATEN_KERNELS_BLOCK_H

#include "kernels/backend.h"
#include "kernels/weights.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Buffers of one pass over `rows_max` rows, in be->act but for qkv. */
struct scratch {
    int64_t rows_max;
    void *normed;  /* [rows_max][dim] */
    void *qkv;     /* f32 [rows_max][(H + 2 G) D] */
    void *q;       /* [rows_max][H][D] */
    void *heads;   /* [rows_max][H][D], what attention gives */
    void *gate_up; /* [rows_max][2 F] */
    void *gated;   /* [rows_max][F] */
    void *out;     /* [rows_max][dim], only for families with post norms */
};

enum status scratch_open(struct scratch *s, struct backend *be, const struct hparams *hp, int64_t rows_max,
                         struct err *err);
void scratch_close(struct scratch *s, struct backend *be);

/* normed = norm(x), qkv = normed . Wqkv. x f32 [rows][dim]. */
void block_attention_in(struct backend *be, const struct weights *w, int32_t layer, const void *x, int64_t rows,
                        struct scratch *s);

/* Both and qkv_to_tail in one, where the back end does that: inside a step. false: nothing was queued. */
bool block_attention_in_step(struct backend *be, const struct weights *w, const struct qkv_shape *shape,
                             const struct rope_table *rope, int32_t layer, const void *x, struct scratch *s);

/* x += post_norm(heads . Wo). x f32 [rows][dim]. */
void block_attention_out(struct backend *be, const struct weights *w, int32_t layer, void *x, int64_t rows,
                         struct scratch *s);

/* x += post_norm(down(act(gate) * up)) of norm(x). x f32 [rows][dim]. */
void block_mlp(struct backend *be, const struct weights *w, int32_t layer, void *x, int64_t rows, struct scratch *s);

/* logits act [rows][V] = head . norm(x). x f32 [rows][dim]; `normed` act [rows][dim] is overwritten. */
void block_logits(struct backend *be, const struct weights *w, const void *x, int64_t rows, void *normed, void *logits);

/* The same of the rows of x that a step wants: they may go through `last`, f32 [count][dim]. */
void block_step_logits(struct backend *be, const struct weights *w, const void *x, int64_t count, void *last,
                       void *normed, void *logits);

/* The q, k, v shape of a layer for qkv_to_layer and qkv_to_tail. */
struct qkv_shape block_qkv_shape(const struct weights *w, int32_t layer);

#ifdef __cplusplus
}
#endif
#endif
