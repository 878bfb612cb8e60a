/* SPDX-License-Identifier: Apache-2.0 */
/*
 * window.cu - SnapKV's scores: how much the last queries look at each row. The window x T matrix is never stored.
 *
 *   parts    per (chunk of 256 rows, KV head): max and sum of exp of every query row (window x group) over the chunk
 *   joined   per query row: log of the sum over all chunks
 *   columns  per (chunk, KV head): S again, sum over the query rows of weight * exp(S - lse) for every cache row
 *   pooled   average over `kernel` neighbours; the largest score of all heads
 *   padded   rows of the window itself get `pad`
 *
 * K is read twice, the second time mostly from L2; where there are at most FEW query rows to a head, what they find is
 * kept instead of being found again. Sum over the window, mean over the group and pooling are linear, so
 * one column sum serves. bf16: a chunk's K lies in shared memory, a warp takes 16 query rows at a time on the tensor
 * cores. Otherwise plain multiplications, tiles of 32 rows.
 * Li et al. 2024, arXiv:2404.14469; PRESSES 2.2.
 */
#include "kernels/cuda/numbers.cuh"
#include "kernels/cuda/rowwise.cuh"

enum {
    CHUNK = CUDA_WINDOW_CHUNK,
    WARPS = 8,
    PLAIN_WARPS = 8,
    PLAIN_ROWS = 32,
    THREADS = 256,
    PLAIN_QUERIES = 1024,
    FEW = 8
};

/* Tokens of the context; 0 means that rows are counted by their place in each head. */
__device__ __forceinline__ int64_t tokens_of(const struct rows_view &in, const struct window_args &a, int32_t g)
{
    return a.tokens > 0 ? a.tokens : in.rows[g];
}

