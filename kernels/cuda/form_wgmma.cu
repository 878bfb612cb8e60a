/* SPDX-License-Identifier: Apache-2.0 */
/*
 * form_wgmma.cu - expected attention on warpgroups (sm_90a): k' C k + k . mean of every row and head, and its softmax.
 *
 * A thread block owns a query head and a stretch of rows. C lies in shared memory as form_split_kernel (meet.cu) makes it:
 * what stands above the diagonal is added to what stands below, as the sum of two bf16 matrices. Rows come through a ring,
 * 64 at a time, and the warpgroups take tiles in turns: rows are the left side, in registers, where the products meet them
 * again. A block leaves the largest exponent of its rows and the sum of powers; expected_kernel joins those. grid:
 * stretches, query heads. Shared memory: 212 KiB (128 channels).
 */
#include "kernels/cuda/rowwise.cuh"
#include "kernels/cuda/wgmma.cuh"

enum { GROUPS = 3, ROWS = 64, STAGES = 9, AHEAD = 7, THREADS = 256 };

template <int D> struct room {
    typedef ring<D, ROWS, STAGES> rows;
    enum {
        panels = (D + 63) / 64,
        half = panels * D * 128, /* of C */
        mean = 2 * half,
        ring_at = mean + 1024,
        bytes = ring_at + rows::bytes + 1024 /* to begin where panels may */
    };
};

/* The largest of some exponents and the sum of e^(x - largest). */
struct powers {
    float top, sum;
};
/* a and one more exponent. */
__device__ __forceinline__ powers with(powers a, float x)
{
    const float least = expf(-fabsf(x - a.top));

    if (x > a.top)
        return { x, a.sum * least + 1.0f };
    return { a.top, a.sum + least };
}
__device__ __forceinline__ powers joined(powers a, powers b)
{
    const float top = fmaxf(a.top, b.top);

    if (top == -CUDART_INF_F)
        return a;
    return { top, a.sum * expf(a.top - top) + b.sum * expf(b.top - top) };
}

/* C of head h, and its mean as it is added to C k, to shared memory. All threads; a barrier follows. */
template <int D>
__device__ __forceinline__ void form_bring(const struct meet_args &a, int32_t h, uint32_t base, char *shared)
{
    typedef room<D> R;

    for (int unit = threadIdx.x; unit < 2 * D * D / 8; unit += blockDim.x) {
        const int half = unit / (D * D / 8), r = unit / (D / 8) % D, c = unit % (D / 8);
        copy16_async(base + half * R::half + c / 8 * D * 128 + panel_unit(r, c % 8),
                     (const bf16 *)a.split + (int64_t)h * 2 * D * D + unit * 8, true);
    }
    copies_commit();
    for (int i = threadIdx.x; i < D; i += blockDim.x)
        ((float *)(shared + R::mean))[i] = a.mean[h * D + i] * a.scale / a.factor;
    copies_wait<0>();
    operands_written();
}

/* (C k + mean)' k of the 64 rows in `rows`: two rows of a thread, a quarter of each sum. */
template <int D>
__device__ __forceinline__ void form_rows(const uint32_t (&rows)[D / 16][4], uint32_t base, const float *mean,
                                          float (&form)[2])
{
    typedef room<D> R;
    enum { WIDE = D % 64 == 0 ? 64 : 32, BLOCKS = D / WIDE, STEPS = WIDE / 16 };
    float s[BLOCKS][WIDE / 2];

#pragma unroll
    for (int n = 0; n < BLOCKS; n++)
        pinned(s[n]);
    products_begin();
#pragma unroll
    for (int n = 0; n < BLOCKS; n++) {
#pragma unroll
        for (int half = 0; half < 2; half++)
#pragma unroll
            for (int kk = 0; kk < STEPS * (n + 1); kk++)
                products(s[n], rows[kk],
                         panel_at(base + half * R::half + kk / 4 * D * 128 + n * WIDE * 128 + kk % 4 * 32),
                         kk > 0 || half > 0);
        products_commit();
    }
    form[0] = form[1] = 0.0f;
#pragma unroll
    for (int n = 0; n < BLOCKS; n++) {
        if (BLOCKS - 1 - n >= 3)
            products_wait<3>();
        else if (BLOCKS - 1 - n == 2)
            products_wait<2>();
        else if (BLOCKS - 1 - n == 1)
            products_wait<1>();
        else
            products_wait<0>();
        pinned(s[n]);
#pragma unroll
        for (int i = 0; i < WIDE / 8; i++) {
            const float2 add = *(const float2 *)(mean + n * WIDE + i * 8 + 2 * (threadIdx.x & 3));
#pragma unroll
            for (int half = 0; half < 2; half++) {
                /* the row's own channels, where the product's columns lie */
                const uint32_t own = rows[n * STEPS + i / 2][half + 2 * (i & 1)];
                form[half] = fmaf(s[n][i * 4 + half * 2] + add.x, __uint_as_float(own << 16), form[half]);
                form[half] = fmaf(s[n][i * 4 + half * 2 + 1] + add.y, __uint_as_float(own & 0xffff0000u), form[half]);
            }
        }
    }
}

