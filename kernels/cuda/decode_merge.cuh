/* SPDX-License-Identifier: Apache-2.0 */
/*
 * decode_merge.cuh - how an item's output is put together: of the warps of a thread block, and of the thread blocks that
 * shared the item.
 *
 * Everyone leaves (max, sum, out) per query row. Warps meet in shared memory, 4 query rows at a time (WARPS x 4 x (D + 2)
 * floats); then a thread owns 4 channels of a query row. Thread blocks meet in device memory (hole.cuh), in two rounds:
 *
 *   sharers of an item   0 1 2 3 4 5 6 7 | 8 9 .. 15 | 16 17 18
 *   first round                        7 |        15 |              the last of a team puts its pieces together
 *   second round                                            18      the last of all, those of teams and of its own
 *
 * as each piece costs whoever adds it a tenth of a microsecond, in which memory may stand idle. A thread block puts pieces
 * together once its own tiles are done, and waits for thread blocks that were started before it alone, so none waits for
 * room that it takes.
 */
#ifndef PLATEN_KERNELS_CUDA_DECODE_MERGE_CUH
#define PLATEN_KERNELS_CUDA_DECODE_MERGE_CUH

#include "kernels/cuda/decode_rows.cuh"
#include "kernels/cuda/hole.cuh"

enum { MERGED = 4 }; /* query rows that the warps put together at once */
enum { TEAM = 8 };   /* thread blocks */

/* What becomes of an item's rows in a thread block: its output; a piece; a piece that stays in shared memory, as the others
 * are about to be added to it. */
enum ending { WHOLE, PIECE, LAST };

/* Leaves this warp's max (in exponents of 2), sum and out of query rows [from, from + MERGED) in shared memory. */
template <int D> struct merging {
    float max[MERGED], sum[MERGED], out[MERGED][D];
};

template <int D>
__device__ __forceinline__ void running_leave(const struct running<D> &run, float scale2, int from, int lane,
                                              struct merging<D> &to)
{
#pragma unroll
    for (int half = 0; half < 2; half++) {
        const int q = (lane >> 2) + half * 8 - from;
        float sum = run.sum[half];

        sum += __shfl_xor_sync(0xffffffffu, sum, 1);
        sum += __shfl_xor_sync(0xffffffffu, sum, 2);
        if (q < 0 || q >= MERGED)
            continue;
        if ((lane & 3) == 0) {
            to.max[q] = run.max[half] * scale2;
            to.sum[q] = sum;
        }
#pragma unroll
        for (int n = 0; n < D / 8; n++)
            *(float2 *)&to.out[q][n * 8 + 2 * (lane & 3)] = make_float2(run.out[n][2 * half], run.out[n][2 * half + 1]);
    }
}

__device__ __forceinline__ float fraction(float max, float top)
{
    return max == -CUDART_INF_F ? 0.0f : power2(max - top);
}

/* What is known of 4 channels of a query row: the largest exponent, the sum of weights, the weighted sums. */
struct share {
    float top, sum, value[4];
};

template <int D>
__device__ __forceinline__ struct share warps_share(const struct merging<D> *merging, int32_t q, int32_t c)
{
    struct share x = { -CUDART_INF_F, 0.0f, {} };

#pragma unroll
    for (int k = 0; k < WARPS; k++)
        x.top = fmaxf(x.top, merging[k].max[q]);
#pragma unroll
    for (int k = 0; k < WARPS; k++) {
        const float f = fraction(merging[k].max[q], x.top);
        const float4 more = *(const float4 *)&merging[k].out[q][c];
        x.sum += f * merging[k].sum[q];
        x.value[0] += f * more.x, x.value[1] += f * more.y;
        x.value[2] += f * more.z, x.value[3] += f * more.w;
    }
    return x;
}

template <int D>
__device__ __forceinline__ void share_out(const struct decode_shape &s, int32_t unit_row, int32_t head, int32_t group,
                                          const struct share &x, int32_t q, int32_t c, bf16 *out)
{
    const float f = x.sum > 0.0f ? 1.0f / x.sum : 0.0f;

    *(uint2 *)(out + ((int64_t)(unit_row + q / group) * s.q_heads + head * group + q % group) * D + c) =
        make_uint2(bf16_pair(x.value[0] * f, x.value[1] * f), bf16_pair(x.value[2] * f, x.value[3] * f));
}

