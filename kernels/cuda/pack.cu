/* SPDX-License-Identifier: Apache-2.0 */
/*
 * pack.cu - the chosen rows become the bytes of a block, in one pass over K and V.
 *
 * grid: stretches of 64 kept rows, heads. Neighbouring threads take neighbouring 16 bytes of a row; each has the loads
 * of four rows' pieces in flight before it stores the first. Bound: the bytes of the kept rows read once, written once.
 * Re-rotation (PRESSES 2.6) turns K by (slot - token) on the way, two channels and their partners to a thread.
 *
 * Coded rows, and K rows that lose channels: a warp owns a row, which stands in shared memory in f32 (K turned already)
 * until its largest magnitude is known. 8 warps x 1 KiB.
 */
#include "kernels/cuda/coded.cuh"

enum { THREADS = 256, ROWS = 64, DEEP = 4, WARPS = THREADS / 32 };

__global__ void __launch_bounds__(THREADS)
    pack_kernel(const __grid_constant__ struct pack_plan p, int32_t row_bytes, bool both)
{
    const int32_t g = blockIdx.y, units = row_bytes / 16;
    const int64_t kept = p.first[g + 1] - p.first[g], row0 = (int64_t)blockIdx.x * ROWS;
    const int32_t count = (int32_t)min((int64_t)ROWS, kept - row0) * units;
    const char *k = (const char *)p.rows.k + p.rows.first[g] * row_bytes;
    const char *v = (const char *)p.rows.v + p.rows.first[g] * row_bytes;
    char *to_k = (char *)p.k + (p.first[g] + row0) * row_bytes, *to_v = (char *)p.v + (p.first[g] + row0) * row_bytes;
    const int32_t *index = p.index + p.first[g] + row0;

    for (int32_t base = 0; base < count; base += THREADS * DEEP) {
        uint4 x[DEEP], y[DEEP];
#pragma unroll
        for (int d = 0; d < DEEP; d++) {
            int32_t unit = base + d * THREADS + threadIdx.x;
            if (unit < count) {
                int64_t from = (int64_t)index[unit / units] * row_bytes + unit % units * 16;
                if (both)
                    x[d] = __ldcs((const uint4 *)(k + from));
                y[d] = __ldcs((const uint4 *)(v + from));
            }
        }
#pragma unroll
        for (int d = 0; d < DEEP; d++) {
            int32_t unit = base + d * THREADS + threadIdx.x;
            if (unit < count) {
                if (both)
                    *(uint4 *)(to_k + (int64_t)unit * 16) = x[d];
                *(uint4 *)(to_v + (int64_t)unit * 16) = y[d];
            }
        }
    }
}

/* Rows of any length, and turned keys. turn: K is rotated; else copied. A warp owns a row. */
template <typename T, bool VALUES>
__global__ void __launch_bounds__(THREADS) pack_rows_kernel(const __grid_constant__ struct pack_plan p)
{
    const int32_t g = blockIdx.y, dim = p.rows.dim, lane = threadIdx.x & 31, half = p.inv_freq ? p.rope_dims / 2 : 0;
    const int64_t kept = p.first[g + 1] - p.first[g];

    for (int64_t slot = (int64_t)blockIdx.x * ROWS + (threadIdx.x >> 5);
         slot < min(((int64_t)blockIdx.x + 1) * ROWS, kept); slot += THREADS / 32) {
        int32_t row = p.index[p.first[g] + slot];
        int64_t token = p.token ? p.token[p.rows.at[g] + row] : row, from = (p.rows.first[g] + row) * dim;
        const T *k = (const T *)p.rows.k + from, *v = (const T *)p.rows.v + from;
        T *to_k = (T *)p.k + (p.first[g] + slot) * dim, *to_v = (T *)p.v + (p.first[g] + slot) * dim;

        for (int32_t c = lane; c < half; c += 32) {
            float sine, cosine, a = number(k[c]), b = number(k[c + half]);
            sincosf((float)(slot - token) * p.inv_freq[c], &sine, &cosine);
            to_k[c] = rounded<T>(a * cosine - b * sine);
            to_k[c + half] = rounded<T>(b * cosine + a * sine);
        }
        for (int32_t c = 2 * half + lane; c < dim; c += 32)
            to_k[c] = k[c];
        if (VALUES)
            for (int32_t c = lane; c < dim; c += 32)
                to_v[c] = v[c];
    }
}

