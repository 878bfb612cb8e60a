/* SPDX-License-Identifier: Apache-2.0 */
/*
 * decode_rows.cuh - an item's rows as they pass a warp of decode.cu: fetched, scored against the queries, added up.
 *
 * A warp owns 16 rows of a tile and its own pipeline of asynchronous copies: no barrier inside an item. Queries (up to
 * 16: the group's heads times the unit's rows) are the M side of the tensor cores' 16 x 8 x 16, rows of the cache the N
 * side. Shared memory: 4 warps x STAGES x (K and V) x 16 rows, each padded by 16 bytes against bank conflicts.
 *
 * Here are plain rows, of blocks and tails; decode_codes.cuh has the others.
 */
#ifndef PLATEN_KERNELS_CUDA_DECODE_ROWS_CUH
#define PLATEN_KERNELS_CUDA_DECODE_ROWS_CUH

#include "kernels/cuda/decode.cuh"

enum { WARPS = 4, ROWS = 16 };

/* Cards of sm_86 and sm_89 give a thread block 99 KiB, not 163 and more: heads of 128 and 256 have a tile less on its way. */
enum { LITTLE_FROM = 86, LITTLE_TO = 89 };
#ifdef __CUDA_ARCH__
enum { LITTLE = __CUDA_ARCH__ >= LITTLE_FROM * 10 && __CUDA_ARCH__ <= LITTLE_TO * 10 };
#else
enum { LITTLE = false }; /* the host asks for the kernel that was loaded */
#endif

template <int D, bool SMALL = LITTLE> struct room {
    enum {
        row = D * 2 + 16, /* bytes */
        matrix = ROWS * row,
        stages = D <= 64    ? 4
                 : D <= 96  ? 3
                 : D <= 128 ? 3 - SMALL
                            : 2 - SMALL,
        warp = stages * 2 * matrix,
        bytes = WARPS * warp
    };
};

/* An item as a thread block works on it. */
struct work {
    int32_t unit_row, unit_rows, unit_tail, head;
    int32_t block_rows, block_tiles, tail_rows, base, whole;
    const char *k, *v; /* of the head in the block */
    const int32_t *pages;
    const float *k_scale, *v_scale;
    const char *k_whole, *v_whole;
    const uint8_t *mask;
    int32_t codec, k_dim, coded;
};

__device__ __forceinline__ struct work work_of(const struct decode_item &at)
{
    struct work w = { at.unit_row,
                      at.unit_rows,
                      at.unit_tail,
                      at.head,
                      at.block_rows,
                      (at.block_rows + TILE - 1) / TILE,
                      at.unit_tail + at.unit_rows,
                      at.base,
                      at.whole,
                      (const char *)at.k,
                      (const char *)at.v,
                      at.pages,
                      at.k_scale,
                      at.v_scale,
                      (const char *)at.k_whole,
                      (const char *)at.v_whole,
                      at.mask,
                      at.codec,
                      at.k_dim,
                      at.coded };
    return w;
}

/* Queues the copies of this warp's 16 rows of tile `tile`. */
template <int D>
__device__ __forceinline__ void rows_fetch(const struct decode_shape &s, const struct work &w, const char *pool,
                                           int32_t tile, int warp, int lane, uint32_t to, bool &waited)
{
    const char *k, *v;
    int32_t row, valid;

    if (tile < w.block_tiles) {
        row = tile * TILE + warp * ROWS;
        valid = w.block_rows - row;
        k = w.k + (int64_t)row * (D * 2);
        v = w.v + (int64_t)row * (D * 2);
    } else {
        if (!waited) { /* the row that this step appended */
            chain_wait();
            waited = true;
        }
        row = (tile - w.block_tiles) * TILE + warp * ROWS;
        valid = w.tail_rows - row;
        if (valid <= 0)
            return;
        int64_t page = w.pages[tile - w.block_tiles];
        k = pool + (page * s.page_stride + ((int64_t)w.head * TILE + warp * ROWS) * D) * 2;
        v = k + (int64_t)s.kv_heads * TILE * D * 2;
    }
    if (valid <= 0)
        return;
#pragma unroll
    for (int i = 0; i < D / 16; i++) {
        int unit = lane + 32 * i, r = unit / (D / 8), c = unit % (D / 8);
        copy16_async(to + r * room<D>::row + c * 16, k + r * (D * 2) + c * 16, r < valid);
    }
#pragma unroll
    for (int i = 0; i < D / 16; i++) {
        int unit = lane + 32 * i, r = unit / (D / 8), c = unit % (D / 8);
        copy16_async(to + room<D>::matrix + r * room<D>::row + c * 16, v + r * (D * 2) + c * 16, r < valid);
    }
}