/* A warpgroup's share of the rows [begin, end). */
template <int D>
__device__ __forceinline__ powers form_work(const struct meet_args &a, int wg, int32_t begin, int32_t end,
                                            int32_t tiles, uint32_t base, const float *mean, float *out)
{
    typedef typename room<D>::rows R;
    const int warp = threadIdx.x >> 5 & 3, lane = threadIdx.x & 31;
    const uint32_t at = base + room<D>::ring_at;
    powers mine = { -CUDART_INF_F, 0.0f };

    for (int32_t t = wg; t < tiles; t += GROUPS) {
        const int stage = t % STAGES;
        uint32_t rows[D / 16][4];
        float form[2];

        gate_wait(R::full(at, stage), t / STAGES);
#pragma unroll
        for (int kk = 0; kk < D / 16; kk++)
            load_matrices(rows[kk], at + stage * R::stage + kk / 4 * R::panel +
                                        panel_unit(warp * 16 + (lane & 15), kk % 4 * 2 + (lane >> 4)));
        __syncwarp();
        if (lane == 0)
            gate_arrive(R::empty(at, stage));
        form_rows<D>(rows, base, mean, form);
#pragma unroll
        for (int half = 0; half < 2; half++) {
            const int32_t row = begin + t * ROWS + warp * 16 + half * 8 + (lane >> 2);
            float x = form[half] * a.factor;

            x += __shfl_xor_sync(0xffffffffu, x, 1);
            x += __shfl_xor_sync(0xffffffffu, x, 2);
            if (row >= end)
                continue;
            mine = with(mine, x);
            if ((lane & 3) == 0)
                out[row] = x;
        }
    }
    for (int d = 4; d < 32; d <<= 1)
        mine = joined(mine, { __shfl_xor_sync(0xffffffffu, mine.top, d), __shfl_xor_sync(0xffffffffu, mine.sum, d) });
    return mine;
}

template <int D>
__global__ void __launch_bounds__((GROUPS + 1) * 128, 1)
    form_wgmma_kernel(const __grid_constant__ struct rows_view in, const __grid_constant__ struct meet_args a,
                      float *out, powers *partial)
{
    typedef room<D> R;
    extern __shared__ char shared[];
    __shared__ powers warps[GROUPS * 4];
    const uint32_t base = (shared_address(shared) + 1023) & ~1023u;
    const int wg = __shfl_sync(0xffffffffu, threadIdx.x >> 7, 0), warp = threadIdx.x >> 5;
    const int32_t h = blockIdx.y, g = h / (a.q_heads / in.heads);
    const int32_t begin = a.from + blockIdx.x * a.form_rows, end = min(begin + a.form_rows, in.rows[g]);
    const int32_t tiles = __shfl_sync(0xffffffffu, (max(end - begin, 0) + ROWS - 1) / ROWS, 0);

    char *const panels = shared + (base - shared_address(shared));

    form_bring<D>(a, h, base, panels);
    if (threadIdx.x == 0)
        R::rows::init(base + R::ring_at, 4);
    __syncthreads();
    if (wg == GROUPS) {
        const struct ring_source source = { (const bf16 *)in.k + in.first[g] * D, D, begin, end, NULL };
        ring_bring<D, ROWS, STAGES, AHEAD>(source, tiles, base + R::ring_at);
    } else {
        const powers mine = form_work<D>(a, wg, begin, end, tiles, base, (const float *)(panels + R::mean),
                                         out + (int64_t)h * a.out_stride + in.at[g]);
        if ((threadIdx.x & 31) == 0)
            warps[warp] = mine;
    }
    __syncthreads();
    if (threadIdx.x == 0) {
        powers all = warps[0];
        for (int w = 1; w < GROUPS * 4; w++)
            all = joined(all, warps[w]);
        partial[h * gridDim.x + blockIdx.x] = all;
    }
}

