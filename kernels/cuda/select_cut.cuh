/* SPDX-License-Identifier: Apache-2.0 */
/*
 * select_cut.cuh - the k-th largest of the keys that a cluster of thread blocks has: cut_find.
 *
 * From the top: the range between the smallest and the largest score is cut into 2,048 equal parts, rows of each are
 * counted, and the part in which the k-th lies is the next range. So scores that share their first bits still go to
 * different counters, which would be waited for one after the other. As soon as 512 keys or fewer lie in a part, they are
 * listed and ranked among themselves. The rows' digits are looked at only where equal scores straddle the cut.
 *
 * Counters are in shared memory, 4 copies by lane; each block of a cluster adds up a slice of them through the others'
 * shared memory. Every thread of these blocks must call, and all get the same cut.
 */
#ifndef PLATEN_KERNELS_CUDA_SELECT_CUT_CUH
#define PLATEN_KERNELS_CUDA_SELECT_CUT_CUH

#include "kernels/cuda/select_keys.cuh"

/* Sum of x over threads before this one. Synchronises. */
__device__ __forceinline__ uint32_t block_before(struct desk &d, uint32_t x, uint32_t *all)
{
    int lane = threadIdx.x & 31, warp = threadIdx.x >> 5;
    uint32_t sum = x;

#pragma unroll
    for (int k = 1; k < 32; k <<= 1) {
        uint32_t other = __shfl_up_sync(0xffffffffu, sum, k);
        if (lane >= k)
            sum += other;
    }
    if (lane == 31)
        d.part[warp] = sum;
    __syncthreads();
    uint32_t own = d.part[lane], p = own;
#pragma unroll
    for (int k = 1; k < 32; k <<= 1) {
        uint32_t other = __shfl_up_sync(0xffffffffu, p, k);
        if (lane >= k)
            p += other;
    }
    uint32_t before = __shfl_sync(0xffffffffu, p - own, warp);
    *all = __shfl_sync(0xffffffffu, p, 31);
    __syncthreads();
    return before + sum - x;
}

/* No counts and an empty list. The next barrier says so to the others. */
__device__ __forceinline__ void counts_clear(struct desk &d)
{
#pragma unroll
    for (int copy = 0; copy < COPIES; copy++)
        d.count[copy][threadIdx.x] = d.count[copy][threadIdx.x + THREADS] = 0;
    if (threadIdx.x == 0)
        d.listed = 0;
}

/* Counts of all blocks of the cluster: each adds up a slice and tells the others. Synchronises. */
__device__ __forceinline__ void counts_join(struct desk &d, int rank, int blocks)
{
    const int slice = BINS / blocks;

    for (int b = threadIdx.x; b < BINS; b += THREADS)
#pragma unroll
        for (int k = 1; k < COPIES; k++)
            d.count[0][b] += d.count[k][b];
    cluster_sync(blocks);
    for (int b = rank * slice + (int)threadIdx.x; b < (rank + 1) * slice; b += THREADS) {
        uint32_t sum = 0;
#pragma unroll
        for (int r = 0; r < CLUSTER_MAX; r++)
            sum += r < blocks ? *of_block(&d.count[0][b], r) : 0;
#pragma unroll
        for (int r = 0; r < CLUSTER_MAX; r++)
            if (r < blocks)
                *of_block(&d.total[b], r) = sum;
    }
    cluster_sync(blocks);
}

/* In which digit, from the top, the k-th of what was counted lies: d.found. Synchronises first and last. */
__device__ __forceinline__ void digit_find(struct desk &d, uint32_t k, int rank, int blocks)
{
    const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5;
    const int high = BINS - 1 - 2 * (int)threadIdx.x; /* digits from the top, two to a thread */
    uint32_t two[2] = {};

    __syncthreads();
    if (blocks > 1) {
        counts_join(d, rank, blocks);
        two[0] = d.total[high], two[1] = d.total[high - 1];
    } else {
#pragma unroll
        for (int copy = 0; copy < COPIES; copy++)
            two[0] += d.count[copy][high], two[1] += d.count[copy][high - 1];
    }
    uint32_t sum = two[0] + two[1];
#pragma unroll
    for (int step = 1; step < 32; step <<= 1) {
        const uint32_t other = __shfl_up_sync(0xffffffffu, sum, step);
        if (lane >= step)
            sum += other;
    }
    if (lane == 31)
        d.part[warp] = sum;
    __syncthreads();
    uint32_t before = __reduce_add_sync(0xffffffffu, lane < warp ? d.part[lane] : 0u) + sum - two[0] - two[1];
#pragma unroll
    for (int j = 0; j < 2; j++) {
        if (before < k && k <= before + two[j]) {
            d.found[0] = (uint32_t)(high - j);
            d.found[1] = k - before;
            d.found[2] = two[j];
        }
        before += two[j];
    }
    __syncthreads();
}

