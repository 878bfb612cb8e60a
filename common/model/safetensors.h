/* SPDX-License-Identifier: Apache-2.0 */
/*
 * safetensors.h - the tensors of one safetensors file.
 *
 *   header length (u64) · header (JSON: name -> dtype, shape, [begin, end)) · data
 *
 * Format: the safetensors README, version 0.4 and later.
 */
#ifndef PLATEN_MODEL_SAFETENSORS_H
#define PLATEN_MODEL_SAFETENSORS_H

#include "common/base/arena.h"
#include "common/base/status.h"
#include "common/model/tensors.h"

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Adds every tensor of data[0..bytes) to `tensors` (not sealed yet); names go to `arena`; data must stay as it is.
 * ST_EINVAL for a damaged file, ST_EUNIMPLEMENTED for a dtype this program does not read; names the tensor. */
enum status safetensors_read(struct tensors *tensors, struct arena *arena, const uint8_t *data, size_t bytes,
                             struct err *err);

#ifdef __cplusplus
}
#endif
#endif
