/* SPDX-License-Identifier: Apache-2.0 */
/*
 * pack.cu - the chosen rows become the bytes of a block, in one pass over K and V.
 *
 * grid: stretches of 16 kept rows, heads. Neighbouring threads take neighbouring 16 bytes of a row, of K and of V at once.
 * Bound: the bytes of the kept rows read once, written once. H200, half of 8 heads x 128: 4k 0.92 of copy, 32k 0.93, 256k
 * 0.99; with 64 rows and four pieces in flight 0.72, 0.83, 0.94.
 * Re-rotation (PRESSES 2.6) turns K by (slot - token) on the way, two channels and their partners to a thread.
 *
 * Coded rows, and K rows that lose channels: a warp owns a row, which stands in shared memory in f32 (K turned already)
 * until its largest magnitude is known. 8 warps x 1 KiB.
 *
 * int4: a thread block owns 32 rows of a head, whose keys stand in shared memory (32 KiB); a thread owns two channels of K,
 * a warp a row of V. Codes and pairs are those of common/kv/codec.h bit for bit: nothing is fused.
 */
#include "kernels/cuda/coded.cuh"

enum { THREADS = 256, SOME_ROWS = 16, ROWS = 64, WARPS = THREADS / 32 };

/* SHIFT: a row is 2^shift pieces of 16 bytes; else shift is not looked at. */
template <bool SHIFT>
__global__ void __launch_bounds__(THREADS)
    pack_kernel(const __grid_constant__ struct pack_plan p, int32_t row_bytes, int32_t shift, bool both)
{
    const int32_t g = blockIdx.y, units = row_bytes / 16;
    const int64_t kept = p.first[g + 1] - p.first[g], row0 = (int64_t)blockIdx.x * SOME_ROWS;
    const int32_t count = (int32_t)min((int64_t)SOME_ROWS, kept - row0) * units;
    const char *k = (const char *)p.rows.k + p.rows.first[g] * row_bytes;
    const char *v = (const char *)p.rows.v + p.rows.first[g] * row_bytes;
    char *to_k = (char *)p.k + (p.first[g] + row0) * row_bytes, *to_v = (char *)p.v + (p.first[g] + row0) * row_bytes;
    const int32_t *index = p.index + p.first[g] + row0;

    chain_begin();
    for (int32_t unit = threadIdx.x; unit < count; unit += THREADS) {
        const int32_t row = SHIFT ? unit >> shift : unit / units;
        const int64_t from = (int64_t)index[row] * row_bytes + (unit - row * units) * 16;
        const uint4 y = *(const uint4 *)(v + from);
        uint4 x = y;

        if (both)
            x = *(const uint4 *)(k + from);
        *(uint4 *)(to_v + (int64_t)unit * 16) = y;
        if (both)
            *(uint4 *)(to_k + (int64_t)unit * 16) = x;
    }
}

