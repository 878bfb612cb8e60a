/* SPDX-License-Identifier: Apache-2.0 */
/*
 * forward.c - stop 11 of 12: decode.                      before: batcher.c   after: stream.c
 *
 * One step of many sequences through the model. What makes it the decode node's: every row attends to two segments, its
 * context's pressed block (ragged per head, shared by all questions of the context) and its own tail.
 *
 *   tokens ─▶ x ─▶ [ norm, qkv ─▶ tail, attention over block and tail, o, mlp ] x L ─▶ rows wanted ─▶ logits ─▶ argmax
 *
 * A press that goes on while tokens are generated takes queries or hidden states on the way (forward_take); such a step
 * is not replayed.
 *
 * Nothing here waits, allocates or knows how long any sequence is: lengths are the back end's, so that a recorded step
 * can be replayed.
 */
#include "decode-node/forward.h"

#include "common/base/arena.h"

#include <stdlib.h>
#include <string.h>

static enum status buffer(struct backend *be, enum dtype dtype, int64_t rows, int64_t cols, void **out, struct err *err)
{
    return be->ops->alloc(be, (uint64_t)rows * (uint64_t)cols * dtype_bytes(dtype, 1), "activations", out, err);
}

enum status forward_open(struct forward *f, struct backend *be, const struct weights *w, int32_t rows_max,
                         int32_t outputs_max, struct err *err)
{
    enum status st;

    memset(f, 0, sizeof *f);
    f->be = be;
    f->weights = w;
    st = scratch_open(&f->scratch, be, &w->hp, rows_max, err);
    if (st == ST_OK)
        st = buffer(be, DT_F32, rows_max, w->hp.dim, &f->x, err);
    if (st == ST_OK)
        st = buffer(be, DT_F32, outputs_max, w->hp.dim, &f->last, err);
    if (st == ST_OK)
        st = buffer(be, be->act, outputs_max, w->hp.dim, &f->normed, err);
    if (st == ST_OK)
        st = buffer(be, be->act, outputs_max, w->hp.vocab, &f->logits, err);
    f->take = mem_zero((size_t)outputs_max, sizeof *f->take);
    if (st != ST_OK)
        forward_close(f);
    return st;
}

void forward_close(struct forward *f)
{
    if (f->be == NULL)
        return;
    scratch_close(&f->scratch, f->be);
    f->be->ops->free(f->be, f->x);
    f->be->ops->free(f->be, f->last);
    f->be->ops->free(f->be, f->normed);
    f->be->ops->free(f->be, f->logits);
    free(f->take);
    memset(f, 0, sizeof *f);
}

static int32_t outputs_wanted(const struct step *step)
{
    int32_t wanted = 0;

    for (int32_t i = 0; i < step->seqs; i++)
        wanted += step->output[i] >= 0;
    return wanted;
}

/* hot */
static void take_rows(struct forward *f, const struct qkv_shape *shape, int32_t l, const struct forward_take *t)
{
    const struct backend_ops *ops = f->be->ops;
    const int64_t q = (int64_t)shape->q_heads * shape->dim, qkv = q + 2 * (int64_t)shape->kv_heads * shape->dim;

    if (t->plain)
        ops->queries_plain(f->be, shape, (const float *)f->scratch.qkv + t->row * qkv, t->rows,
                           t->plain + (uint64_t)l * t->plain_stride);
    if (t->turned)
        ops->copy(f->be, LANE_COMPUTE, t->turned + (uint64_t)l * t->turned_stride,
                  (const char *)f->scratch.q + dtype_bytes(f->be->act, (uint64_t)((t->row + t->rows - 1) * q)),
                  dtype_bytes(f->be->act, (uint64_t)q));
    if (t->hidden) {
        const uint64_t row = dtype_bytes(f->be->act, (uint64_t)f->weights->hp.dim);

        ops->copy(f->be, LANE_COMPUTE, t->hidden + (uint64_t)l * t->hidden_stride,
                  (const char *)f->scratch.normed + (uint64_t)t->row * row, (uint64_t)t->rows * row);
    }
}

static void layer(struct forward *f, int32_t l, int32_t rows)
{
    struct backend *be = f->be;
    const struct hparams *hp = &f->weights->hp;
    struct qkv_shape shape = block_qkv_shape(f->weights, l);
    struct rope_table rope = weights_layer_rope(f->weights, l);

    /* a press that reads the step's queries wants them as they are between the product and the rotation */
    if (f->takes > 0 || !block_attention_in_step(be, f->weights, &shape, &rope, l, f->x, &f->scratch)) {
        block_attention_in(be, f->weights, l, f->x, rows, &f->scratch);
        be->ops->qkv_to_tail(be, &shape, &rope, l, f->scratch.qkv, f->scratch.q);
    }
    for (int32_t i = 0; i < f->takes && hparams_layer_is_full(hp, l); i++)
        take_rows(f, &shape, l, &f->take[i]);
    be->ops->attn_decode(be, l, f->scratch.q, hp->q_heads, hp->attn_scale, hp->window[l], f->scratch.heads);
    block_attention_out(be, f->weights, l, f->x, rows, &f->scratch);
    block_mlp(be, f->weights, l, f->x, rows, &f->scratch);
}

void forward_step(struct forward *f, const struct step *step)
{
    struct backend *be = f->be;
    const struct hparams *hp = &f->weights->hp;
    int32_t wanted = outputs_wanted(step);

    if (!be->ops->step_begin(be, step)) {
        be->ops->step_embed(be, f->weights->embedding, hp->embed_scale, f->x);
        for (int32_t l = 0; l < hp->layers; l++)
            layer(f, l, step->rows);
        if (wanted > 0) {
            block_step_logits(be, f->weights, f->x, wanted, f->last, f->normed, f->logits);
            be->ops->step_choose(be, f->logits, hp->vocab);
        }
    }
    be->ops->step_end(be);
}
