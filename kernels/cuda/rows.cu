/* SPDX-License-Identifier: Apache-2.0 */
/*
 * rows.cu - what happens to one row of activations at a time: embedding, norms, sums, the gate of the MLP, argmax.
 *
 * A thread block owns a row (or a stretch of a flat array), 16 bytes to a thread where rows allow it. Sums are f32.
 * Everything here moves bytes: the bound is device memory, and each number is read once.
 */
#include "kernels/cuda/device.cuh"
#include "kernels/random.h"

enum { THREADS = 256, ARGMAX_THREADS = 512 };

template <typename T>
__global__ void embed_kernel(const T *table, int32_t vocab, const int32_t *ids, const int32_t *slot_token, int32_t dim,
                             float scale, float *x)
{
    chain_begin();
    embed_row<T>(table, vocab, ids, slot_token, dim, scale, blockIdx.x, x);
}

__device__ __forceinline__ float4 load4(const float *p)
{
    return *reinterpret_cast<const float4 *>(p);
}
__device__ __forceinline__ float4 load4(const bf16 *p)
{
    const uint2 x = *reinterpret_cast<const uint2 *>(p);
    return make_float4(__uint_as_float(x.x << 16), __uint_as_float(x.x & 0xffff0000u), __uint_as_float(x.y << 16),
                       __uint_as_float(x.y & 0xffff0000u));
}
__device__ __forceinline__ void store4(float *p, float4 x)
{
    *reinterpret_cast<float4 *>(p) = x;
}
__device__ __forceinline__ void store4(bf16 *p, float4 x)
{
    *reinterpret_cast<uint2 *>(p) = make_uint2(bf16_pair(x.x, x.y), bf16_pair(x.z, x.w));
}

/* Sum over `W` neighbouring warps of a block of THREADS, given to all of them. */
template <int W> __device__ __forceinline__ float warps_sum(float x)
{
    __shared__ float part[THREADS / 32];
    const int warp = threadIdx.x >> 5;

    x = warp_sum(x);
    if (W == 1)
        return x;
    if ((threadIdx.x & 31) == 0)
        part[warp] = x;
    __syncthreads();
    x = 0.0f;
#pragma unroll
    for (int i = 0; i < W; i++)
        x += part[warp / W * W + i];
    return x;
}

/* out = norm of in * w, or out += that. W warps own a row and hold it, up to PER times 4 numbers to a thread: all of it is
 * asked for before any of it is needed, and read once. */
template <typename IN, typename OUT, bool ADDS, int W, int PER>
__global__ void __launch_bounds__(THREADS)
    norm_kernel(const IN *in, const float *w, float eps, int64_t rows, int32_t dim, OUT *out)
{
    enum { ROWS = THREADS / 32 / W };
    const int64_t row = (int64_t)blockIdx.x * ROWS + threadIdx.x / (W * 32), at = min(row, rows - 1) * dim;
    const int32_t first = threadIdx.x % (W * 32) * 4;
    float4 x[PER], old[ADDS ? PER : 1];
    float sum = 0.0f;

    chain_begin();
#pragma unroll
    for (int i = 0; i < PER; i++) {
        const int32_t c = first + i * W * 128;
        x[i] = c < dim ? load4(in + at + c) : make_float4(0.0f, 0.0f, 0.0f, 0.0f);
        if constexpr (ADDS)
            if (c < dim)
                old[i] = load4(out + at + c);
    }
#pragma unroll
    for (int i = 0; i < PER; i++)
        sum += x[i].x * x[i].x + x[i].y * x[i].y + x[i].z * x[i].z + x[i].w * x[i].w;
    const float factor = rsqrtf(warps_sum<W>(sum) / (float)dim + eps);
#pragma unroll
    for (int i = 0; i < PER; i++) {
        const int32_t c = first + i * W * 128;
        if (c >= dim || row >= rows)
            break;
        const float4 v = load4(w + c);
        float4 y =
            make_float4(x[i].x * factor * v.x, x[i].y * factor * v.y, x[i].z * factor * v.z, x[i].w * factor * v.w);
        if constexpr (ADDS)
            y = make_float4(old[i].x + y.x, old[i].y + y.y, old[i].z + y.z, old[i].w + y.w);
        store4(out + at + c, y);
    }
}

