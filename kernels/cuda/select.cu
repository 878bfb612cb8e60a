/* SPDX-License-Identifier: Apache-2.0 */
/*
 * select.cu - which rows stay: the best k of n, in one launch per layer, with our rule for equal scores.
 *
 * Every row gets a 64-bit key: the score as an integer that orders like the float, and below it the row, inverted where
 * the smaller row wins. Keys are all different, so "the k largest keys" needs no rule of its own. The k-th largest is
 * found from the top: the range between the smallest and the largest score is cut into 2,048 equal parts, rows of each
 * are counted, and the part in which the k-th lies is the next range. So scores that share their first bits still go to
 * different counters, which would be waited for one after the other. As soon as 512 keys or fewer lie in a part, they are
 * listed and ranked among themselves. The rows' digits are looked at only where equal scores straddle the cut. Then rows
 * at or above the cut are written in ascending order (ballots, and sums over warps).
 *
 *   up to 8k rows      a thread block of 1024 per head; a thread holds 4 to 32 keys in registers, a warp a stretch of
 *                      neighbouring rows, so that one pass over registers is a pass over the head
 *   up to 256k         2 to 8 blocks form a cluster: each adds up a slice of the digits through the others' shared memory
 *   beyond             the same, but keys are read again in every pass
 *
 * Choosing jointly over heads: one cluster takes all heads; each block first finds the cut of the safe rows of some
 * heads, then safe rows count as larger than all, and scores behind a head's last row as smaller than all.
 *
 * The picture follows RadiK (arXiv:2501.14336) and AIR top-k; ordered output and ties are ours.
 */
#include "kernels/cuda/device.cuh"

#include <cooperative_groups.h>

namespace cg = cooperative_groups;

enum { THREADS = 1024, WARPS = THREADS / 32, BINS = 2048, CLUSTER_MAX = 8, COPIES = 4, RANKED = 512 };

#define SAFE_SCORE 0xffffffffu /* above every score */
#define NO_ROW 0u              /* below every score: -inf is 0x007fffff */
#define EVERY_ROW (1ull << 32) /* the cut that all scores pass, and NO_ROW does not */

/* A launch: the plan and where results go. */
struct select_launch {
    struct select_plan plan;
    int32_t *index;
    int64_t *first_out;
    uint64_t *safe_cut; /* [heads] */
};

/* A warp's part [begin, end) of the layer's score array. */
struct stretch {
    int32_t begin, end;
};

/* Shared memory of a block. */
struct desk {
    uint32_t count[COPIES][BINS]; /* by lane: scores share their first digits, and equal ones would queue */
    uint32_t total[BINS];         /* of the whole cluster */
    int32_t at[KV_HEADS_MAX + 1];
    uint32_t part[WARPS], ends[3][WARPS];
    uint32_t range[3];                /* of this block: see keys_range */
    uint32_t found[3];                /* digit, how many of it are wanted, how many there are */
    uint32_t list[2][RANKED], listed; /* keys that share what is known, when they are few */
    uint64_t cut;
};

/* Upper halves of the keys of scores begin + lane, begin + 32 + lane, ... KEYS 0: none are held. */
template <int KEYS> struct held {
    uint32_t score[KEYS > 0 ? KEYS : 1];
};

__device__ __forceinline__ uint32_t ordered(float x)
{
    uint32_t bits = __float_as_uint(x + 0.0f);                                     /* -0 is 0 */
    return x != x ? 0xfffffffeu : bits & 0x80000000u ? ~bits : bits | 0x80000000u; /* NaN: above all but safe rows */
}

