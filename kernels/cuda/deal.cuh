/* SPDX-License-Identifier: Apache-2.0 */
/*
 * deal.cuh - how thread blocks share the weights of a product: chunks of the depth of tiles of outputs, dealt out evenly.
 *
 *   tiles of outputs       [ tile 0: chunks of the depth ][ tile 1 .... ][ tile 2 .... ]
 *   parts                  |----- 0 -----|----- 1 -----|----- 2 -----|
 *
 * A part ends wherever its share does. Of a tile that lies in several parts all leave a piece in device memory but the one
 * that has its end: that adds them up, in their order, when its other tiles are done (hole.cuh). A part waits for earlier
 * ones alone.
 *
 * Sums of a tile, TILE outputs x 8 NT rows, are spread over WORKERS warps as the tensor cores leave them: 16 outputs to a
 * warp, of 8 rows at a time four numbers to a thread. At the end of a tile rows meet in shared memory (the desk), where a
 * warp takes a row (thin_rows.cuh).
 */
#ifndef PLATEN_KERNELS_CUDA_DEAL_CUH
#define PLATEN_KERNELS_CUDA_DEAL_CUH

#include "kernels/cuda/hole.cuh"
#include "kernels/cuda/thin_rows.cuh"

enum { CHUNK = 64, CHUNK_BYTES = 2 * CHUNK, WORKERS = 8, DESK_ROW = TILE + 4 };

/* A part of the chunks of a product. */
struct share {
    int32_t part, parts;
    int32_t depth; /* chunks of a tile */
    int32_t total; /* of all tiles */
    int32_t begin, end;
};

__device__ __forceinline__ struct share share_of(int32_t part, int32_t parts, int32_t depth, int32_t tiles)
{
    const int32_t total = depth * tiles;

    return { part,
             parts,
             depth,
             total,
             (int32_t)((int64_t)part * total / parts),
             (int32_t)((int64_t)(part + 1) * total / parts) };
}

/* The part that has chunk `chunk`. */
__device__ __forceinline__ int32_t holder(const struct share &s, int32_t chunk)
{
    return (int32_t)((((int64_t)chunk + 1) * s.parts - 1) / s.total);
}

/* Outputs of a tile: whole heads where they are turned. */
template <int OUT> __host__ __device__ __forceinline__ int32_t tile_outputs(const struct rotate_args &t)
{
    return OUT == OUT_QKV ? TILE / t.dim * t.dim : TILE;
}

__device__ __forceinline__ void workers_sync()
{
    warps_sync<1, WORKERS * 32>();
}

/* ---- sums ---- */

template <int NT> __device__ __forceinline__ void sums_clear(float (&sum)[NT][4])
{
#pragma unroll
    for (int n = 0; n < NT; n++)
#pragma unroll
        for (int i = 0; i < 4; i++)
            sum[n][i] = 0.0f;
}

/* 8 rows to [8][DESK_ROW] of the desk. */
__device__ __forceinline__ void sums_place(const float (&sum)[4], float *rows, int warp, int lane)
{
#pragma unroll
    for (int i = 0; i < 4; i++)
        rows[(2 * (lane & 3) + (i & 1)) * DESK_ROW + warp * 16 + (lane >> 2) + (i >> 1) * 8] = sum[i];
}

/* ---- pieces of tiles in device memory ----
 * A thread block leaves at most one, of the tile that it does not reach the end of: [NT][WORKERS * 32] of a thread's four
 * numbers. */
template <int NT> __device__ __forceinline__ uint4 *piece_at(const struct skinny_args &a, int32_t block)
{
    return (uint4 *)a.pieces + (int64_t)block * (NT * WORKERS * 32) + threadIdx.x;
}
__device__ __forceinline__ bool has_hole(uint4 x)
{
    return max(max(x.x, x.y), max(x.z, x.w)) == CUDA_HOLE; /* the largest word */
}

template <int NT> __device__ __forceinline__ void piece_leave(const struct skinny_args &a, const float (&sum)[NT][4])
{
#pragma unroll
    for (int n = 0; n < NT; n++)
        relaxed_store(piece_at<NT>(a, blockIdx.x) + n * WORKERS * 32,
                      make_uint4(filled(sum[n][0]), filled(sum[n][1]), filled(sum[n][2]), filled(sum[n][3])));
}

/* Adds the pieces of parts [from, s.part), in their order, and leaves holes. A part is EACH thread blocks, each with a
 * tile of its own. */
template <int NT, int EACH>
__device__ __forceinline__ void pieces_add(const struct skinny_args &a, const struct share &s, int32_t from,
                                           float (&sum)[NT][4])
{
    enum { AT_ONCE = NT <= 2 ? 8 : 16 / NT };
    const int32_t rank = (int32_t)blockIdx.x - s.part * EACH;

    for (int32_t p = from; p < s.part; p += AT_ONCE) {
        uint4 x[AT_ONCE][NT];
        bool again;

#pragma unroll
        for (int i = 0; i < AT_ONCE; i++)
#pragma unroll
            for (int n = 0; n < NT; n++) {
                x[i][n] = make_uint4(0, 0, 0, 0);
                if (p + i < s.part)
                    relaxed_load(piece_at<NT>(a, (p + i) * EACH + rank) + n * WORKERS * 32, x[i][n]);
            }
        do {
            again = false;
#pragma unroll
            for (int i = 0; i < AT_ONCE; i++)
#pragma unroll
                for (int n = 0; n < NT; n++)
                    if (has_hole(x[i][n])) {
                        relaxed_load(piece_at<NT>(a, (p + i) * EACH + rank) + n * WORKERS * 32, x[i][n]);
                        again = true;
                    }
        } while (again);
#pragma unroll
        for (int i = 0; i < AT_ONCE; i++)
#pragma unroll
            for (int n = 0; n < NT; n++) {
                sum[n][0] += __uint_as_float(x[i][n].x), sum[n][1] += __uint_as_float(x[i][n].y);
                sum[n][2] += __uint_as_float(x[i][n].z), sum[n][3] += __uint_as_float(x[i][n].w);
                if (p + i < s.part)
                    relaxed_store(piece_at<NT>(a, (p + i) * EACH + rank) + n * WORKERS * 32, four_holes());
            }
    }
}

#endif
