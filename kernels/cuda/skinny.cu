/* SPDX-License-Identifier: Apache-2.0 */
/*
 * skinny.cu - out = in . w^T for few rows, at the speed at which w can be read, with what stands before and behind the
 * product in a step.
 *
 *   in                     [ norm ]        rows of x, perhaps chosen by index; times the norm's weight as they are read
 *   product                                8 warps share the depth
 *   out    plain           (+ bias) (+ out)
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
 * leaves the L2 first, so that what was called stays. bf16 in, f32 sums, bf16 out. Up to 8 NT rows.
 */
#include "kernels/cuda/place.cuh"

enum { WARPS = 8, STEP = 32, RING = 4 };
enum skinny_out { OUT_PLAIN, OUT_GATED, OUT_QKV };

__device__ __forceinline__ uint64_t once_only()
{
    uint64_t policy;
    asm("createpolicy.fractional.L2::evict_first.b64 %0, 1.0;\n" : "=l"(policy));
    return policy;
}

__device__ __forceinline__ uint4 load_streaming(const void *p, uint64_t policy)
{
    uint4 x;
    asm volatile("ld.global.nc.L1::no_allocate.L2::cache_hint.L2::256B.v4.u32 {%0,%1,%2,%3}, [%4], %5;\n"
                 : "=r"(x.x), "=r"(x.y), "=r"(x.z), "=r"(x.w)
                 : "l"(p), "l"(policy));
    return x;
}