/* The same for rows of any length. A thread block owns a row and reads it twice. */
template <typename IN, typename OUT, bool ADDS>
__global__ void norm_any_kernel(const IN *in, const float *w, float eps, int32_t dim, OUT *out)
{
    const int64_t at = (int64_t)blockIdx.x * dim;
    float sum = 0.0f;

    chain_begin();
    for (int32_t c = threadIdx.x; c < dim; c += blockDim.x)
        sum += number(in[at + c]) * number(in[at + c]);
    const float factor = rsqrtf(block_sum(sum) / (float)dim + eps);
    for (int32_t c = threadIdx.x; c < dim; c += blockDim.x)
        out[at + c] = rounded<OUT>(number(in[at + c]) * factor * w[c] + (ADDS ? number(out[at + c]) : 0.0f));
}

/* grid: columns, rows */
template <typename T, int N> __global__ void gated_kernel(const T *gate_up, int kind, int64_t rows, int32_t ff, T *out)
{
    chain_begin();
    int32_t c = (blockIdx.x * blockDim.x + threadIdx.x) * N;

    if (c >= ff)
        return;
    for (int64_t row = blockIdx.y; row < rows; row += gridDim.y) {
        const T *gate = gate_up + row * 2 * ff + c, *up = gate + ff;
        T *to = out + row * ff + c;

        if (N == 1) {
            *to = rounded<T>(activate(number(*gate), kind) * number(*up));
        } else {
            pack16<T> g = load16(gate), u = load16(up);
#pragma unroll
            for (int j = 0; j < pack16<T>::count; j++)
                g.at[j] = rounded<T>(activate(number(g.at[j]), kind) * number(u.at[j]));
            store16(to, g);
        }
    }
}

template <typename T> __global__ void gather_kernel(const T *x, const int32_t *index, int32_t dim, T *out)
{
    chain_begin();
    const T *from = x + (int64_t)index[blockIdx.x] * dim;

    for (int32_t c = threadIdx.x; c < dim; c += blockDim.x)
        out[(int64_t)blockIdx.x * dim + c] = from[c];
}

/* Slice g of a row comes from the row that index[g] names. grid: rows */
template <typename T> __global__ void mix_kernel(const T *x, const int32_t *index, int32_t slices, int32_t cols, T *out)
{
    const int32_t width = cols / slices;

    for (int32_t c = threadIdx.x; c < cols; c += THREADS) {
        const int64_t row = index[(int64_t)min(c / width, slices - 1) * gridDim.x + blockIdx.x];
        out[(int64_t)blockIdx.x * cols + c] = x[row * cols + c];
    }
}

/* Larger value first, then smaller column: one 64-bit number that compares so. */
__device__ __forceinline__ uint64_t candidate(float value, int32_t column)
{
    uint32_t bits = __float_as_uint(value);

    bits = bits & 0x80000000u ? ~bits : bits | 0x80000000u;
    return (uint64_t)bits << 32 | (0xffffffffu - (uint32_t)column);
}

__device__ __forceinline__ uint64_t block_best(uint64_t best)
{
    __shared__ uint64_t part[ARGMAX_THREADS / 32];

#pragma unroll
    for (int d = 16; d > 0; d >>= 1) {
        uint64_t other = __shfl_xor_sync(0xffffffffu, best, d);
        best = other > best ? other : best;
    }
    if ((threadIdx.x & 31) == 0)
        part[threadIdx.x >> 5] = best;
    __syncthreads();
    if (threadIdx.x == 0)
        for (int i = 1; i < (int)blockDim.x / 32; i++)
            best = part[i] > best ? part[i] : best;
    return best;
}

