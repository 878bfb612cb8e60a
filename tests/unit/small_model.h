/* SPDX-License-Identifier: Apache-2.0 */
/* small_model.h - the model of the small nodes: 4 query heads on 2 KV heads of 16. */
#ifndef PLATEN_TESTS_SMALL_MODEL_H
#define PLATEN_TESTS_SMALL_MODEL_H

#include "common/model/hparams.h"

enum { SMALL_VOCAB = 256, SMALL_POSITIONS = 4096 };

/* Every layer sees all positions. */
void small_model(struct hparams *hp, int32_t layers);

#endif