/* Calls `bytes` bytes (of 16) into the L2. */
__device__ __forceinline__ void call_ahead(const void *p, uint32_t bytes)
{
#if __CUDA_ARCH__ >= 900
    asm volatile("cp.async.bulk.prefetch.L2.global [%0], %1;\n" ::"l"(p), "r"(bytes) : "memory");
#endif
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

/* 8 numbers of a row times the norm's weight, in bf16 again; their squares are added to `square`. */
__device__ __forceinline__ uint4 weighed(uint4 x, const float *norm, float &square)
{
    const float4 low = __ldg((const float4 *)norm), high = __ldg((const float4 *)norm + 1);
    const float w[8] = { low.x, low.y, low.z, low.w, high.x, high.y, high.z, high.w };
    uint32_t *pair = &x.x;

#pragma unroll
    for (int i = 0; i < 4; i++) {
        const float a = __uint_as_float(pair[i] << 16), b = __uint_as_float(pair[i] & 0xffff0000u);
        square += a * a + b * b;
        pair[i] = bf16_pair(a * w[2 * i], b * w[2 * i + 1]);
    }
    return x;
}

/* A pair of channels of q, k or v of row m goes where attention wants it. */
__device__ __forceinline__ void pair_place(const struct rotate_args &t, const struct tile_runs &tile, int32_t m,
                                           int32_t o, float x, float y, const float *angle)
{
    const int32_t a = tile.channel + o, b = a + (tile.second - tile.first);
    bf16 *to, *k, *v;

    if (tile.turned) {
        const float cosine = angle[0], sine = angle[1], turned = x * cosine - y * sine;
        y = y * cosine + x * sine;
        x = turned;
    }
    if (tile.head < t.q_heads) {
        to = (bf16 *)t.q + ((int64_t)m * t.q_heads + tile.head) * t.dim;
    } else {
        const int32_t g = (tile.head - t.q_heads) % t.kv_heads;
        if (!place<bf16>(t, m, g, &k, &v))
            return;
        to = tile.head < t.q_heads + t.kv_heads ? k : v;
    }
    to[a] = rounded<bf16>(x);
    to[b] = rounded<bf16>(y);
}

template <int NT, int R, int BLOCKS, int OUT, bool NORM>
__global__ void __launch_bounds__(WARPS * 32, BLOCKS)
    skinny_kernel(const __grid_constant__ struct skinny_args a, const __grid_constant__ struct rotate_args t)
{
    __shared__ float part[WARPS][NT * 8][R * 16 + 1];
    __shared__ float square_part[NORM ? WARPS : 1][NT * 8];
    __shared__ float angle[OUT == OUT_QKV ? NT * 8 * R * 8 : 1][2];
    const int warp = threadIdx.x >> 5, lane = threadIdx.x & 31, quad = lane >> 2, c = lane & 3;
    const int32_t tile0 = blockIdx.x * R, steps = a.k / STEP;
    const uint64_t policy = once_only();
    const bf16 *row[R][2], *in[NT];
    float sum[R][NT][4] = {}, square[NT] = {};
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
        in[n] = (const bf16 *)a.in + (int64_t)(a.index ? a.index[m] : m) * a.k + c * 8;
    }
    if (OUT == OUT_QKV && threadIdx.x < a.rows * R * 8) { /* positions were there before the step's first kernel */
        const int32_t m = threadIdx.x / (R * 8), o = threadIdx.x % (R * 8);
        const struct tile_runs tile = tile_at<OUT>(a, t, tile0 + o / 8);
        if (tile.turned) {
            float sine, cosine;
            sincosf((float)t.position[m] * table_at(t, m)[tile.channel + o % 8], &sine, &cosine);
            angle[threadIdx.x][0] = cosine * t.rope_scale;
            angle[threadIdx.x][1] = sine * t.rope_scale;
        }
    }
    chain_wait();
    chain_next();
    for (int32_t turn = 0; step_of(turn, warp) < steps; turn += RING) {
#pragma unroll
        for (int u = 0; u < RING; u++) {
            const int32_t step = step_of(turn + u, warp);
            if (step >= steps)
                break;
#pragma unroll
            for (int n = 0; n < NT; n++) {
                uint4 x = make_uint4(0, 0, 0, 0);
                if (n * 8 + quad < a.rows)
                    x = *(const uint4 *)(in[n] + (int64_t)step * STEP);
                if (NORM)
                    x = weighed(x, a.norm + step * STEP + c * 8, square[n]);
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
        for (int32_t i = threadIdx.x; i < a.rows * R * 16; i += WARPS * 32) {
            const int32_t m = i / (R * 16), o = i % (R * 16), n = tile0 * 16 + o;
            if (n >= a.n)
                continue;
            float value = output_of(m, o, n);
            bf16 *to = (bf16 *)a.out + (int64_t)m * a.n + n;
            if (a.accumulate)
                value += number(*to);
            *to = rounded<bf16>(value);
        }
    } else {
        for (int32_t i = threadIdx.x; i < a.rows * R * 8; i += WARPS * 32) {
            const int32_t m = i / (R * 8), r = i % (R * 8) / 8, o = i % 8;
            const struct tile_runs tile = tile_at<OUT>(a, t, tile0 + r);
            if (tile.second + o >= a.n)
                continue;
            const float x = output_of(m, r * 16 + o, tile.first + o);
            const float y = output_of(m, r * 16 + 8 + o, tile.second + o);
            if (OUT == OUT_GATED)
                ((bf16 *)a.out)[(int64_t)m * (a.n / 2) + tile.first + o] = rounded<bf16>(activate(x, a.kind) * y);
            else
                pair_place(t, tile, m, o, x, y, angle[i]);
        }
    }
}

/* The tiles of 16 outputs, two to a thread block where each multiprocessor still gets several. */
template <int NT, int OUT, bool NORM>
static cudaError_t skinny(const struct cuda_queue &q, const struct skinny_args *a, const struct rotate_args *t)
{
    enum { EACH = NT == 1 && !NORM ? 4 : 3 };
    const struct rotate_args none = {};
    const dim3 threads(WARPS * 32);

    if (a->n >= q.sms * 96)
        return launch_chained(q, dim3(int_ceil(a->n, 32)), threads, 0, skinny_kernel<NT, 2, 2, OUT, NORM>, *a,
                              t ? *t : none);
    return launch_chained(q, dim3(int_ceil(a->n, 16)), threads, 0, skinny_kernel<NT, 1, EACH, OUT, NORM>, *a,
                          t ? *t : none);
}

template <int OUT>
static cudaError_t skinny_normed(const struct cuda_queue &q, const struct skinny_args *a, const struct rotate_args *t)
{
    return a->rows <= 8 ? skinny<1, OUT, true>(q, a, t) : skinny<2, OUT, true>(q, a, t);
}

cudaError_t launch_skinny(struct cuda_queue q, const struct skinny_args *args)
{
    if (args->norm)
        return skinny_normed<OUT_PLAIN>(q, args, NULL);
    if (args->rows <= 8)
        return skinny<1, OUT_PLAIN, false>(q, args, NULL);
    return skinny<2, OUT_PLAIN, false>(q, args, NULL);
}

cudaError_t launch_skinny_gated(struct cuda_queue q, const struct skinny_args *args)
{
    return args->norm && args->n % 16 == 0 ? skinny_normed<OUT_GATED>(q, args, NULL) : cudaErrorInvalidValue;
}

bool skinny_takes_heads(const struct rotate_args *t)
{
    return t->dim % 16 == 0 && (!t->inv_freq || t->rope_dims % 16 == 0) && !t->q_norm && !t->k_norm && t->slot;
}

cudaError_t launch_skinny_qkv(struct cuda_queue q, const struct skinny_args *args, const struct rotate_args *t)
{
    return args->norm && skinny_takes_heads(t) ? skinny_normed<OUT_QKV>(q, args, t) : cudaErrorInvalidValue;
}
