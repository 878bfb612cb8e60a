/* SPDX-License-Identifier: Apache-2.0 */
/*
 * decode.cuh - what the plan of a step and the kernels that follow it must see alike: tiles, and a slot's block and pages.
 */
#ifndef PLATEN_KERNELS_CUDA_DECODE_CUH
#define PLATEN_KERNELS_CUDA_DECODE_CUH

#include "kernels/cuda/device.cuh"

enum { TILE = KV_PAGE_TOKENS }; /* rows */

__device__ __forceinline__ const struct slot_block *block_of(const struct decode_shape &s, int32_t slot, int32_t layer)
{
    return (const struct slot_block *)(s.blocks + ((int64_t)slot * s.layers + layer) * s.block_bytes);
}

/* The pages of a slot's tail in a layer. */
__device__ __forceinline__ const int32_t *pages_of(const struct decode_shape &s, int32_t slot, int32_t layer)
{
    return s.pages + ((s.ringed[layer / 32] >> layer % 32 & 1) ? s.ring_table : 0) + (int64_t)slot * s.pages_per_slot;
}

/* launch_decode by the plain kernel (decode_plain.cu): any head size, f32 or bf16, no plan. */
cudaError_t launch_decode_plain(const struct cuda_queue &q, enum dtype t, const struct decode_shape *s, int32_t rows,
                                int32_t layer, const void *in, float scale, int32_t window, void *out);

#endif
