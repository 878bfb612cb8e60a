/* SPDX-License-Identifier: Apache-2.0 */
/*
 * attend.cu - causal attention of a prefill pass by our own kernels: where cuDNN is missing, the cache is f32, or the
 * layer has a window.
 *
 *   bf16   a thread block owns 64 queries of one head, a warp 16 of them; tiles of 64 keys come through shared memory
 *          while the tile before is worked on; both products on the tensor cores, softmax in registers.
 *   f32    a thread block owns 32 queries, a warp 4; tiles of 32 keys in shared memory; a lane takes a key for the
 *          scores and channels for the sum. Plain multiplications: this is for exactness.
 *
 * Also writes, for cuDNN's plans, the lengths and offsets of a call's spans.
 */
#include "kernels/cuda/numbers.cuh"

enum { WARPS = 4, QUERIES = 64, KEYS = 64, PLAIN_WARPS = 8, PLAIN_QUERIES = 4, PLAIN_KEYS = 32 };

template <int D> struct room {
    enum { row = D * 2 + 16, matrix = KEYS * row, stages = D <= 128 ? 2 : 1, bytes = stages * 2 * matrix };
};

template <int D>
__device__ __forceinline__ void tile_fetch(const struct attend_args &a, int32_t g, int64_t at, int64_t end, uint32_t to)
{
    const char *k = (const char *)a.k + (int64_t)g * a.stride * D * 2,
               *v = (const char *)a.v + (int64_t)g * a.stride * D * 2;

    for (int unit = threadIdx.x; unit < KEYS * D / 8; unit += WARPS * 32) {
        int r = unit / (D / 8), c = unit % (D / 8);
        bool there = at + r < end;
        int64_t from = ((at + r) * D + c * 8) * 2;

        copy16_async(to + r * room<D>::row + c * 16, k + (there ? from : 0), there);
        copy16_async(to + room<D>::matrix + r * room<D>::row + c * 16, v + (there ? from : 0), there);
    }
}

