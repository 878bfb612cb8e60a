/* SPDX-License-Identifier: Apache-2.0 */
/* weights.h - which tensor of the files stands for which slot of the model; private to common/model. */
#ifndef PLATEN_MODEL_WEIGHTS_H
#define PLATEN_MODEL_WEIGHTS_H

#include "common/base/arena.h"
#include "common/model/checkpoint.h"
#include "common/model/family.h"
#include "common/model/tensors.h"

#include <stdbool.h>

#ifdef __cplusplus
extern "C" {
#endif

/* refs[slot * layers + layer]; data is NULL where the model has no such weight. In the arena given to weights_bind. */
struct bound_weights {
    struct tensor_ref *refs;
};

/* Finds every weight that `h` asks for, with its shape, and marks its tensor as used. ST_EINVAL names the tensor that is
 * missing, misshapen, or there although the family knows no such (tensors that are known and not needed are ignored). */
enum status weights_bind(struct bound_weights *out, struct tensors *tensors, const struct family *f,
                         const struct hparams *h, bool is_gguf, struct arena *arena, struct err *err);

/* Whether slot.def's weight exists once for each layer. */
bool slot_is_per_layer(enum slot slot);

#ifdef __cplusplus
}
#endif
#endif
