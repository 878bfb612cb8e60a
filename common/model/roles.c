/* SPDX-License-Identifier: Apache-2.0 */
/*
 * roles.c - rows of a role, gathered from the tensors that make it up.
 *
 *   QKV       rows of q, then k, then v          GATE_UP   rows of gate, then up        all others: one tensor
 */
#include "common/model/roles.h"

#include "common/model/checkpoint.h"

enum { PARTS_MAX = 3 };

struct role_parts {
    int count;
    enum slot slot[PARTS_MAX];
};

static const struct role_parts parts_of[ROLE_COUNT] = {
    [ROLE_EMBEDDING] = { 1, { SLOT_EMBEDDING } },
    [ROLE_OUT_NORM] = { 1, { SLOT_OUT_NORM } },
    [ROLE_HEAD] = { 1, { SLOT_LM_HEAD } },
    [ROLE_ATTN_NORM] = { 1, { SLOT_ATTN_NORM } },
    [ROLE_QKV] = { 3, { SLOT_Q, SLOT_K, SLOT_V } },
    [ROLE_QKV_BIAS] = { 3, { SLOT_Q_BIAS, SLOT_K_BIAS, SLOT_V_BIAS } },
    [ROLE_Q_NORM] = { 1, { SLOT_Q_NORM } },
    [ROLE_K_NORM] = { 1, { SLOT_K_NORM } },
    [ROLE_O] = { 1, { SLOT_O } },
    [ROLE_POST_ATTN_NORM] = { 1, { SLOT_POST_ATTN_NORM } },
    [ROLE_MLP_NORM] = { 1, { SLOT_MLP_NORM } },
    [ROLE_GATE_UP] = { 2, { SLOT_GATE, SLOT_UP } },
    [ROLE_DOWN] = { 1, { SLOT_DOWN } },
    [ROLE_POST_MLP_NORM] = { 1, { SLOT_POST_MLP_NORM } },
    [ROLE_O_BIAS] = { 1, { SLOT_O_BIAS } },
    [ROLE_GATE_UP_BIAS] = { 2, { SLOT_GATE_BIAS, SLOT_UP_BIAS } },
    [ROLE_DOWN_BIAS] = { 1, { SLOT_DOWN_BIAS } },
};

/* Vectors are read as one row, so a fused vector is its parts side by side. */
static enum status read_vectors(const struct checkpoint *c, const struct role_parts *p, int32_t layer, float *out,
                                struct err *err)
{
    for (int i = 0; i < p->count; i++) {
        struct tensor_ref t;
        if (!checkpoint_tensor(c, p->slot[i], layer, &t))
            return err_set(err, ST_EINTERNAL, "layer %d has no %s", layer, slot_word(p->slot[i]));
        tensor_ref_rows(&t, 0, 1, out);
        out += t.cols;
    }
    return ST_OK;
}

static enum status read_rows(const struct checkpoint *c, const struct role_parts *p, int32_t layer, int64_t row,
                             int64_t rows, float *out, struct err *err)
{
    for (int i = 0; i < p->count && rows > 0; i++) {
        struct tensor_ref t;
        int64_t here;
        if (!checkpoint_tensor(c, p->slot[i], layer, &t))
            return err_set(err, ST_EINTERNAL, "layer %d has no %s", layer, slot_word(p->slot[i]));
        if (row >= t.rows) {
            row -= t.rows;
            continue;
        }
        here = rows < t.rows - row ? rows : t.rows - row;
        tensor_ref_rows(&t, row, here, out);
        out += here * t.cols;
        rows -= here;
        row = 0;
    }
    return rows == 0 ? ST_OK : err_set(err, ST_EINTERNAL, "layer %d: rows past the end of a weight", layer);
}

enum status checkpoint_rows(void *ctx, enum weight_role role, int32_t layer, int64_t row, int64_t rows, float *out,
                            struct err *err)
{
    const struct checkpoint *c = ctx;
    const struct role_parts *p = &parts_of[role];

    if (role == ROLE_QKV_BIAS || role == ROLE_GATE_UP_BIAS)
        return read_vectors(c, p, layer, out, err);
    if (role == ROLE_HEAD && checkpoint_hparams(c)->tied_head)
        p = &parts_of[ROLE_EMBEDDING];
    return read_rows(c, p, layer, row, rows, out, err);
}