/* The smallest and the largest score that a digit can tell apart from others, and how many safe rows stand above. */
struct keys_range {
    uint32_t low, high, safe;
};

/* Of all blocks of the cluster; clears the counts meanwhile. Synchronises. */
template <int KEYS, bool JOINT>
__device__ __forceinline__ struct keys_range range_find(const struct select_launch &l, struct desk &d,
                                                        const struct stretch &s, const struct held<KEYS> &held,
                                                        int32_t head, int blocks)
{
    const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5;
    uint32_t end[3] = {}; /* the largest; the largest of the complements; safe rows */

    for_keys<KEYS, JOINT>(l, d, s, held, head, lane, [&](int32_t, int32_t, uint32_t key, bool there) {
        if (!there || (JOINT && key == NO_ROW))
            return;
        if (JOINT && key == SAFE_SCORE) {
            end[2]++;
            return;
        }
        end[0] = max(end[0], key);
        end[1] = max(end[1], ~key);
    });
    end[0] = __reduce_max_sync(0xffffffffu, end[0]);
    end[1] = __reduce_max_sync(0xffffffffu, end[1]);
    end[2] = JOINT ? __reduce_add_sync(0xffffffffu, end[2]) : 0;
    if (lane < 3)
        d.ends[lane][warp] = lane == 0 ? end[0] : lane == 1 ? end[1] : end[2];
    counts_clear(d);
    __syncthreads();
    end[0] = __reduce_max_sync(0xffffffffu, d.ends[0][lane]);
    end[1] = __reduce_max_sync(0xffffffffu, d.ends[1][lane]);
    end[2] = JOINT ? __reduce_add_sync(0xffffffffu, d.ends[2][lane]) : 0;
    if (blocks > 1) {
        if (threadIdx.x < 3)
            d.range[threadIdx.x] = threadIdx.x == 0 ? end[0] : threadIdx.x == 1 ? end[1] : end[2];
        cluster_sync(blocks);
        const bool other = lane < blocks; /* a lane asks a block */
        end[0] = __reduce_max_sync(0xffffffffu, other ? *of_block(&d.range[0], lane) : 0u);
        end[1] = __reduce_max_sync(0xffffffffu, other ? *of_block(&d.range[1], lane) : 0u);
        end[2] = JOINT ? __reduce_add_sync(0xffffffffu, other ? *of_block(&d.range[2], lane) : 0u) : 0;
    }
    return { ~end[1], end[0], end[2] };
}

/* The k-th largest of the few keys that stand for `there(key, place)`: they are listed, by the cluster's first block, and
 * the larger ones of each are counted, by all. Synchronises. */
template <int KEYS, bool JOINT, typename F>
__device__ __forceinline__ uint64_t cut_rank(const struct select_launch &l, struct desk &d, const struct stretch &s,
                                             const struct held<KEYS> &held, int32_t head, uint32_t k, int rank,
                                             int blocks, F among)
{
    uint32_t *const listed = blocks > 1 ? of_block(&d.listed, 0) : &d.listed;
    uint32_t *const list = blocks > 1 ? of_block(&d.list[0][0], 0) : &d.list[0][0];

    for_keys<KEYS, JOINT>(l, d, s, held, head, threadIdx.x & 31, [&](int32_t i, int32_t g, uint32_t key, bool there) {
        if (!there || !among(key, 0u, true))
            return;
        const uint32_t place = place_of<JOINT>(l, g, i - d.at[g], key);
        if (!among(key, place, false))
            return;
        const uint32_t at = atomicAdd(listed, 1u);
        list[at] = key;
        list[RANKED + at] = place;
    });
    cluster_sync(blocks);
    const uint32_t count = *listed;
    if (rank > 0) {
        for (uint32_t c = threadIdx.x; c < count; c += THREADS)
            d.list[0][c] = list[c], d.list[1][c] = list[RANKED + c];
        __syncthreads();
    }
    const uint32_t lanes = 4 * (uint32_t)blocks, own_lane = threadIdx.x % lanes; /* that count for a key */
    for (uint32_t c0 = 0; c0 < count; c0 += THREADS / 4) {
        const uint32_t c = c0 + threadIdx.x / lanes * (uint32_t)blocks + (uint32_t)rank;
        const uint64_t own = c < count ? (uint64_t)d.list[0][c] << 32 | d.list[1][c] : 0;
        uint32_t larger = 0;

        for (uint32_t other = own_lane; other < count; other += lanes)
            larger += ((uint64_t)d.list[0][other] << 32 | d.list[1][other]) > own;
        for (uint32_t step = 1; step < lanes; step *= 2)
            larger += __shfl_xor_sync(0xffffffffu, larger, (int)step);
        if (c < count && larger == k - 1)
            for (uint32_t r = own_lane; r < (uint32_t)blocks; r += lanes) {
                uint32_t *cut = blocks > 1 ? of_block(d.cut, (int)r) : d.cut;

                cut[0] = (uint32_t)own, cut[1] = (uint32_t)(own >> 32);
            }
    }
    cluster_sync(blocks);
    return (uint64_t)d.cut[1] << 32 | d.cut[0];
}

