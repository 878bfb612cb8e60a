/* SPDX-License-Identifier: Apache-2.0 */
/* place.cuh - where a row of K and V goes, and by which frequencies it turns: for every kernel that appends rows. */
#ifndef PLATEN_KERNELS_CUDA_PLACE_CUH
#define PLATEN_KERNELS_CUDA_PLACE_CUH

#include "kernels/cuda/device.cuh"

/* Where row `row` of head 0 goes in its slot's tail: its K; NULL: nowhere (a padded row of a step). */
template <typename T> __device__ __forceinline__ T *tail_place(const struct rotate_args &a, int64_t row)
{
    const int32_t slot = a.slot[row], tail = a.tail[row];

    if (slot < 0)
        return NULL;
    const int64_t page = a.pages[(int64_t)slot * a.pages_per_slot + tail / KV_PAGE_TOKENS];
    return (T *)a.pool + page * a.page_stride + (int64_t)(tail % KV_PAGE_TOKENS) * a.dim;
}

/* Where row `row` of head g goes; false: nowhere. */
template <typename T>
__device__ __forceinline__ bool place(const struct rotate_args &a, int64_t row, int32_t g, T **k, T **v)
{
    if (!a.slot) {
        int64_t at = ((int64_t)g * a.stride + a.token + row) * a.dim;
        *k = (T *)a.k + at;
        *v = (T *)a.v + at;
        return true;
    }
    T *first = tail_place<T>(a, row);
    if (!first)
        return false;
    *k = first + (int64_t)g * KV_PAGE_TOKENS * a.dim;
    *v = *k + (int64_t)a.kv_heads * KV_PAGE_TOKENS * a.dim;
    return true;
}

/* The frequencies of a row. */
__device__ __forceinline__ const float *table_at(const struct rotate_args &a, int64_t row)
{
    int64_t table = (a.length ? a.length[row] : a.position[row] + 1) - a.rope_from;
    if (table >= a.rope_tables)
        table = a.rope_tables - 1;
    return a.inv_freq + (table > 0 ? table * (a.rope_dims / 2) : 0);
}

#endif
