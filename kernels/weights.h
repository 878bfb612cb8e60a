/* SPDX-License-Identifier: Apache-2.0 */
/*
 * weights.h - a model's weights on one device.
 *
 * Opened once from a tensor_reader (a checkpoint, or random numbers for benchmarks); both nodes and the local runs of
 * `platen` use this one struct. Read only after open; owned by the engine thread of whoever opened it.
 */
#ifndef PLATEN_KERNELS_WEIGHTS_H
#define PLATEN_KERNELS_WEIGHTS_H

#include "common/model/hparams.h"
#include "kernels/backend.h"

#ifdef __cplusplus
extern "C" {
#endif

struct layer_weights {
    struct weight *attn_norm, *qkv, *qkv_bias, *q_norm, *k_norm, *o, *post_attn_norm;
    struct weight *mlp_norm, *gate_up, *down, *post_mlp_norm;
    struct weight *o_bias, *gate_up_bias,
        *down_bias; /* NULL in most families, as qkv_bias, norms of q and k, post norms */
};

struct weights {
    struct hparams hp;
    struct weight *embedding, *out_norm, *head; /* head == embedding where tied */
    struct layer_weights *layer;                /* [layers] */
    float *inv_freq, *inv_freq_local;           /* device; NULL until weights_rope */
    struct rope_table rope, rope_local;
};

/* The seed with which both nodes make the weights of --random-weights. */
enum { RANDOM_WEIGHTS = 0x9e3779 };

/* Reads and packs every weight. `read` gives f32 rows; where it is NULL weights are random numbers made from `seed`
 * (benchmarks). Waits for the disk: seconds for large models. Errors: the reader's; ST_EEXHAUSTED;
 * ST_EUNIMPLEMENTED for heads that are too large or too many. */
enum status weights_open(struct weights **out, struct backend *be, const struct hparams *hp, tensor_reader read,
                         void *ctx, uint64_t seed, struct err *err);
void weights_close(struct weights *w, struct backend *be); /* NULL is fine */

/* Sets the rotation of full layers and (where the family gives them their own) of windowed ones, for every length that
 * will be asked for. Once after open, with nothing under way; a second call replaces the first. Waits. ST_EEXHAUSTED. */
enum status weights_rope(struct weights *w, struct backend *be, const struct rope_tables *tables, struct err *err);

/* The rotation of a layer: full, local, or none. Where it has several tables, rows that are computed at once want
 * rope_table_at(). */
struct rope_table weights_layer_rope(const struct weights *w, int32_t layer);

#ifdef __cplusplus
}
#endif
#endif