/* grid: parts, rows. The block that arrives last at a row has all parts before it. */
template <typename T>
__global__ void argmax_kernel(const T *logits, int32_t vocab, uint64_t *partial, uint32_t *count, struct chosen to)
{
    chain_begin();
    const T *row = logits + (int64_t)blockIdx.y * vocab;
    int32_t share = (vocab + gridDim.x - 1) / gridDim.x, begin = blockIdx.x * share;
    int32_t end = min(begin + share, vocab);
    uint64_t best = 0;

    for (int32_t c = begin + threadIdx.x; c < end; c += blockDim.x) {
        uint64_t here = candidate(number(row[c]), c);
        best = here > best ? here : best;
    }
    best = block_best(best);
    if (threadIdx.x != 0)
        return;
    partial[blockIdx.y * gridDim.x + blockIdx.x] = best;
    __threadfence();
    if (atomicInc(&count[blockIdx.y], gridDim.x - 1) != gridDim.x - 1)
        return;
    __threadfence();
    for (uint32_t i = 0; i < gridDim.x; i++) {
        uint64_t here = __ldcg((const unsigned long long *)partial + blockIdx.y * gridDim.x + i);
        best = here > best ? here : best;
    }
    int32_t id = (int32_t)(0xffffffffu - (uint32_t)best);
    int32_t seq = to.seq ? to.seq[blockIdx.y] : (int32_t)blockIdx.y;
    if (seq < 0)
        return;
    to.ids[seq] = id;
    if (to.slot)
        to.slot_token[to.slot[blockIdx.y]] = id;
}

template <typename T> __global__ void convert_kernel(const float *in, int64_t count, T *out)
{
    const int64_t step = (int64_t)gridDim.x * blockDim.x;

    for (int64_t i = (int64_t)blockIdx.x * blockDim.x + threadIdx.x; i < count; i += step)
        out[i] = rounded<T>(in[i]);
}

template <typename T> __global__ void random_kernel(uint64_t seed, float scale, int64_t count, T *out)
{
    const int64_t step = (int64_t)gridDim.x * blockDim.x;

    for (int64_t i = (int64_t)blockIdx.x * blockDim.x + threadIdx.x; i < count; i += step) {
        uint64_t x = random_mix(seed ^ random_mix((uint64_t)i));
        float a = ((float)(x >> 40) + 0.5f) / 16777216.0f, b = (float)(x & 0xffffff) / 16777216.0f;

        out[i] = rounded<T>(scale * sqrtf(-2.0f * logf(a)) * cosf(6.2831853f * b));
    }
}

/* A warp owns one output. grid: outputs / 8, rows */
template <typename T, typename OUT> __global__ void product_kernel(const __grid_constant__ struct skinny_args a)
{
    chain_begin();
    const int lane = threadIdx.x & 31;
    const int64_t row = blockIdx.y, n = (int64_t)blockIdx.x * (THREADS / 32) + (threadIdx.x >> 5);
    float sum = 0.0f;

    if (n >= a.n)
        return;
    for (int64_t k = lane; k < a.k; k += 32)
        sum += number(((const T *)a.in)[row * a.k + k]) * number(((const T *)a.w)[n * a.k + k]);
    sum = warp_sum(sum);
    if (lane != 0)
        return;
    sum += a.bias ? a.bias[n] : 0.0f;
    if (a.accumulate)
        ((float *)a.out)[row * a.n + n] += sum;
    else
        ((OUT *)a.out)[row * a.n + n] = rounded<OUT>(sum);
}

/* ---- launchers ---- */

static int flat_blocks(const struct cuda_queue &q, int64_t units)
{
    int64_t blocks = (units + THREADS - 1) / THREADS, most = (int64_t)q.sms * 8;

    return (int)(blocks < 1 ? 1 : blocks < most ? blocks : most);
}