template <int D>
__global__ void __launch_bounds__(WARPS * 32) attend_kernel(const __grid_constant__ struct attend_args a)
{
    extern __shared__ __align__(128) char shared[];
    const int warp = threadIdx.x >> 5, lane = threadIdx.x & 31;
    const int32_t h = blockIdx.y, g = h / (a.q_heads / a.kv_heads);
    /* the longest blocks first */
    const int64_t q0 = ((int64_t)gridDim.x - 1 - blockIdx.x) * QUERIES, mine = q0 + warp * 16;
    const int64_t end = a.token + min(q0 + QUERIES, a.rows);
    const int64_t begin = a.window > 0 && a.token + q0 + 1 > a.window ? (a.token + q0 + 1 - a.window) / KEYS * KEYS : 0;
    const float scale2 = a.scale * LOG2E;
    const uint32_t base = shared_address(shared);
    uint32_t query[D / 16][4];
    float out[D / 8][4] = {}, max[2] = { -CUDART_INF_F, -CUDART_INF_F }, sum[2] = {};

#pragma unroll
    for (int half = 0; half < 2; half++) {
        int64_t q = mine + (lane >> 2) + half * 8;
        const bf16 *row = (const bf16 *)a.q + (q * a.q_heads + h) * D;
#pragma unroll
        for (int kk = 0; kk < D / 16; kk++) {
            const uint32_t *at = (const uint32_t *)(row + kk * 16 + 2 * (lane & 3));
            query[kk][half] = q < a.rows ? at[0] : 0;
            query[kk][half + 2] = q < a.rows ? at[4] : 0;
        }
    }
    tile_fetch<D>(a, g, begin, end, base);
    copies_commit();
    int stage = 0;
    for (int64_t at = begin; at < end; at += KEYS) {
        uint32_t here = base + stage * 2 * room<D>::matrix;

        if (room<D>::stages == 2) {
            if (at + KEYS < end)
                tile_fetch<D>(a, g, at + KEYS, end, base + (stage ^ 1) * 2 * room<D>::matrix);
            copies_commit();
            copies_wait<1>();
        } else {
            copies_wait<0>();
        }
        __syncthreads();
        float s[KEYS / 8][4] = {};
#pragma unroll
        for (int kk = 0; kk < D / 16; kk++)
#pragma unroll
            for (int n = 0; n < KEYS / 16; n++) {
                uint32_t b[4];
                load_matrices(b, here + (n * 16 + (lane >> 4) * 8 + (lane & 7)) * room<D>::row + kk * 32 +
                                     ((lane >> 3) & 1) * 16);
                multiply(s[2 * n], query[kk], b[0], b[1]);
                multiply(s[2 * n + 1], query[kk], b[2], b[3]);
            }
        const int64_t self0 = a.token + mine + (lane >> 2);
        if (at + KEYS > a.token + mine + 1 || a.window > 0) {
#pragma unroll
            for (int n = 0; n < KEYS / 8; n++)
#pragma unroll
                for (int i = 0; i < 4; i++) {
                    int64_t key = at + n * 8 + 2 * (lane & 3) + (i & 1), self = self0 + (i >> 1) * 8;
                    if (key > self || (a.window > 0 && key <= self - a.window))
                        s[n][i] = -CUDART_INF_F;
                }
        }
#pragma unroll
        for (int half = 0; half < 2; half++) {
            float top = max[half], total = 0.0f;
#pragma unroll
            for (int n = 0; n < KEYS / 8; n++)
                top = fmaxf(top, fmaxf(s[n][2 * half], s[n][2 * half + 1]));
            top = fmaxf(top, __shfl_xor_sync(0xffffffffu, top, 1));
            top = fmaxf(top, __shfl_xor_sync(0xffffffffu, top, 2));
            float shift = top == -CUDART_INF_F ? 0.0f : top * scale2, less = power2(max[half] * scale2 - shift);
#pragma unroll
            for (int n = 0; n < KEYS / 8; n++)
#pragma unroll
                for (int i = 2 * half; i < 2 * half + 2; i++) {
                    s[n][i] = power2(s[n][i] * scale2 - shift);
                    total += s[n][i];
                }
            sum[half] = sum[half] * less + total;
            max[half] = top;
#pragma unroll
            for (int n = 0; n < D / 8; n++)
                out[n][2 * half] *= less, out[n][2 * half + 1] *= less;
        }
#pragma unroll
        for (int kk = 0; kk < KEYS / 16; kk++) {
            const uint32_t p[4] = { bf16_pair(s[2 * kk][0], s[2 * kk][1]), bf16_pair(s[2 * kk][2], s[2 * kk][3]),
                                    bf16_pair(s[2 * kk + 1][0], s[2 * kk + 1][1]),
                                    bf16_pair(s[2 * kk + 1][2], s[2 * kk + 1][3]) };
#pragma unroll
            for (int n = 0; n < D / 16; n++) {
                uint32_t b[4];
                load_matrices_turned(b, here + room<D>::matrix +
                                            (kk * 16 + ((lane >> 3) & 1) * 8 + (lane & 7)) * room<D>::row + n * 32 +
                                            (lane >> 4) * 16);
                multiply(out[2 * n], p, b[0], b[1]);
                multiply(out[2 * n + 1], p, b[2], b[3]);
            }
        }
        __syncthreads();
        if (room<D>::stages == 2) {
            stage ^= 1;
        } else if (at + KEYS < end) {
            tile_fetch<D>(a, g, at + KEYS, end, base);
            copies_commit();
        }
    }
    copies_wait<0>();
#pragma unroll
    for (int half = 0; half < 2; half++) {
        int64_t q = mine + (lane >> 2) + half * 8;
        float total = sum[half];

        total += __shfl_xor_sync(0xffffffffu, total, 1);
        total += __shfl_xor_sync(0xffffffffu, total, 2);
        if (q >= a.rows)
            continue;
        if (a.lse && (lane & 3) == 0)
            a.lse[h * a.lse_stride + a.token + q] = max[half] * a.scale + logf(total);
        uint32_t *to = (uint32_t *)((bf16 *)a.out + (q * a.q_heads + h) * D + 2 * (lane & 3));
#pragma unroll
        for (int n = 0; n < D / 8; n++)
            to[n * 4] = bf16_pair(out[n][2 * half] / total, out[n][2 * half + 1] / total);
    }
}

