/* SPDX-License-Identifier: Apache-2.0 */
/*
 * skinny.cu - out = in . w^T for few rows and a small w (few.c says which), soon done, with what stands before and behind
 * the product in a step.
 *
 *   in                     [ norm ]        f32 rows of x, perhaps chosen by index; times the norm's weight as they are
 *                                          read; without a norm bf16 rows
 *   product                                8 warps share the depth
 *   out    plain           (+ bias) (+ out, which is x then: f32)
 *          gated           activation(gate) * up
 *          q, k, v         rotated; k and v to the tails
 *
 * A thread block of 8 warps owns R x 16 outputs; its warps take the depth K in turns of 64 (1 KiB of every weight row per
 * turn of the block) and are added up in shared memory at the end. Weights go from device memory to
 * registers in 16-byte loads and straight into the tensor cores as the 16-row side; rows of `in` are the 8-column side.
 * The order of K within a product is free, so thread c of a quad takes 8 neighbouring numbers of both sides and calls
 * them what the instruction wants.
 *
 * 1 / rms of a row is known only when all of it was read, and is the same for all outputs: it is multiplied in at the end.
 * The 16 outputs need not be neighbours: two runs of 8 make a gate stand beside its `up`, a channel beside its partner.
 *
 * The first weights are asked for before chain_wait: they do not depend on the kernel before, so the memory is already
 * busy while that one ends; `ahead` more bytes of each weight row are called into the L2 meanwhile. What is read once
 * leaves the L2 first, so that what was called stays. bf16 products, f32 sums. Up to 8 NT rows. What the end takes from
 * memory, x where it is added to, angles and places, is asked for before the weights are met, not when all else is done.
 */
#include "kernels/cuda/place.cuh"

enum { WARPS = 8, STEP = 32, RING = 4 };
enum skinny_out { OUT_PLAIN, OUT_GATED, OUT_QKV };

__device__ __forceinline__ uint4 load_streaming(const void *p, uint64_t policy)
{
    uint4 x;
    asm volatile("ld.global.nc.L1::no_allocate.L2::cache_hint.L2::256B.v4.u32 {%0,%1,%2,%3}, [%4], %5;\n"
                 : "=r"(x.x), "=r"(x.y), "=r"(x.z), "=r"(x.w)
                 : "l"(p), "l"(policy));
    return x;
}

/* Two runs of 8 outputs each that make tile `tile` of 16. */
struct tile_runs {
    int32_t first, second;
    int32_t head, channel; /* OUT_QKV */
    bool turned;
};

template <int OUT>
__device__ __forceinline__ struct tile_runs tile_at(const struct skinny_args &a, const struct rotate_args &t,
                                                    int32_t tile)
{
    if constexpr (OUT == OUT_PLAIN)
        return { tile * 16, tile * 16 + 8, 0, 0, false };
    if constexpr (OUT == OUT_GATED)
        return { tile * 8, a.n / 2 + tile * 8, 0, 0, false };
    const int32_t half = t.inv_freq ? t.rope_dims / 2 : 0, head = tile / (t.dim / 16), j = tile % (t.dim / 16);
    const bool key = head < t.q_heads + t.kv_heads, turned = key && j * 8 < half;
    const int32_t channel = !key ? j * 16 : turned ? j * 8 : 2 * half + (j - half / 8) * 16;
    const int32_t first = head * t.dim + channel;
    return { first, first + (turned ? half : 8), head, channel, turned };
}

/* 8 numbers of a row times the norm's weight, in bf16; their squares are added to `square`. */
__device__ __forceinline__ uint4 weighed(const float4 (&x)[2], const float4 (&w)[2], float &square)
{
#pragma unroll
    for (int i = 0; i < 2; i++)
        square += x[i].x * x[i].x + x[i].y * x[i].y + x[i].z * x[i].z + x[i].w * x[i].w;
    return make_uint4(bf16_pair(x[0].x * w[0].x, x[0].y * w[0].y), bf16_pair(x[0].z * w[0].z, x[0].w * w[0].w),
                      bf16_pair(x[1].x * w[1].x, x[1].y * w[1].y), bf16_pair(x[1].z * w[1].z, x[1].w * w[1].w));
}