/* `count` numbers of a row as codes, with their scale; T where the codec is plain. By one warp. */
template <typename T>
__device__ void row_code(const float *row, const int32_t *channel, int32_t count, int32_t codec, int lane, void *to,
                         float *scale)
{
    uint32_t top = 0;

    if (codec == KV_PLAIN) {
        for (int32_t i = lane; i < count; i += 32)
            ((T *)to)[i] = rounded<T>(row[channel ? channel[i] : i]);
        return;
    }
    for (int32_t i = lane; i < count; i += 32)
        top = max(top, __float_as_uint(row[channel ? channel[i] : i]) & 0x7fffffffu); /* NaN is above infinity */
    for (int d = 16; d > 0; d >>= 1)
        top = max(top, __shfl_xor_sync(0xffffffffu, top, d));
    const float most = codec == KV_INT8 ? 127.0f : 448.0f, largest = __uint_as_float(top);
    const bool strange = top > 0x7f7fffffu, none = strange || largest < 0x1p-100f;
    const float factor = none ? 0.0f : __fdiv_rn(most, largest);
    for (int32_t i = lane; i < count; i += 32)
        ((uint8_t *)to)[i] = none ? 0 : code_of(row[channel ? channel[i] : i], factor, codec);
    if (lane == 0)
        *scale = strange ? CUDART_NAN_F : none ? 0.0f : __fdiv_rn(largest, most);
}

template <typename T>
__global__ void __launch_bounds__(THREADS) code_rows_kernel(const __grid_constant__ struct pack_plan p)
{
    __shared__ float room[WARPS][KV_HEAD_DIM_MAX];
    const int32_t g = blockIdx.y, dim = p.rows.dim, lane = threadIdx.x & 31, half = p.inv_freq ? p.rope_dims / 2 : 0;
    const int64_t kept = p.first[g + 1] - p.first[g], bytes = p.codec == KV_PLAIN ? sizeof(T) : 1;
    const int32_t *channel = p.channel ? p.channel + (int64_t)g * p.k_dim : NULL;
    float *x = room[threadIdx.x >> 5];

    for (int64_t slot = (int64_t)blockIdx.x * ROWS + (threadIdx.x >> 5);
         slot < min(((int64_t)blockIdx.x + 1) * ROWS, kept); slot += WARPS) {
        const int64_t to = p.first[g] + slot, row = p.index[to];
        const int64_t token = p.token ? p.token[p.rows.at[g] + row] : row, from = (p.rows.first[g] + row) * dim;
        const T *k = (const T *)p.rows.k + from, *v = (const T *)p.rows.v + from;

        for (int32_t c = lane; c < half; c += 32) {
            float sine, cosine, a = number(k[c]), b = number(k[c + half]);
            sincosf((float)(slot - token) * p.inv_freq[c], &sine, &cosine);
            x[c] = a * cosine - b * sine;
            x[c + half] = b * cosine + a * sine;
        }
        for (int32_t c = 2 * half + lane; c < dim; c += 32)
            x[c] = number(k[c]);
        __syncwarp();
        row_code<T>(x, channel, p.k_dim, p.codec, lane, (char *)p.k + to * p.k_dim * bytes, p.k_scale + to);
        __syncwarp();
        for (int32_t c = lane; c < dim; c += 32)
            x[c] = number(v[c]);
        __syncwarp();
        row_code<T>(x, NULL, dim, p.codec, lane, (char *)p.v + to * dim * bytes, p.v_scale + to);
        __syncwarp();
    }
}

template <typename T> static cudaError_t pack(const struct cuda_queue &q, const struct pack_plan *p)
{
    dim3 grid(int_ceil(p->kept_longest, ROWS), (unsigned)p->rows.heads);
    const int32_t row_bytes = p->rows.dim * (int32_t)sizeof(T);

    if (p->codec != KV_PLAIN || p->channel) {
        code_rows_kernel<T><<<grid, THREADS, 0, q.stream>>>(*p);
        return cudaGetLastError();
    }
    if (row_bytes % 16 != 0) {
        pack_rows_kernel<T, true><<<grid, THREADS, 0, q.stream>>>(*p);
        return cudaGetLastError();
    }
    pack_kernel<<<grid, THREADS, 0, q.stream>>>(*p, row_bytes, p->inv_freq == NULL);
    if (p->inv_freq)
        pack_rows_kernel<T, false><<<grid, THREADS, 0, q.stream>>>(*p);
    return cudaGetLastError();
}

cudaError_t launch_pack(struct cuda_queue q, enum dtype t, const struct pack_plan *p)
{
    if (p->kept_longest == 0)
        return cudaSuccess;
    return t == DT_F32 ? pack<float>(q, p) : pack<bf16>(q, p);
}
