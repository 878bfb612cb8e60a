/* SPDX-License-Identifier: Apache-2.0 */
/*
 * pairs.cu - rows against rows, 64 x 64 at a time in f32: chunks that attend to themselves, and rows that go looking for
 * the nearest row that stays.
 *
 *   noncausal   per query: log of the sum of exp over its chunk; then per key: the sum over the group's queries of
 *               exp(q . k - lse). A block owns 64 queries, then 64 keys; sums in a fixed order. PRESSES 2.3
 *   merge       per row that goes: the kept row with the largest cosine. A block owns 64 such rows. Then a warp owns a kept
 *               row and adds, in ascending order, the values that came to it. PRESSES 2.4
 *
 * 256 threads, 4 x 4 products to each, 16 channels at a time through shared memory (9 KiB).
 */
#include "kernels/cuda/numbers.cuh"
#include "kernels/cuda/rowwise.cuh"

enum { THREADS = 256, WARPS = THREADS / 32, TILE = 64, DEPTH = 16, GATE_THREADS = 1024 };

struct tile_room {
    float left[DEPTH][TILE + 4], right[DEPTH][TILE + 4];
};

/* s[i][j] = left(4 ty + i) . right(4 tx + j); a row that is NULL is zeros. By the whole block. */
template <typename T, typename L, typename R>
__device__ __forceinline__ void products(L left, R right, int32_t dim, struct tile_room &room, float (&s)[4][4])
{
    const int line = threadIdx.x / 4, c0 = threadIdx.x % 4 * 4, ty = threadIdx.x / 16, tx = threadIdx.x % 16;
    const T *l = left(line), *r = right(line);

#pragma unroll
    for (int i = 0; i < 4; i++)
#pragma unroll
        for (int j = 0; j < 4; j++)
            s[i][j] = 0.0f;
    for (int32_t d0 = 0; d0 < dim; d0 += DEPTH) {
        __syncthreads();
#pragma unroll
        for (int j = 0; j < 4; j++) {
            const int32_t d = d0 + c0 + j;
            room.left[c0 + j][line] = l && d < dim ? number(l[d]) : 0.0f;
            room.right[c0 + j][line] = r && d < dim ? number(r[d]) : 0.0f;
        }
        __syncthreads();
#pragma unroll
        for (int d = 0; d < DEPTH; d++) {
            const float4 x = *(const float4 *)&room.left[d][ty * 4], y = *(const float4 *)&room.right[d][tx * 4];
            const float a[4] = { x.x, x.y, x.z, x.w }, b[4] = { y.x, y.y, y.z, y.w };
#pragma unroll
            for (int i = 0; i < 4; i++)
#pragma unroll
                for (int j = 0; j < 4; j++)
                    s[i][j] += a[i] * b[j];
        }
    }
}

/* ---- chunks among themselves ---- */

/* Where a block's tile of a chunk lies: blockIdx.x counts tiles of chunks. */
struct chunk_tile {
    int32_t row0, count, at; /* the chunk's first row and rows; the tile's first row in it */
};
__device__ __forceinline__ struct chunk_tile chunk_tile_of(const struct rows_view &in, int32_t g, int32_t chunk)
{
    const int32_t tiles = (chunk + TILE - 1) / TILE;
    struct chunk_tile c;

    c.row0 = (int32_t)(blockIdx.x / tiles) * chunk;
    c.count = min(chunk, in.rows[g] - c.row0);
    c.at = (int32_t)(blockIdx.x % tiles) * TILE;
    return c;
}

template <typename T> struct query_rows {
    const struct rows_view &in;
    const struct chunk_args &a;
    struct chunk_tile c;
    int32_t g, h, at;
    __device__ const T *operator()(int line) const
    {
        const int32_t r = at + line;
        return r < c.count ? (const T *)a.q + (token_of(in, g, c.row0 + r) * a.q_heads + h) * in.dim : nullptr;
    }
};
template <typename T> struct key_rows {
    const struct rows_view &in;
    struct chunk_tile c;
    int32_t g, at;
    __device__ const T *operator()(int line) const
    {
        return at + line < c.count ? key_row<T>(in, g, c.row0 + at + line) : nullptr;
    }
};

