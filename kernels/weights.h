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
};

struct weights {
    struct hparams hp;
    struct weight *embedding, *out_norm, *head; /* head == embedding where tied */
    struct layer_weights *layer;                /* [layers] */
    float *inv_freq, *inv_freq_local;           /* device [dims/2]; filled by weights_rope */
    struct rope_table rope, rope_local;
};

/* Reads and packs every weight. `read` gives f32 rows; where it is NULL weights are random numbers made from `seed`
 * (benchmarks). Waits for the disk: seconds for large models. Errors: the reader's; ST_EEXHAUSTED. */
enum status weights_open(struct weights **out, struct backend *be, const struct hparams *hp, tensor_reader read,
                         void *ctx, uint64_t seed, struct err *err);
void weights_close(struct weights *w, struct backend *be); /* NULL is fine */

/* Sets the rotation tables: host inverse frequencies [dims/2] and the cos/sin scale for full layers and (where the
 * family has its own) windowed ones. Called once after open, and again when a context needs other frequencies
 * (dynamic and longrope scaling depend on the length). */
void weights_rope(struct weights *w, struct backend *be, const float *inv_freq, float scale,
                  const float *local_inv_freq, float local_scale);

/* The rotation of a layer: full, local, or none. */
struct rope_table weights_layer_rope(const struct weights *w, int32_t layer);

#ifdef __cplusplus
}
#endif
#endif