__device__ __forceinline__ int cluster_size()
{
#if __CUDA_ARCH__ >= 900
    return (int)cg::this_cluster().num_blocks();
#else
    return 1;
#endif
}
__device__ __forceinline__ int cluster_rank()
{
#if __CUDA_ARCH__ >= 900
    return (int)cg::this_cluster().block_rank();
#else
    return 0;
#endif
}
__device__ __forceinline__ void cluster_sync(int blocks)
{
#if __CUDA_ARCH__ >= 900
    if (blocks > 1) {
        cg::this_cluster().sync();
        return;
    }
#endif
    __syncthreads();
}
/* The same variable of another block of the cluster. */
__device__ __forceinline__ uint32_t *of_block(uint32_t *shared, int rank)
{
#if __CUDA_ARCH__ >= 900
    return cg::this_cluster().map_shared_rank(shared, rank);
#else
    return shared;
#endif
}

__device__ __forceinline__ bool newest_wins(const struct select_launch &l, uint32_t score)
{
    return score >= ordered(l.plan.protected_score) && !isinf(l.plan.protected_score);
}

/* The lower half of a key: in what order rows of equal score are taken. JOINT: rows first, then heads, of which the smaller
 * wins however rows are taken. */
template <bool JOINT>
__device__ __forceinline__ uint32_t place_of(const struct select_launch &l, int32_t g, int32_t row, uint32_t score)
{
    const uint32_t heads = JOINT ? (uint32_t)l.plan.heads : 1, head = JOINT ? (uint32_t)g : 0;

    if (newest_wins(l, score))
        return (uint32_t)row * heads + (heads - 1 - head);
    return ~((uint32_t)row * heads + head);
}

template <bool JOINT>
__device__ __forceinline__ uint32_t score_read(const struct select_launch &l, const struct desk &d, int32_t i,
                                               int32_t g)
{
    if (JOINT && i - d.at[g] >= l.plan.rows[g])
        return NO_ROW;
    uint32_t score = ordered(l.plan.score[i]);
    if (JOINT && ((uint64_t)score << 32 | place_of<true>(l, g, i - d.at[g], score)) >= l.safe_cut[g])
        score = SAFE_SCORE;
    return score;
}

/* The head of score i, at or behind head g. */
template <bool JOINT> __device__ __forceinline__ int32_t head_of(const struct desk &d, int32_t i, int32_t g)
{
    if (JOINT)
        while (i >= d.at[g + 1])
            g++;
    return g;
}

/* Calls visit(i, head, score, there) for this lane's scores in order; every lane of the warp takes part each time. */
template <int KEYS, bool JOINT, typename F>
__device__ __forceinline__ void for_keys(const struct select_launch &l, const struct desk &d, const struct stretch &s,
                                         const struct held<KEYS> &held, int32_t head, int lane, F visit)
{
    int32_t g = head;

    if (KEYS > 0) {
#pragma unroll
        for (int j = 0; j < KEYS; j++) {
            int32_t i = s.begin + j * 32 + lane;
            if (i - lane >= s.end)
                break;
            bool there = i < s.end;
            g = there ? head_of<JOINT>(d, i, g) : g;
            visit(i, g, held.score[j], there);
        }
    } else {
        for (int32_t i = s.begin + lane; i - lane < s.end; i += 32) {
            bool there = i < s.end;
            g = there ? head_of<JOINT>(d, i, g) : g;
            visit(i, g, there ? score_read<JOINT>(l, d, i, g) : 0, there);
        }
    }
}

template <int KEYS, bool JOINT>
__device__ __forceinline__ void keys_hold(const struct select_launch &l, const struct desk &d, const struct stretch &s,
                                          int32_t head, int lane, struct held<KEYS> &held)
{
    int32_t g = head;

#pragma unroll
    for (int j = 0; j < KEYS; j++) {
        int32_t i = s.begin + j * 32 + lane;
        held.score[j] = 0;
        if (i < s.end) {
            g = head_of<JOINT>(d, i, g);
            held.score[j] = score_read<JOINT>(l, d, i, g);
        }
    }
}

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
        end[2] = 0;
        for (int r = 0; r < blocks; r++) {
            end[0] = max(end[0], *of_block(&d.range[0], r));
            end[1] = max(end[1], *of_block(&d.range[1], r));
            end[2] += *of_block(&d.range[2], r);
        }
    }
    return { ~end[1], end[0], end[2] };
}

