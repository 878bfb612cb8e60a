/* SPDX-License-Identifier: Apache-2.0 */
/*
 * gather.cu - what pressing while decoding reads: a slot's newest rows as one plain block; queries before the rotation.
 *
 * grid: stretches of 64 rows, heads; a warp owns a row of K and V. Few bytes, once in many steps: nothing here is tuned.
 * Rows of queries: a warp owns a head of a row.
 */
#include "kernels/cuda/coded.cuh"

enum { THREADS = 256, ROWS = 64, WARPS = THREADS / 32 };

template <typename T>
__global__ void __launch_bounds__(THREADS) gather_kernel(const __grid_constant__ struct gather_plan p)
{
    const struct slot_block *block = (const struct slot_block *)p.block;
    const int32_t g = blockIdx.y, lane = threadIdx.x & 31, dim = p.dim;
    const int32_t begin = block->first[g], block_rows = block->first[g + 1] - begin;
    const int64_t rows = p.first[g + 1] - p.first[g], skip = (int64_t)block_rows + p.tail - rows;

    for (int64_t i = (int64_t)blockIdx.x * ROWS + (threadIdx.x >> 5); i < min(((int64_t)blockIdx.x + 1) * ROWS, rows);
         i += WARPS) {
        const int64_t row = skip + i, to = (p.first[g] + i) * dim;
        const T *k, *v;

        if (row < block_rows && (block->codec != KV_PLAIN || block->mask)) {
            const struct block_row r = block_row_of<T>(block, p.heads, dim, g, row);

            for (int32_t c = lane; c < dim; c += 32) {
                const int32_t at = block->mask ? channel_place(block->mask + g * ((dim + 7) / 8), c) : c;
                const float x = at < 0 ? 0.0f : key_number<T>(r, at, block->k_dim);
                ((T *)p.k)[to + c] = rounded<T>(x * r.k_scale);
                ((T *)p.v)[to + c] = rounded<T>(value_number<T>(r.v, r.codec, r.v_pair, c, dim) * r.v_scale);
            }
            continue;
        }
        if (row < block_rows) {
            k = (const T *)block->k + (begin + row) * dim;
            v = (const T *)block->v + (begin + row) * dim;
        } else {
            const int64_t t = row - block_rows;
            k = (const T *)p.pool + p.pages[t / KV_PAGE_TOKENS] * p.page_stride +
                ((int64_t)g * KV_PAGE_TOKENS + t % KV_PAGE_TOKENS) * dim;
            v = k + (int64_t)p.heads * KV_PAGE_TOKENS * dim;
        }
        for (int32_t c = lane; c < dim; c += 32) {
            ((T *)p.k)[to + c] = k[c];
            ((T *)p.v)[to + c] = v[c];
        }
    }
}

cudaError_t launch_gather(struct cuda_queue q, enum dtype t, const struct gather_plan *p)
{
    dim3 grid(int_ceil(p->longest, ROWS), (unsigned)p->heads);

    if (p->longest == 0)
        return cudaSuccess;
    if (t == DT_F32)
        gather_kernel<float><<<grid, THREADS, 0, q.stream>>>(*p);
    else
        gather_kernel<bf16><<<grid, THREADS, 0, q.stream>>>(*p);
    return cudaGetLastError();
}

template <typename T>
__global__ void __launch_bounds__(THREADS) queries_kernel(const __grid_constant__ struct queries_args a)
{
    const int32_t lane = threadIdx.x & 31, dim = a.dim;
    const int64_t row = blockIdx.x;

    for (int32_t h = threadIdx.x >> 5; h < a.q_heads; h += WARPS) {
        const float *in = a.qkv + (row * (a.q_heads + 2 * a.kv_heads) + h) * dim;
        T *out = (T *)a.out + (row * a.q_heads + h) * dim;
        float sum = 0.0f, factor = 1.0f;

        if (a.q_norm) {
            for (int32_t c = lane; c < dim; c += 32)
                sum += in[c] * in[c];
            factor = rsqrtf(warp_sum(sum) / (float)dim + a.norm_eps);
        }
        for (int32_t c = lane; c < dim; c += 32)
            out[c] = rounded<T>(a.q_norm ? in[c] * factor * a.q_norm[c] : in[c]);
    }
}

cudaError_t launch_queries(struct cuda_queue q, enum dtype t, const struct queries_args *a, int64_t rows)
{
    if (t == DT_F32)
        queries_kernel<float><<<(unsigned)rows, THREADS, 0, q.stream>>>(*a);
    else
        queries_kernel<bf16><<<(unsigned)rows, THREADS, 0, q.stream>>>(*a);
    return cudaGetLastError();
}