/* ---- pieces in device memory ---- */

/* Numbers of a piece before its pairs (top, sum), of which each thread has its own: it resets what it alone has read. */
template <int D> __device__ __forceinline__ int32_t pair_at(int32_t q, int32_t c)
{
    return CUDA_UNIT_QUERIES * D + (q * D + c) / 2;
}

template <int D> __device__ __forceinline__ void share_leave(const struct share &x, int32_t q, int32_t c, float *piece)
{
    relaxed_store(piece + q * D + c,
                  make_uint4(filled(x.value[0]), filled(x.value[1]), filled(x.value[2]), filled(x.value[3])));
    relaxed_store(piece + pair_at<D>(q, c), make_uint2(filled(x.top), filled(x.sum)));
}

/* Pieces that a thread block puts together: first those of teams, then single ones. */
struct gathering {
    int32_t from, second; /* as struct decode_start has it */
    int32_t teams;        /* the item's first ones */
    int32_t single;       /* whose piece is the first single one, counted from the item's first thread block */
    int32_t count;        /* of all */
};

/* Where piece d of them stands, in pieces. */
__device__ __forceinline__ int32_t piece_place(const struct gathering &g, int32_t d)
{
    const int32_t k = g.single + d - g.teams;

    return 2 * g.from + (d < g.teams ? 2 * (d * TEAM + TEAM - 1) + 1 : 2 * k + (k == 0 ? g.second : 0));
}

/* A thread's part of some pieces. */
template <int COUNT> struct parts {
    uint4 value[COUNT];
    uint2 pair[COUNT]; /* top, sum */
    int32_t place[COUNT];
};
template <int COUNT> __device__ __forceinline__ bool has_hole(const struct parts<COUNT> &p, int d)
{
    static_assert(CUDA_HOLE == 0xffffffffu, "a hole is the largest word");
    return max(max(max(p.value[d].x, p.value[d].y), max(p.value[d].z, p.value[d].w)), max(p.pair[d].x, p.pair[d].y)) ==
           CUDA_HOLE;
}
template <int D, int COUNT>
__device__ __forceinline__ void part_load(const float *partial, int32_t q, int32_t c, struct parts<COUNT> &p, int d)
{
    relaxed_load(partial + p.place[d] + q * D + c, p.value[d]);
    relaxed_load(partial + p.place[d] + pair_at<D>(q, c), p.pair[d]);
}

/* Pieces from d0 on, as soon as all are there; what is behind the last weighs nothing. */
template <int D, int COUNT>
__device__ __forceinline__ void parts_fetch(const struct gathering &g, int32_t d0, const float *partial, int32_t q,
                                            int32_t c, struct parts<COUNT> &p)
{
    bool again;

#pragma unroll
    for (int d = 0; d < COUNT; d++) {
        p.place[d] = piece_place(g, d0 + d) * (int32_t)DECODE_PIECE_FLOATS(D);
        p.value[d] = make_uint4(0, 0, 0, 0), p.pair[d] = make_uint2(__float_as_uint(-CUDART_INF_F), 0);
        if (d0 + d < g.count)
            part_load<D>(partial, q, c, p, d);
    }
    do {
        again = false;
#pragma unroll
        for (int d = 0; d < COUNT; d++)
            if (has_hole(p, d)) {
                part_load<D>(partial, q, c, p, d);
                again = true;
            }
    } while (again);
}