/* The k-th largest of the few keys that stand for `there(key, place)`: they are listed, by the cluster's first block, and
 * each counts the larger ones. Synchronises. */
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
    for (uint32_t c0 = 0; c0 < count; c0 += THREADS / 4) { /* four threads count for a key */
        const uint32_t c = c0 + threadIdx.x / 4;
        const uint64_t own = c < count ? (uint64_t)d.list[0][c] << 32 | d.list[1][c] : 0;
        uint32_t larger = 0;

        for (uint32_t other = threadIdx.x & 3; other < count; other += 4)
            larger += ((uint64_t)d.list[0][other] << 32 | d.list[1][other]) > own;
        larger += __shfl_xor_sync(0xffffffffu, larger, 1);
        larger += __shfl_xor_sync(0xffffffffu, larger, 2);
        if (c < count && larger == k - 1 && (threadIdx.x & 3) == 0)
            d.cut = own;
    }
    __syncthreads();
    return d.cut;
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
        counts_clear(d);
        cluster_sync(blocks);
        if (there <= RANKED)
            return cut_rank<KEYS, JOINT>(l, d, s, held, head, k, rank, blocks,
                                         [&](uint32_t key, uint32_t place, bool early) {
                                             return key == score && (early || (place ^ known) >> shift == 0);
                                         });
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
            if (there && key >= low && key <= high)
                atomicAdd(&d.count[lane % COPIES][(key - low) >> shift], 1u);
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
        counts_clear(d);
        cluster_sync(blocks);
        if (there <= RANKED)
            return cut_rank<KEYS, JOINT>(l, d, s, held, head, k, rank, blocks,
                                         [&](uint32_t key, uint32_t, bool) { return key >= low && key <= high; });
    }
    return cut_among_equal<KEYS, JOINT>(l, d, s, held, head, low, k, rank, blocks);
}

template <bool JOINT>
__device__ __forceinline__ bool is_chosen(const struct select_launch &l, const struct desk &d, int32_t i, int32_t g,
                                          uint32_t score, uint64_t cut)
{
    const uint32_t edge = (uint32_t)(cut >> 32);

    return score > edge || (score == edge && place_of<JOINT>(l, g, i - d.at[g], score) >= (uint32_t)cut);
}

/* Rows at or above the cut, ascending, behind those of the blocks before this one. */
template <int KEYS, bool JOINT>
__device__ void rows_write(const struct select_launch &l, struct desk &d, const struct stretch &s,
                           const struct held<KEYS> &held, int32_t head, uint64_t cut, bool none, int64_t to, int rank,
                           int blocks)
{
    const int lane = threadIdx.x & 31;
    uint32_t mine = 0, all;

    for_keys<KEYS, JOINT>(l, d, s, held, head, lane, [&](int32_t i, int32_t g, uint32_t score, bool there) {
        mine +=
            (uint32_t)__popc(__ballot_sync(0xffffffffu, there && !none && is_chosen<JOINT>(l, d, i, g, score, cut)));
    });
    uint32_t before = block_before(d, lane == 0 ? mine : 0, &all);
    before = __shfl_sync(0xffffffffu, before, 0);
    if (blocks > 1) {
        if (threadIdx.x == 0)
            d.range[0] = all;
        cluster_sync(blocks);
        for (int r = 0; r < rank; r++)
            to += *of_block(&d.range[0], r);
    }
    int64_t at = to + before;
    for_keys<KEYS, JOINT>(l, d, s, held, head, lane, [&](int32_t i, int32_t g, uint32_t score, bool there) {
        bool in = there && !none && is_chosen<JOINT>(l, d, i, g, score, cut);
        uint32_t votes = __ballot_sync(0xffffffffu, in);
        int64_t place = at + __popc(votes & ((1u << lane) - 1));

        if (in)
            l.index[place] = i - d.at[g];
        if (JOINT && there)
            for (int32_t h = g; h >= 0 && d.at[h] == i; h--)
                l.first_out[h] = place;
        at += __popc(votes);
    });
    if (JOINT && rank == blocks - 1 && threadIdx.x == 0)
        for (int32_t h = l.plan.heads; h >= 0 && d.at[h] == d.at[l.plan.heads]; h--)
            l.first_out[h] = to + all;
    if (blocks > 1) /* nobody leaves while its counts are read */
        cluster_sync(blocks);
}