/* Rows of any length, and turned keys. turn: K is rotated; else copied. A warp owns a row. */
template <typename T, bool VALUES>
__global__ void __launch_bounds__(THREADS) pack_rows_kernel(const __grid_constant__ struct pack_plan p)
{
    const int32_t g = blockIdx.y, dim = p.rows.dim, lane = threadIdx.x & 31, half = p.inv_freq ? p.rope_dims / 2 : 0;
    const int64_t kept = p.first[g + 1] - p.first[g];

    chain_begin();
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

/* f32 x[dim] = the key that goes to `slot` of head g, turned to its new place where keys are. By one warp. */
template <typename T> __device__ void key_turned(const struct pack_plan &p, int32_t g, int64_t slot, int lane, float *x)
{
    const int32_t dim = p.rows.dim, half = p.inv_freq ? p.rope_dims / 2 : 0;
    const int64_t row = p.index[p.first[g] + slot], token = p.token ? p.token[p.rows.at[g] + row] : row;
    const T *k = (const T *)p.rows.k + (p.rows.first[g] + row) * dim;

    for (int32_t c = lane; c < half; c += 32) {
        float sine, cosine, a = number(k[c]), b = number(k[c + half]);
        sincosf((float)(slot - token) * p.inv_freq[c], &sine, &cosine);
        x[c] = a * cosine - b * sine;
        x[c + half] = b * cosine + a * sine;
    }
    for (int32_t c = 2 * half + lane; c < dim; c += 32)
        x[c] = number(k[c]);
}

template <typename T> __device__ const T *value_of(const struct pack_plan &p, int32_t g, int64_t slot)
{
    return (const T *)p.rows.v + (p.rows.first[g] + p.index[p.first[g] + slot]) * p.rows.dim;
}

template <typename T>
__global__ void __launch_bounds__(THREADS) code_rows_kernel(const __grid_constant__ struct pack_plan p)
{
    __shared__ float room[WARPS][KV_HEAD_DIM_MAX];
    const int32_t g = blockIdx.y, dim = p.rows.dim, lane = threadIdx.x & 31;
    const int64_t kept = p.first[g + 1] - p.first[g], bytes = p.codec == KV_PLAIN ? sizeof(T) : 1;
    const int32_t *channel = p.channel ? p.channel + (int64_t)g * p.k_dim : NULL;
    float *x = room[threadIdx.x >> 5];

    chain_begin();
    for (int64_t slot = (int64_t)blockIdx.x * ROWS + (threadIdx.x >> 5);
         slot < min(((int64_t)blockIdx.x + 1) * ROWS, kept); slot += WARPS) {
        const int64_t to = p.first[g] + slot;
        const T *v = value_of<T>(p, g, slot);

        key_turned<T>(p, g, slot, lane, x);
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

/* ---- int4 ---- */

/* What the values of a pair have in common: `low` is the first of the smallest, `top` the bits of the largest magnitude. */
struct spread {
    float low, high;
    uint32_t top;
};
__device__ __forceinline__ struct spread spread_with(struct spread s, float x)
{
    s.low = x < s.low ? x : s.low;
    s.high = x > s.high ? x : s.high;
    s.top = max(s.top, __float_as_uint(x) & 0x7fffffffu);
    return s;
}

/* The pair of values that spread so, and what codes are computed with; factor 0: all codes are 0. */
struct coder {
    float least, factor;
    uint32_t pair;
};
__device__ struct coder coder_of(const struct spread &s)
{
    const uint32_t low = __float_as_uint(s.low);
    const uint32_t least = (low & 0xffff0000u) + ((low >> 31) && (low & 0xffffu) ? 0x10000u : 0);
    const float wide = __fsub_rn(s.high, __uint_as_float(least));
    const uint32_t fifteenth = __float_as_uint(__fdiv_rn(wide, 15.0f));
    const uint32_t step = (fifteenth & 0xffff0000u) + (fifteenth & 0xffffu ? 0x10000u : 0);
    const bool narrow = wide < 0x1p-100f;
    const struct coder none = { 0.0f, 0.0f, 0x7fc0 }, flat = { 0.0f, 0.0f, least };

    if (s.top > 0x7f7fffffu || !isfinite(__uint_as_float(least)) || !isfinite(wide))
        return none;
    if (narrow || step >= 0x7f800000u)
        return narrow ? flat : none;
    const struct coder some = { __uint_as_float(least), __fdiv_rn(1.0f, __uint_as_float(step)), step >> 16 | least };
    return some;
}
__device__ __forceinline__ uint32_t four_bits(float x, const struct coder &c)
{
    return c.factor > 0.0f ? (uint32_t)min(max(__float2int_rn(__fmul_rn(__fsub_rn(x, c.least), c.factor)), 0), 15) : 0;
}

/* 32 keys of head g, which become coded rows from number `at` on: thread j has channels j and j + half. */
__device__ void keys_code4(const struct pack_plan &p, int32_t g, int64_t at, const float (*row)[KV_HEAD_DIM_MAX])
{
    const int32_t half = (p.k_dim + 1) / 2, j = threadIdx.x, other = j + half;
    const int32_t *channel = p.channel ? p.channel + (int64_t)g * p.k_dim : NULL;
    uint32_t *pair = (uint32_t *)p.k_scale + at / KV_GROUP_ROWS * p.k_dim;
    uint8_t *to = (uint8_t *)p.k + at * half + j;

    if (j >= half)
        return;
    const int32_t a = channel ? channel[j] : j, b = other >= p.k_dim ? a : channel ? channel[other] : other;
    struct spread s = { row[0][a], row[0][a], 0 }, t = { row[0][b], row[0][b], 0 };
    for (int r = 0; r < KV_GROUP_ROWS; r++) {
        s = spread_with(s, row[r][a]);
        t = spread_with(t, row[r][b]);
    }
    const struct coder c = coder_of(s), d = coder_of(t);
    pair[j] = c.pair;
    if (other < p.k_dim)
        pair[other] = d.pair;
    for (int r = 0; r < KV_GROUP_ROWS; r++)
        to[r * half] = (uint8_t)(four_bits(row[r][a], c) | (other < p.k_dim ? four_bits(row[r][b], d) << 4 : 0));
}

/* A value row as coded row number `at`. By one warp. */
template <typename T> __device__ void value_code4(const struct pack_plan &p, const T *v, int64_t at, int lane)
{
    const int32_t dim = p.rows.dim, half = (dim + 1) / 2;
    const float begin = number(v[lane < dim ? lane : 0]);
    struct spread s = { begin, begin, 0 };
    int32_t place = lane; /* of the smallest, as equal zeros may differ in sign */

    for (int32_t c = lane; c < dim; c += 32) {
        place = number(v[c]) < s.low ? c : place;
        s = spread_with(s, number(v[c]));
    }
    for (int d = 16; d > 0; d >>= 1) {
        const float low = __shfl_xor_sync(0xffffffffu, s.low, d);
        const int32_t its = __shfl_xor_sync(0xffffffffu, place, d);
        const bool take = low < s.low || (low == s.low && its < place);
        s.low = take ? low : s.low;
        place = take ? its : place;
        s.high = fmaxf(s.high, __shfl_xor_sync(0xffffffffu, s.high, d));
        s.top = max(s.top, __shfl_xor_sync(0xffffffffu, s.top, d));
    }
    const struct coder c = coder_of(s);
    for (int32_t j = lane; j < half; j += 32)
        ((uint8_t *)p.v)[at * half + j] =
            (uint8_t)(four_bits(number(v[j]), c) | (j + half < dim ? four_bits(number(v[j + half]), c) << 4 : 0));
    if (lane == 0)
        ((uint32_t *)p.v_scale)[at] = c.pair;
}

/* 32 rows of a head: all coded, or all whole. */
template <typename T>
__global__ void __launch_bounds__(THREADS) code4_kernel(const __grid_constant__ struct pack_plan p)
{
    __shared__ float row[KV_GROUP_ROWS][KV_HEAD_DIM_MAX];
    const int32_t g = blockIdx.y, dim = p.rows.dim, warp = threadIdx.x >> 5, lane = threadIdx.x & 31;
    const int64_t slot0 = (int64_t)blockIdx.x * KV_GROUP_ROWS, kept = p.first[g + 1] - p.first[g];
    const int64_t coded = p.coded[g + 1] - p.coded[g], end = min(slot0 + KV_GROUP_ROWS, kept);

    chain_begin();
    for (int64_t slot = slot0 + warp; slot < end; slot += WARPS)
        key_turned<T>(p, g, slot, lane, row[slot - slot0]);
    __syncthreads();
    if (slot0 < coded) {
        keys_code4(p, g, p.coded[g] + slot0, row);
        for (int64_t slot = slot0 + warp; slot < end; slot += WARPS)
            value_code4<T>(p, value_of<T>(p, g, slot), p.coded[g] + slot, lane);
        return;
    }
    for (int64_t slot = slot0 + warp; slot < end; slot += WARPS) {
        const int64_t at = p.first[g] - p.coded[g] + slot - coded;
        const T *v = value_of<T>(p, g, slot);

        row_code<T>(row[slot - slot0], p.channel ? p.channel + (int64_t)g * p.k_dim : NULL, p.k_dim, KV_PLAIN, lane,
                    (T *)p.k_whole + at * p.k_dim, NULL);
        for (int32_t c = lane; c < dim; c += 32)
            ((T *)p.v_whole)[at * dim + c] = v[c];
    }
}

template <typename T> static cudaError_t pack(const struct cuda_queue &q, const struct pack_plan *p)
{
    const dim3 rows(int_ceil(p->kept_longest, ROWS), (unsigned)p->rows.heads);
    const dim3 some(int_ceil(p->kept_longest, SOME_ROWS), (unsigned)p->rows.heads), threads(THREADS);
    const int32_t row_bytes = p->rows.dim * (int32_t)sizeof(T), units = row_bytes / 16;
    const bool both = p->inv_freq == NULL;
    int32_t shift = 0;
    cudaError_t e;

    if (p->codec == KV_INT4)
        return launch_chained(q, dim3(int_ceil(p->kept_longest, KV_GROUP_ROWS), rows.y), threads, 0, code4_kernel<T>,
                              *p);
    if (p->codec != KV_PLAIN || p->channel)
        return launch_chained(q, rows, threads, 0, code_rows_kernel<T>, *p);
    if (row_bytes % 16 != 0)
        return launch_chained(q, rows, threads, 0, pack_rows_kernel<T, true>, *p);
    while (1 << shift < units)
        shift++;
    e = launch_chained(q, some, threads, 0, 1 << shift == units ? pack_kernel<true> : pack_kernel<false>, *p, row_bytes,
                       shift, both);
    if (e != cudaSuccess || both)
        return e;
    return launch_chained(q, rows, threads, 0, pack_rows_kernel<T, false>, *p);
}

cudaError_t launch_pack(struct cuda_queue q, enum dtype t, const struct pack_plan *p)
{
    if (p->kept_longest == 0)
        return cudaSuccess;
    return t == DT_F32 ? pack<float>(q, p) : pack<bf16>(q, p);
}