/* The queries of an item as the A side: 16 rows of D, zeros where there are fewer. */
template <int D>
__device__ __forceinline__ void queries_load(const struct decode_shape &s, const struct work &w, const bf16 *in,
                                             int32_t group, int lane, uint32_t (&query)[D / 16][4])
{
#pragma unroll
    for (int half = 0; half < 2; half++) {
        int32_t q = (lane >> 2) + half * 8;
        const bf16 *row = in + ((int64_t)(w.unit_row + q / group) * s.q_heads + w.head * group + q % group) * D;
        bool there = q < w.unit_rows * group;
#pragma unroll
        for (int kk = 0; kk < D / 16; kk++) {
            const uint32_t *at = (const uint32_t *)(row + kk * 16 + 2 * (lane & 3));
            query[kk][half] = there ? at[0] : 0;
            query[kk][half + 2] = there ? at[4] : 0;
        }
    }
}

/* Running softmax of this warp: two query rows to a thread (lane / 4, and 8 more). */
template <int D> struct running {
    float max[2], sum[2], out[D / 8][4];
};

/* 16 rows' scores become weights p of their V rows, and the running sums are made less where a score is larger than all
 * before it. */
template <int D>
__device__ __forceinline__ void scores_take(const struct work &w, int32_t group, float scale2, int32_t window,
                                            bool tail, int32_t row, int32_t valid, int lane, float (&s)[2][4],
                                            float (&p)[2][4], struct running<D> &run)
{
    if (tail || window > 0 || valid < ROWS) {
        const int32_t ahead = tail ? w.block_rows : 0; /* cache rows of this head before `row`'s segment */
#pragma unroll
        for (int i = 0; i < 4; i++) {
            int32_t q = (lane >> 2) + (i >= 2 ? 8 : 0), self = w.block_rows + w.unit_tail + q / group;
#pragma unroll
            for (int j = 0; j < 2; j++) {
                int32_t r = j * 8 + 2 * (lane & 3) + (i & 1), place = ahead + row + r;
                if (r >= valid || place > self || (window > 0 && place <= self - window))
                    s[j][i] = -CUDART_INF_F;
            }
        }
    }
    bool same = true;
#pragma unroll
    for (int half = 0; half < 2; half++) {
        float top = fmaxf(fmaxf(s[0][2 * half], s[0][2 * half + 1]), fmaxf(s[1][2 * half], s[1][2 * half + 1]));
        top = fmaxf(top, __shfl_xor_sync(0xffffffffu, top, 1));
        top = fmaxf(top, __shfl_xor_sync(0xffffffffu, top, 2));
        top = fmaxf(top, run.max[half]);
        float base = top == -CUDART_INF_F ? 0.0f : top * scale2, sum = 0.0f;
#pragma unroll
        for (int j = 0; j < 2; j++)
#pragma unroll
            for (int i = 0; i < 2; i++) {
                p[j][2 * half + i] = power2(s[j][2 * half + i] * scale2 - base);
                sum += p[j][2 * half + i];
            }
        float less = power2(run.max[half] * scale2 - base);
        same = same && less == 1.0f;
        run.sum[half] = run.sum[half] * less + sum;
        run.max[half] = top;
        s[0][half] = less;
    }
    if (!__all_sync(0xffffffffu, same)) {
#pragma unroll
        for (int n = 0; n < D / 8; n++) {
            run.out[n][0] *= s[0][0], run.out[n][1] *= s[0][0];
            run.out[n][2] *= s[0][1], run.out[n][3] *= s[0][1];
        }
    }
}

template <int D>
__device__ __forceinline__ void values_add(const float (&p)[2][4], int lane, uint32_t at, struct running<D> &run)
{
    uint32_t a[4] = { bf16_pair(p[0][0], p[0][1]), bf16_pair(p[0][2], p[0][3]), bf16_pair(p[1][0], p[1][1]),
                      bf16_pair(p[1][2], p[1][3]) };
#pragma unroll
    for (int n = 0; n < D / 16; n++) {
        uint32_t b[4];
        load_matrices_turned(b, at + room<D>::matrix + (((lane >> 3) & 1) * 8 + (lane & 7)) * room<D>::row + n * 32 +
                                    (lane >> 4) * 16);
        multiply(run.out[2 * n], a, b[0], b[1]);
        multiply(run.out[2 * n + 1], a, b[2], b[3]);
    }
}

template <int D>
__device__ __forceinline__ void rows_attend(const struct work &w, const uint32_t (&query)[D / 16][4], int32_t group,
                                            float scale2, int32_t window, int32_t tile, int warp, int lane, uint32_t at,
                                            struct running<D> &run)
{
    const bool tail = tile >= w.block_tiles;
    const int32_t row = (tail ? tile - w.block_tiles : tile) * TILE + warp * ROWS;
    const int32_t valid = (tail ? w.tail_rows : w.block_rows) - row;
    float s[2][4] = {}, p[2][4];

    if (valid <= 0)
        return;
#pragma unroll
    for (int kk = 0; kk < D / 16; kk++) {
        uint32_t b[4];
        load_matrices(b, at + ((lane >> 4) * 8 + (lane & 7)) * room<D>::row + kk * 32 + ((lane >> 3) & 1) * 16);
        multiply(s[0], query[kk], b[0], b[1]);
        multiply(s[1], query[kk], b[2], b[3]);
    }
    scores_take<D>(w, group, scale2, window, tail, row, valid, lane, s, p, run);
    values_add<D>(p, lane, at, run);
}

#endif