/* Any head size, either dtype. Shared: K [32][D + 1], V [32][D], queries [32][D], all f32. */
template <typename T>
__global__ void __launch_bounds__(PLAIN_WARPS * 32) attend_plain_kernel(const __grid_constant__ struct attend_args a)
{
    enum { CHANNELS = KV_HEAD_DIM_MAX / 32, ALL = PLAIN_WARPS * PLAIN_QUERIES };
    extern __shared__ __align__(16) float tile[];
    const int warp = threadIdx.x >> 5, lane = threadIdx.x & 31;
    const int32_t h = blockIdx.y, g = h / (a.q_heads / a.kv_heads), dim = a.dim;
    float *k = tile, *v = k + PLAIN_KEYS * (dim + 1), *query = v + PLAIN_KEYS * dim;
    const int64_t q0 = ((int64_t)gridDim.x - 1 - blockIdx.x) * ALL, end = a.token + min(q0 + ALL, a.rows);
    const int64_t begin = a.window > 0 && a.token + q0 + 1 > a.window ? a.token + q0 + 1 - a.window : 0;
    const T *from_k = (const T *)a.k + (int64_t)g * a.stride * dim,
            *from_v = (const T *)a.v + (int64_t)g * a.stride * dim;
    float max[PLAIN_QUERIES], sum[PLAIN_QUERIES] = {}, out[PLAIN_QUERIES][CHANNELS] = {};

    for (int i = 0; i < PLAIN_QUERIES; i++)
        max[i] = -CUDART_INF_F;
    for (int i = threadIdx.x; i < ALL * dim; i += blockDim.x)
        query[i] = q0 + i / dim < a.rows
                       ? number(((const T *)a.q)[((q0 + i / dim) * a.q_heads + h) * dim + i % dim]) * a.scale
                       : 0.0f;
    for (int64_t at = begin; at < end; at += PLAIN_KEYS) {
        __syncthreads();
        for (int i = threadIdx.x; i < PLAIN_KEYS * dim; i += blockDim.x) {
            int r = i / dim, c = i % dim;
            bool there = at + r < end;
            k[r * (dim + 1) + c] = there ? number(from_k[(at + r) * dim + c]) : 0.0f;
            v[i] = there ? number(from_v[(at + r) * dim + c]) : 0.0f;
        }
        __syncthreads();
#pragma unroll
        for (int i = 0; i < PLAIN_QUERIES; i++) {
            const int64_t q = q0 + warp * PLAIN_QUERIES + i, self = a.token + q, key = at + lane;
            const float *mine = query + (warp * PLAIN_QUERIES + i) * dim;
            float score = 0.0f;

            for (int c = 0; c < dim; c++)
                score += mine[c] * k[lane * (dim + 1) + c];
            if (key > self || q >= a.rows || (a.window > 0 && key <= self - a.window))
                score = -CUDART_INF_F;
            float top = fmaxf(max[i], warp_max(score)), less = max[i] == -CUDART_INF_F ? 0.0f : expf(max[i] - top);
            float p = score == -CUDART_INF_F ? 0.0f : expf(score - top);
            max[i] = top;
            sum[i] = sum[i] * less + warp_sum(p);
#pragma unroll
            for (int n = 0; n < CHANNELS; n++)
                out[i][n] *= less;
            for (int j = 0; j < PLAIN_KEYS; j++) {
                float pj = __shfl_sync(0xffffffffu, p, j);
#pragma unroll
                for (int n = 0; n < CHANNELS; n++)
                    if (lane + 32 * n < dim)
                        out[i][n] += pj * v[j * dim + lane + 32 * n];
            }
        }
    }
#pragma unroll
    for (int i = 0; i < PLAIN_QUERIES; i++) {
        const int64_t q = q0 + warp * PLAIN_QUERIES + i;

        if (q >= a.rows)
            continue;
        if (a.lse && lane == 0)
            a.lse[h * a.lse_stride + a.token + q] = max[i] + logf(sum[i]);
#pragma unroll
        for (int n = 0; n < CHANNELS; n++)
            if (lane + 32 * n < dim)
                ((T *)a.out)[(q * a.q_heads + h) * dim + lane + 32 * n] = rounded<T>(out[i][n] / sum[i]);
    }
}

__global__ void span_kernel(const __grid_constant__ struct span_lengths s, struct span_arrays *out)
{
    int i = threadIdx.x;
    bool there = i < s.count;

    if (i < CUDA_SPANS_MAX) {
        out->rows[i] = there ? s.rows[i] : 0;
        out->tokens[i] = there ? s.tokens[i] : 0;
    }
    out->q[i] = there ? s.q[i] : 0;
    out->k[i] = there ? s.k[i] : 0;
    out->v[i] = there ? s.v[i] : 0;
    out->o[i] = there ? s.o[i] : 0;
    out->lse[i] = there ? s.lse[i] : 0;
}

/* ---- launchers ---- */

template <int D> static cudaError_t attend(const struct cuda_queue &q, const struct attend_args *a)
{
    dim3 grid(int_ceil(a->rows, QUERIES), (unsigned)a->q_heads);
    cudaError_t e = allow_shared(attend_kernel<D>, room<D>::bytes);

    if (e != cudaSuccess)
        return e;
    attend_kernel<D><<<grid, WARPS * 32, room<D>::bytes, q.stream>>>(*a);
    return cudaGetLastError();
}

template <typename T> static cudaError_t attend_plain(const struct cuda_queue &q, const struct attend_args *a)
{
    dim3 grid(int_ceil(a->rows, PLAIN_WARPS * PLAIN_QUERIES), (unsigned)a->q_heads);
    size_t bytes = (size_t)(PLAIN_KEYS * (2 * a->dim + 1) + PLAIN_WARPS * PLAIN_QUERIES * a->dim) * 4;
    cudaError_t e = allow_shared(attend_plain_kernel<T>, bytes);

    if (e != cudaSuccess)
        return e;
    attend_plain_kernel<T><<<grid, PLAIN_WARPS * 32, bytes, q.stream>>>(*a);
    return cudaGetLastError();
}

cudaError_t launch_attend(struct cuda_queue q, enum dtype t, const struct attend_args *args)
{
    if (t == DT_F32)
        return attend_plain<float>(q, args);
    switch (args->dim) {
    case 64:
        return attend<64>(q, args);
    case 80:
        return attend<80>(q, args);
    case 96:
        return attend<96>(q, args);
    case 128:
        return attend<128>(q, args);
    case 256:
        return attend<256>(q, args);
    default:
        return attend_plain<bf16>(q, args);
    }
}

cudaError_t launch_span_lengths(struct cuda_queue q, const struct span_lengths *lengths, struct span_arrays *out)
{
    span_kernel<<<1, CUDA_SPANS_MAX + 1, 0, q.stream>>>(*lengths, out);
    return cudaGetLastError();
}
