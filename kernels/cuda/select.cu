/* SPDX-License-Identifier: Apache-2.0 */
/*
 * select.cu - which rows stay: the best k of n, in one launch per layer, with our rule for equal scores.
 *
 * Every row gets a 64-bit key: the score as an integer that orders like the float, and below it the row, inverted where
 * the smaller row wins. Keys are all different, so "the k largest keys" needs no rule of its own. The k-th largest is
 * found from the top by digits of 11 bits: count digits among the keys that share what is known so far, walk down to
 * the digit in which the k-th lies. The row's digits are looked at only where equal scores straddle the cut. Then rows
 * at or above the cut are written in ascending order (ballots and sums over warps).
 *
 * A head belongs to a cluster of 1 to 8 thread blocks that add their counts through each other's shared memory; the
 * scores lie in shared memory after their first reading (up to 8 x 55k on an H100). Choosing jointly over heads: one cluster takes
 * all heads; each block first finds the cut of the safe rows of some heads, then safe rows count as larger than all.
 *
 * The picture follows RadiK (arXiv:2501.14336) and AIR top-k; ordered output and ties are ours.
 */
#include "kernels/cuda/device.cuh"

#include <cooperative_groups.h>

namespace cg = cooperative_groups;

enum { THREADS = 1024, WARPS = THREADS / 32, BINS = 2048, CLUSTER_MAX = 8 };

#define SAFE_SCORE 0xffffffffu /* above every score */

/* A launch: the plan, where results go, and how many scores each block may keep in shared memory. */
struct select_launch {
    struct select_plan plan;
    int32_t *index;
    int64_t *first_out;
    uint64_t *safe_cut; /* [heads] */
    int32_t cache;
};

/* A block's part [begin, end) of the layer's score array. */
struct stretch {
    int32_t begin, end;
    bool cached; /* their keys' upper halves lie in shared memory */
};

