/* SPDX-License-Identifier: Apache-2.0 */
/*
 * block.c - the half-layers: norm and projection before attention, projection after it, the MLP, the head.
 *
 * A family with post norms gets the projection's output into a buffer of its own, whose norm is added; all others let the
 * product add to x at once.
 */
#include "kernels/block.h"

#include <assert.h>
#include <string.h>

enum status scratch_open(struct scratch *s, struct backend *be, const struct hparams *hp, int64_t rows_max,
                         struct err *err)
{
    const int64_t heads = (int64_t)hp->q_heads * hp->head_dim, kv = (int64_t)hp->kv_heads * hp->head_dim;
    const struct {
        void **out;
        int64_t numbers;
        enum dtype dtype;
    } rows[] = {
        { &s->normed, hp->dim, be->act },
        { &s->qkv, heads + 2 * kv, DT_F32 },
        { &s->q, heads, be->act },
        { &s->heads, heads, be->act },
        { &s->gate_up, 2 * (int64_t)hp->ff_dim, be->act },
        { &s->gated, hp->ff_dim, be->act },
        { &s->out, hp->post_norms ? hp->dim : 0, be->act },
    };

    memset(s, 0, sizeof *s);
    s->rows_max = rows_max;
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        enum status st;

        if (rows[i].numbers == 0)
            continue;
        st = be->ops->alloc(be, dtype_bytes(rows[i].dtype, (uint64_t)(rows_max * rows[i].numbers)), "activations",
                            rows[i].out, err);
        if (st != ST_OK) {
            scratch_close(s, be);
            return st;
        }
    }
    return ST_OK;
}

void scratch_close(struct scratch *s, struct backend *be)
{
    void *const buffers[] = { s->normed, s->qkv, s->q, s->heads, s->gate_up, s->gated, s->out };

    for (size_t i = 0; i < sizeof buffers / sizeof buffers[0]; i++)
        if (buffers[i])
            be->ops->free(be, buffers[i]);
    memset(s, 0, sizeof *s);
}

/* x += post_norm(in . w^T + bias), or x += in . w^T + bias where there is no post norm. */
static void project_back(struct backend *be, const struct weights *w, const struct weight *matrix,
                         const struct weight *bias, const struct weight *post_norm, const void *in, int64_t rows,
                         struct scratch *s, void *x)
{
    if (!post_norm) {
        be->ops->matmul(be, matrix, bias, in, rows, x, true);
        return;
    }
    be->ops->matmul(be, matrix, bias, in, rows, s->out, false);
    be->ops->add_normed(be, s->out, post_norm, w->hp.norm_eps, rows, w->hp.dim, x);
}

void block_attention_in(struct backend *be, const struct weights *w, int32_t layer, const void *x, int64_t rows,
                        struct scratch *s)
{
    const struct layer_weights *l = &w->layer[layer];

    assert(rows <= s->rows_max);
    be->ops->rms_norm(be, x, l->attn_norm, w->hp.norm_eps, rows, w->hp.dim, s->normed);
    be->ops->matmul(be, l->qkv, l->qkv_bias, s->normed, rows, s->qkv, false);
}

bool block_attention_in_step(struct backend *be, const struct weights *w, const struct qkv_shape *shape,
                             const struct rope_table *rope, int32_t layer, const void *x, struct scratch *s)
{
    const struct layer_weights *l = &w->layer[layer];
    const struct normed_product p = { l->attn_norm, l->qkv, l->qkv_bias, w->hp.norm_eps };

    return be->ops->normed_qkv_to_tail && be->ops->normed_qkv_to_tail(be, &p, shape, rope, layer, x, s->q);
}

void block_attention_out(struct backend *be, const struct weights *w, int32_t layer, void *x, int64_t rows,
                         struct scratch *s)
{
    const struct layer_weights *l = &w->layer[layer];

    project_back(be, w, l->o, l->o_bias, l->post_attn_norm, s->heads, rows, s, x);
}

void block_mlp(struct backend *be, const struct weights *w, int32_t layer, void *x, int64_t rows, struct scratch *s)
{
    const struct layer_weights *l = &w->layer[layer];
    const struct normed_product p = { l->mlp_norm, l->gate_up, l->gate_up_bias, w->hp.norm_eps };

    if (!be->ops->normed_gated || !be->ops->normed_gated(be, &p, w->hp.activation, x, rows, s->gated)) {
        be->ops->rms_norm(be, x, l->mlp_norm, w->hp.norm_eps, rows, w->hp.dim, s->normed);
        be->ops->matmul(be, l->gate_up, l->gate_up_bias, s->normed, rows, s->gate_up, false);
        be->ops->gated(be, w->hp.activation, s->gate_up, rows, w->hp.ff_dim, s->gated);
    }
    project_back(be, w, l->down, l->down_bias, l->post_mlp_norm, s->gated, rows, s, x);
}

void block_logits(struct backend *be, const struct weights *w, const void *x, int64_t rows, void *normed, void *logits)
{
    be->ops->rms_norm(be, x, w->out_norm, w->hp.norm_eps, rows, w->hp.dim, normed);
    be->ops->matmul(be, w->head, NULL, normed, rows, logits, false);
}

void block_step_logits(struct backend *be, const struct weights *w, const void *x, int64_t count, void *last,
                       void *normed, void *logits)
{
    const struct normed_product p = { w->out_norm, w->head, NULL, w->hp.norm_eps };

    if (be->ops->normed_outputs && be->ops->normed_outputs(be, &p, x, logits))
        return;
    be->ops->step_outputs(be, x, w->hp.dim, last);
    block_logits(be, w, last, count, normed, logits);
}

struct qkv_shape block_qkv_shape(const struct weights *w, int32_t layer)
{
    const struct layer_weights *l = &w->layer[layer];

    return (struct qkv_shape){
        .q_heads = w->hp.q_heads,
        .kv_heads = w->hp.kv_heads,
        .dim = w->hp.head_dim,
        .q_norm = l->q_norm,
        .k_norm = l->k_norm,
        .norm_eps = w->hp.norm_eps,
    };
}