/* The k-th of the keys of one score, by digits of their rows. The counts are clear. */
template <int KEYS, bool JOINT>
__device__ __noinline__ uint64_t cut_among_equal(const struct select_launch &l, struct desk &d, const struct stretch &s,
                                                 const struct held<KEYS> held, int32_t head, uint32_t score, uint32_t k,
                                                 int rank, int blocks)
{
    const int lane = threadIdx.x & 31;
    uint32_t known = 0;

#pragma unroll 1
    for (int shift = 21; shift >= 0; shift -= shift == 21 ? 11 : shift == 10 ? 10 : 1) {
        const uint32_t mask = shift == 0 ? 1023 : 2047, above = shift == 21 ? 0 : ~0u << (shift == 10 ? 21 : 10);

        for_keys<KEYS, JOINT>(l, d, s, held, head, lane, [&](int32_t i, int32_t g, uint32_t key, bool there) {
            if (!there || key != score)
                return;
            const uint32_t place = place_of<JOINT>(l, g, i - d.at[g], key);
            if (((place ^ known) & above) == 0)
                atomicAdd(&d.count[lane % COPIES][place >> shift & mask], 1u);
        });
        digit_find(d, k, rank, blocks);
        const uint32_t wanted = d.found[1], there = d.found[2];
        known |= d.found[0] << shift;
        k = wanted;
        if (wanted == there) /* all that share what is known are wanted */
            break;
        if (there <= RANKED)
            return cut_rank<KEYS, JOINT>(l, d, s, held, head, k, rank, blocks,
                                         [&](uint32_t key, uint32_t place, bool early) {
                                             return key == score && (early || (place ^ known) >> shift == 0);
                                         });
        counts_clear(d);
        cluster_sync(blocks);
    }
    __syncthreads();
    return (uint64_t)score << 32 | known;
}

/* The k-th largest key (1 <= k <= keys) of the stretches of `blocks` blocks; `head` is the head where not JOINT. */
template <int KEYS, bool JOINT>
__device__ uint64_t cut_find(const struct select_launch &l, struct desk &d, const struct stretch &s,
                             const struct held<KEYS> &held, int32_t head, uint32_t k, int rank, int blocks)
{
    const struct keys_range all = range_find<KEYS, JOINT>(l, d, s, held, head, blocks);
    const int lane = threadIdx.x & 31;
    uint32_t low = all.low, high = all.high;

    if (JOINT && k <= all.safe)
        low = high = SAFE_SCORE;
    else
        k -= all.safe;
    while (low < high) {
        const int bits = 32 - __clz(high - low), shift = bits > 11 ? bits - 11 : 0;

        for_keys<KEYS, JOINT>(l, d, s, held, head, lane, [&](int32_t, int32_t, uint32_t key, bool there) {
            const uint32_t at = key - low; /* smaller keys are far above */
            if (there && at <= high - low)
                atomicAdd(&d.count[lane % COPIES][at >> shift], 1u);
        });
        digit_find(d, k, rank, blocks);
        const uint32_t wanted = d.found[1], there = d.found[2], width = (1u << shift) - 1;
        low += d.found[0] << shift;
        high = high - low < width ? high : low + width;
        k = wanted;
        if (wanted == there) { /* all of them */
            __syncthreads();
            return (uint64_t)low << 32;
        }
        if (there <= RANKED)
            return cut_rank<KEYS, JOINT>(l, d, s, held, head, k, rank, blocks,
                                         [&](uint32_t key, uint32_t, bool) { return key - low <= high - low; });
        counts_clear(d);
        cluster_sync(blocks);
    }
    return cut_among_equal<KEYS, JOINT>(l, d, s, held, head, low, k, rank, blocks);
}

#endif