/* A pair of channels of q, k or v of row m goes where attention wants it; `first`: the row's K of head 0, NULL: nowhere. */
__device__ __forceinline__ void pair_place(const struct rotate_args &t, const struct tile_runs &tile, int32_t m,
                                           int32_t o, float x, float y, const float *angle, bf16 *first)
{
    const int32_t a = tile.channel + o, b = a + (tile.second - tile.first);
    bf16 *to = (bf16 *)t.q + ((int64_t)m * t.q_heads + tile.head) * t.dim;

    if (tile.turned) {
        const float cosine = angle[0], sine = angle[1], turned = x * cosine - y * sine;
        y = y * cosine + x * sine;
        x = turned;
    }
    if (tile.head >= t.q_heads) {
        if (!first)
            return;
        to = first + (int64_t)(tile.head - t.q_heads) * KV_PAGE_TOKENS * t.dim;
    }
    to[a] = rounded<bf16>(x);
    to[b] = rounded<bf16>(y);
}

template <int R> struct weights_of_step {
    uint4 w[R][2];
};

template <int R>
__device__ __forceinline__ void weights_load(struct weights_of_step<R> &h, const bf16 *const (&row)[R][2], int32_t step,
                                             uint64_t policy)
{
#pragma unroll
    for (int r = 0; r < R; r++) {
        h.w[r][0] = load_streaming(row[r][0] + (int64_t)step * STEP, policy);
        h.w[r][1] = load_streaming(row[r][1] + (int64_t)step * STEP, policy);
    }
}

/* The step that is turn `turn` of a warp: two neighbouring steps, then those of the other warps. */
__device__ __forceinline__ int32_t step_of(int32_t turn, int warp)
{
    return (turn >> 1) * (2 * WARPS) + 2 * warp + (turn & 1);
}

/* A lane's 8 numbers of each row of `in` for a step; f32 where they are normed, and the norm's weight. */
template <int NT, bool NORM> struct rows_of_step {
    uint4 x[NT];
    __device__ void load(const struct skinny_args &a, const int64_t (&at)[NT], int32_t step, int quad, int)
    {
#pragma unroll
        for (int n = 0; n < NT; n++)
            x[n] = n * 8 + quad < a.rows ? *(const uint4 *)((const bf16 *)a.in + at[n] + step * STEP)
                                         : make_uint4(0, 0, 0, 0);
    }
    __device__ uint4 read(int n, float &) const
    {
        return x[n];
    }
};
template <int NT> struct rows_of_step<NT, true> {
    float4 x[NT][2], norm[2];
    __device__ void load(const struct skinny_args &a, const int64_t (&at)[NT], int32_t step, int quad, int c)
    {
#pragma unroll
        for (int i = 0; i < 2; i++) {
#pragma unroll
            for (int n = 0; n < NT; n++)
                x[n][i] = n * 8 + quad < a.rows ? ((const float4 *)((const float *)a.in + at[n] + step * STEP))[i]
                                                : make_float4(0.0f, 0.0f, 0.0f, 0.0f);
            norm[i] = __ldg((const float4 *)(a.norm + step * STEP + c * 8) + i);
        }
    }
    __device__ uint4 read(int n, float &square) const
    {
        return weighed(x[n], norm, square);
    }
};

