/* SPDX-License-Identifier: Apache-2.0 */
/*
 * decode_plain.cu - attention of one step for f32 caches and for head sizes that decode.cu does not take: nothing shared.
 *
 * One thread block of 8 warps per row and query head. A warp takes 32 rows of the cache at a time: a lane owns one of them
 * for the scores, read number by number, and channels for the sum. Each warp has its own running softmax; they are merged
 * once, in shared memory (8 x KV_HEAD_DIM_MAX floats, and the query twice).
 */
#include "kernels/cuda/coded.cuh"
#include "kernels/cuda/decode.cuh"

enum { PLAIN_WARPS = 8 };

/* grid: rows, query heads. A lane takes a row of the cache for the scores and channels for the sum. */
template <typename T>
__global__ void __launch_bounds__(PLAIN_WARPS * 32)
    plain_kernel(const __grid_constant__ struct decode_shape s, int32_t layer, const T *in, float scale, int32_t window,
                 T *out)
{
    enum { CHANNELS = KV_HEAD_DIM_MAX / 32 };
    __shared__ float query[KV_HEAD_DIM_MAX], max[PLAIN_WARPS], sum[PLAIN_WARPS], part[PLAIN_WARPS][KV_HEAD_DIM_MAX];
    const int warp = threadIdx.x >> 5, lane = threadIdx.x & 31;
    const int32_t row = blockIdx.x, h = blockIdx.y, g = h / (s.q_heads / s.kv_heads), dim = s.dim;

    chain_begin();
    const int32_t slot = s.rows.slot[row];
    if (slot < 0)
        return;
    const struct slot_block *b = block_of(s, slot, layer);
    const int32_t block_rows = b->first[g + 1] - b->first[g], self = block_rows + s.rows.tail[row];
    const int32_t *pages = pages_of(s, slot, layer);
    const T *pool = (const T *)s.pool;
    __shared__ uint8_t kept[KV_HEAD_DIM_MAX];
    __shared__ float some[KV_HEAD_DIM_MAX]; /* the query's numbers for the channels that the block's keys have */
    const int32_t k_dim = b->mask ? b->k_dim : dim;
    float top = -CUDART_INF_F, total = 0.0f, value[CHANNELS] = {};

    for (int32_t c = threadIdx.x; c < dim; c += blockDim.x)
        query[c] = number(in[((int64_t)row * s.q_heads + h) * dim + c]) * scale;
    if (warp == 0 && b->mask)
        channels_kept(b->mask + g * ((dim + 7) / 8), dim, lane, kept);
    __syncthreads();
    for (int32_t c = threadIdx.x; c < k_dim; c += blockDim.x)
        some[c] = query[b->mask ? kept[c] : c];
    __syncthreads();
    const int32_t seen = window > 0 && self + 1 > window ? self + 1 - window : 0;
    for (int32_t at = seen / 32 * 32 + warp * 32; at <= self; at += PLAIN_WARPS * 32) {
        const int32_t place = at + lane;
        struct block_row r = { NULL, NULL, NULL, 0, 1.0f, 1.0f, KV_PLAIN };
        float score = -CUDART_INF_F;

        if (place <= self && place >= seen) {
            const bool tail = place >= block_rows;
            const int32_t t = place - block_rows, numbers = tail ? dim : k_dim;
            const float *from = tail ? query : some;
            if (tail) {
                const T *k = pool + pages[t / TILE] * s.page_stride + ((int64_t)g * TILE + t % TILE) * dim;
                r.k = k;
                r.v = k + (int64_t)s.kv_heads * TILE * dim;
            } else {
                r = block_row_of<T>(b, s.kv_heads, dim, g, place);
            }
            score = 0.0f;
            for (int32_t c = 0; c < numbers; c++)
                score += from[c] * key_number<T>(r, c, numbers);
            score *= r.k_scale;
        }
        float high = fmaxf(top, warp_max(score)), less = top == -CUDART_INF_F ? 0.0f : expf(top - high);
        float p = score == -CUDART_INF_F ? 0.0f : expf(score - high);
        top = high;
        total = total * less + warp_sum(p);
#pragma unroll
        for (int i = 0; i < CHANNELS; i++)
            value[i] *= less;
        for (int j = 0; j < 32; j++) {
            const float pj = __shfl_sync(0xffffffffu, p * r.v_scale, j);
            const void *vj = (const void *)__shfl_sync(0xffffffffu, (unsigned long long)r.v, j);
            const uint32_t pair = __shfl_sync(0xffffffffu, r.v_pair, j);
            const int32_t codec = __shfl_sync(0xffffffffu, r.codec, j);
            if (!vj)
                continue;
#pragma unroll
            for (int i = 0; i < CHANNELS; i++)
                if (lane + 32 * i < dim)
                    value[i] += pj * value_number<T>(vj, codec, pair, lane + 32 * i, dim);
        }
    }
    if (lane == 0) {
        max[warp] = top;
        sum[warp] = total;
    }
#pragma unroll
    for (int i = 0; i < CHANNELS; i++)
        if (lane + 32 * i < dim)
            part[warp][lane + 32 * i] = value[i];
    __syncthreads();
    for (int32_t c = threadIdx.x; c < dim; c += blockDim.x) {
        float high = -CUDART_INF_F, below = 0.0f, above = 0.0f;
        for (int k = 0; k < PLAIN_WARPS; k++)
            high = fmaxf(high, max[k]);
        for (int k = 0; k < PLAIN_WARPS; k++) {
            float f = max[k] == -CUDART_INF_F ? 0.0f : expf(max[k] - high);
            above += f * part[k][c];
            below += f * sum[k];
        }
        out[((int64_t)row * s.q_heads + h) * dim + c] = rounded<T>(below > 0.0f ? above / below : 0.0f);
    }
}

cudaError_t launch_decode_plain(const struct cuda_queue &q, enum dtype t, const struct decode_shape *s, int32_t rows,
                                int32_t layer, const void *in, float scale, int32_t window, void *out)
{
    const dim3 grid((unsigned)rows, (unsigned)s->q_heads), threads(PLAIN_WARPS * 32);

    if (t == DT_F32)
        return launch_chained(q, grid, threads, 0, plain_kernel<float>, *s, layer, (const float *)in, scale, window,
                              (float *)out);
    return launch_chained(q, grid, threads, 0, plain_kernel<bf16>, *s, layer, (const bf16 *)in, scale, window,
                          (bf16 *)out);
}
