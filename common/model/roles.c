/* SPDX-License-Identifier: Apache-2.0 */
/*
 * roles.c - rows of a role, gathered from the tensors that make it up.
 *
 *   QKV       rows of q, then k, then v          GATE_UP   rows of gate, then up        all others: one tensor
 *
 * A damaged file may hold what is no number: every answer would be the same token, and none an error. So rows are looked at
 * where they are turned into f32, once, and the model is refused.
 */
#include "common/model/roles.h"

#include "common/model/checkpoint.h"

#include <float.h>
#include <inttypes.h>
#include <math.h>

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

static bool all_finite(const float *x, int64_t count)
{
    int32_t others = 0;

    for (int64_t i = 0; i < count; i++)
        others += !(fabsf(x[i]) <= FLT_MAX);
    return others == 0;
}

static enum status read_tensor(const struct tensor_ref *t, enum slot slot, int32_t layer, int64_t row, int64_t rows,
                               float *out, struct err *err)
{
    tensor_ref_rows(t, row, rows, out);
    for (int64_t r = 0; r < rows; r++)
        if (!all_finite(out + r * t->cols, t->cols))
            return err_set(err, ST_EINVAL, "%s, layer %d: row %" PRId64 " holds what is not a finite number",
                           slot_word(slot), layer, row + r);
    return ST_OK;
}

/* Vectors are read as one row, so a fused vector is its parts side by side. */
static enum status read_vectors(const struct checkpoint *c, const struct role_parts *p, int32_t layer, float *out,
                                struct err *err)
{
    for (int i = 0; i < p->count; i++) {
        struct tensor_ref t;
        enum status st;

        if (!checkpoint_tensor(c, p->slot[i], layer, &t))
            return err_set(err, ST_EINTERNAL, "layer %d has no %s", layer, slot_word(p->slot[i]));
        st = read_tensor(&t, p->slot[i], layer, 0, 1, out, err);
        if (st != ST_OK)
            return st;
        out += t.cols;
    }
    return ST_OK;
}

static enum status read_rows(const struct checkpoint *c, const struct role_parts *p, int32_t layer, int64_t row,
                             int64_t rows, float *out, struct err *err)
{
    for (int i = 0; i < p->count && rows > 0; i++) {
        struct tensor_ref t;
        enum status st;
        int64_t here;

        if (!checkpoint_tensor(c, p->slot[i], layer, &t))
            return err_set(err, ST_EINTERNAL, "layer %d has no %s", layer, slot_word(p->slot[i]));
        if (row >= t.rows) {
            row -= t.rows;
            continue;
        }
        here = rows < t.rows - row ? rows : t.rows - row;
        st = read_tensor(&t, p->slot[i], layer, row, here, out, err);
        if (st != ST_OK)
            return st;
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