template <typename T>
static cudaError_t embed(const struct cuda_queue &q, const void *table, int32_t vocab, const int32_t *ids,
                         const int32_t *slot_token, int64_t rows, int32_t dim, float scale, float *x)
{
    return launch_chained(q, dim3((unsigned)rows), dim3(THREADS), 0, embed_kernel<T>, (const T *)table, vocab, ids,
                          slot_token, dim, scale, x);
}

cudaError_t launch_embed(struct cuda_queue q, enum dtype t, const void *table, int32_t vocab, const int32_t *ids,
                         const int32_t *slot_token, int64_t rows, int32_t dim, float scale, float *x)
{
    return t == DT_F32 ? embed<float>(q, table, vocab, ids, slot_token, rows, dim, scale, x)
                       : embed<bf16>(q, table, vocab, ids, slot_token, rows, dim, scale, x);
}

template <typename IN, typename OUT, bool ADDS, int W, int PER>
static cudaError_t norm_held(const struct cuda_queue &q, const IN *in, const float *w, float eps, int64_t rows,
                             int32_t dim, OUT *out)
{
    return launch_chained(q, dim3((unsigned)int_ceil(rows, THREADS / 32 / W)), dim3(THREADS), 0,
                          norm_kernel<IN, OUT, ADDS, W, PER>, in, w, eps, rows, dim, out);
}

template <typename IN, typename OUT, bool ADDS>
static cudaError_t norm(const struct cuda_queue &q, const IN *in, const float *w, float eps, int64_t rows, int32_t dim,
                        OUT *out)
{
    if (dim % 4 != 0 || dim > 8192)
        return launch_chained(q, dim3((unsigned)rows), dim3(THREADS), 0, norm_any_kernel<IN, OUT, ADDS>, in, w, eps,
                              dim, out);
    if (dim <= 512)
        return norm_held<IN, OUT, ADDS, 1, 4>(q, in, w, eps, rows, dim, out);
    if (dim <= 1024)
        return norm_held<IN, OUT, ADDS, 2, 4>(q, in, w, eps, rows, dim, out);
    if (dim <= 2048)
        return norm_held<IN, OUT, ADDS, 4, 4>(q, in, w, eps, rows, dim, out);
    if (dim <= 4096)
        return norm_held<IN, OUT, ADDS, 8, 4>(q, in, w, eps, rows, dim, out);
    return norm_held<IN, OUT, ADDS, 8, 8>(q, in, w, eps, rows, dim, out);
}

cudaError_t launch_rms_norm(struct cuda_queue q, enum dtype t, const float *x, const float *w, float eps, int64_t rows,
                            int32_t dim, void *out)
{
    return t == DT_F32 ? norm<float, float, false>(q, x, w, eps, rows, dim, (float *)out)
                       : norm<float, bf16, false>(q, x, w, eps, rows, dim, (bf16 *)out);
}

cudaError_t launch_add_normed(struct cuda_queue q, enum dtype t, const void *y, const float *w, float eps, int64_t rows,
                              int32_t dim, float *x)
{
    return t == DT_F32 ? norm<float, float, true>(q, (const float *)y, w, eps, rows, dim, x)
                       : norm<bf16, float, true>(q, (const bf16 *)y, w, eps, rows, dim, x);
}

template <typename T>
static cudaError_t gated(const struct cuda_queue &q, int kind, const void *gate_up, int64_t rows, int32_t ff, void *out)
{
    const int n = ff % pack16<T>::count == 0 ? pack16<T>::count : 1;
    dim3 grid(int_ceil(ff, THREADS * n), (unsigned)(rows < 32768 ? rows : 32768)), block(THREADS);

    if (n > 1)
        return launch_chained(q, grid, block, 0, gated_kernel<T, pack16<T>::count>, (const T *)gate_up, kind, rows, ff,
                              (T *)out);
    return launch_chained(q, grid, block, 0, gated_kernel<T, 1>, (const T *)gate_up, kind, rows, ff, (T *)out);
}