template <int NT, int R, int BLOCKS, int OUT, bool NORM>
__global__ void __launch_bounds__(WARPS * 32, BLOCKS)
    skinny_kernel(const __grid_constant__ struct skinny_args a, const __grid_constant__ struct rotate_args t)
{
    enum { EARLY = NT == 1 }; /* rows of the next step are asked for before this one: more find no registers */
    enum { THREADS = WARPS * 32, OUTPUTS = NT * R > 2 ? NT * R / 2 : 1 }; /* of a thread */
    enum { EARLY_X = OUT == OUT_PLAIN && !NORM };
    __shared__ float part[WARPS][NT * 8][R * 16 + 1];
    __shared__ float square_part[NORM ? WARPS : 1][NT * 8];
    __shared__ float angle[OUT == OUT_QKV ? NT * 8 * R * 8 : 1][2];
    __shared__ bf16 *tail[OUT == OUT_QKV ? NT * 8 : 1];
    const int warp = threadIdx.x >> 5, lane = threadIdx.x & 31, quad = lane >> 2, c = lane & 3;
    const int32_t tile0 = blockIdx.x * R, steps = a.k / STEP;
    const uint64_t policy = once_only();
    const bf16 *row[R][2];
    int64_t in[NT];
    float sum[R][NT][4] = {}, square[NT] = {}, before[OUTPUTS] = {};
    struct weights_of_step<R> ring[RING];

#pragma unroll
    for (int r = 0; r < R; r++) { /* rows past the end read the last one and are not written */
        const struct tile_runs tile = tile_at<OUT>(a, t, tile0 + r);
        row[r][0] = (const bf16 *)a.w + (int64_t)min(tile.first + quad, a.n - 1) * a.k + c * 8;
        row[r][1] = (const bf16 *)a.w + (int64_t)min(tile.second + quad, a.n - 1) * a.k + c * 8;
    }
#pragma unroll
    for (int u = 0; u < RING; u++)
        if (step_of(u, warp) < steps)
            weights_load<R>(ring[u], row, step_of(u, warp), policy);
    /* a quad's first thread calls the rows of its quad; warp r those of tile r */
    const int32_t rest = min(a.ahead, (a.k - RING * WARPS * STEP) * 2);
#pragma unroll
    for (int r = 0; r < R; r++)
        if (warp == r && c == 0 && rest > 0) {
            call_ahead(row[r][0] + RING * WARPS * STEP, (uint32_t)rest);
            call_ahead(row[r][1] + RING * WARPS * STEP, (uint32_t)rest);
        }
#pragma unroll
    for (int n = 0; n < NT; n++) {
        const int32_t m = min(n * 8 + quad, a.rows - 1);
        in[n] = (int64_t)(a.index ? a.index[m] : m) * a.k + c * 8;
    }
    for (int32_t i = threadIdx.x; OUT == OUT_QKV && i < a.rows * R * 8; i += THREADS) {
        /* positions and places were there before the step's first kernel */
        const int32_t m = i / (R * 8), o = i % (R * 8);
        const struct tile_runs tile = tile_at<OUT>(a, t, tile0 + o / 8);
        if (tile.turned) {
            float sine, cosine;
            sincosf((float)t.position[m] * table_at(t, m)[tile.channel + o % 8], &sine, &cosine);
            angle[i][0] = cosine * t.rope_scale;
            angle[i][1] = sine * t.rope_scale;
        }
    }
    if (OUT == OUT_QKV && threadIdx.x < a.rows)
        tail[threadIdx.x] = tail_place<bf16>(t, threadIdx.x);
    chain_wait();
    chain_next();
    if (EARLY_X && a.accumulate)
#pragma unroll
        for (int e = 0; e < OUTPUTS; e++) {
            const int32_t i = threadIdx.x + e * THREADS, n = tile0 * 16 + i % (R * 16);
            if (i < a.rows * R * 16 && n < a.n)
                before[e] = __ldcg((const float *)a.out + (int64_t)(i / (R * 16)) * a.n + n);
        }
    struct rows_of_step<NT, NORM> next;
    if (EARLY && step_of(0, warp) < steps)
        next.load(a, in, step_of(0, warp), quad, c);
    for (int32_t turn = 0; step_of(turn, warp) < steps; turn += RING) {
#pragma unroll
        for (int u = 0; u < RING; u++) {
            const int32_t step = step_of(turn + u, warp), after = step_of(turn + u + 1, warp);
            if (step >= steps)
                break;
            if (!EARLY)
                next.load(a, in, step, quad, c);
            const struct rows_of_step<NT, NORM> now = next;
            if (EARLY && after < steps)
                next.load(a, in, after, quad, c);
#pragma unroll
            for (int n = 0; n < NT; n++) {
                const uint4 x = now.read(n, square[n]);
#pragma unroll
                for (int r = 0; r < R; r++) {
                    const uint4 w0 = ring[u].w[r][0], w1 = ring[u].w[r][1];
                    const uint32_t first[4] = { w0.x, w1.x, w0.y, w1.y }, second[4] = { w0.z, w1.z, w0.w, w1.w };
                    multiply(sum[r][n], first, x.x, x.y);
                    multiply(sum[r][n], second, x.z, x.w);
                }
            }
            if (step_of(turn + u + RING, warp) < steps)
                weights_load<R>(ring[u], row, step_of(turn + u + RING, warp), policy);
        }
    }
#pragma unroll
    for (int n = 0; n < NT; n++) {
#pragma unroll
        for (int r = 0; r < R; r++)
#pragma unroll
            for (int i = 0; i < 4; i++)
                part[warp][n * 8 + 2 * c + (i & 1)][r * 16 + quad + (i >> 1) * 8] = sum[r][n][i];
        if (NORM) {
            square[n] += __shfl_xor_sync(0xffffffffu, square[n], 1);
            square[n] += __shfl_xor_sync(0xffffffffu, square[n], 2);
            if (c == 0)
                square_part[warp][n * 8 + quad] = square[n];
        }
    }
    __syncthreads();
    const auto factor_of = [&](int32_t m) {
        if constexpr (!NORM) {
            return 1.0f;
        } else {
            float all = 0.0f;
#pragma unroll
            for (int k = 0; k < WARPS; k++)
                all += square_part[k][m];
            return rsqrtf(all / (float)a.k + a.eps);
        }
    };
    const auto output_of = [&](int32_t m, int32_t at, int32_t n) {
        float value = 0.0f;
#pragma unroll
        for (int k = 0; k < WARPS; k++)
            value += part[k][m][at];
        return value * factor_of(m) + (a.bias ? a.bias[n] : 0.0f);
    };
    if constexpr (OUT == OUT_PLAIN) {
#pragma unroll
        for (int e = 0; e < OUTPUTS; e++) {
            const int32_t i = threadIdx.x + e * THREADS, m = i / (R * 16), o = i % (R * 16), n = tile0 * 16 + o;
            if (m >= a.rows || n >= a.n)
                continue;
            const int64_t at = (int64_t)m * a.n + n;
            if (a.accumulate)
                ((float *)a.out)[at] = (EARLY_X ? before[e] : ((const float *)a.out)[at]) + output_of(m, o, n);
            else
                ((bf16 *)a.out)[at] = rounded<bf16>(output_of(m, o, n));
        }
    } else {
        for (int32_t i = threadIdx.x; i < a.rows * R * 8; i += THREADS) {
            const int32_t m = i / (R * 8), r = i % (R * 8) / 8, o = i % 8;
            const struct tile_runs tile = tile_at<OUT>(a, t, tile0 + r);
            if (tile.second + o >= a.n)
                continue;
            const float x = output_of(m, r * 16 + o, tile.first + o);
            const float y = output_of(m, r * 16 + 8 + o, tile.second + o);
            if (OUT == OUT_GATED)
                ((bf16 *)a.out)[(int64_t)m * (a.n / 2) + tile.first + o] = rounded<bf16>(activate(x, a.kind) * y);
            else
                pair_place(t, tile, m, o, x, y, angle[i], tail[OUT == OUT_QKV ? m : 0]);
        }
    }
}

