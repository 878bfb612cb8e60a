/* SPDX-License-Identifier: Apache-2.0 */
/*
 * family.h - what makes one model family differ from another; private to common/model.
 *
 * A family is one file, arch_<name>.c, and one line in arch.def. It turns configuration keys into hparams and tells the
 * names that its weights have where they differ from slot.def. Everything after that is common.
 */
#ifndef PLATEN_MODEL_FAMILY_H
#define PLATEN_MODEL_FAMILY_H

#include "common/model/checkpoint.h"
#include "common/model/hparams.h"
#include "common/model/keys.h"

#include <stdbool.h>

#ifdef __cplusplus
extern "C" {
#endif

/* A weight that has another name than slot.def gives it. NULL: as in slot.def. Two slots of one name are parts of one
 * tensor that stand in it one after another, in the order of the slots (Phi's qkv_proj). */
struct slot_name {
    enum slot slot;
    const char *hf;
    const char *gguf;
};

/* What a key that config.json leaves out stands for; 0: the key must be there (kv_heads: as many as q_heads; head_dim:
 * dim / q_heads). */
struct family_defaults {
    int32_t layers, dim, q_heads, kv_heads, head_dim, ff_dim, vocab;
    int64_t max_positions;
    double norm_eps;
    bool tied_head;
};

struct family {
    const char *name;
    struct family_defaults defaults;
    /* Fill `h`, which holds what every family has (family_from_config, family_from_gguf). Failures go to the keys. */
    void (*from_config)(struct hparams *h, const struct keys *k);
    void (*from_gguf)(struct hparams *h, const struct keys *k);
    const struct slot_name *names;
    size_t name_count;
    const char *nested;  /* the key of config.json that may hold the text model's own configuration */
    float hf_norm_add;   /* added to norm weights of a directory; GGUF converters have added it already */
    bool gguf_permuted;  /* GGUF's q and k have their halves interleaved */
    bool partial_rotary; /* partial_rotary_factor counts */
};

#define ARCH(name, hf, gguf) extern const struct family family_##name;
#include "common/model/arch.def"
#undef ARCH

const struct family *family_at(enum arch arch);

/* The family that answers to a config.json's model_type or a GGUF's general.architecture; ST_EUNIMPLEMENTED names the
 * word and the families there are. */
enum status family_find_hf(enum arch *out, const char *model_type, struct err *err);
enum status family_find_gguf(enum arch *out, const char *architecture, struct err *err);

/* The whole configuration: common part, family part, then the checks that hold for all (heads divide, even head size,
 * windows at least as large as max_positions become 0). */
enum status hparams_from_config(struct hparams *h, const struct family *f, const struct keys *k);
enum status hparams_from_gguf(struct hparams *h, const struct family *f, const struct keys *k);

/* For from_config. Rotation in both key styles that the hub holds: rope_theta + rope_scaling, or rope_parameters.
 * `scaling` is the object with rope_type and its numbers. */
void rope_from_config(struct rope_params *r, const struct hparams *h, const struct keys *root,
                      const struct keys *scaling, double theta, int64_t original_positions);
struct keys rope_scaling_of(const struct keys *root);

/* For from_gguf: <arch>.rope.* keys, and the tensor rope_freqs.weight where Llama 3 files have it. */
void rope_from_gguf(struct rope_params *r, const struct hparams *h, const struct keys *k);

/* "gelu_pytorch_tanh", "silu", ... */
enum activation activation_from_config(const struct keys *k, const char *key, enum activation fallback);

/* attention_bias: biases of q, k, v and o; mlp_bias: of gate, up and down. */
void biases_from_config(struct hparams *h, const struct keys *k);

/* Gives every layer the window `rows`, or those that `layer_types` calls sliding_attention. Windows that are none are taken
 * away at the end. */
void windows_all(struct hparams *h, int64_t rows);
bool windows_from_layer_types(struct hparams *h, const struct keys *k, int64_t rows); /* false: no such key */

/* attention.sliding_window, where it is there and not 0, for every layer. */
void windows_from_gguf(struct hparams *h, const struct keys *k);

/* Qwen's: only with use_sliding_window, on the layers from max_window_layers on or those of layer_types. */
void windows_like_qwen(struct hparams *h, const struct keys *k);

#ifdef __cplusplus
}
#endif
#endif