/* lse [H][stride]. grid: tiles of chunks, query heads */
template <typename T>
__global__ void __launch_bounds__(THREADS)
    chunk_lse_kernel(const __grid_constant__ struct rows_view in, const __grid_constant__ struct chunk_args a)
{
    __shared__ __align__(16) struct tile_room room;
    const int32_t h = blockIdx.y, g = h / (a.q_heads / in.heads);
    const int ty = threadIdx.x / 16, tx = threadIdx.x % 16;
    const struct chunk_tile c = chunk_tile_of(in, g, a.chunk);
    float top[4], sum[4] = {}, s[4][4];

    if (c.at >= c.count)
        return;
#pragma unroll
    for (int i = 0; i < 4; i++)
        top[i] = -CUDART_INF_F;
    for (int32_t k0 = 0; k0 < c.count; k0 += TILE) {
        products<T>(query_rows<T>{ in, a, c, g, h, c.at }, key_rows<T>{ in, c, g, k0 }, in.dim, room, s);
#pragma unroll
        for (int i = 0; i < 4; i++)
#pragma unroll
            for (int j = 0; j < 4; j++)
                if (k0 + tx * 4 + j < c.count) {
                    const float most = fmaxf(top[i], s[i][j]);
                    sum[i] = sum[i] * expf(top[i] - most) + expf(s[i][j] - most);
                    top[i] = most;
                }
    }
#pragma unroll
    for (int i = 0; i < 4; i++) {
        float most = top[i];
#pragma unroll
        for (int d = 8; d > 0; d >>= 1)
            most = fmaxf(most, __shfl_xor_sync(0xffffffffu, most, d));
        const int32_t zeros = a.chunk - c.count; /* keys that fill the chunk */
        if (zeros > 0)
            most = fmaxf(most, 0.0f);
        float total = top[i] == -CUDART_INF_F ? 0.0f : sum[i] * expf(top[i] - most);
#pragma unroll
        for (int d = 8; d > 0; d >>= 1)
            total += __shfl_xor_sync(0xffffffffu, total, d);
        if (zeros > 0) /* without them exp(-most) may be infinite */
            total += (float)zeros * expf(-most);
        const int32_t r = c.at + ty * 4 + i;
        if (tx == 0 && r < c.count)
            a.lse[h * a.stride + in.at[g] + c.row0 + r] = most + logf(total);
    }
}

/* grid: tiles of chunks, KV heads */
template <typename T>
__global__ void __launch_bounds__(THREADS)
    chunk_columns_kernel(const __grid_constant__ struct rows_view in, const __grid_constant__ struct chunk_args a,
                         float *score)
{
    __shared__ __align__(16) struct tile_room room;
    __shared__ float part[16][TILE];
    const int32_t g = blockIdx.y, group = a.q_heads / in.heads;
    const int ty = threadIdx.x / 16, tx = threadIdx.x % 16;
    const struct chunk_tile c = chunk_tile_of(in, g, a.chunk);
    float column[4] = {}, s[4][4];

    if (c.at >= c.count)
        return;
    for (int32_t h = g * group; h < (g + 1) * group; h++) {
        const float *lse = a.lse + h * a.stride + in.at[g] + c.row0;
        for (int32_t q0 = 0; q0 < c.count; q0 += TILE) {
            products<T>(query_rows<T>{ in, a, c, g, h, q0 }, key_rows<T>{ in, c, g, c.at }, in.dim, room, s);
#pragma unroll
            for (int i = 0; i < 4; i++)
                if (q0 + ty * 4 + i < c.count)
#pragma unroll
                    for (int j = 0; j < 4; j++)
                        column[j] += expf(s[i][j] - lse[q0 + ty * 4 + i]);
        }
    }
#pragma unroll
    for (int j = 0; j < 4; j++)
        part[ty][tx * 4 + j] = column[j];
    __syncthreads();
    const int32_t r = c.at + threadIdx.x;
    if (threadIdx.x >= TILE || r >= c.count)
        return;
    float sum = 0.0f;
    for (int i = 0; i < 16; i++)
        sum += part[i][threadIdx.x];
    sum += (float)group * (float)(a.chunk - c.count) / (float)a.chunk; /* zero queries look everywhere alike */
    score[in.at[g] + c.row0 + r] = sum / (float)group;
}

