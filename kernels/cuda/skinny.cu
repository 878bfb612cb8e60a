/* SPDX-License-Identifier: Apache-2.0 */
/*
 * skinny.cu - out = in . w^T for few rows, at the speed at which w can be read.
 *
 * A thread block of 8 warps owns R x 16 outputs; its warps take the depth K in turns of 64 (1 KiB of every weight row per
 * turn of the block) and are added up in shared memory at the end. Weights go from device memory to
 * registers in 16-byte loads and straight into the tensor cores as the 16-row side; rows of `in` are the 8-column side.
 * The order of K within a product is free, so thread c of a quad takes 8 neighbouring numbers of both sides and calls
 * them what the instruction wants.
 *
 * The first weights are asked for before chain_wait: they do not depend on the kernel before, so the memory is already
 * busy while that one ends. bf16 in, f32 sums, bf16 out. Up to 8 NT rows.
 */
#include "kernels/cuda/device.cuh"

enum { WARPS = 8, STEP = 32 };

__device__ __forceinline__ uint4 load_streaming(const void *p)
{
    uint4 x;
    asm volatile("ld.global.nc.L1::no_allocate.L2::256B.v4.u32 {%0,%1,%2,%3}, [%4];\n"
                 : "=r"(x.x), "=r"(x.y), "=r"(x.z), "=r"(x.w)
                 : "l"(p));
    return x;
}

template <int R> struct weights_of_step {
    uint4 w[R][2];
};

template <int R>
__device__ __forceinline__ void weights_load(struct weights_of_step<R> &h, const bf16 *const (&row)[R][2], int32_t step)
{
#pragma unroll
    for (int r = 0; r < R; r++) {
        h.w[r][0] = load_streaming(row[r][0] + (int64_t)step * STEP);
        h.w[r][1] = load_streaming(row[r][1] + (int64_t)step * STEP);
    }
}

/* The step that is turn `turn` of a warp: two neighbouring steps, then those of the other warps. */
__device__ __forceinline__ int32_t step_of(int32_t turn, int warp)
{
    return (turn >> 1) * (2 * WARPS) + 2 * warp + (turn & 1);
}

/* RING steps' weights are on their way at any time; a slot is asked for again as soon as it was used. */
template <int NT, int R, int RING, int BLOCKS>
__global__ void __launch_bounds__(WARPS * 32, BLOCKS) skinny_kernel(const __grid_constant__ struct skinny_args a)
{
    __shared__ float part[WARPS][NT * 8][R * 16 + 1];
    const int warp = threadIdx.x >> 5, lane = threadIdx.x & 31, quad = lane >> 2, c = lane & 3;
    const int32_t n0 = blockIdx.x * R * 16, steps = a.k / STEP;
    const bf16 *row[R][2], *in = (const bf16 *)a.in + (int64_t)quad * a.k + c * 8;
    float sum[R][NT][4] = {};
    struct weights_of_step<R> ring[RING];

#pragma unroll
    for (int r = 0; r < R; r++)
#pragma unroll
        for (int half = 0; half < 2; half++) /* rows past the end read the last one and are not written */
            row[r][half] = (const bf16 *)a.w + (int64_t)min(n0 + r * 16 + half * 8 + quad, a.n - 1) * a.k + c * 8;
#pragma unroll
    for (int u = 0; u < RING; u++)
        if (step_of(u, warp) < steps)
            weights_load<R>(ring[u], row, step_of(u, warp));
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
                    x = *(const uint4 *)(in + (int64_t)n * 8 * a.k + (int64_t)step * STEP);
#pragma unroll
                for (int r = 0; r < R; r++) {
                    const uint4 w0 = ring[u].w[r][0], w1 = ring[u].w[r][1];
                    const uint32_t first[4] = { w0.x, w1.x, w0.y, w1.y }, second[4] = { w0.z, w1.z, w0.w, w1.w };
                    multiply(sum[r][n], first, x.x, x.y);
                    multiply(sum[r][n], second, x.z, x.w);
                }
            }
            if (step_of(turn + u + RING, warp) < steps)
                weights_load<R>(ring[u], row, step_of(turn + u + RING, warp));
        }
    }
#pragma unroll
    for (int r = 0; r < R; r++)
#pragma unroll
        for (int n = 0; n < NT; n++)
#pragma unroll
            for (int i = 0; i < 4; i++)
                part[warp][n * 8 + 2 * c + (i & 1)][r * 16 + quad + (i >> 1) * 8] = sum[r][n][i];
    __syncthreads();
    for (int32_t i = threadIdx.x; i < a.rows * R * 16; i += WARPS * 32) {
        int32_t m = i / (R * 16), o = i % (R * 16), n = n0 + o;
        float value = 0.0f;
#pragma unroll
        for (int k = 0; k < WARPS; k++)
            value += part[k][m][o];
        if (n >= a.n)
            continue;
        bf16 *to = (bf16 *)a.out + (int64_t)m * a.n + n;
        if (a.bias)
            value += a.bias[n];
        if (a.accumulate)
            value += number(*to);
        *to = rounded<bf16>(value);
    }
}

template <int NT> static cudaError_t skinny(const struct cuda_queue &q, const struct skinny_args *args)
{
    if (args->n >= q.sms * 96) /* 32 outputs to a block still give every multiprocessor several */
        return launch_chained(q, dim3(int_ceil(args->n, 32)), dim3(WARPS * 32), 0, skinny_kernel<NT, 2, 4, 2>, *args);
    return launch_chained(q, dim3(int_ceil(args->n, 16)), dim3(WARPS * 32), 0, skinny_kernel < NT, 1, 4,
                          NT == 1   ? 4
                          : NT == 2 ? 3
                                    : 2 >,
                          *args);
}

cudaError_t launch_skinny(struct cuda_queue q, const struct skinny_args *args)
{
    if (args->rows <= 8)
        return skinny<1>(q, args);
    if (args->rows <= 16)
        return skinny<2>(q, args);
    return skinny<4>(q, args);
}