cudaError_t launch_gated(struct cuda_queue q, enum dtype t, enum activation kind, const void *gate_up, int64_t rows,
                         int32_t ff, void *out)
{
    return t == DT_F32 ? gated<float>(q, kind, gate_up, rows, ff, out) : gated<bf16>(q, kind, gate_up, rows, ff, out);
}

cudaError_t launch_gather_rows(struct cuda_queue q, enum dtype t, const void *x, const int32_t *index, int64_t count,
                               int32_t dim, void *out)
{
    dim3 grid((unsigned)count), block(THREADS);

    return t == DT_F32
               ? launch_chained(q, grid, block, 0, gather_kernel<float>, (const float *)x, index, dim, (float *)out)
               : launch_chained(q, grid, block, 0, gather_kernel<bf16>, (const bf16 *)x, index, dim, (bf16 *)out);
}

cudaError_t launch_mix_rows(struct cuda_queue q, enum dtype t, const void *x, const int32_t *index, int32_t slices,
                            int64_t rows, int32_t cols, void *out)
{
    if (rows == 0)
        return cudaSuccess;
    if (t == DT_F32)
        mix_kernel<float>
            <<<(unsigned)rows, THREADS, 0, q.stream>>>((const float *)x, index, slices, cols, (float *)out);
    else
        mix_kernel<bf16><<<(unsigned)rows, THREADS, 0, q.stream>>>((const bf16 *)x, index, slices, cols, (bf16 *)out);
    return cudaGetLastError();
}

cudaError_t launch_argmax(struct cuda_queue q, enum dtype t, const void *logits, int64_t rows, int32_t vocab,
                          uint64_t *partial, uint32_t *count, struct chosen to)
{
    dim3 grid(CUDA_ARGMAX_PARTS, (unsigned)rows), block(ARGMAX_THREADS);

    return t == DT_F32 ? launch_chained(q, grid, block, 0, argmax_kernel<float>, (const float *)logits, vocab, partial,
                                        count, to)
                       : launch_chained(q, grid, block, 0, argmax_kernel<bf16>, (const bf16 *)logits, vocab, partial,
                                        count, to);
}

cudaError_t launch_convert(struct cuda_queue q, enum dtype t, const float *in, int64_t count, void *out)
{
    dim3 grid(flat_blocks(q, count)), block(THREADS);

    if (t == DT_F32)
        convert_kernel<float><<<grid, block, 0, q.stream>>>(in, count, (float *)out);
    else
        convert_kernel<bf16><<<grid, block, 0, q.stream>>>(in, count, (bf16 *)out);
    return cudaGetLastError();
}

cudaError_t launch_random(struct cuda_queue q, enum dtype t, uint64_t seed, float scale, int64_t count, void *out)
{
    dim3 grid(flat_blocks(q, count)), block(THREADS);

    if (t == DT_F32)
        random_kernel<float><<<grid, block, 0, q.stream>>>(seed, scale, count, (float *)out);
    else
        random_kernel<bf16><<<grid, block, 0, q.stream>>>(seed, scale, count, (bf16 *)out);
    return cudaGetLastError();
}

cudaError_t launch_product(struct cuda_queue q, enum dtype t, enum dtype out, const struct skinny_args *args,
                           int64_t rows)
{
    const dim3 grid(int_ceil(args->n, THREADS / 32), (unsigned)rows);

    if (t == DT_F32)
        return launch_chained(q, grid, dim3(THREADS), 0, product_kernel<float, float>, *args);
    return out == DT_F32 ? launch_chained(q, grid, dim3(THREADS), 0, product_kernel<bf16, float>, *args)
                         : launch_chained(q, grid, dim3(THREADS), 0, product_kernel<bf16, bf16>, *args);
}