/* Rows of a head that are not among the last `window` tokens. */
__device__ int32_t body_of(const struct rows_view &in, const struct window_args &a, int32_t g)
{
    const int64_t end = tokens_of(in, a, g) - a.window;
    int32_t low = 0, high = in.rows[g];

    if (!in.token)
        return (int32_t)min((int64_t)high, max(end, (int64_t)0));
    while (low < high) {
        int32_t middle = (low + high) / 2;
        if (token_of(in, g, middle) < end)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

/* ---- tensor cores ---- */

template <int D> struct room {
    enum { row = D * 2 + 16, bytes = CHUNK * row };
};

template <int D>
__device__ __forceinline__ void chunk_load(const struct rows_view &in, int32_t g, int32_t row0, uint32_t to)
{
    const char *k = (const char *)in.k + (in.first[g] + row0) * (D * 2);
    int32_t count = min(CHUNK, in.rows[g] - row0);

    for (int unit = threadIdx.x; unit < CHUNK * D / 8; unit += WARPS * 32) {
        int r = unit / (D / 8), c = unit % (D / 8);
        copy16_async(to + r * room<D>::row + c * 16, k + (r < count ? r : 0) * (D * 2) + c * 16, r < count);
    }
    copies_commit();
    copies_wait<0>();
}

/* Query rows m0 .. m0 + 31 of KV head g as two A sides; row m is query m / group, head m % group of the group. */
template <int D>
__device__ __forceinline__ void queries_load(const struct window_args &a, int32_t g, int32_t group, int32_t m0,
                                             int lane, uint32_t (&query)[2][D / 16][4])
{
#pragma unroll
    for (int part = 0; part < 4; part++) {
        int32_t m = m0 + (lane >> 2) + part * 8;
        bool there = m < a.window * group;
        const bf16 *row = (const bf16 *)a.q + ((int64_t)(m / group) * a.q_heads + g * group + m % group) * D;
#pragma unroll
        for (int kk = 0; kk < D / 16; kk++) {
            const uint32_t *at = (const uint32_t *)(row + kk * 16 + 2 * (lane & 3));
            query[part >> 1][kk][part & 1] = there ? at[0] : 0;
            query[part >> 1][kk][(part & 1) + 2] = there ? at[4] : 0;
        }
    }
}

/* S of 32 query rows and cache rows 16 n .. 16 n + 15 of the chunk: [two sides][two eights][4]. */
template <int D>
__device__ __forceinline__ void scores_of(uint32_t at, int n, const uint32_t (&query)[2][D / 16][4], int lane,
                                          float (&s)[2][2][4])
{
#pragma unroll
    for (int kk = 0; kk < D / 16; kk++) {
        uint32_t b[4];
        load_matrices(b,
                      at + (n * 16 + (lane >> 4) * 8 + (lane & 7)) * room<D>::row + kk * 32 + ((lane >> 3) & 1) * 16);
#pragma unroll
        for (int side = 0; side < 2; side++) {
            multiply(s[side][0], query[side][kk], b[0], b[1]);
            multiply(s[side][1], query[side][kk], b[2], b[3]);
        }
    }
}

/* Running max and sum of a thread's four query rows over 16 cache rows. MASKED: some may not be seen. */
template <bool MASKED>
__device__ __forceinline__ void parts_add(float (&s)[2][2][4], const int32_t *token, const int64_t *seen, float scale2,
                                          int lane, float (&max)[4], float (&sum)[4])
{
#pragma unroll
    for (int part = 0; part < 4; part++) {
        float *first = &s[part >> 1][0][2 * (part & 1)], *second = &s[part >> 1][1][2 * (part & 1)];
        if (MASKED) {
#pragma unroll
            for (int i = 0; i < 2; i++) {
                first[i] = token[2 * (lane & 3) + i] > seen[part] ? -CUDART_INF_F : first[i];
                second[i] = token[8 + 2 * (lane & 3) + i] > seen[part] ? -CUDART_INF_F : second[i];
            }
        }
        float top = fmaxf(fmaxf(max[part], fmaxf(first[0], first[1])), fmaxf(second[0], second[1]));
        float shift = MASKED && top == -CUDART_INF_F ? 0.0f : top * scale2;
        sum[part] = sum[part] * power2(max[part] * scale2 - shift) + power2(first[0] * scale2 - shift) +
                    power2(first[1] * scale2 - shift) + power2(second[0] * scale2 - shift) +
                    power2(second[1] * scale2 - shift);
        max[part] = top;
    }
}

/* Warps share a chunk: `a.slices` of them along its rows, the others along the query rows, 32 to each. */
template <int D>
__global__ void __launch_bounds__(WARPS * 32, 2)
    parts_kernel(const __grid_constant__ struct rows_view in, const __grid_constant__ struct window_args a)
{
    extern __shared__ __align__(128) char shared[];
    __shared__ int32_t token[CHUNK];
    const int warp = threadIdx.x >> 5, lane = threadIdx.x & 31, slice = warp % a.slices, across = WARPS / a.slices;
    const int32_t g = blockIdx.y, row0 = blockIdx.x * CHUNK, group = a.q_heads / in.heads, rows = a.window * group;
    const int32_t count = min(CHUNK, in.rows[g] - row0), each = CHUNK / 16 / a.slices;
    const int64_t first_query = tokens_of(in, a, g) - a.window;
    const float scale2 = a.scale * LOG2E;
    float *to = a.partial + (((int64_t)g * gridDim.x + blockIdx.x) * a.slices + slice) * rows * 2;

    chain_begin();
    if (count > 0) {
        for (int32_t i = threadIdx.x; i < CHUNK; i += blockDim.x)
            token[i] = i < count ? (int32_t)token_of(in, g, row0 + i) : INT32_MAX;
        chunk_load<D>(in, g, row0, shared_address(shared));
    }
    __syncthreads();
    for (int32_t m0 = warp / a.slices * 32; m0 < rows; m0 += across * 32) {
        uint32_t query[2][D / 16][4];
        float max[4] = { -CUDART_INF_F, -CUDART_INF_F, -CUDART_INF_F, -CUDART_INF_F }, sum[4] = {};
        int64_t seen[4];

        queries_load<D>(a, g, group, m0, lane, query);
#pragma unroll
        for (int part = 0; part < 4; part++)
            seen[part] = first_query + (m0 + (lane >> 2) + part * 8) / group;
        for (int n = slice * each; n < (slice + 1) * each && n * 16 < count; n++) {
            float s[2][2][4] = {};
            scores_of<D>(shared_address(shared), n, query, lane, s);
            if (a.kept && lane >> 2 < rows)
#pragma unroll
                for (int eight = 0; eight < 2; eight++)
                    *(float2 *)(a.kept + ((int64_t)g * rows + (lane >> 2)) * gridDim.x * CHUNK + row0 + n * 16 +
                                eight * 8 + 2 * (lane & 3)) =
                        make_float2(s[0][eight][0] * scale2, s[0][eight][1] * scale2);
            if (token[n * 16 + 15] <= first_query)
                parts_add<false>(s, token + n * 16, seen, scale2, lane, max, sum);
            else
                parts_add<true>(s, token + n * 16, seen, scale2, lane, max, sum);
        }
#pragma unroll
        for (int part = 0; part < 4; part++) {
            float top = max[part];
            int32_t m = m0 + (lane >> 2) + part * 8;

            top = fmaxf(top, __shfl_xor_sync(0xffffffffu, top, 1));
            top = fmaxf(top, __shfl_xor_sync(0xffffffffu, top, 2));
            float total = max[part] == -CUDART_INF_F ? 0.0f : sum[part] * power2((max[part] - top) * scale2);
            total += __shfl_xor_sync(0xffffffffu, total, 1);
            total += __shfl_xor_sync(0xffffffffu, total, 2);
            if ((lane & 3) == 0 && m < rows)
                *(float2 *)(to + 2 * m) = make_float2(top * scale2, total);
        }
    }
}

template <int D>
__global__ void __launch_bounds__(WARPS * 32, 2)
    columns_kernel(const __grid_constant__ struct rows_view in, const __grid_constant__ struct window_args a)
{
    enum { HALF = CHUNK / 2 };
    extern __shared__ __align__(128) char shared[];
    __shared__ float column[WARPS][HALF];
    const int warp = threadIdx.x >> 5, lane = threadIdx.x & 31, slice = warp % a.slices, across = WARPS / a.slices;
    const int32_t g = blockIdx.y, row0 = blockIdx.x * CHUNK, group = a.q_heads / in.heads, rows = a.window * group;
    const int32_t count = min(CHUNK, in.rows[g] - row0), each = HALF / 16 / a.slices;
    const float scale2 = a.scale * LOG2E;

    chain_begin();
    if (count <= 0)
        return;
    chunk_load<D>(in, g, row0, shared_address(shared));
    __syncthreads();
    for (int32_t from = 0; from < count; from += HALF) {
        float sum[HALF / 16][2][2] = {};

        for (int32_t m0 = warp / a.slices * 32; m0 < rows; m0 += across * 32) {
            uint32_t query[2][D / 16][4];
            float lse[4], weight[4];

            queries_load<D>(a, g, group, m0, lane, query);
#pragma unroll
            for (int part = 0; part < 4; part++) {
                int32_t m = m0 + (lane >> 2) + part * 8;
                lse[part] = m < rows ? a.lse[(int64_t)g * rows + m] : CUDART_INF_F; /* exp2(-inf) = 0 */
                weight[part] = m < rows && a.row_weight ? a.row_weight[m / group] : 1.0f;
            }
#pragma unroll
            for (int n = 0; n < HALF / 16; n++) {
                float s[2][2][4] = {};
                if (n / each != slice)
                    continue;
                scores_of<D>(shared_address(shared), from / 16 + n, query, lane, s);
#pragma unroll
                for (int part = 0; part < 4; part++)
#pragma unroll
                    for (int j = 0; j < 2; j++)
#pragma unroll
                        for (int i = 0; i < 2; i++)
                            sum[n][j][i] +=
                                weight[part] * power2(s[part >> 1][j][2 * (part & 1) + i] * scale2 - lse[part]);
            }
        }
#pragma unroll
        for (int n = 0; n < HALF / 16; n++)
#pragma unroll
            for (int j = 0; j < 2; j++)
#pragma unroll
                for (int i = 0; i < 2; i++) {
                    float x = sum[n][j][i];
                    x += __shfl_xor_sync(0xffffffffu, x, 4);
                    x += __shfl_xor_sync(0xffffffffu, x, 8);
                    x += __shfl_xor_sync(0xffffffffu, x, 16);
                    if (lane < 4)
                        column[warp][n * 16 + j * 8 + 2 * lane + i] = x;
                }
        __syncthreads();
        for (int32_t r = threadIdx.x; r < min((int32_t)HALF, count - from); r += blockDim.x) {
            float x = 0.0f;
#pragma unroll
            for (int k = 0; k < WARPS; k++)
                x += column[k][r];
            a.raw[in.at[g] + row0 + from + r] = x / (float)rows;
        }
        __syncthreads();
    }
}

/* The same from what `parts` has kept. grid: THREADS cache rows, heads */
__global__ void __launch_bounds__(THREADS)
    columns_few_kernel(const __grid_constant__ struct rows_view in, const __grid_constant__ struct window_args a,
                       int64_t stride)
{
    const int32_t g = blockIdx.y, group = a.q_heads / in.heads, rows = a.window * group;
    const int32_t row = blockIdx.x * THREADS + threadIdx.x;
    float sum = 0.0f;

    chain_begin();
    if (row >= in.rows[g])
        return;
#pragma unroll 4
    for (int32_t m = 0; m < rows; m++)
        sum += (a.row_weight ? a.row_weight[m / group] : 1.0f) *
               power2(a.kept[((int64_t)g * rows + m) * stride + row] - a.lse[(int64_t)g * rows + m]);
    a.raw[in.at[g] + row] = sum / (float)rows;
}

/* ---- plain: any head size, either dtype. A lane takes a row of the tile, a warp a query row at a time ---- */

template <typename T>
__device__ __forceinline__ void plain_tile_load(const struct rows_view &in, int32_t g, int32_t row0, float *tile)
{
    for (int i = threadIdx.x; i < PLAIN_ROWS * in.dim; i += blockDim.x) {
        int r = i / in.dim, c = i % in.dim;
        tile[r * (in.dim + 1) + c] =
            row0 + r < in.rows[g] ? number(((const T *)in.k)[(in.first[g] + row0 + r) * in.dim + c]) : 0.0f;
    }
}

template <typename T>
__device__ __forceinline__ float plain_score(const struct rows_view &in, const struct window_args &a, int32_t g,
                                             int32_t m, const float *tile, int lane)
{
    const int32_t group = a.q_heads / in.heads;
    const T *q = (const T *)a.q + ((int64_t)(m / group) * a.q_heads + g * group + m % group) * in.dim;
    float score = 0.0f;

    for (int c = 0; c < in.dim; c++)
        score += number(q[c]) * tile[lane * (in.dim + 1) + c];
    return score * a.scale * LOG2E;
}

/* grid: chunks, heads, pieces of PLAIN_QUERIES query rows: a window may be as long as shared memory is not. */
template <typename T>
__global__ void __launch_bounds__(PLAIN_WARPS * 32)
    parts_plain_kernel(const __grid_constant__ struct rows_view in, const __grid_constant__ struct window_args a)
{
    extern __shared__ __align__(16) float tile[]; /* K, then max and sum of every query row */
    const int warp = threadIdx.x >> 5, lane = threadIdx.x & 31;
    const int32_t g = blockIdx.y, group = a.q_heads / in.heads, all = a.window * group;
    const int32_t m0 = blockIdx.z * PLAIN_QUERIES, rows = min(all - m0, (int32_t)PLAIN_QUERIES);
    float *max = tile + PLAIN_ROWS * (in.dim + 1), *sum = max + rows;
    float *to = a.partial + (((int64_t)g * gridDim.x + blockIdx.x) * all + m0) * 2;

    chain_begin();
    for (int32_t m = threadIdx.x; m < rows; m += blockDim.x) {
        max[m] = -CUDART_INF_F;
        sum[m] = 0.0f;
    }
    for (int32_t row0 = blockIdx.x * CHUNK; row0 < min((int32_t)(blockIdx.x + 1) * CHUNK, in.rows[g]);
         row0 += PLAIN_ROWS) {
        __syncthreads();
        plain_tile_load<T>(in, g, row0, tile);
        __syncthreads();
        int64_t token = row0 + lane < in.rows[g] ? token_of(in, g, row0 + lane) : INT64_MAX;
        for (int32_t m = warp; m < rows; m += PLAIN_WARPS) {
            float s = plain_score<T>(in, a, g, m0 + m, tile, lane);
            if (token > tokens_of(in, a, g) - a.window + (m0 + m) / group)
                s = -CUDART_INF_F;
            float top = fmaxf(max[m], warp_max(s)), shift = top == -CUDART_INF_F ? 0.0f : top;
            float total = sum[m] * power2(max[m] - shift) + warp_sum(power2(s - shift));
            __syncwarp();
            if (lane == 0) {
                max[m] = top;
                sum[m] = total;
            }
            __syncwarp();
        }
    }
    __syncthreads();
    for (int32_t m = threadIdx.x; m < rows; m += blockDim.x) {
        to[2 * m] = max[m];
        to[2 * m + 1] = sum[m];
    }
}

template <typename T>
__global__ void __launch_bounds__(PLAIN_WARPS * 32)
    columns_plain_kernel(const __grid_constant__ struct rows_view in, const __grid_constant__ struct window_args a)
{
    extern __shared__ __align__(16) float tile[];
    __shared__ float column[PLAIN_WARPS][PLAIN_ROWS];
    const int warp = threadIdx.x >> 5, lane = threadIdx.x & 31;
    const int32_t g = blockIdx.y, group = a.q_heads / in.heads, rows = a.window * group, row0 = blockIdx.x * PLAIN_ROWS;
    float sum = 0.0f;

    chain_begin();
    if (row0 >= in.rows[g])
        return;
    plain_tile_load<T>(in, g, row0, tile);
    __syncthreads();
    for (int32_t m = warp; m < rows; m += PLAIN_WARPS) {
        float weight = a.row_weight ? a.row_weight[m / group] : 1.0f;
        sum += weight * power2(plain_score<T>(in, a, g, m, tile, lane) - a.lse[(int64_t)g * rows + m]);
    }
    column[warp][lane] = sum;
    __syncthreads();
    if (warp == 0 && row0 + lane < in.rows[g]) {
        sum = 0.0f;
        for (int k = 0; k < PLAIN_WARPS; k++)
            sum += column[k][lane];
        a.raw[in.at[g] + row0 + lane] = sum / (float)rows;
    }
}

/* ---- what both share ---- */

enum { JOINERS = 32, JOINED_ROWS = THREADS / JOINERS };

/* (max, sum) of two stretches as one; maxima in exponents of 2. */
__device__ __forceinline__ float2 joined(float2 a, float2 b)
{
    float top = fmaxf(a.x, b.x);

    if (top == -CUDART_INF_F)
        return a;
    return make_float2(top, a.y * power2(a.x - top) + b.y * power2(b.x - top));
}

/* 32 threads own a query row and take its chunks in turns. lse is kept in exponents of 2. */
__global__ void __launch_bounds__(THREADS)
    joined_kernel(int32_t chunks, const __grid_constant__ struct window_args a, int32_t rows)
{
    __shared__ float2 part[JOINERS][JOINED_ROWS];
    const int32_t g = blockIdx.y, column = threadIdx.x % JOINED_ROWS, turn = threadIdx.x / JOINED_ROWS;
    const int32_t m = blockIdx.x * JOINED_ROWS + column;
    const float2 *from = (const float2 *)a.partial + (int64_t)g * chunks * rows + m;
    float2 x = make_float2(-CUDART_INF_F, 0.0f);

    chain_begin();
    if (blockIdx.x == 0 && g == 0 && threadIdx.x == 0)
        *a.largest = 0; /* before the lowest of all numbers */
#pragma unroll 4
    for (int32_t c = turn; m < rows && c < chunks; c += JOINERS)
        x = joined(x, from[(int64_t)c * rows]);
    part[turn][column] = x;
    __syncthreads();
    if (turn != 0 || m >= rows)
        return;
    for (int k = 1; k < JOINERS; k++)
        x = joined(x, part[k][column]);
    a.lse[(int64_t)g * rows + m] = x.x > -CUDART_INF_F ? x.x + log2f(x.y) : CUDART_INF_F;
}

__global__ void pooled_kernel(const __grid_constant__ struct rows_view in, const __grid_constant__ struct window_args a,
                              float *score)
{
    __shared__ int32_t body;
    __shared__ uint32_t best;
    const int32_t g = blockIdx.y, row = blockIdx.x * THREADS + threadIdx.x, half = a.kernel / 2;
    uint32_t mine = 0;

    chain_begin();
    if (threadIdx.x == 0) {
        body = body_of(in, a, g);
        best = 0;
    }
    __syncthreads();
    if (row < body) {
        const float *raw = a.raw + in.at[g];
        float sum = 0.0f;
        for (int32_t r = max(row - half, 0); r <= min(row + half, body - 1); r++)
            sum += raw[r];
        sum /= (float)a.kernel;
        score[in.at[g] + row] = sum;
        mine = ordered(sum);
    } else if (row < in.rows[g] && !isinf(a.pad)) {
        score[in.at[g] + row] = a.pad;
    }
    mine = __reduce_max_sync(0xffffffffu, mine);
    if ((threadIdx.x & 31) == 0)
        atomicMax(&best, mine);
    __syncthreads();
    if (threadIdx.x == 0 && best > 0)
        atomicMax(a.largest, best);
}

__global__ void padded_kernel(const __grid_constant__ struct rows_view in, const __grid_constant__ struct window_args a,
                              float *score)
{
    chain_begin();
    const int32_t g = blockIdx.x, body = body_of(in, a, g);
    const uint32_t best = *a.largest;
    const float pad = (best > 0 ? unordered(best) : 0.0f) + 1.0f;

    for (int32_t row = body + threadIdx.x; row < in.rows[g]; row += blockDim.x)
        score[in.at[g] + row] = pad;
}

/* ---- launchers ---- */

/* Warps along the rows of a chunk: with few query rows, most of them. */
static int32_t slices_for(int32_t rows)
{
    return rows <= 32 ? 8 : rows <= 64 ? 4 : rows <= 128 ? 2 : 1;
}

int64_t window_partial_floats(int64_t rows_longest, int32_t heads, int32_t q_heads, int32_t window)
{
    return (rows_longest + CHUNK - 1) / CHUNK * slices_for(window * (q_heads / heads)) * q_heads * window * 2;
}

int64_t window_kept_floats(int64_t rows_longest, int32_t heads, int32_t q_heads, int32_t window)
{
    return window * (q_heads / heads) > FEW ? 0 : (rows_longest + CHUNK - 1) / CHUNK * CHUNK * q_heads * window;
}

template <int D>
static cudaError_t window_fast(const struct cuda_queue &q, const struct rows_view *in, const struct window_args *a,
                               dim3 chunks, dim3 joined, int32_t rows)
{
    cudaError_t e = allow_shared(parts_kernel<D>, room<D>::bytes);

    if (e == cudaSuccess)
        e = allow_shared(columns_kernel<D>, room<D>::bytes);
    if (e != cudaSuccess)
        return e;
    e = launch_chained(q, chunks, dim3(WARPS * 32), room<D>::bytes, parts_kernel<D>, *in, *a);
    if (e == cudaSuccess)
        e = launch_chained(q, joined, dim3(THREADS), 0, joined_kernel, (int32_t)chunks.x * a->slices, *a, rows);
    if (e == cudaSuccess && a->kept)
        e = launch_chained(q, dim3(int_ceil(in->rows_longest, THREADS), chunks.y), dim3(THREADS), 0, columns_few_kernel,
                           *in, *a, (int64_t)chunks.x * CHUNK);
    else if (e == cudaSuccess)
        e = launch_chained(q, chunks, dim3(WARPS * 32), room<D>::bytes, columns_kernel<D>, *in, *a);
    return e;
}

template <typename T>
static cudaError_t window_plain(const struct cuda_queue &q, const struct rows_view *in, const struct window_args *a,
                                dim3 chunks, dim3 joined, int32_t rows)
{
    const size_t tile = (size_t)PLAIN_ROWS * (size_t)(in->dim + 1) * 4;
    const size_t bytes = tile + (size_t)(rows < PLAIN_QUERIES ? rows : PLAIN_QUERIES) * 8;
    const dim3 pieces(chunks.x, chunks.y, int_ceil(rows, PLAIN_QUERIES));
    cudaError_t e = allow_shared(parts_plain_kernel<T>, bytes);

    if (e != cudaSuccess)
        return e;
    e = launch_chained(q, pieces, dim3(PLAIN_WARPS * 32), bytes, parts_plain_kernel<T>, *in, *a);
    if (e == cudaSuccess)
        e = launch_chained(q, joined, dim3(THREADS), 0, joined_kernel, (int32_t)chunks.x * a->slices, *a, rows);
    if (e == cudaSuccess)
        e = launch_chained(q, dim3(int_ceil(in->rows_longest, PLAIN_ROWS), chunks.y), dim3(PLAIN_WARPS * 32), tile,
                           columns_plain_kernel<T>, *in, *a);
    return e;
}

cudaError_t launch_score_window(struct cuda_queue q, enum dtype t, const struct rows_view *in,
                                const struct window_args *args, float *score)
{
    const int32_t rows = args->window * (args->q_heads / in->heads);
    const bool fast = t == DT_BF16 && (in->dim == 64 || in->dim == 80 || in->dim == 96 || in->dim == 128);
    struct window_args shared = *args, *a = &shared;
    const dim3 chunks(int_ceil(in->rows_longest, CHUNK), (unsigned)in->heads);
    const dim3 joined(int_ceil(rows, JOINED_ROWS), (unsigned)in->heads);
    cudaError_t e;

    shared.slices = fast ? slices_for(rows) : 1;
    if (in->rows_longest == 0)
        return cudaSuccess;
    if (t == DT_F32)
        e = window_plain<float>(q, in, a, chunks, joined, rows);
    else if (in->dim == 64)
        e = window_fast<64>(q, in, a, chunks, joined, rows);
    else if (in->dim == 80)
        e = window_fast<80>(q, in, a, chunks, joined, rows);
    else if (in->dim == 96)
        e = window_fast<96>(q, in, a, chunks, joined, rows);
    else if (in->dim == 128)
        e = window_fast<128>(q, in, a, chunks, joined, rows);
    else
        e = window_plain<bf16>(q, in, a, chunks, joined, rows);
    if (e != cudaSuccess)
        return e;
    e = launch_chained(q, dim3(int_ceil(in->rows_longest, THREADS), (unsigned)in->heads), dim3(THREADS), 0,
                       pooled_kernel, *in, *a, score);
    if (e == cudaSuccess && isinf(a->pad))
        e = launch_chained(q, dim3((unsigned)in->heads), dim3(THREADS), 0, padded_kernel, *in, *a, score);
    return e;
}
