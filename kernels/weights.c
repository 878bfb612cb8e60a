/* SPDX-License-Identifier: Apache-2.0 */
/*
 * weights.c - every weight of a model, asked for by role, packed by the back end.
 *
 *   tensor_reader (role, layer) ──▶ weight_source (rows of f32) ──▶ ops->weight_open ──▶ struct weight
 *
 * Without a reader (benchmarks) matrices are normal(0, 1 / sqrt(K)), so that activations stay of order one; norms are
 * ones and biases zeros.
 */
#include "kernels/weights.h"

#include "common/base/arena.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* What is being opened, and where its rows come from. */
struct opening {
    struct backend *be;
    const struct hparams *hp;
    tensor_reader read;
    void *ctx;
    uint64_t seed;
    struct err *err;
    enum weight_role role; /* of the weight that is read now */
    int32_t layer;
    float fill; /* of a vector without a reader */
};

static enum status read_role(void *ctx, int64_t row, int64_t rows, float *out, struct err *err)
{
    const struct opening *o = ctx;

    return o->read(o->ctx, o->role, o->layer, row, rows, out, err);
}

static enum status read_fill(void *ctx, int64_t row, int64_t rows, float *out, struct err *err)
{
    const struct opening *o = ctx;
    int64_t cols = o->hp->dim;

    (void)row;
    (void)rows;
    (void)err;
    if (o->role == ROLE_QKV_BIAS)
        cols = (int64_t)(o->hp->q_heads + 2 * o->hp->kv_heads) * o->hp->head_dim;
    else if (o->role == ROLE_GATE_UP_BIAS)
        cols = 2 * (int64_t)o->hp->ff_dim;
    else if (o->role == ROLE_Q_NORM || o->role == ROLE_K_NORM)
        cols = o->hp->head_dim;
    for (int64_t i = 0; i < cols; i++)
        out[i] = o->fill;
    return ST_OK;
}

static enum status open_matrix(struct opening *o, enum weight_role role, int32_t layer, int64_t rows, int64_t cols,
                               enum weight_use use, struct weight **out)
{
    struct weight_source src = { .rows = rows, .cols = cols, .read = read_role, .ctx = o };

    o->role = role;
    o->layer = layer;
    if (!o->read) {
        src.random_seed = o->seed * 4096 + (uint64_t)layer * ROLE_COUNT + (uint64_t)role + 1;
        src.random_scale = 1.0f / sqrtf((float)cols);
    }
    return o->be->ops->weight_open(o->be, &src, use, out, o->err);
}

static enum status open_vector(struct opening *o, enum weight_role role, int32_t layer, int64_t cols, float fill,
                               struct weight **out)
{
    struct weight_source src = { .rows = 1, .cols = cols, .read = o->read ? read_role : read_fill, .ctx = o };

    o->role = role;
    o->layer = layer;
    o->fill = fill;
    return o->be->ops->weight_open(o->be, &src, WEIGHT_VECTOR, out, o->err);
}

static enum status open_layer(struct opening *o, int32_t l, struct layer_weights *w)
{
    const struct hparams *hp = o->hp;
    const int64_t heads = (int64_t)hp->q_heads * hp->head_dim, qkv = heads + 2 * (int64_t)hp->kv_heads * hp->head_dim;
    const enum weight_use adds = hp->post_norms ? WEIGHT_MATRIX : WEIGHT_ADDS;
    enum status st = open_vector(o, ROLE_ATTN_NORM, l, hp->dim, 1.0f, &w->attn_norm);

    if (st == ST_OK)
        st = open_matrix(o, ROLE_QKV, l, qkv, hp->dim, WEIGHT_QKV, &w->qkv);
    if (st == ST_OK && hp->qkv_bias)
        st = open_vector(o, ROLE_QKV_BIAS, l, qkv, 0.0f, &w->qkv_bias);
    if (st == ST_OK && hp->qk_norm)
        st = open_vector(o, ROLE_Q_NORM, l, hp->head_dim, 1.0f, &w->q_norm);
    if (st == ST_OK && hp->qk_norm)
        st = open_vector(o, ROLE_K_NORM, l, hp->head_dim, 1.0f, &w->k_norm);
    if (st == ST_OK)
        st = open_matrix(o, ROLE_O, l, hp->dim, heads, adds, &w->o);
    if (st == ST_OK && hp->post_norms)
        st = open_vector(o, ROLE_POST_ATTN_NORM, l, hp->dim, 1.0f, &w->post_attn_norm);
    if (st == ST_OK)
        st = open_vector(o, ROLE_MLP_NORM, l, hp->dim, 1.0f, &w->mlp_norm);
    if (st == ST_OK)
        st = open_matrix(o, ROLE_GATE_UP, l, 2 * (int64_t)hp->ff_dim, hp->dim, WEIGHT_MATRIX, &w->gate_up);
    if (st == ST_OK)
        st = open_matrix(o, ROLE_DOWN, l, hp->dim, hp->ff_dim, adds, &w->down);
    if (st == ST_OK && hp->post_norms)
        st = open_vector(o, ROLE_POST_MLP_NORM, l, hp->dim, 1.0f, &w->post_mlp_norm);
    if (st == ST_OK && hp->o_bias)
        st = open_vector(o, ROLE_O_BIAS, l, hp->dim, 0.0f, &w->o_bias);
    if (st == ST_OK && hp->mlp_bias)
        st = open_vector(o, ROLE_GATE_UP_BIAS, l, 2 * (int64_t)hp->ff_dim, 0.0f, &w->gate_up_bias);
    if (st == ST_OK && hp->mlp_bias)
        st = open_vector(o, ROLE_DOWN_BIAS, l, hp->dim, 0.0f, &w->down_bias);
    return st;
}

