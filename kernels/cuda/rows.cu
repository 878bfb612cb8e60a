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

/* N numbers of a row, in one load or store. */
template <typename T, int N> struct run_of {
    float at[N];
    __device__ static run_of load(const T *p)
    {
        run_of r;
        if constexpr (N * sizeof(T) == 16) {
            const pack16<T> x = load16(p);
#pragma unroll
            for (int j = 0; j < N; j++)
                r.at[j] = number(x.at[j]);
        } else if constexpr (N == 4) {
            const uint2 x = *reinterpret_cast<const uint2 *>(p);
            r.at[0] = __uint_as_float(x.x << 16), r.at[1] = __uint_as_float(x.x & 0xffff0000u);
            r.at[2] = __uint_as_float(x.y << 16), r.at[3] = __uint_as_float(x.y & 0xffff0000u);
        } else {
            r.at[0] = number(*p);
        }
        return r;
    }
    __device__ void store(T *p) const
    {
        if constexpr (N * sizeof(T) == 16) {
            pack16<T> x;
#pragma unroll
            for (int j = 0; j < N; j++)
                x.at[j] = rounded<T>(at[j]);
            store16(p, x);
        } else if constexpr (N == 4) {
            *reinterpret_cast<uint2 *>(p) = make_uint2(bf16_pair(at[0], at[1]), bf16_pair(at[2], at[3]));
        } else {
            *p = rounded<T>(at[0]);
        }
    }
    __device__ float square() const
    {
        float sum = 0.0f;
#pragma unroll
        for (int j = 0; j < N; j++)
            sum += at[j] * at[j];
        return sum;
    }
};

/* 1 / rms of a row, given to every thread of its block. */
template <typename T, int N> __device__ __forceinline__ float row_factor(const T *row, float eps, int32_t dim)
{
    float sum = 0.0f;

    for (int32_t c = threadIdx.x * N; c < dim; c += blockDim.x * N)
        sum += run_of<T, N>::load(row + c).square();
    return rsqrtf(block_sum(sum) / (float)dim + eps);
}

template <typename T, int N>
__global__ void rms_norm_kernel(const float *x, const float *w, float eps, int32_t dim, T *out)
{
    chain_begin();
    const float *in = x + (int64_t)blockIdx.x * dim;
    T *to = out + (int64_t)blockIdx.x * dim;
    const float factor = row_factor<float, N>(in, eps, dim);

    for (int32_t c = threadIdx.x * N; c < dim; c += blockDim.x * N) {
        const run_of<float, N> p = run_of<float, N>::load(in + c), v = run_of<float, N>::load(w + c);
        run_of<T, N> r;
#pragma unroll
        for (int j = 0; j < N; j++)
            r.at[j] = p.at[j] * factor * v.at[j];
        r.store(to + c);
    }
}

template <typename T, int N>
__global__ void add_normed_kernel(const T *y, const float *w, float eps, int32_t dim, float *x)
{
    chain_begin();
    const T *in = y + (int64_t)blockIdx.x * dim;
    float *to = x + (int64_t)blockIdx.x * dim;
    const float factor = row_factor<T, N>(in, eps, dim);

    for (int32_t c = threadIdx.x * N; c < dim; c += blockDim.x * N) {
        const run_of<T, N> p = run_of<T, N>::load(in + c);
        const run_of<float, N> v = run_of<float, N>::load(w + c);
        run_of<float, N> r = run_of<float, N>::load(to + c);
#pragma unroll
        for (int j = 0; j < N; j++)
            r.at[j] += p.at[j] * factor * v.at[j];
        r.store(to + c);
    }
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
template <typename T> __global__ void product_kernel(const __grid_constant__ struct skinny_args a)
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
        ((T *)a.out)[row * a.n + n] = rounded<T>(sum);
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

static dim3 norm_threads(int32_t dim)
{
    return dim3(dim >= 2048 ? 256 : 128);
}

template <typename T>
static cudaError_t rms_norm(const struct cuda_queue &q, const float *x, const float *w, float eps, int64_t rows,
                            int32_t dim, void *out)
{
    if (dim % 4 == 0)
        return launch_chained(q, dim3((unsigned)rows), norm_threads(dim), 0, rms_norm_kernel<T, 4>, x, w, eps, dim,
                              (T *)out);
    return launch_chained(q, dim3((unsigned)rows), norm_threads(dim), 0, rms_norm_kernel<T, 1>, x, w, eps, dim,
                          (T *)out);
}

cudaError_t launch_rms_norm(struct cuda_queue q, enum dtype t, const float *x, const float *w, float eps, int64_t rows,
                            int32_t dim, void *out)
{
    return t == DT_F32 ? rms_norm<float>(q, x, w, eps, rows, dim, out) : rms_norm<bf16>(q, x, w, eps, rows, dim, out);
}

template <typename T>
static cudaError_t add_normed(const struct cuda_queue &q, const void *y, const float *w, float eps, int64_t rows,
                              int32_t dim, float *x)
{
    if (dim % 4 == 0)
        return launch_chained(q, dim3((unsigned)rows), norm_threads(dim), 0, add_normed_kernel<T, 4>, (const T *)y, w,
                              eps, dim, x);
    return launch_chained(q, dim3((unsigned)rows), norm_threads(dim), 0, add_normed_kernel<T, 1>, (const T *)y, w, eps,
                          dim, x);
}

cudaError_t launch_add_normed(struct cuda_queue q, enum dtype t, const void *y, const float *w, float eps, int64_t rows,
                              int32_t dim, float *x)
{
    return t == DT_F32 ? add_normed<float>(q, y, w, eps, rows, dim, x) : add_normed<bf16>(q, y, w, eps, rows, dim, x);
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

cudaError_t launch_product(struct cuda_queue q, enum dtype t, const struct skinny_args *args, int64_t rows)
{
    const dim3 grid(int_ceil(args->n, THREADS / 32), (unsigned)rows);

    return t == DT_F32 ? launch_chained(q, grid, dim3(THREADS), 0, product_kernel<float>, *args)
                       : launch_chained(q, grid, dim3(THREADS), 0, product_kernel<bf16>, *args);
}
