/* SPDX-License-Identifier: Apache-2.0 */
/*
 * select_keys.cuh - the keys of select.cu, whoever holds them, and what a thread block shares while it looks through them.
 *
 * A warp has a stretch of the layer's scores; lane i takes scores i, i + 32, ... of it, in registers where KEYS > 0, read
 * again in every pass where KEYS is 0. JOINT: scores of all heads stand in one order.
 */
#ifndef PLATEN_KERNELS_CUDA_SELECT_KEYS_CUH
#define PLATEN_KERNELS_CUDA_SELECT_KEYS_CUH

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
    uint32_t cut[2];                  /* low, high */
};

/* Upper halves of the keys of scores begin + lane, begin + 32 + lane, ... KEYS 0: none are held. */
template <int KEYS> struct held {
    uint32_t score[KEYS > 0 ? KEYS : 1];
};

/* As ordered() of numbers.cuh, of scores. Written out: with a call of that one the compiler orders these kernels otherwise. */
__device__ __forceinline__ uint32_t ordered_score(float x)
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
    return score >= ordered_score(l.plan.protected_score) && !isinf(l.plan.protected_score);
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
    uint32_t score = ordered_score(l.plan.score[i]);
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

/* Calls visit(i, head, score, there) for this lane's scores in order; every lane of the warp takes part each time. H: struct
 * held<KEYS>, const or not; where it is not, visit may put something else in a score's place. */
template <int KEYS, bool JOINT, typename H, typename F>
__device__ __forceinline__ void for_keys(const struct select_launch &l, const struct desk &d, const struct stretch &s,
                                         H &held, int32_t head, int lane, F visit)
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
            uint32_t score = there ? score_read<JOINT>(l, d, i, g) : 0;
            visit(i, g, score, there);
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

#endif
