/* SPDX-License-Identifier: Apache-2.0 */
/* roles.h - a checkpoint read by role (hparams.h), as whoever packs weights for a device wants it. */
#ifndef PLATEN_MODEL_ROLES_H
#define PLATEN_MODEL_ROLES_H

#include "common/model/hparams.h"

#ifdef __cplusplus
extern "C" {
#endif

/* A tensor_reader; ctx is a `struct checkpoint *`. Rows of fused roles come from the parts they are stored in.
 * ST_EINVAL where a row holds what is not a finite number, with the tensor's word, layer and row. ST_EINTERNAL when the
 * model has no such tensor: a mistake of the caller, who should have asked hparams. */
enum status checkpoint_rows(void *ctx, enum weight_role role, int32_t layer, int64_t row, int64_t rows, float *out,
                            struct err *err);

#ifdef __cplusplus
}
#endif
#endif