/* The tiles of 16 outputs, two to a thread block where each multiprocessor still gets several. */
template <int NT, int OUT, bool NORM>
static cudaError_t skinny(const struct cuda_queue &q, const struct skinny_args *a, const struct rotate_args *t)
{
    enum { EACH = NT > 2 ? 2 : 3 };
    const struct rotate_args none = {};
    const dim3 threads(WARPS * 32);

    if constexpr (NT <= 2) /* more rows leave no registers for two tiles */
        if (a->n >= q.sms * 96)
            return launch_chained(q, dim3(int_ceil(a->n, 32)), threads, 0, skinny_kernel<NT, 2, 2, OUT, NORM>, *a,
                                  t ? *t : none);
    return launch_chained(q, dim3(int_ceil(a->n, 16)), threads, 0, skinny_kernel<NT, 1, EACH, OUT, NORM>, *a,
                          t ? *t : none);
}

template <int OUT, bool NORM>
static cudaError_t skinny_rows(const struct cuda_queue &q, const struct skinny_args *a, const struct rotate_args *t)
{
    if (a->rows <= 8)
        return skinny<1, OUT, NORM>(q, a, t);
    return a->rows <= 16 ? skinny<2, OUT, NORM>(q, a, t) : skinny<4, OUT, NORM>(q, a, t);
}

cudaError_t launch_skinny(struct cuda_queue q, const struct skinny_args *args)
{
    return args->norm ? skinny_rows<OUT_PLAIN, true>(q, args, NULL) : skinny_rows<OUT_PLAIN, false>(q, args, NULL);
}

cudaError_t launch_skinny_gated(struct cuda_queue q, const struct skinny_args *args)
{
    if (!args->norm || args->n % 16 != 0)
        return cudaErrorInvalidValue;
    return skinny_rows<OUT_GATED, true>(q, args, NULL);
}

bool skinny_takes_heads(const struct rotate_args *t)
{
    return t->dim % 16 == 0 && (!t->inv_freq || t->rope_dims % 16 == 0) && !t->q_norm && !t->k_norm && t->slot;
}

cudaError_t launch_skinny_qkv(struct cuda_queue q, const struct skinny_args *args, const struct rotate_args *t)
{
    if (!args->norm || !skinny_takes_heads(t))
        return cudaErrorInvalidValue;
    return skinny_rows<OUT_QKV, true>(q, args, t);
}
