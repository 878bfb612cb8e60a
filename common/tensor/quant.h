/* SPDX-License-Identifier: Apache-2.0 */
/* quant.h - GGUF's block formats read back into f32. Host only; nothing waits or allocates. */
#ifndef PLATEN_TENSOR_QUANT_H
#define PLATEN_TENSOR_QUANT_H

#include "common/tensor/dtype.h"

#include <stdbool.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* True for DT_Q8_0 .. DT_Q6_K. */
bool quant_is(enum dtype t);

/* Turns blocks * dtype_block_values(t) values into f32, bit for bit what GGUF's reference gives. `t` is one of those
 * that quant_is says yes to (asserted); src needs no alignment and must not overlap dst. */
void quant_to_f32(float *dst, const void *src, enum dtype t, uint64_t blocks);

#ifdef __cplusplus
}
#endif
#endif
