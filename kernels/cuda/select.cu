/* SPDX-License-Identifier: Apache-2.0 */
/*
 * select.cu - which rows stay: the best k of n, in one launch per layer, with our rule for equal scores.
 *
 * Every row gets a 64-bit key: the score as an integer that orders like the float, and below it the row, inverted where
 * the smaller row wins. Keys are all different, so "the k largest keys" needs no rule of its own. select_keys.cuh
 * makes and holds keys, select_cut.cuh finds the k-th largest; then rows at or above this cut are written in ascending
 * order (ballots, and sums over warps).
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
#include "kernels/cuda/select_cut.cuh"
#include "kernels/cuda/select_keys.cuh"

/* Which rows a cut lets pass: see place_of. */
struct gate {
    uint32_t score, place; /* the cut's halves */
    uint32_t turn;         /* ~0 where the smaller row wins */
    int32_t begin;         /* of the one head's scores */
};
__device__ __forceinline__ struct gate gate_of(const struct select_launch &l, const struct desk &d, int32_t head,
                                               uint64_t cut)
{
    const uint32_t score = (uint32_t)(cut >> 32);

    return { score, (uint32_t)cut, newest_wins(l, score) ? 0u : ~0u, d.at[head] };
}
template <bool JOINT>
__device__ __forceinline__ bool passes(const struct gate &gate, const struct select_launch &l, const struct desk &d,
                                       int32_t i, int32_t g, uint32_t score)
{
    if (score != gate.score)
        return score > gate.score;
    return (JOINT ? place_of<true>(l, g, i - d.at[g], score) : (uint32_t)(i - gate.begin) ^ gate.turn) >= gate.place;
}

/* Rows at or above the cut, ascending, behind those of the blocks before this one. Held keys are lost: who passes is kept in
 * their place. */
template <int KEYS, bool JOINT>
__device__ void rows_write(const struct select_launch &l, struct desk &d, const struct stretch &s,
                           struct held<KEYS> &held, int32_t head, uint64_t cut, bool none, int64_t to, int rank,
                           int blocks)
{
    const int lane = threadIdx.x & 31;
    const uint32_t below = (1u << lane) - 1;
    const struct gate gate = gate_of(l, d, head, cut);
    uint32_t mine = 0, all;

    for_keys<KEYS, JOINT>(l, d, s, held, head, lane, [&](int32_t i, int32_t g, uint32_t &score, bool there) {
        score = __ballot_sync(0xffffffffu, there && !none && passes<JOINT>(gate, l, d, i, g, score));
        mine += (uint32_t)__popc(score);
    });
    uint32_t before = block_before(d, lane == 0 ? mine : 0, &all);
    before = __shfl_sync(0xffffffffu, before, 0);
    if (blocks > 1) {
        if (threadIdx.x == 0)
            d.range[0] = all;
        cluster_sync(blocks);
        to += __reduce_add_sync(0xffffffffu, lane < rank ? *of_block(&d.range[0], lane) : 0u);
    }
    int32_t *index = l.index + to + before;
    for_keys<KEYS, JOINT>(l, d, s, held, head, lane, [&](int32_t i, int32_t g, uint32_t &score, bool there) {
        const uint32_t votes =
            KEYS > 0 ? score : __ballot_sync(0xffffffffu, there && !none && passes<JOINT>(gate, l, d, i, g, score));
        int32_t *place = index + __popc(votes & below);

        if (votes >> lane & 1)
            *place = i - (JOINT ? d.at[g] : gate.begin);
        if (JOINT && there)
            for (int32_t h = g; h >= 0 && d.at[h] == i; h--)
                l.first_out[h] = place - l.index;
        index += __popc(votes);
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
    const int64_t first = l.plan.first[g];
    struct held<KEYS> held;
    uint64_t cut = 0;

    desk_open(l, d);
    const struct stretch s = stretch_of(d.at[g], d.at[g] + l.plan.rows[g], rank, blocks);
    chain_begin();
    keys_hold<KEYS, false>(l, d, s, g, lane, held);
    if (keep > 0 && keep < (uint32_t)l.plan.rows[g])
        cut = cut_find<KEYS, false>(l, d, s, held, g, keep, rank, blocks);
    rows_write<KEYS, false>(l, d, s, held, g, cut, keep == 0, first, rank, blocks);
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

    desk_open(l, d);
    chain_begin();
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