/* ---- values of rows that go ---- */

/* How many of the head's chosen rows are smaller than `row`. */
__device__ __forceinline__ int32_t kept_before(const int32_t *index, int32_t kept, int32_t row)
{
    int32_t low = 0, high = kept;

    while (low < high) {
        const int32_t middle = (low + high) / 2;
        if (index[middle] < row)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

__device__ __forceinline__ int32_t kept_of(const struct head_firsts &first, int32_t g)
{
    return (int32_t)(first.at[g + 1] - first.at[g]);
}

/* gone [at[G]]: per head the rows that were not chosen, ascending. grid: rows, heads */
__global__ void gone_kernel(const __grid_constant__ struct rows_view in, const __grid_constant__ struct merge_args a)
{
    const int32_t g = blockIdx.y, row = blockIdx.x * THREADS + threadIdx.x, kept = kept_of(a.first, g);
    const int32_t *index = a.index + a.first.at[g];

    if (row >= in.rows[g])
        return;
    const int32_t before = kept_before(index, kept, row);
    if (before == kept || index[before] != row)
        a.gone[in.at[g] + row - before] = row;
}

template <typename T> struct listed_rows {
    const struct rows_view &in;
    const int32_t *list;
    int32_t count, g, at;
    __device__ const T *operator()(int line) const
    {
        return at + line < count ? key_row<T>(in, g, list[at + line]) : nullptr;
    }
};

__device__ __forceinline__ float over_length(float square)
{
    return 1.0f / fmaxf(sqrtf(square), 1e-6f);
}

/* nearest, cosine [at[G]] per entry of gone. grid: tiles of gone rows, heads */
template <typename T>
__global__ void __launch_bounds__(THREADS)
    nearest_kernel(const __grid_constant__ struct rows_view in, const __grid_constant__ struct merge_args a)
{
    __shared__ __align__(16) struct tile_room room;
    const int32_t g = blockIdx.y, kept = kept_of(a.first, g), gone = in.rows[g] - kept, e0 = blockIdx.x * TILE;
    const int32_t *index = a.index + a.first.at[g], *list = a.gone + in.at[g];
    const float *k2 = a.k2 + in.at[g];
    const int ty = threadIdx.x / 16, tx = threadIdx.x % 16;
    float best[4], s[4][4];
    int32_t slot[4] = {};

    if (e0 >= gone || kept == 0)
        return;
#pragma unroll
    for (int i = 0; i < 4; i++)
        best[i] = -CUDART_INF_F;
    for (int32_t t0 = 0; t0 < kept; t0 += TILE) {
        float own[4];
        products<T>(listed_rows<T>{ in, list, gone, g, e0 }, listed_rows<T>{ in, index, kept, g, t0 }, in.dim, room, s);
#pragma unroll
        for (int j = 0; j < 4; j++)
            own[j] = t0 + tx * 4 + j < kept ? over_length(k2[index[t0 + tx * 4 + j]]) : 0.0f;
#pragma unroll
        for (int i = 0; i < 4; i++)
#pragma unroll
            for (int j = 0; j < 4; j++)
                if (t0 + tx * 4 + j < kept && s[i][j] * own[j] > best[i]) {
                    best[i] = s[i][j] * own[j];
                    slot[i] = t0 + tx * 4 + j;
                }
    }
#pragma unroll
    for (int i = 0; i < 4; i++) {
#pragma unroll
        for (int d = 8; d > 0; d >>= 1) {
            const float other = __shfl_xor_sync(0xffffffffu, best[i], d);
            const int32_t its = __shfl_xor_sync(0xffffffffu, slot[i], d);
            if (other > best[i] || (other == best[i] && its < slot[i])) {
                best[i] = other;
                slot[i] = its;
            }
        }
        const int32_t e = e0 + ty * 4 + i;
        if (tx == 0 && e < gone) {
            a.nearest[in.at[g] + e] = slot[i];
            a.cosine[in.at[g] + e] = best[i] * over_length(k2[list[e]]);
        }
    }
}

/* The number of rank `rank`, counted from the smallest, of x [count], those below `threshold` being minus infinity: digit
 * after digit, by the whole block. */
__device__ float of_rank(const float *x, int32_t count, float threshold, int32_t rank, uint32_t *histogram)
{
    __shared__ uint32_t found, left;
    uint32_t prefix = 0, rest = (uint32_t)rank;

    for (int shift = 24; shift >= 0; shift -= 8) {
        for (int i = threadIdx.x; i < 256; i += GATE_THREADS)
            histogram[i] = 0;
        __syncthreads();
        for (int32_t e = threadIdx.x; e < count; e += GATE_THREADS) {
            const uint32_t bits = ordered(x[e] >= threshold ? x[e] : -CUDART_INF_F);
            if (shift == 24 || bits >> (shift + 8) == prefix)
                atomicAdd(&histogram[bits >> shift & 255], 1u);
        }
        __syncthreads();
        if (threadIdx.x == 0) {
            uint32_t digit = 0;
            for (left = rest; left >= histogram[digit]; digit++)
                left -= histogram[digit];
            found = digit;
        }
        __syncthreads();
        prefix = prefix << 8 | found;
        rest = left;
        __syncthreads();
    }
    return unordered(prefix);
}

/* gate [G]: what a cosine must reach. A block owns a head. */
__global__ void __launch_bounds__(GATE_THREADS)
    gate_kernel(const __grid_constant__ struct rows_view in, const __grid_constant__ struct merge_args a)
{
    __shared__ uint32_t histogram[256];
    const int32_t g = blockIdx.x, gone = in.rows[g] - kept_of(a.first, g);
    const float *cosine = a.cosine + in.at[g];
    float gate = a.threshold;

    if (a.fraction < 1.0 && gone > 0 && kept_of(a.first, g) > 0) {
        const double place = (1.0 - a.fraction) * (double)(gone - 1), low = floor(place);
        const float x = of_rank(cosine, gone, a.threshold, (int32_t)low, histogram);
        const float y = of_rank(cosine, gone, a.threshold, (int32_t)ceil(place), histogram);
        if (!isinf(x))
            gate = fmaxf(__fadd_rn(x, __fmul_rn((float)(place - low), y - x)), a.threshold);
    }
    if (threadIdx.x == 0)
        a.gate[g] = gate;
}

/* A warp owns a chosen row. grid: chosen rows, heads */
template <typename T>
__global__ void __launch_bounds__(THREADS)
    merge_kernel(const __grid_constant__ struct rows_view in, const __grid_constant__ struct merge_args a)
{
    const int lane = threadIdx.x & 31;
    const int32_t g = blockIdx.y, kept = kept_of(a.first, g), gone = in.rows[g] - kept;
    const int32_t slot = blockIdx.x * WARPS + (threadIdx.x >> 5);
    const int32_t *list = a.gone + in.at[g], *nearest = a.nearest + in.at[g];
    const float *cosine = a.cosine + in.at[g], *v2 = a.v2 + in.at[g], gate = a.gate[g];
    float sum[CHANNELS] = {}, total = 0.0f;

    if (slot >= kept)
        return;
    const int32_t row = a.index[a.first.at[g] + slot];
    const float there = sqrtf(v2[row]);
    for (int32_t e0 = 0; e0 < gone; e0 += 32) {
        const int32_t e = e0 + lane;
        const bool mine = e < gone && nearest[e] == slot && cosine[e] >= gate && cosine[e] > 0.0f;
        for (uint32_t votes = __ballot_sync(0xffffffffu, mine); votes; votes &= votes - 1) {
            const int32_t at = e0 + __ffs((int)votes) - 1;
            const float here = sqrtf(v2[list[at]]), w = cosine[at] * here / (here + there + 1e-6f);
            const channels<T> x(value_row<T>(in, g, list[at]), in.dim, lane);
#pragma unroll
            for (int i = 0; i < CHANNELS; i++)
                sum[i] += w * x.x[i];
            total += w;
        }
    }
    if (!(total > 0.0f))
        return;
    T *to = const_cast<T *>(value_row<T>(in, g, row));
#pragma unroll
    for (int i = 0; i < CHANNELS; i++)
        if (lane + 32 * i < in.dim)
            to[lane + 32 * i] = rounded<T>((number(to[lane + 32 * i]) + sum[i]) * (1.0f / (1.0f + total)));
}

/* ---- launchers ---- */

template <typename T>
static cudaError_t noncausal(const struct cuda_queue &q, const struct rows_view *in, const struct chunk_args *a,
                             float *score)
{
    const unsigned tiles = (unsigned)(int_ceil(in->rows_longest, a->chunk) * int_ceil(a->chunk, TILE));

    chunk_lse_kernel<T><<<dim3(tiles, (unsigned)a->q_heads), THREADS, 0, q.stream>>>(*in, *a);
    chunk_columns_kernel<T><<<dim3(tiles, (unsigned)in->heads), THREADS, 0, q.stream>>>(*in, *a, score);
    return cudaGetLastError();
}

cudaError_t launch_noncausal(struct cuda_queue q, enum dtype t, const struct rows_view *in, const struct chunk_args *a,
                             float *score)
{
    if (in->rows_longest == 0)
        return cudaSuccess;
    return t == DT_F32 ? noncausal<float>(q, in, a, score) : noncausal<bf16>(q, in, a, score);
}

template <typename T>
static cudaError_t merge(const struct cuda_queue &q, const struct rows_view *in, const struct merge_args *a,
                         int32_t kept, int32_t gone)
{
    const unsigned heads = (unsigned)in->heads;

    gone_kernel<<<dim3(int_ceil(in->rows_longest, THREADS), heads), THREADS, 0, q.stream>>>(*in, *a);
    nearest_kernel<T><<<dim3(int_ceil(gone, TILE), heads), THREADS, 0, q.stream>>>(*in, *a);
    gate_kernel<<<heads, GATE_THREADS, 0, q.stream>>>(*in, *a);
    merge_kernel<T><<<dim3(int_ceil(kept, WARPS), heads), THREADS, 0, q.stream>>>(*in, *a);
    return cudaGetLastError();
}

cudaError_t launch_merge(struct cuda_queue q, enum dtype t, const struct rows_view *in, const struct merge_args *a)
{
    int32_t kept = 0, gone = 0;
    cudaError_t e;

    for (int32_t g = 0; g < in->heads; g++) {
        const int32_t here = (int32_t)(a->first.at[g + 1] - a->first.at[g]);
        kept = here > kept ? here : kept;
        gone = in->rows[g] - here > gone ? in->rows[g] - here : gone;
    }
    if (kept == 0 || gone == 0)
        return cudaSuccess;
    e = launch_row_squares(q, t, in, NULL, 0, a->k2, a->v2);
    if (e != cudaSuccess)
        return e;
    return t == DT_F32 ? merge<float>(q, in, a, kept, gone) : merge<bf16>(q, in, a, kept, gone);
}