static enum status open_ends(struct opening *o, struct weights *w)
{
    const struct hparams *hp = o->hp;
    enum status st = open_matrix(o, ROLE_EMBEDDING, 0, hp->vocab, hp->dim, hp->tied_head ? WEIGHT_BOTH : WEIGHT_TABLE,
                                 &w->embedding);

    if (st == ST_OK)
        st = open_vector(o, ROLE_OUT_NORM, 0, hp->dim, 1.0f, &w->out_norm);
    if (st == ST_OK && hp->tied_head)
        w->head = w->embedding;
    else if (st == ST_OK)
        st = open_matrix(o, ROLE_HEAD, 0, hp->vocab, hp->dim, WEIGHT_MATRIX, &w->head);
    return st;
}

enum status weights_open(struct weights **out, struct backend *be, const struct hparams *hp, tensor_reader read,
                         void *ctx, uint64_t seed, struct err *err)
{
    struct opening o = { .be = be, .hp = hp, .read = read, .ctx = ctx, .seed = seed, .err = err };
    struct weights *w;
    enum status st;

    if (hp->head_dim > KV_HEAD_DIM_MAX || hp->kv_heads > KV_HEADS_MAX)
        return err_set(err, ST_EUNIMPLEMENTED, "%d kv heads of %d numbers: at most %d of %d are built", hp->kv_heads,
                       hp->head_dim, KV_HEADS_MAX, KV_HEAD_DIM_MAX);
    w = mem_zero(1, sizeof *w);
    w->hp = *hp;
    w->layer = mem_zero((size_t)hp->layers, sizeof *w->layer);
    st = open_ends(&o, w);
    for (int32_t l = 0; l < hp->layers && st == ST_OK; l++)
        st = open_layer(&o, l, &w->layer[l]);
    if (st != ST_OK) {
        weights_close(w, be);
        return st;
    }
    *out = w;
    return ST_OK;
}

static void layer_close(struct layer_weights *l, struct backend *be)
{
    struct weight *const all[] = { l->attn_norm,      l->qkv,      l->qkv_bias, l->q_norm, l->k_norm,        l->o,
                                   l->post_attn_norm, l->mlp_norm, l->gate_up,  l->down,   l->post_mlp_norm, l->o_bias,
                                   l->gate_up_bias,   l->down_bias };

    for (size_t i = 0; i < sizeof all / sizeof all[0]; i++)
        be->ops->weight_close(be, all[i]);
}

void weights_close(struct weights *w, struct backend *be)
{
    if (!w)
        return;
    if (w->inv_freq)
        be->ops->free(be, w->inv_freq);
    if (w->inv_freq_local)
        be->ops->free(be, w->inv_freq_local);
    for (int32_t l = 0; l < w->hp.layers; l++)
        layer_close(&w->layer[l], be);
    if (w->head != w->embedding)
        be->ops->weight_close(be, w->head);
    be->ops->weight_close(be, w->out_norm);
    be->ops->weight_close(be, w->embedding);
    free(w->layer);
    free(w);
}

/* Host frequencies to the device, in the place of what was there. */
static enum status upload_freqs(struct backend *be, const struct rope_freqs *from, float **device,
                                struct rope_table *out, struct err *err)
{
    const uint64_t bytes = (uint64_t)from->tables * (uint64_t)from->dims / 2 * sizeof(float);
    void *room = NULL;
    enum status st = be->ops->alloc(be, bytes, "weights", &room, err);

    if (st != ST_OK)
        return st;
    be->ops->free(be, *device);
    *device = room;
    be->ops->upload(be, LANE_COMPUTE, room, from->inv_freq, bytes);
    be->ops->wait(be, LANE_COMPUTE); /* the host's go at once, and the other lane reads these too */
    *out = (struct rope_table){
        .inv_freq = room, .dims = from->dims, .scale = from->scale, .tables = from->tables, .from = from->from
    };
    return ST_OK;
}

enum status weights_rope(struct weights *w, struct backend *be, const struct rope_tables *tables, struct err *err)
{
    enum status st = ST_OK;

    if (tables->full.inv_freq)
        st = upload_freqs(be, &tables->full, &w->inv_freq, &w->rope, err);
    w->rope_local = w->rope;
    if (st == ST_OK && tables->local.inv_freq)
        st = upload_freqs(be, &tables->local, &w->inv_freq_local, &w->rope_local, err);
    be->ops->wait(be, LANE_COMPUTE); /* the frequencies are the caller's */
    return st;
}

struct rope_table weights_layer_rope(const struct weights *w, int32_t layer)
{
    static const struct rope_table none = { 0 };

    if (w->hp.rope_off[layer])
        return none;
    return w->hp.rope_is_local[layer] ? w->rope_local : w->rope;
}