/* This warp's part of scores [begin, end) that `blocks` blocks share. */
__device__ __forceinline__ struct stretch stretch_of(int32_t begin, int32_t end, int rank, int blocks)
{
    const int32_t pieces = WARPS * blocks, share = ((end - begin + pieces - 1) / pieces + 31) / 32 * 32;
    const int32_t piece = rank * WARPS + (int32_t)(threadIdx.x >> 5);
    const int64_t from = (int64_t)begin + (int64_t)piece * share;
    struct stretch s;

    s.begin = (int32_t)min(from, (int64_t)end);
    s.end = (int32_t)min(from + share, (int64_t)end);
    return s;
}

__device__ __forceinline__ void desk_open(const struct select_launch &l, struct desk &d)
{
    for (int32_t g = threadIdx.x; g <= l.plan.heads; g += THREADS)
        d.at[g] = (int32_t)l.plan.at[g];
    __syncthreads();
}

/* grid: cluster blocks, heads */
template <int KEYS>
__global__ void __launch_bounds__(THREADS) select_heads_kernel(const __grid_constant__ struct select_launch l)
{
    __shared__ struct desk d;
    const int32_t g = blockIdx.y, lane = threadIdx.x & 31;
    const int blocks = cluster_size(), rank = cluster_rank();
    const uint32_t keep = (uint32_t)l.plan.keep[g];
    struct held<KEYS> held;
    uint64_t cut = 0;

    chain_begin();
    desk_open(l, d);
    const struct stretch s = stretch_of(d.at[g], d.at[g] + l.plan.rows[g], rank, blocks);
    keys_hold<KEYS, false>(l, d, s, g, lane, held);
    if (keep > 0 && keep < (uint32_t)l.plan.rows[g])
        cut = cut_find<KEYS, false>(l, d, s, held, g, keep, rank, blocks);
    rows_write<KEYS, false>(l, d, s, held, g, cut, keep == 0, l.plan.first[g], rank, blocks);
}

/* A head's cut in the order of all heads together. Where it stopped short of the row's digits (they are zeros then), it
 * stays so: every row of that score is in. */
__device__ uint64_t cut_joint(const struct select_launch &l, int32_t g, uint64_t cut)
{
    const uint32_t score = (uint32_t)(cut >> 32), low = (uint32_t)cut, heads = (uint32_t)l.plan.heads;
    uint64_t place;

    if (newest_wins(l, score))
        return (uint64_t)score << 32 | (low * heads + (low ? heads - 1 - (uint32_t)g : 0));
    place = (uint64_t)~low * heads + (uint32_t)g;
    return (uint64_t)score << 32 | (place > 0xffffffffu ? 0 : ~(uint32_t)place);
}

/* Safe rows of a head, found by one block alone. */
template <int KEYS>
__device__ uint64_t safe_find(const struct select_launch &l, struct desk &d, int32_t g, uint32_t keep)
{
    const struct stretch s = stretch_of(d.at[g], d.at[g] + l.plan.rows[g], 0, 1);
    struct held<KEYS> held;

    keys_hold<KEYS, false>(l, d, s, g, threadIdx.x & 31, held);
    return cut_joint(l, g, cut_find<KEYS, false>(l, d, s, held, g, keep, 0, 1));
}

