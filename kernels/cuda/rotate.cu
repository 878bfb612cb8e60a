/* SPDX-License-Identifier: Apache-2.0 */
/*
 * rotate.cu - from the fused projection to q, k and v where attention wants them.
 *
 *      qkv row   [ q: H x D | k: G x D | v: G x D ]  ->  q [H][D],  row of K and row of V of every KV head
 *
 * A thread block owns a row, or some heads of one where rows are few. A thread owns N channels and the N that turn with
 * them, 16 bytes each where head and rotation allow it, and the same ones of every head that it takes. The first are asked
 * for before cos and sin of the row's position are made, once, in shared memory. Angles are position * inv_freq in f32,
 * with the exact sine (not the fast one: positions reach 100,000). Bound: bytes of qkv read, f32, and
 * of q, k and v written, once.
 */
#include "kernels/cuda/place.cuh"

enum { THREADS = 128, FEW_ROWS = 64 };

/* N neighbouring numbers to T, in one store where they are 16 bytes. */
template <typename T, int N> __device__ __forceinline__ void run_store(T *p, const float (&x)[N])
{
    if constexpr (N == pack16<T>::count) {
        pack16<T> bits;
#pragma unroll
        for (int j = 0; j < N; j++)
            bits.at[j] = rounded<T>(x[j]);
        store16(p, bits);
    } else {
        *p = rounded<T>(x[0]);
    }
}

template <int N> __device__ __forceinline__ void run_load(const float *p, float (&x)[N])
{
    if constexpr (N % 4 == 0) {
#pragma unroll
        for (int j = 0; j < N; j += 4) {
            const float4 four = *reinterpret_cast<const float4 *>(p + j);
            x[j] = four.x, x[j + 1] = four.y, x[j + 2] = four.z, x[j + 3] = four.w;
        }
    } else {
        x[0] = *p;
    }
}

/* Which channels of a head are a thread's: N from `low`, N from `high`, which turn together or not at all. */
struct share {
    int32_t low, high;
    bool turned;
};

__device__ __forceinline__ struct share share_of(int32_t at, int32_t half, int32_t dim)
{
    /* behind the channels that turn, the first half of the others goes with the second */
    return at < half ? share{ at, at + half, true } : share{ half + at, at + dim / 2, false };
}

/* 1 / rms of a head whose channels `units` threads hold; all threads of a warp ask. */
template <int N>
__device__ __forceinline__ float head_factor(const float (&x)[N], const float (&y)[N], const float *head, int32_t dim,
                                             int32_t units, float eps)
{
    float sum = 0.0f;

    if (units <= 32 && (units & (units - 1)) == 0) {
#pragma unroll
        for (int j = 0; j < N; j++)
            sum += x[j] * x[j] + y[j] * y[j];
        for (int32_t o = units / 2; o > 0; o >>= 1)
            sum += __shfl_xor_sync(0xffffffffu, sum, o);
    } else { /* not all of one warp: each adds up all of the head */
        for (int32_t i = 0; i < dim; i++)
            sum += head[i] * head[i];
    }
    return rsqrtf(sum / (float)dim + eps);
}

/* cos and sin of a row's position, `half` of each. */
__device__ __forceinline__ void angles_make(const struct rotate_args &a, int64_t row, int32_t half, float *angle)
{
    for (int32_t j = threadIdx.x; j < half; j += blockDim.x) {
        float sine, cosine;
        sincosf((float)a.position[row] * table_at(a, row)[j], &sine, &cosine);
        angle[j] = cosine * a.rope_scale;
        angle[half + j] = sine * a.rope_scale;
    }
}

/* Where head h of a row goes: q, K or V; NULL: nowhere. */
template <typename T> __device__ __forceinline__ T *head_place(const struct rotate_args &a, int64_t row, int32_t h)
{
    const bool key = h < a.q_heads + a.kv_heads;
    T *k, *v;

    if (h < a.q_heads)
        return (T *)a.q + (row * a.q_heads + h) * a.dim;
    if (h >= a.q_heads + 2 * a.kv_heads || !place<T>(a, row, h - a.q_heads - (key ? 0 : a.kv_heads), &k, &v))
        return NULL;
    return key ? k : v;
}

