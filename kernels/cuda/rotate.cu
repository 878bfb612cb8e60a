/* SPDX-License-Identifier: Apache-2.0 */
/*
 * rotate.cu - from the fused projection to q, k and v where attention wants them.
 *
 *      qkv row   [ q: H x D | k: G x D | v: G x D ]  ->  q [H][D],  row of K and row of V of every KV head
 *
 * A thread block owns a row: it makes cos and sin of the row's position once in shared memory, then each warp takes a
 * head at a time, two neighbouring channels and their two partners to a lane. Angles are position * inv_freq in f32,
 * with the exact sine (not the fast one: positions reach 100,000). Bound: bytes of qkv read and written once.
 */
#include "kernels/cuda/place.cuh"

enum { WARPS = 8 };

template <typename T> struct pair_of;
template <> struct pair_of<float> {
    typedef float2 type;
    static __device__ float2 wide(float2 p)
    {
        return p;
    }
    static __device__ float2 narrow(float2 p)
    {
        return p;
    }
};
template <> struct pair_of<bf16> {
    typedef __nv_bfloat162 type;
    static __device__ float2 wide(__nv_bfloat162 p)
    {
        return __bfloat1622float2(p);
    }
    static __device__ __nv_bfloat162 narrow(float2 p)
    {
        return __floats2bfloat162_rn(p.x, p.y);
    }
};

template <typename T> __device__ __forceinline__ float2 load_pair(const T *p)
{
    return pair_of<T>::wide(*reinterpret_cast<const typename pair_of<T>::type *>(p));
}
template <typename T> __device__ __forceinline__ void store_pair(T *p, float2 x)
{
    *reinterpret_cast<typename pair_of<T>::type *>(p) = pair_of<T>::narrow(x);
}

/* One head by one warp: norm, plain copy, rotation. */
template <typename T>
__device__ __forceinline__ void turn_head(const T *in, const float *norm, float eps, int32_t dim, int32_t half,
                                          const float *angle, T *plain, T *out, int lane)
{
    float factor = 1.0f;

    if (norm) {
        float sum = 0.0f;
        for (int32_t c = lane * 2; c < dim; c += 64) {
            float2 x = load_pair(in + c);
            sum += x.x * x.x + x.y * x.y;
        }
        factor = rsqrtf(warp_sum(sum) / (float)dim + eps);
    }
    for (int32_t c = lane * 2; c < half; c += 64) {
        float2 a = load_pair(in + c), b = load_pair(in + c + half), turned_a, turned_b;
        if (norm) {
            a.x *= factor * norm[c], a.y *= factor * norm[c + 1];
            b.x *= factor * norm[c + half], b.y *= factor * norm[c + half + 1];
        }
        if (plain) {
            store_pair(plain + c, a);
            store_pair(plain + c + half, b);
        }
        const float *cosine = angle + c, *sine = angle + half + c;
        turned_a.x = a.x * cosine[0] - b.x * sine[0], turned_a.y = a.y * cosine[1] - b.y * sine[1];
        turned_b.x = b.x * cosine[0] + a.x * sine[0], turned_b.y = b.y * cosine[1] + a.y * sine[1];
        store_pair(out + c, turned_a);
        store_pair(out + c + half, turned_b);
    }
    for (int32_t c = 2 * half + lane * 2; c < dim; c += 64) {
        float2 a = load_pair(in + c);
        if (norm)
            a.x *= factor * norm[c], a.y *= factor * norm[c + 1];
        if (plain)
            store_pair(plain + c, a);
        store_pair(out + c, a);
    }
}

template <typename T> __global__ void rotate_kernel(const __grid_constant__ struct rotate_args a)
{
    __shared__ float angle[KV_HEAD_DIM_MAX]; /* cos, then sin */
    const int warp = threadIdx.x >> 5, lane = threadIdx.x & 31;
    const int32_t half = a.inv_freq ? a.rope_dims / 2 : 0, dim = a.dim;
    const int64_t row = blockIdx.x;

    chain_begin();
    for (int32_t j = threadIdx.x; j < half; j += blockDim.x) {
        float turn = (float)a.position[row] * table_at(a, row)[j], sine, cosine;
        sincosf(turn, &sine, &cosine);
        angle[j] = cosine * a.rope_scale;
        angle[half + j] = sine * a.rope_scale;
    }
    __syncthreads();
    const T *in = (const T *)a.qkv + row * (a.q_heads + 2 * a.kv_heads) * dim;
    for (int32_t h = blockIdx.y * WARPS + warp; h < a.q_heads + 2 * a.kv_heads; h += WARPS * gridDim.y) {
        const T *from = in + (int64_t)h * dim;
        T *k, *v;

        if (h < a.q_heads) {
            int64_t at = (row * a.q_heads + h) * dim;
            turn_head<T>(from, a.q_norm, a.norm_eps, dim, half, angle, a.q_plain ? (T *)a.q_plain + at : NULL,
                         (T *)a.q + at, lane);
        } else if (h < a.q_heads + a.kv_heads) {
            if (place<T>(a, row, h - a.q_heads, &k, &v))
                turn_head<T>(from, a.k_norm, a.norm_eps, dim, half, angle, (T *)NULL, k, lane);
        } else if (place<T>(a, row, h - a.q_heads - a.kv_heads, &k, &v)) {
            turn_head<T>(from, NULL, 0.0f, dim, 0, angle, (T *)NULL, v, lane);
        }
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

cudaError_t launch_rotate(struct cuda_queue q, enum dtype t, const struct rotate_args *args, int64_t rows)
{
    dim3 grid((unsigned)rows, rows < 64 ? 4 : 1), block(WARPS * 32);

    if (args->dim % 2 != 0 || (args->inv_freq && args->rope_dims % 4 != 0))
        return cudaErrorInvalidValue; /* channels are taken two at a time */
    return t == DT_F32 ? launch_chained(q, grid, block, 0, rotate_kernel<float>, *args)
                       : launch_chained(q, grid, block, 0, rotate_kernel<bf16>, *args);
}