template <int COUNT> __device__ __forceinline__ void parts_add(const struct parts<COUNT> &p, struct share &x)
{
    float high = x.top;

#pragma unroll
    for (int d = 0; d < COUNT; d++)
        high = fmaxf(high, __uint_as_float(p.pair[d].x));
    const float less = fraction(x.top, high);
    x.top = high;
    x.sum *= less;
#pragma unroll
    for (int k = 0; k < 4; k++)
        x.value[k] *= less;
#pragma unroll
    for (int d = 0; d < COUNT; d++) {
        const float f = fraction(__uint_as_float(p.pair[d].x), high);
        x.sum += f * __uint_as_float(p.pair[d].y);
        x.value[0] += f * __uint_as_float(p.value[d].x), x.value[1] += f * __uint_as_float(p.value[d].y);
        x.value[2] += f * __uint_as_float(p.value[d].z), x.value[3] += f * __uint_as_float(p.value[d].w);
    }
}

/* Adds pieces to x, in their order, and leaves holes. */
template <int D>
__device__ __forceinline__ struct share shares_add(struct share x, const struct gathering &g, float *partial, int32_t q,
                                                   int32_t c)
{
    for (int32_t d0 = 0; d0 < g.count; d0 += TEAM) {
        struct parts<TEAM> p;

        parts_fetch<D>(g, d0, partial, q, c, p);
        parts_add(p, x);
#pragma unroll
        for (int d = 0; d < TEAM; d++)
            if (d0 + d < g.count) {
                relaxed_store(partial + p.place[d] + q * D + c, four_holes());
                relaxed_store(partial + p.place[d] + pair_at<D>(q, c), make_uint2(CUDA_HOLE, CUDA_HOLE));
            }
    }
    return x;
}

/* Whether thread block `cta`, where an item that began at `from` does not end, puts the pieces of a team together. */
__device__ __forceinline__ bool ends_team(int32_t cta, int32_t from)
{
    return (cta - from) % TEAM == TEAM - 1;
}

/* The pieces of this thread block's first item become its output, where it `ends` here, or else its team's piece; its own
 * is in `merging` where it was the LAST. */
template <int D>
__device__ __noinline__ void pieces_merge(const struct decode_shape &s, int32_t layer, int32_t group, bool ends,
                                          bool own, const struct merging<D> *merging, bf16 *out)
{
    const int32_t cta = blockIdx.x;
    const struct decode_start *at = &s.start[(int64_t)layer * s.ctas + cta];
    const int32_t mine = cta - at->from, before = mine / TEAM, rows = at->first.unit_rows * group;
    const struct gathering g = { at->from, at->second, ends ? before : 0, before * TEAM,
                                 (ends ? before : 0) + mine - before * TEAM + !own };

    for (int32_t i = threadIdx.x; i < rows * (D / 4); i += WARPS * 32) {
        const int32_t q = i / (D / 4), c = i % (D / 4) * 4;
        struct share x = { -CUDART_INF_F, 0.0f, {} };

        if (own)
            x = warps_share<D>(merging, q, c);
        x = shares_add<D>(x, g, s.partial, q, c);
        if (ends)
            share_out<D>(s, at->first.unit_row, at->first.head, group, x, q, c, out);
        else
            share_leave<D>(x, q, c, s.partial + (2 * cta + 1) * DECODE_PIECE_FLOATS(D));
    }
}

/* What the warps have of an item becomes its output, or a piece of it. */
template <int D>
__device__ __forceinline__ void item_end(const struct decode_shape &s, const struct work &w,
                                         const struct running<D> &run, int32_t group, float scale2, enum ending ending,
                                         int warp, int lane, struct merging<D> *merging, float *piece, bf16 *out)
{
    const int32_t rows = w.unit_rows * group;

    for (int32_t from = 0; from < rows; from += MERGED) {
        const int32_t count = min((int32_t)MERGED, rows - from);

        running_leave<D>(run, scale2, from, lane, merging[warp]);
        __syncthreads();
        if (ending == LAST)
            break;
        for (int32_t i = threadIdx.x; i < count * (D / 4); i += WARPS * 32) {
            const int32_t q = i / (D / 4), c = i % (D / 4) * 4;
            const struct share x = warps_share<D>(merging, q, c);

            if (ending == PIECE)
                share_leave<D>(x, from + q, c, piece);
            else
                share_out<D>(s, w.unit_row, w.head, group, x, from + q, c, out);
        }
        __syncthreads();
    }
}

#endif
