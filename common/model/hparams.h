/* SPDX-License-Identifier: Apache-2.0 */
/*
 * hparams.h - the numbers of a model, family differences included, as plain fields.
 *
 * Read by host C, C++ and CUDA: plain types only. Everything that makes one family's layer differ from another's is a
 * field here, so that the forward pass has no family names in it. Filled by checkpoint_open; valid while it lives.
 *
 * Letters: T tokens, H query heads, G KV heads, D head size, F width of the MLP, L layers, V vocabulary.
 */
#ifndef PLATEN_MODEL_HPARAMS_H
#define PLATEN_MODEL_HPARAMS_H

#include "common/base/status.h"

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

enum arch {
#define ARCH(name, hf, gguf) ARCH_##name,
#include "common/model/arch.def"
#undef ARCH
    ARCH_COUNT
};

enum rope_kind { ROPE_DEFAULT, ROPE_LINEAR, ROPE_DYNAMIC, ROPE_LLAMA3, ROPE_YARN, ROPE_LONGROPE };
enum activation { ACT_SILU, ACT_GELU_TANH };

/* Rotary embedding, half-split (PRESSES 1.7). Channels [0, dims) are rotated, the rest pass. */
struct rope_params {
    enum rope_kind kind;
    int32_t dims; /* rotated channels; D unless the family rotates a part */
    double theta;
    double factor;
    double low_freq_factor, high_freq_factor; /* llama3 */
    double beta_fast, beta_slow;              /* yarn */
    double mscale, mscale_all_dim;            /* yarn; 0 where the file has none */
    double attention_factor;                  /* 0: derived as the family does */
    int64_t original_positions;               /* length before scaling (dynamic: where it begins); 0 where none */
    const float *short_factor, *long_factor;  /* longrope: dims / 2 numbers each */
    int32_t truncate;                         /* yarn: correction range rounded to whole channels (1, the default) */
};

/* What a rotation is on the host: inverse frequencies, one table of them unless they change with the length (dynamic,
 * longrope). A sequence of n positions turns by table n - from, at least 0 and at most tables - 1. */
struct rope_freqs {
    float *inv_freq; /* [tables][dims / 2]; NULL: there is none */
    int32_t dims, tables;
    int64_t from;
    float scale; /* cos and sin are multiplied by it */
};

struct rope_tables {
    struct rope_freqs full, local; /* local: of layers that rotate by a base of their own */
};

enum { HPARAMS_LAYERS_MAX = 512, HPARAMS_EOS_MAX = 16 };

struct hparams {
    enum arch arch;
    int32_t layers, dim, q_heads, kv_heads, head_dim, ff_dim, vocab;
    int64_t max_positions; /* longest sequence; with dynamic scaling the stretched length */
    float norm_eps;
    enum activation activation;
    float attn_scale;                   /* scores are q.k * attn_scale; 1/sqrt(D) unless the family has its own */
    float embed_scale;                  /* the embedding is multiplied by this (1 for most; sqrt(dim) in Gemma) */
    uint8_t tied_head;                  /* the output matrix is the embedding */
    uint8_t qkv_bias;                   /* q, k and v have biases */
    uint8_t o_bias;                     /* the projection after attention has one */
    uint8_t mlp_bias;                   /* gate, up and down have biases */
    uint8_t qk_norm;                    /* RMS norm over D on every q and k head, before the rotation */
    uint8_t norm_plus_one;              /* norm weights are used as (1 + w); already added when the weights were read */
    uint8_t post_norms;                 /* norms after attention and after the MLP, before the residual (Gemma) */
    struct rope_params rope;            /* full layers */
    struct rope_params rope_local;      /* layers of rope_is_local */
    int32_t window[HPARAMS_LAYERS_MAX]; /* rows a token of that layer may see, itself counted; 0: all of them */
    uint8_t rope_off[HPARAMS_LAYERS_MAX]; /* layers without rotation */
    /* layers of the kind that sees a window and rotates by a base of its own (Gemma 3), also where the window is so large
     * that they are full layers */
    uint8_t rope_is_local[HPARAMS_LAYERS_MAX];
    int32_t bos_id; /* -1: none */
    int32_t eos_id[HPARAMS_EOS_MAX];
    int32_t eos_count;
};

/* The tensors of a model by role, whatever the file calls them. Fused roles are read as if they stood in the file: rows
 * of QKV are q, k, v one after another; of GATE_UP gate, then up. The whole program asks for weights by these. */
enum weight_role {
    ROLE_EMBEDDING, /* [V][dim] */
    ROLE_OUT_NORM,  /* [dim] */
    ROLE_HEAD,      /* [V][dim]; the embedding where tied_head */
    ROLE_ATTN_NORM, /* [dim], one per layer from here on */
    ROLE_QKV,       /* [(H + 2 G) D][dim] */
    ROLE_QKV_BIAS,  /* [(H + 2 G) D] where qkv_bias */
    ROLE_Q_NORM,    /* [D] where qk_norm */
    ROLE_K_NORM,
    ROLE_O,              /* [dim][H D] */
    ROLE_POST_ATTN_NORM, /* [dim] where post_norms */
    ROLE_MLP_NORM,       /* [dim] */
    ROLE_GATE_UP,        /* [2 F][dim] */
    ROLE_DOWN,           /* [dim][F] */
    ROLE_POST_MLP_NORM,  /* [dim] where post_norms */
    ROLE_O_BIAS,         /* [dim] where o_bias */
    ROLE_GATE_UP_BIAS,   /* [2 F] where mlp_bias */
    ROLE_DOWN_BIAS,      /* [dim] where mlp_bias */
    ROLE_COUNT
};

/* Reads rows [row, row + rows) of a tensor as f32 [rows][cols] (a vector is one row). checkpoint_rows (checkpoint.h) is
 * one; kernels/weights.h takes any. Errors name the tensor. May wait for the disk. Any thread. */
typedef enum status (*tensor_reader)(void *ctx, enum weight_role role, int32_t layer, int64_t row, int64_t rows,
                                     float *out, struct err *err);

/* A layer whose window is at least max_positions is a full layer; only full layers are pressed. */
static inline int hparams_layer_is_full(const struct hparams *h, int32_t layer)
{
    return h->window[layer] == 0;
}

#ifdef __cplusplus
}
#endif
#endif