/* score = mean over the group of e^(x - top) / sum. grid: rows, heads */
__global__ void __launch_bounds__(THREADS)
    expected_kernel(const __grid_constant__ struct rows_view in, const float *exponent, int64_t stride, int32_t group,
                    int32_t from, const powers *partial, int32_t parts, float *score)
{
    __shared__ powers whole[KV_HEADS_MAX];
    const int32_t g = blockIdx.y, row = from + blockIdx.x * THREADS + threadIdx.x;
    float sum = 0.0f;

    for (int32_t i = threadIdx.x; i < group; i += THREADS) {
        powers all = partial[(g * group + i) * parts];
        for (int32_t p = 1; p < parts; p++)
            all = joined(all, partial[(g * group + i) * parts + p]);
        whole[i] = all;
    }
    __syncthreads();
    if (row >= in.rows[g])
        return;
    for (int32_t i = 0; i < group; i++)
        sum += expf(exponent[(g * group + i) * stride + in.at[g] + row] - whole[i].top) / whole[i].sum;
    score[in.at[g] + row] = sum / (float)group;
}

/* ---- launchers ---- */

/* Rows to a block: C is brought in once for as many as keep the card full. */
static int32_t rows_each(const struct cuda_queue &q, const struct rows_view *in, const struct meet_args *a)
{
    const int64_t tiles = (in->rows_longest - a->from + ROWS - 1) / ROWS, most = q.sms / a->q_heads;

    return int_ceil(tiles, most > 0 ? most : 1) * ROWS;
}

int64_t expected_partial_floats(struct cuda_queue q, int32_t q_heads)
{
    const int64_t most = q.sms / q_heads;

    return 2 * q_heads * (most > 0 ? most : 1);
}

template <int D>
static cudaError_t expected(const struct cuda_queue &q, const struct rows_view *in, const struct meet_args *args,
                            float *exponent, float *partial, float *score)
{
    const int32_t group = args->q_heads / in->heads, each = rows_each(q, in, args);
    const int32_t parts = int_ceil(in->rows_longest - args->from, each);
    const cudaError_t e = allow_shared(form_wgmma_kernel<D>, room<D>::bytes);
    struct meet_args a = *args;

    if (e != cudaSuccess)
        return e;
    a.form_rows = each;
    form_wgmma_kernel<D><<<dim3((unsigned)parts, (unsigned)a.q_heads), (GROUPS + 1) * 128, room<D>::bytes, q.stream>>>(
        *in, a, exponent, (powers *)partial);
    expected_kernel<<<dim3(int_ceil(in->rows_longest - a.from, THREADS), (unsigned)in->heads), THREADS, 0, q.stream>>>(
        *in, exponent, a.out_stride, group, a.from, (const powers *)partial, parts, score);
    return cudaGetLastError();
}

cudaError_t launch_expected_wgmma(struct cuda_queue q, const struct rows_view *in, const struct meet_args *a,
                                  float *exponent, float *partial, float *score)
{
    return in->dim == 64   ? expected<64>(q, in, a, exponent, partial, score)
           : in->dim == 96 ? expected<96>(q, in, a, exponent, partial, score)
                           : expected<128>(q, in, a, exponent, partial, score);
}