/* `units` threads to a head, `pass` heads at a time; grid: rows, and blocks that share a row's heads. */
template <typename T, int N, bool NORM>
__global__ void rotate_kernel(const __grid_constant__ struct rotate_args a, int32_t units, int32_t pass)
{
    __shared__ __align__(16) float angle[KV_HEAD_DIM_MAX];
    const int32_t half = a.inv_freq ? a.rope_dims / 2 : 0, heads = a.q_heads + 2 * a.kv_heads;
    const struct share s = share_of(threadIdx.x % units * N, half, a.dim);
    const int64_t row = blockIdx.x;
    const float *in = a.qkv + row * heads * a.dim;
    float cosine[N], sine[N];

    chain_begin();
    for (int32_t base = blockIdx.y * pass; base < heads; base += gridDim.y * pass) {
        const int32_t h = base + threadIdx.x / units; /* of all but `heads`: nothing, but for the sums of its warp */
        const float *head = in + min(h, heads - 1) * a.dim;
        const bool query = h < a.q_heads, turns = h < a.q_heads + a.kv_heads;
        float x[N], y[N];

        run_load<N>(head + s.low, x);
        run_load<N>(head + s.high, y);
        if (base == (int32_t)blockIdx.y * pass) {
            angles_make(a, row, half, angle);
            __syncthreads();
            if (s.turned) {
                run_load<N>(angle + s.low, cosine);
                run_load<N>(angle + half + s.low, sine);
            }
        }
        if constexpr (NORM) {
            const float factor = head_factor<N>(x, y, head, a.dim, units, a.norm_eps);
            const float *norm = query ? a.q_norm : turns ? a.k_norm : NULL;
            float of_low[N], of_high[N];
            if (norm) {
                run_load<N>(norm + s.low, of_low);
                run_load<N>(norm + s.high, of_high);
#pragma unroll
                for (int j = 0; j < N; j++)
                    x[j] *= factor * of_low[j], y[j] *= factor * of_high[j];
            }
        }
        T *to = head_place<T>(a, row, h);
        if (!to)
            continue;
        if (query && a.q_plain) {
            T *plain = (T *)a.q_plain + (row * a.q_heads + h) * a.dim;
            run_store<T, N>(plain + s.low, x);
            run_store<T, N>(plain + s.high, y);
        }
        if (turns && s.turned)
#pragma unroll
            for (int j = 0; j < N; j++) {
                const float turned = x[j] * cosine[j] - y[j] * sine[j];
                y[j] = y[j] * cosine[j] + x[j] * sine[j];
                x[j] = turned;
            }
        run_store<T, N>(to + s.low, x);
        run_store<T, N>(to + s.high, y);
    }
}

/* A thread owns a pair of channels, or one that is not turned. grid: rows, heads */
template <typename T> __global__ void rotate_rows_kernel(const __grid_constant__ struct rotate_rows_args a)
{
    const int32_t half = a.inv_freq ? a.rope_dims / 2 : 0;
    const int64_t at = ((int64_t)blockIdx.x * a.heads + blockIdx.y) * a.dim;
    const T *in = (const T *)a.in + at;
    T *out = (T *)a.out + at;

    for (int32_t c = threadIdx.x; c < a.dim - half; c += blockDim.x) {
        if (c < half) {
            float sine, cosine, x = number(in[c]), y = number(in[c + half]);
            sincosf((float)(a.position + (int64_t)blockIdx.x * a.step) * a.inv_freq[c], &sine, &cosine);
            cosine *= a.rope_scale;
            sine *= a.rope_scale;
            out[c] = rounded<T>(x * cosine - y * sine);
            out[c + half] = rounded<T>(y * cosine + x * sine);
        } else {
            out[c + half] = in[c + half];
        }
    }
}

cudaError_t launch_rotate_rows(struct cuda_queue q, enum dtype t, const struct rotate_rows_args *args, int64_t rows)
{
    dim3 grid((unsigned)rows, (unsigned)args->heads), block(64);

    if (t == DT_F32)
        rotate_rows_kernel<float><<<grid, block, 0, q.stream>>>(*args);
    else
        rotate_rows_kernel<bf16><<<grid, block, 0, q.stream>>>(*args);
    return cudaGetLastError();
}

template <typename T, int N>
static cudaError_t rotate(const struct cuda_queue &q, const struct rotate_args *args, int64_t rows)
{
    const int32_t heads = args->q_heads + 2 * args->kv_heads, units = args->dim / (2 * N);
    const int32_t whole = units < 32 && 32 % units == 0 ? 32 / units : 1; /* heads of a warp */
    const int32_t most = THREADS / units > whole ? THREADS / units : whole, wanted = int_ceil(heads, whole) * whole;
    const int32_t pass = wanted < most ? wanted : most;
    const dim3 grid((unsigned)rows, rows < FEW_ROWS ? int_ceil(heads, pass) : 1), block(units * pass);

    if (args->q_norm || args->k_norm)
        return launch_chained(q, grid, block, 0, rotate_kernel<T, N, true>, *args, units, pass);
    return launch_chained(q, grid, block, 0, rotate_kernel<T, N, false>, *args, units, pass);
}

template <typename T>
static cudaError_t rotate_any(const struct cuda_queue &q, const struct rotate_args *args, int64_t rows)
{
    enum { N = pack16<T>::count };
    const int32_t half = args->inv_freq ? args->rope_dims / 2 : 0;

    return args->dim % (2 * N) == 0 && half % N == 0 ? rotate<T, N>(q, args, rows) : rotate<T, 1>(q, args, rows);
}

cudaError_t launch_rotate(struct cuda_queue q, enum dtype t, const struct rotate_args *args, int64_t rows)
{
    if (args->dim % 2 != 0)
        return cudaErrorInvalidValue; /* channels are taken two at a time */
    return t == DT_F32 ? rotate_any<float>(q, args, rows) : rotate_any<bf16>(q, args, rows);
}