/* Shared memory of a block besides the cache. */
struct desk {
    uint32_t count[2][BINS];
    int32_t at[KV_HEADS_MAX + 1];
    uint32_t part[WARPS];
    uint32_t found[3]; /* digit, how many of it are wanted, how many there are */
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
__device__ __forceinline__ uint32_t of_block(uint32_t *shared, int rank, int blocks)
{
#if __CUDA_ARCH__ >= 900
    if (blocks > 1)
        return *cg::this_cluster().map_shared_rank(shared, rank);
#endif
    return *shared;
}

/* The lower half of a key: in what order rows of equal score are taken. JOINT: rows first, then heads. */
template <bool JOINT>
__device__ __forceinline__ uint32_t place_of(const struct select_launch &l, int32_t g, int32_t row, uint32_t score)
{
    uint32_t place = JOINT ? (uint32_t)row * (uint32_t)l.plan.heads + (uint32_t)g : (uint32_t)row;
    bool newest_wins = score >= ordered(l.plan.protected_score) && !isinf(l.plan.protected_score);

    return newest_wins ? place : ~place;
}

/* The upper half of the key of score i of head g. */
template <bool JOINT>
__device__ __forceinline__ uint32_t score_of(const struct select_launch &l, const struct stretch &s,
                                             const struct desk &d, const uint32_t *cache, int32_t i, int32_t g)
{
    if (s.cached)
        return cache[i - s.begin];
    uint32_t score = ordered(l.plan.score[i]);
    if (JOINT && ((uint64_t)score << 32 | place_of<true>(l, g, i - d.at[g], score)) >= l.safe_cut[g])
        score = SAFE_SCORE;
    return score;
}

template <bool JOINT> __device__ __forceinline__ int32_t head_of(const struct desk &d, int32_t i, int32_t g)
{
    if (JOINT)
        while (i >= d.at[g + 1])
            g++;
    return g;
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

/* Counts a digit for each thread that has one. Scores share their first digits, so equal ones of a warp go as one. */
__device__ __forceinline__ void count_votes(uint32_t *count, uint32_t digit, bool counts, int lane)
{
    uint32_t active = __ballot_sync(0xffffffffu, counts);

    if (counts) {
        uint32_t peers = __match_any_sync(active, digit);
        if (lane == __ffs((int)peers) - 1)
            atomicAdd(&count[digit], (uint32_t)__popc(peers));
    }
}

/* The k-th largest key (1 <= k <= keys) of the stretches of `blocks` blocks; `head` is the head where not JOINT. */
template <bool JOINT>
__device__ uint64_t cut_find(const struct select_launch &l, const struct stretch &s, struct desk &d,
                             const uint32_t *cache, int32_t head, uint32_t k, int blocks)
{
    const int shift[6] = { 21, 10, 0, 21, 10, 0 }, bits[6] = { 11, 11, 10, 11, 11, 10 };
    const int lane = threadIdx.x & 31;
    uint32_t known[2] = {}; /* upper and lower half, as far as found */

    for (int pass = 0; pass < 6; pass++) {
        uint32_t *count = d.count[pass & 1];
        const bool lower = pass >= 3;
        const uint32_t mask = (1u << bits[pass]) - 1,
                       above = shift[pass] + bits[pass] == 32 ? 0 : ~0u << (shift[pass] + bits[pass]);

        count[threadIdx.x] = count[threadIdx.x + THREADS] = 0;
        __syncthreads();
        int32_t g = JOINT ? 0 : head;
        for (int32_t base = s.begin; base < s.end; base += THREADS) {
            const int32_t i = base + (int32_t)threadIdx.x;
            uint32_t key = 0;
            bool counts = i < s.end;

            if (counts) {
                g = head_of<JOINT>(d, i, g);
                key = score_of<JOINT>(l, s, d, cache, i, g);
                if (lower) {
                    counts = key == known[0];
                    key = place_of<JOINT>(l, g, i - d.at[g], key);
                }
                counts = counts && ((key ^ known[lower]) & above) == 0;
            }
            count_votes(count, key >> shift[pass] & mask, counts, lane);
        }
        cluster_sync(blocks);
        const int high = BINS - 1 - 2 * (int)threadIdx.x; /* bins from the top, two to a thread */
        uint32_t two[2] = {}, all;
        for (int r = 0; r < blocks; r++) {
            two[0] += of_block(&count[high], r, blocks);
            two[1] += of_block(&count[high - 1], r, blocks);
        }
        uint32_t before = block_before(d, two[0] + two[1], &all);
        for (int j = 0; j < 2; j++) {
            if (before < k && k <= before + two[j]) {
                d.found[0] = (uint32_t)(high - j);
                d.found[1] = k - before;
                d.found[2] = two[j];
            }
            before += two[j];
        }
        __syncthreads();
        known[lower] |= d.found[0] << shift[pass];
        k = d.found[1];
        if (d.found[1] == d.found[2]) /* all that share what is known are wanted */
            break;
    }
    cluster_sync(blocks); /* nobody counts again while others read */
    return (uint64_t)known[0] << 32 | known[1];
}

/* Whether score i is at or above the cut. */
template <bool JOINT>
__device__ __forceinline__ bool is_chosen(const struct select_launch &l, const struct stretch &s, const struct desk &d,
                                          const uint32_t *cache, int32_t i, int32_t g, uint64_t cut)
{
    uint32_t score = score_of<JOINT>(l, s, d, cache, i, g), edge = (uint32_t)(cut >> 32);

    return score > edge || (score == edge && place_of<JOINT>(l, g, i - d.at[g], score) >= (uint32_t)cut);
}

/* Rows of this block's stretch at or above the cut, ascending, behind those of the blocks before it. */
template <bool JOINT>
__device__ void rows_write(const struct select_launch &l, const struct stretch &s, struct desk &d,
                           const uint32_t *cache, int32_t head, uint64_t cut, bool none, int64_t to, int rank,
                           int blocks)
{
    const int warp = threadIdx.x >> 5, lane = threadIdx.x & 31;
    const int32_t share = ((s.end - s.begin + WARPS - 1) / WARPS + 31) / 32 * 32;
    const int32_t begin = min(s.begin + warp * share, s.end), end = min(begin + share, s.end);
    uint32_t mine = 0, all;
    int32_t g = JOINT ? 0 : head;

    for (int32_t i = begin + lane; i - lane < end; i += 32) {
        bool in = i < end && !none;
        if (in) {
            g = head_of<JOINT>(d, i, g);
            in = is_chosen<JOINT>(l, s, d, cache, i, g, cut);
        }
        mine += __popc(__ballot_sync(0xffffffffu, in));
    }
    uint32_t before = block_before(d, lane == 0 ? mine : 0, &all);
    before = __shfl_sync(0xffffffffu, before, 0);
    if (threadIdx.x == 0)
        d.count[0][0] = all;
    cluster_sync(blocks);
    for (int r = 0; r < rank; r++)
        to += of_block(&d.count[0][0], r, blocks);
    int64_t at = to + before;
    g = JOINT ? 0 : head;
    for (int32_t i = begin + lane; i - lane < end; i += 32) {
        bool in = i < end;
        if (in) {
            g = head_of<JOINT>(d, i, g);
            in = !none && is_chosen<JOINT>(l, s, d, cache, i, g, cut);
        }
        uint32_t votes = __ballot_sync(0xffffffffu, in);
        int64_t place = at + __popc(votes & ((1u << lane) - 1));
        if (in)
            l.index[place] = i - d.at[g];
        if (JOINT && i < end)
            for (int32_t h = g; h >= 0 && d.at[h] == i; h--)
                l.first_out[h] = place;
        at += __popc(votes);
    }
    if (JOINT && rank == blocks - 1 && threadIdx.x == 0)
        for (int32_t h = l.plan.heads; h >= 0 && d.at[h] == d.at[l.plan.heads]; h--)
            l.first_out[h] = to + all;
    cluster_sync(blocks); /* nobody leaves while its counts are read */
}

/* The stretch of one of `blocks` blocks over scores [begin, end), read into shared memory where it fits. */
template <bool JOINT>
__device__ struct stretch stretch_of(const struct select_launch &l, const struct desk &d, int32_t begin, int32_t end,
                                     int rank, int blocks, uint32_t *cache)
{
    int32_t share = ((end - begin + blocks - 1) / blocks + 31) / 32 * 32, g = 0;
    struct stretch s;

    s.begin = min(begin + rank * share, end);
    s.end = min(s.begin + share, end);
    s.cached = false; /* while it is read */
    bool fits = s.end - s.begin <= l.cache;
    if (fits)
        for (int32_t i = s.begin + (int32_t)threadIdx.x; i < s.end; i += THREADS) {
            g = head_of<JOINT>(d, i, g);
            cache[i - s.begin] = score_of<JOINT>(l, s, d, cache, i, g);
        }
    s.cached = fits;
    __syncthreads();
    return s;
}

__device__ __forceinline__ void desk_open(const struct select_launch &l, struct desk &d)
{
    for (int32_t g = threadIdx.x; g <= l.plan.heads; g += THREADS)
        d.at[g] = (int32_t)l.plan.at[g];
    __syncthreads();
}

/* grid: cluster blocks, heads */
__global__ void __launch_bounds__(THREADS) select_heads_kernel(const __grid_constant__ struct select_launch l)
{
    extern __shared__ uint32_t cache[];
    __shared__ struct desk d;
    const int32_t g = blockIdx.y;
    const int blocks = cluster_size(), rank = cluster_rank();
    const uint32_t keep = (uint32_t)l.plan.keep[g];
    uint64_t cut = 0;

    desk_open(l, d);
    struct stretch s = stretch_of<false>(l, d, d.at[g], d.at[g] + l.plan.rows[g], rank, blocks, cache);
    if (keep > 0 && keep < (uint32_t)l.plan.rows[g])
        cut = cut_find<false>(l, s, d, cache, g, keep, blocks);
    rows_write<false>(l, s, d, cache, g, cut, keep == 0, l.plan.first[g], rank, blocks);
}

/* A head's cut in the order of all heads together. Where it stopped short of the row's digits (they are zeros then), it
 * stays so: every row of that score is in. */
__device__ uint64_t cut_joint(const struct select_launch &l, int32_t g, uint64_t cut)
{
    const uint32_t score = (uint32_t)(cut >> 32), low = (uint32_t)cut, heads = (uint32_t)l.plan.heads;
    uint64_t place;

    if (score >= ordered(l.plan.protected_score) && !isinf(l.plan.protected_score))
        return (uint64_t)score << 32 | (low * heads + (low ? (uint32_t)g : 0));
    place = (uint64_t)~low * heads + (uint32_t)g;
    return (uint64_t)score << 32 | (place > 0xffffffffu ? 0 : ~(uint32_t)place);
}

/* grid: one cluster */
__global__ void __launch_bounds__(THREADS) select_joint_kernel(const __grid_constant__ struct select_launch l)
{
    extern __shared__ uint32_t cache[];
    __shared__ struct desk d;
    const int blocks = cluster_size(), rank = cluster_rank();
    int64_t rows = 0;

    desk_open(l, d);
    for (int32_t g = 0; g < l.plan.heads; g++)
        rows += l.plan.rows[g];
    for (int32_t g = rank; g < l.plan.heads; g += blocks) {
        const uint32_t keep = (uint32_t)l.plan.keep[g], all = (uint32_t)l.plan.rows[g];
        uint64_t cut = keep >= all ? 0 : ~(uint64_t)0;

        if (keep > 0 && keep < all) {
            struct stretch s = stretch_of<false>(l, d, d.at[g], d.at[g + 1], 0, 1, cache);
            cut = cut_joint(l, g, cut_find<false>(l, s, d, cache, g, keep, 1));
        }
        if (threadIdx.x == 0)
            l.safe_cut[g] = cut;
        __syncthreads();
    }
    __threadfence();
    cluster_sync(blocks);
    struct stretch s = stretch_of<true>(l, d, d.at[0], d.at[l.plan.heads], rank, blocks, cache);
    uint64_t cut = 0;
    if (l.plan.total > 0 && l.plan.total < rows)
        cut = cut_find<true>(l, s, d, cache, 0, (uint32_t)l.plan.total, blocks);
    rows_write<true>(l, s, d, cache, 0, cut, l.plan.total <= 0, 0, rank, blocks);
}

/* ---- launcher ---- */

/* Blocks of a cluster: enough that each has at most 4k scores, as far as that helps. */
static int cluster_for(const struct cuda_queue &q, int64_t scores)
{
    int blocks = 1;

    while (q.cluster && blocks < CLUSTER_MAX && scores > (int64_t)blocks * 4096)
        blocks *= 2;
    return blocks;
}

cudaError_t launch_select(struct cuda_queue q, const struct select_plan *p, int32_t *index, int64_t *first_out,
                          uint64_t *room)
{
    void (*kernel)(const struct select_launch) = p->joint ? select_joint_kernel : select_heads_kernel;
    const int64_t scores = p->joint ? p->at[p->heads] : p->rows_longest;
    const int blocks = cluster_for(q, scores);
    int64_t cache = p->joint && p->rows_longest > scores / blocks ? p->rows_longest : scores / blocks + 64;
    cudaLaunchAttribute attribute = {};
    cudaLaunchConfig_t config = {};
    cudaError_t e;

    if (cache > (q.shared_most - (int64_t)sizeof(struct desk) - 1024) / 4)
        cache = (q.shared_most - (int64_t)sizeof(struct desk) - 1024) / 4;
    struct select_launch l = { *p, index, first_out, room, (int32_t)cache };
    e = allow_shared(kernel, (size_t)cache * 4);
    if (e != cudaSuccess)
        return e;
    attribute.id = cudaLaunchAttributeClusterDimension;
    attribute.val.clusterDim.x = (unsigned)blocks;
    attribute.val.clusterDim.y = attribute.val.clusterDim.z = 1;
    config.gridDim = dim3((unsigned)blocks, p->joint ? 1 : (unsigned)p->heads);
    config.blockDim = dim3(THREADS);
    config.dynamicSmemBytes = (size_t)cache * 4;
    config.stream = q.stream;
    config.attrs = &attribute;
    config.numAttrs = blocks > 1 ? 1 : 0;
    return cudaLaunchKernelEx(&config, kernel, l);
}
