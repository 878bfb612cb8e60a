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

/* A launch: the plan, where results go, and how many scores each block may keep in shared memory. */
struct select_launch {
    struct select_plan plan;
    int32_t *index;
    int64_t *first_out;
    uint64_t *safe_cut; /* [heads] */
    int32_t cache;
};

/* Scores [begin, end) of the layer's score array, and the rule for their keys. owned by: a thread block. */
struct stretch {
    int64_t begin, end;
    bool cached, joint;
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

__device__ __forceinline__ bool is_protected(const struct select_plan &p, uint32_t score)
{
    return score >= ordered(p.protected_score) && !isinf(p.protected_score);
}

__device__ __forceinline__ uint64_t key_of(const struct select_plan &p, bool joint, int32_t g, int32_t row,
                                           uint32_t score)
{
    uint32_t place = joint ? (uint32_t)row * (uint32_t)p.heads + (uint32_t)g : (uint32_t)row;
    bool newest_wins = is_protected(p, score);

    return (uint64_t)score << 32 | (newest_wins ? place : ~place);
}

/* The head of score i, at or after g. */
__device__ __forceinline__ int32_t head_of(const struct select_plan &p, int64_t i, int32_t g)
{
    while (i >= p.at[g + 1])
        g++;
    return g;
}

/* The key of score i, with safe rows above all others; false where no row has it. */
__device__ __forceinline__ bool key_at(const struct select_launch &l, const struct stretch &s, const uint32_t *cache,
                                       int64_t i, int32_t g, uint64_t *key)
{
    int32_t row = (int32_t)(i - l.plan.at[g]);

    if (row >= l.plan.rows[g])
        return false;
    *key = key_of(l.plan, s.joint, g, row, s.cached ? cache[i - s.begin] : ordered(l.plan.score[i]));
    if (s.joint && *key >= l.safe_cut[g])
        *key |= 0xffffffff00000000u;
    return true;
}

/* Sum of x over threads before this one. Synchronises. */
__device__ __forceinline__ uint32_t block_before(uint32_t x, uint32_t *all)
{
    __shared__ uint32_t part[WARPS];
    int lane = threadIdx.x & 31, warp = threadIdx.x >> 5;
    uint32_t sum = x;

#pragma unroll
    for (int d = 1; d < 32; d <<= 1) {
        uint32_t other = __shfl_up_sync(0xffffffffu, sum, d);
        if (lane >= d)
            sum += other;
    }
    if (lane == 31)
        part[warp] = sum;
    __syncthreads();
    uint32_t p = part[lane];
#pragma unroll
    for (int d = 1; d < 32; d <<= 1) {
        uint32_t other = __shfl_up_sync(0xffffffffu, p, d);
        if (lane >= d)
            p += other;
    }
    uint32_t before = __shfl_sync(0xffffffffu, p, warp) - __shfl_sync(0xffffffffu, part[lane], warp);
    *all = __shfl_sync(0xffffffffu, p, 31);
    __syncthreads();
    return before + sum - x;
}

/* The k-th largest key (1 <= k <= keys) of the stretches of `blocks` blocks. */
__device__ uint64_t cut_find(const struct select_launch &l, const struct stretch &s, const uint32_t *cache, uint32_t k,
                             int blocks, uint32_t *count)
{
    __shared__ uint32_t found[3]; /* digit, how many of it are wanted, how many there are */
    const int shift[6] = { 53, 42, 32, 21, 10, 0 }, bits[6] = { 11, 11, 10, 11, 11, 10 };
    uint64_t prefix = 0;

    for (int pass = 0; pass < 6; pass++) {
        const int above = shift[pass] + bits[pass];

        for (int b = threadIdx.x; b < BINS; b += THREADS)
            count[b] = 0;
        __syncthreads();
        int32_t g = 0;
        for (int64_t i = s.begin + threadIdx.x; i < s.end; i += THREADS) {
            uint64_t key;
            g = head_of(l.plan, i, g);
            if (key_at(l, s, cache, i, g, &key) && (above == 64 || key >> above == prefix >> above))
                atomicAdd(&count[(key >> shift[pass]) & ((1u << bits[pass]) - 1)], 1u);
        }
        cluster_sync(blocks);
        const int high = BINS - 1 - 2 * threadIdx.x; /* bins from the top, two to a thread */
        uint32_t two[2] = {}, all;
        for (int r = 0; r < blocks; r++) {
            two[0] += of_block(&count[high], r, blocks);
            two[1] += of_block(&count[high - 1], r, blocks);
        }
        uint32_t before = block_before(two[0] + two[1], &all);
        for (int j = 0; j < 2; j++) {
            if (before < k && k <= before + two[j]) {
                found[0] = (uint32_t)(high - j);
                found[1] = k - before;
                found[2] = two[j];
            }
            before += two[j];
        }
        cluster_sync(blocks);
        prefix |= (uint64_t)found[0] << shift[pass];
        k = found[1];
        bool done = found[1] == found[2]; /* all that share what is known are wanted */
        __syncthreads();
        if (done)
            break;
    }
    return prefix;
}

/* Rows of this block's stretch at or above the cut, ascending, behind those of the blocks before it. */
__device__ void rows_write(const struct select_launch &l, const struct stretch &s, const uint32_t *cache, uint64_t cut,
                           bool none, int64_t to, int rank, int blocks, uint32_t *count)
{
    const int warp = threadIdx.x >> 5, lane = threadIdx.x & 31;
    const int64_t share = ((s.end - s.begin + WARPS - 1) / WARPS + 31) / 32 * 32;
    const int64_t begin = min(s.begin + warp * share, s.end), end = min(begin + share, s.end);
    uint32_t mine = 0, all;
    int32_t g = 0;

    for (int64_t i = begin + lane; i - lane < end; i += 32) {
        uint64_t key = 0;
        bool in = false;
        if (i < end) {
            g = head_of(l.plan, i, g);
            in = key_at(l, s, cache, i, g, &key) && key >= cut && !none;
        }
        mine += __popc(__ballot_sync(0xffffffffu, in));
    }
    uint32_t before = block_before(lane == 0 ? mine : 0, &all);
    before = __shfl_sync(0xffffffffu, before, 0);
    if (threadIdx.x == 0)
        count[0] = all;
    cluster_sync(blocks);
    for (int r = 0; r < rank; r++)
        to += of_block(&count[0], r, blocks);
    int64_t at = to + before;
    g = 0;
    for (int64_t i = begin + lane; i - lane < end; i += 32) {
        uint64_t key = 0;
        bool in = false;
        if (i < end) {
            g = head_of(l.plan, i, g);
            in = key_at(l, s, cache, i, g, &key) && key >= cut && !none;
        }
        uint32_t votes = __ballot_sync(0xffffffffu, in);
        int64_t place = at + __popc(votes & ((1u << lane) - 1));
        if (in)
            l.index[place] = (int32_t)(i - l.plan.at[g]);
        if (s.joint && i < end)
            for (int32_t h = g; h >= 0 && l.plan.at[h] == i; h--)
                l.first_out[h] = place;
        at += __popc(votes);
    }
    if (s.joint && rank == blocks - 1 && threadIdx.x == 0)
        for (int32_t h = l.plan.heads; h >= 0 && l.plan.at[h] == l.plan.at[l.plan.heads]; h--)
            l.first_out[h] = to + all;
    cluster_sync(blocks); /* nobody leaves while its counts are read */
}

/* The stretch of one of `blocks` blocks over scores [begin, end), read into shared memory where it fits. */
__device__ struct stretch stretch_of(const struct select_launch &l, int64_t begin, int64_t end, int rank, int blocks,
                                     bool joint, uint32_t *cache)
{
    int64_t share = ((end - begin + blocks - 1) / blocks + 31) / 32 * 32;
    struct stretch s;

    s.begin = min(begin + rank * share, end);
    s.end = min(s.begin + share, end);
    s.cached = s.end - s.begin <= l.cache;
    s.joint = joint;
    if (s.cached)
        for (int64_t i = s.begin + threadIdx.x; i < s.end; i += THREADS)
            cache[i - s.begin] = ordered(l.plan.score[i]);
    __syncthreads();
    return s;
}

/* grid: cluster blocks, heads */
__global__ void __launch_bounds__(THREADS) select_heads_kernel(const __grid_constant__ struct select_launch l)
{
    extern __shared__ uint32_t cache[];
    __shared__ uint32_t count[BINS];
    const int32_t g = blockIdx.y;
    const int blocks = cluster_size(), rank = cluster_rank();
    const int64_t begin = l.plan.at[g];
    struct stretch s = stretch_of(l, begin, begin + l.plan.rows[g], rank, blocks, false, cache);
    const uint32_t keep = (uint32_t)l.plan.keep[g];
    uint64_t cut = 0;

    if (keep > 0 && keep < (uint32_t)l.plan.rows[g])
        cut = cut_find(l, s, cache, keep, blocks, count);
    rows_write(l, s, cache, cut, keep == 0, l.plan.first[g], rank, blocks, count);
}

/* grid: one cluster */
__global__ void __launch_bounds__(THREADS) select_joint_kernel(const __grid_constant__ struct select_launch l)
{
    extern __shared__ uint32_t cache[];
    __shared__ uint32_t count[BINS];
    const int blocks = cluster_size(), rank = cluster_rank();
    int64_t rows = 0;

    for (int32_t g = 0; g < l.plan.heads; g++)
        rows += l.plan.rows[g];
    for (int32_t g = rank; g < l.plan.heads; g += blocks) {
        struct stretch s = stretch_of(l, l.plan.at[g], l.plan.at[g] + l.plan.rows[g], 0, 1, false, cache);
        uint64_t cut = ~(uint64_t)0;

        if (l.plan.keep[g] >= l.plan.rows[g])
            cut = 0;
        else if (l.plan.keep[g] > 0)
            cut = cut_find(l, s, cache, (uint32_t)l.plan.keep[g], 1, count);
        /* the same cut in the order of all heads together: rows of equal score keep their order within a head */
        if (cut != 0 && cut != ~(uint64_t)0) {
            uint32_t score = (uint32_t)(cut >> 32), low = (uint32_t)cut, row;
            bool newest_wins = is_protected(l.plan, score);
            /* the cut may have stopped short of the row's digits: then every row of that score is in */
            if (newest_wins) {
                row = low;
                cut = (uint64_t)score << 32 | (row * (uint32_t)l.plan.heads + (uint32_t)g);
            } else {
                row = ~low;
                uint64_t place = (uint64_t)row * (uint32_t)l.plan.heads + (uint32_t)g;
                cut = (uint64_t)score << 32 | (place > 0xffffffffu ? 0 : ~(uint32_t)place);
            }
        }
        if (threadIdx.x == 0)
            l.safe_cut[g] = cut;
        __syncthreads();
    }
    __threadfence();
    cluster_sync(blocks);
    struct stretch s = stretch_of(l, l.plan.at[0], l.plan.at[l.plan.heads], rank, blocks, true, cache);
    uint64_t cut = 0;
    if (l.plan.total > 0 && l.plan.total < rows)
        cut = cut_find(l, s, cache, (uint32_t)l.plan.total, blocks, count);
    rows_write(l, s, cache, cut, l.plan.total <= 0, 0, rank, blocks, count);
}

/* ---- launcher ---- */

/* Blocks of a cluster: enough that each has at most 8k scores, as far as that helps. */
static int cluster_for(const struct cuda_queue &q, int64_t scores)
{
    int blocks = 1;

    while (q.cluster && blocks < CLUSTER_MAX && scores > (int64_t)blocks * 8192)
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

    if (cache > (q.shared_most - 12 * 1024) / 4)
        cache = (q.shared_most - 12 * 1024) / 4;
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