/* grid: one cluster */
template <int KEYS>
__global__ void __launch_bounds__(THREADS) select_joint_kernel(const __grid_constant__ struct select_launch l)
{
    __shared__ struct desk d;
    const int blocks = cluster_size(), rank = cluster_rank();
    int64_t rows = 0;

    chain_begin();
    desk_open(l, d);
    for (int32_t g = 0; g < l.plan.heads; g++)
        rows += l.plan.rows[g];
    for (int32_t g = rank; g < l.plan.heads; g += blocks) {
        const uint32_t keep = (uint32_t)l.plan.keep[g], all = (uint32_t)l.plan.rows[g];
        uint64_t cut = keep >= all ? 0 : ~(uint64_t)0;

        if (keep > 0 && keep < all)
            cut = all <= KEYS * THREADS ? safe_find<KEYS>(l, d, g, keep) : safe_find<0>(l, d, g, keep);
        if (threadIdx.x == 0)
            l.safe_cut[g] = cut;
        __syncthreads();
    }
    __threadfence();
    cluster_sync(blocks);
    const struct stretch s = stretch_of(d.at[0], d.at[l.plan.heads], rank, blocks);
    struct held<KEYS> held;
    uint64_t cut = EVERY_ROW;
    keys_hold<KEYS, true>(l, d, s, 0, threadIdx.x & 31, held);
    if (l.plan.total > 0 && l.plan.total < rows)
        cut = cut_find<KEYS, true>(l, d, s, held, 0, (uint32_t)l.plan.total, rank, blocks);
    rows_write<KEYS, true>(l, d, s, held, 0, cut, l.plan.total <= 0, 0, rank, blocks);
}

/* ---- launcher ---- */

/* Keys that a thread holds when `blocks` blocks share n of them; 0: more than registers take. */
static int keys_for(int64_t n, int blocks)
{
    const int64_t keys = ((n + blocks * WARPS - 1) / (blocks * WARPS) + 31) / 32;

    return keys <= 4 ? 4 : keys <= 8 ? 8 : keys <= 16 ? 16 : keys <= 32 ? 32 : 0;
}

cudaError_t launch_select(struct cuda_queue q, const struct select_plan *p, int32_t *index, int64_t *first_out,
                          uint64_t *room)
{
    const int64_t scores = p->joint ? p->at[p->heads] : p->rows_longest;
    const struct select_launch l = { *p, index, first_out, room };
    void (*kernel)(const struct select_launch);
    cudaLaunchAttribute attribute[2] = {};
    cudaLaunchConfig_t config = {};
    int blocks = 1, keys;

    while (q.cluster && blocks < CLUSTER_MAX && scores > (int64_t)blocks * 8 * THREADS)
        blocks *= 2;
    keys = keys_for(scores, blocks);
    if (p->joint)
        kernel = keys == 4    ? select_joint_kernel<4>
                 : keys == 8  ? select_joint_kernel<8>
                 : keys == 16 ? select_joint_kernel<16>
                 : keys == 32 ? select_joint_kernel<32>
                              : select_joint_kernel<0>;
    else
        kernel = keys == 4    ? select_heads_kernel<4>
                 : keys == 8  ? select_heads_kernel<8>
                 : keys == 16 ? select_heads_kernel<16>
                 : keys == 32 ? select_heads_kernel<32>
                              : select_heads_kernel<0>;
    attribute[0].id = cudaLaunchAttributeProgrammaticStreamSerialization;
    attribute[0].val.programmaticStreamSerializationAllowed = 1;
    attribute[1].id = cudaLaunchAttributeClusterDimension;
    attribute[1].val.clusterDim.x = (unsigned)blocks;
    attribute[1].val.clusterDim.y = attribute[1].val.clusterDim.z = 1;
    config.gridDim = dim3((unsigned)blocks, p->joint ? 1 : (unsigned)p->heads);
    config.blockDim = dim3(THREADS);
    config.stream = q.stream;
    config.attrs = attribute;
    config.numAttrs = !q.chained ? 0 : blocks > 1 ? 2 : 1; /* a cluster's card is one that chains */
    return cudaLaunchKernelEx(&config, kernel, l);
}
