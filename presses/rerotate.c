/* SPDX-License-Identifier: Apache-2.0 */
/*
 * rerotate - kept keys get consecutive positions, and generation goes on after them.
 *
 * Row i of a head, from token p, is turned back by p - i positions when the rows are packed. Heads have different p, and
 * may have different lengths: the next position is the length of the longest head.
 */
#include "presses/press.h"

static enum status rerotate_edit(const struct press_stage *stage, struct press_round *round, const int32_t *index,
                                 const int64_t *first, struct err *err)
{
    (void)stage;
    (void)index;
    (void)first;
    (void)err;
    round->rerotate = true;
    return ST_OK;
}

const struct press press_rerotate = {
    .name = "rerotate",
    .kind = PRESS_EDIT,
    .summary = "gives kept keys consecutive positions; generation goes on at the kept length",
    .source = "",
    .reference = "KeyRerotationPress",
    .cost = "kept G D",
    .differs = "Heads of different lengths: generation goes on after the longest.",
    .edit = rerotate_edit,
};
