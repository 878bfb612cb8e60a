/* SPDX-License-Identifier: Apache-2.0 */
/*
 * meet.cu - every cached row meets a long list of vectors of its head, and one number of it stays.
 *
 *   columns   vectors are queries:              sum (or largest) of weight * exp(q . k - lse)       score_columns
 *   norms     vectors are rows of Wo:           sum of |v . w| or of (v . w)^2                      value_out_norms
 *   form      vectors are rows of a covariance: sum over j of (k . C_j) k_j = k' C k                score_expected
 *
 * The rows x vectors matrix is never stored. A thread block owns 256 rows of one query head, a warp 32 of them as the M
 * side of the tensor cores, in registers; vectors come through shared memory 64 at a time, the next while this one is
 * worked on. A share is one fused multiply-add and one power of two: lse and weight are one offset per query. Only tiles on
 * the diagonal look at who sees whom. grid: row blocks, query heads. A covariance is taken as the sum of two bf16
 * matrices, so that its products are as exact as f32. f32 caches and other head sizes take a plain kernel; columns and
 * norms go to meet_wgmma.cu where a card has what it wants.
 * meet_scores.cu makes scores of rows out of what is written here.
 */
#include "kernels/cuda/numbers.cuh"
#include "kernels/cuda/rowwise.cuh"

enum { WARPS = 8, BLOCK_ROWS = 256, TILE = 64, PLAIN_ROWS = 64, PLAIN_THREADS = 256, THREADS = 256 };

template <int D> struct room {
    enum { row = D * 2 + 16, matrix = TILE * row, bytes = 2 * matrix };
};

/* What one score contributes. offset: of the query, added to its scaled score (base 2). */
template <int KIND> __device__ __forceinline__ void keep(float &value, float s, float scale2, float offset)
{
    if (KIND == MEET_SUM)
        value += power2(fmaf(s, scale2, offset));
    if (KIND == MEET_LARGEST)
        value = fmaxf(value, fmaf(s, scale2, offset));
    if (KIND == MEET_NORM1)
        value += fabsf(s);
    if (KIND == MEET_NORM2)
        value += s * s;
}

template <int KIND> __device__ __forceinline__ float nothing()
{
    return KIND == MEET_LARGEST ? -CUDART_INF_F : 0.0f;
}

template <int KIND> __device__ __forceinline__ float joined(float a, float b)
{
    return KIND == MEET_LARGEST ? fmaxf(a, b) : a + b;
}

template <int KIND> __device__ __forceinline__ float finished(float value, float factor)
{
    return KIND == MEET_LARGEST ? power2(value)
           : KIND == MEET_NORM2 ? sqrtf(value)
           : KIND == MEET_FORM  ? value * factor
                                : value;
}

/* The first query that sees row `row`, at a multiple of TILE. */
__device__ __forceinline__ int64_t first_of(const struct rows_view &in, const struct meet_args &a, int32_t g,
                                            int32_t row)
{
    const int64_t first = a.position == INT64_MAX ? 0 : token_of(in, g, row) - a.position;

    return first > 0 ? first / TILE * TILE : 0;
}

/* offset [H][offset_stride] = log2 of weight - lse of each query: what makes a score a share. Minus infinity past the last,
 * up to a multiple of TILE: nothing. grid: queries, heads */
__global__ void offset_kernel(const __grid_constant__ struct meet_args a)
{
    const int64_t j = (int64_t)blockIdx.x * THREADS + threadIdx.x, h = blockIdx.y;

    if (j < a.offset_stride)
        a.offset[h * a.offset_stride + j] =
            j < a.count ? (a.weight ? log2f(a.weight[j]) : 0.0f) - a.lse[h * a.lse_stride + j] * LOG2E : -CUDART_INF_F;
}

template <int D, int KIND>
__device__ __forceinline__ void tile_fetch(const struct meet_args &a, const bf16 *vectors, int32_t h, int64_t at,
                                           uint32_t to, uint32_t offsets)
{
    for (int unit = threadIdx.x; unit < TILE * D / 8; unit += WARPS * 32) {
        const int r = unit / (D / 8), c = unit % (D / 8);
        const bool there = at + r < a.count;
        copy16_async(to + r * room<D>::row + c * 16, vectors + (there ? (at + r) * a.row_stride : 0) + c * 8, there);
    }
    if (KIND <= MEET_LARGEST && threadIdx.x < TILE / 4)
        copy16_async(offsets + threadIdx.x * 16, a.offset + h * a.offset_stride + at + threadIdx.x * 4, true);
    copies_commit();
}

/* A warp's 32 rows and a tile of vectors. first: of the tile's vectors, the first that each of the thread's four rows is
 * seen by (MASKED). */
template <int D, int KIND, bool MASKED>
__device__ __forceinline__ void tile_meet(const uint32_t (&row)[2][D / 16][4], uint32_t here, const float *offset,
                                          float scale2, const int32_t (&first)[4], int lane, float (&value)[4])
{
#pragma unroll 2
    for (int n = 0; n < TILE / 16; n++) {
        float s[2][2][4] = {};
#pragma unroll
        for (int kk = 0; kk < D / 16; kk++) {
            uint32_t b[4];
            load_matrices(b, here + (n * 16 + (lane >> 4) * 8 + (lane & 7)) * room<D>::row + kk * 32 +
                                 ((lane >> 3) & 1) * 16);
#pragma unroll
            for (int side = 0; side < 2; side++) {
                multiply(s[side][0], row[side][kk], b[0], b[1]);
                multiply(s[side][1], row[side][kk], b[2], b[3]);
            }
        }
#pragma unroll
        for (int eight = 0; eight < 2; eight++) {
            const int j = n * 16 + eight * 8 + 2 * (lane & 3);
            const float2 pair = KIND <= MEET_LARGEST ? *(const float2 *)(offset + j) : make_float2(0.0f, 0.0f);
#pragma unroll
            for (int part = 0; part < 4; part++) {
                const float *s2 = &s[part >> 1][eight][2 * (part & 1)];
                keep<KIND>(value[part], s2[0], scale2, MASKED && j < first[part] ? -CUDART_INF_F : pair.x);
                keep<KIND>(value[part], s2[1], scale2, MASKED && j + 1 < first[part] ? -CUDART_INF_F : pair.y);
            }
        }
    }
}

template <int D, int KIND>
__global__ void __launch_bounds__(WARPS * 32, 2)
    meet_kernel(const __grid_constant__ struct rows_view in, const __grid_constant__ struct meet_args a, float *out)
{
    extern __shared__ __align__(128) char shared[];
    __shared__ __align__(16) float offset[2][TILE];
    const int warp = threadIdx.x >> 5, lane = threadIdx.x & 31;
    const int32_t h = blockIdx.y, group = a.q_heads / in.heads, g = h / group;
    const int32_t row0 = blockIdx.x * BLOCK_ROWS, mine = row0 + warp * 32 + (lane >> 2), rows = in.rows[g];
    const bf16 *from = (const bf16 *)(a.values ? in.v : in.k) + in.first[g] * D;
    const bf16 *vectors = (const bf16 *)a.vectors + (int64_t)h * a.head_stride;
    const uint32_t base = shared_address(shared), offsets = shared_address(offset);
    uint32_t row[2][D / 16][4];
    int32_t first[4]; /* the first vector that sees the row */
    float value[4];

    if (row0 >= rows)
        return;
#pragma unroll
    for (int part = 0; part < 4; part++) {
        const int32_t r = mine + part * 8;
        const bf16 *at = from + (int64_t)(r < rows ? r : row0) * D + 2 * (lane & 3);

        value[part] = nothing<KIND>();
        first[part] =
            (int32_t)(a.position == INT64_MAX || r >= rows ? 0 : max(token_of(in, g, r) - a.position, (int64_t)0));
#pragma unroll
        for (int kk = 0; kk < D / 16; kk++) {
            row[part >> 1][kk][part & 1] = *(const uint32_t *)(at + kk * 16);
            row[part >> 1][kk][(part & 1) + 2] = *(const uint32_t *)(at + kk * 16 + 8);
        }
    }
    const int32_t begin = (int32_t)first_of(in, a, g, row0), count = (int32_t)a.count;
    const int32_t all = max(max(first[0], first[1]), max(first[2], first[3]));
    int32_t stage = 0;

    if (begin < count)
        tile_fetch<D, KIND>(a, vectors, h, begin, base, offsets);
    for (int32_t at = begin; at < count; at += TILE, stage ^= 1) {
        if (at + TILE < count)
            tile_fetch<D, KIND>(a, vectors, h, at + TILE, base + (stage ^ 1) * room<D>::matrix,
                                offsets + (stage ^ 1) * TILE * 4);
        else
            copies_commit();
        copies_wait<1>();
        __syncthreads();
        const uint32_t here = base + stage * room<D>::matrix;
        if (KIND <= MEET_LARGEST && __any_sync(0xffffffffu, at < all)) {
            const int32_t seen[4] = { first[0] - at, first[1] - at, first[2] - at, first[3] - at };
            tile_meet<D, KIND, true>(row, here, offset[stage], a.scale * LOG2E, seen, lane, value);
        } else {
            tile_meet<D, KIND, false>(row, here, offset[stage], a.scale * LOG2E, first, lane, value);
        }
        __syncthreads();
    }
#pragma unroll
    for (int part = 0; part < 4; part++) {
        float sum = value[part];
        sum = joined<KIND>(sum, __shfl_xor_sync(0xffffffffu, sum, 1));
        sum = joined<KIND>(sum, __shfl_xor_sync(0xffffffffu, sum, 2));
        if ((lane & 3) == 0 && mine + part * 8 < rows)
            out[(int64_t)(a.by_group ? h % group : h) * a.out_stride + in.at[g] + mine + part * 8] =
                finished<KIND>(sum, a.factor);
    }
}

/* launch_form_split. grid: THREADS numbers, heads */
template <int D>
__global__ void __launch_bounds__(THREADS) form_split_kernel(const __grid_constant__ struct meet_args a)
{
    const int32_t h = blockIdx.y, i = blockIdx.x * THREADS + threadIdx.x, below = i / D / 16, column = i % D / 16;
    const float *c = a.cov + (int64_t)h * D * D;
    const float x = column < below ? c[i] + c[i % D * D + i / D] : column == below ? c[i] : 0.0f;
    bf16 *to = (bf16 *)a.split + (int64_t)h * 2 * D * D + i;
    const bf16 high = __float2bfloat16_rn(x);

    to[0] = high;
    to[D * D] = __float2bfloat16_rn(x - __bfloat162float(high));
}

/* k' C k of 256 rows: both halves of what form_split_kernel made lie in shared memory. */
template <int D>
__global__ void __launch_bounds__(WARPS * 32)
    form_kernel(const __grid_constant__ struct rows_view in, const __grid_constant__ struct meet_args a, float *out)
{
    extern __shared__ __align__(128) char shared[]; /* bf16 [2][D] rows of C, padded; then mean [D] f32 */
    const int warp = threadIdx.x >> 5, lane = threadIdx.x & 31;
    const int32_t h = blockIdx.y, group = a.q_heads / in.heads, g = h / group, rows = in.rows[g];
    const uint32_t base = shared_address(shared);
    float *mean = (float *)(shared + 2 * D * room<D>::row);
    const bf16 *from = (const bf16 *)in.k + in.first[g] * D;

    if (a.cov)
        for (int i = threadIdx.x; i < 2 * D * D / 8; i += WARPS * 32)
            copy16_async(base + i / (D / 8) * room<D>::row + i % (D / 8) * 16,
                         (const bf16 *)a.split + (int64_t)h * 2 * D * D + i * 8, true);
    copies_commit();
    for (int i = threadIdx.x; i < D; i += WARPS * 32)
        mean[i] = a.mean[h * D + i];
    copies_wait<0>();
    __syncthreads();
    for (int32_t row0 = a.from + blockIdx.x * a.form_rows;
         row0 < min(a.from + ((int32_t)blockIdx.x + 1) * a.form_rows, rows); row0 += BLOCK_ROWS) {
        const int32_t mine = row0 + warp * 32 + (lane >> 2);
        uint32_t row[2][D / 16][4];
        float form[4] = {}, dot[4] = {};

        if (row0 + warp * 32 >= rows)
            continue;
#pragma unroll
        for (int part = 0; part < 4; part++) {
            const bf16 *at = from + (int64_t)min(mine + part * 8, rows - 1) * D + 2 * (lane & 3);
#pragma unroll
            for (int kk = 0; kk < D / 16; kk++) {
                row[part >> 1][kk][part & 1] = *(const uint32_t *)(at + kk * 16);
                row[part >> 1][kk][(part & 1) + 2] = *(const uint32_t *)(at + kk * 16 + 8);
            }
        }
#pragma unroll
        for (int n = 0; n < D / 16; n++) {
            float s[2][2][4] = {};

            if (a.cov)
#pragma unroll
                for (int kk = 0; kk <= n; kk++)
#pragma unroll
                    for (int half = 0; half < 2; half++) {
                        uint32_t b[4];
                        load_matrices(b, base + (half * D + n * 16 + (lane >> 4) * 8 + (lane & 7)) * room<D>::row +
                                             kk * 32 + ((lane >> 3) & 1) * 16);
#pragma unroll
                        for (int side = 0; side < 2; side++) {
                            multiply(s[side][0], row[side][kk], b[0], b[1]);
                            multiply(s[side][1], row[side][kk], b[2], b[3]);
                        }
                    }
#pragma unroll
            for (int part = 0; part < 4; part++)
#pragma unroll
                for (int eight = 0; eight < 2; eight++) {
                    /* the row's own channels, where the product's columns lie */
                    const uint32_t own = row[part >> 1][n][(part & 1) + 2 * eight];
                    const float2 k = __bfloat1622float2(*(const __nv_bfloat162 *)&own);
                    const float *s2 = &s[part >> 1][eight][2 * (part & 1)],
                                *m = mean + n * 16 + eight * 8 + 2 * (lane & 3);
                    form[part] += s2[0] * k.x + s2[1] * k.y;
                    dot[part] += m[0] * k.x + m[1] * k.y;
                }
        }
#pragma unroll
        for (int part = 0; part < 4; part++) {
            float value = dot[part] * a.scale + form[part] * a.factor;
            value += __shfl_xor_sync(0xffffffffu, value, 1);
            value += __shfl_xor_sync(0xffffffffu, value, 2);
            if ((lane & 3) == 0 && mine + part * 8 < rows)
                out[(int64_t)h * a.out_stride + in.at[g] + mine + part * 8] = value;
        }
    }
}

/* ---- plain ---- */

/* 64 rows to a block in shared memory; four threads share a row and take vectors in turns. */
template <typename T, int KIND>
__global__ void __launch_bounds__(PLAIN_THREADS)
    meet_plain_kernel(const __grid_constant__ struct rows_view in, const __grid_constant__ struct meet_args a,
                      float *out)
{
    extern __shared__ __align__(16) float tile[]; /* [64][dim + 1] */
    __shared__ float part[4][PLAIN_ROWS];
    const int32_t h = blockIdx.y, group = a.q_heads / in.heads, g = h / group, dim = in.dim, rows = in.rows[g];
    const int32_t row0 = blockIdx.x * PLAIN_ROWS, local = threadIdx.x % PLAIN_ROWS, turn = threadIdx.x / PLAIN_ROWS;
    const int32_t row = row0 + local;
    const T *from = (const T *)(a.values ? in.v : in.k) + in.first[g] * dim;
    const T *vectors = (const T *)a.vectors + (int64_t)h * a.head_stride;
    const float *own = tile + local * (dim + 1);
    float value = nothing<KIND>(), dot = 0.0f;

    if (row0 >= rows)
        return;
    for (int i = threadIdx.x; i < PLAIN_ROWS * dim; i += PLAIN_THREADS)
        tile[i / dim * (dim + 1) + i % dim] = row0 + i / dim < rows ? number(from[(int64_t)row0 * dim + i]) : 0.0f;
    __syncthreads();
    const int64_t first = a.position == INT64_MAX || row >= rows ? INT64_MIN : token_of(in, g, row) - a.position;
    const int64_t count = KIND == MEET_FORM ? (a.cov ? dim : 0) : a.count;
    for (int64_t j = (KIND == MEET_FORM ? 0 : first_of(in, a, g, row0)) + turn; j < count; j += 4) {
        float s = 0.0f;

        if constexpr (KIND == MEET_FORM) {
            const float *c = a.cov + ((int64_t)h * dim + j) * dim;
            for (int d = 0; d < dim; d++)
                s += own[d] * c[d];
            value += s * own[j];
        } else {
            for (int d = 0; d < dim; d++)
                s += own[d] * number(vectors[j * a.row_stride + d]);
            const float offset = KIND > MEET_LARGEST ? 0.0f
                                                     : (a.weight ? log2f(a.weight[j]) : 0.0f) -
                                                           a.lse[(int64_t)h * a.lse_stride + j] * LOG2E;
            if (j >= first)
                keep<KIND>(value, s, a.scale * LOG2E, offset);
        }
    }
    part[turn][local] = value;
    __syncthreads();
    if (turn != 0 || row >= rows || row < a.from)
        return;
    for (int k = 1; k < 4; k++)
        value = joined<KIND>(value, part[k][local]);
    if (KIND == MEET_FORM)
        for (int d = 0; d < dim; d++)
            dot += own[d] * a.mean[h * dim + d];
    out[(int64_t)(a.by_group ? h % group : h) * a.out_stride + in.at[g] + row] =
        finished<KIND>(value, a.factor) + dot * a.scale;
}

/* ---- launchers ---- */

cudaError_t launch_form_split(struct cuda_queue q, int32_t dim, const struct meet_args *a)
{
    const dim3 grid((unsigned)(dim * dim / THREADS), (unsigned)a->q_heads);

    if (dim == 64)
        form_split_kernel<64><<<grid, THREADS, 0, q.stream>>>(*a);
    else if (dim == 96)
        form_split_kernel<96><<<grid, THREADS, 0, q.stream>>>(*a);
    else
        form_split_kernel<128><<<grid, THREADS, 0, q.stream>>>(*a);
    return cudaGetLastError();
}

template <int D, int KIND>
static cudaError_t meet_fast(const struct cuda_queue &q, const struct rows_view *in, const struct meet_args *a,
                             float *out)
{
    cudaError_t e = allow_shared(meet_kernel<D, KIND>, room<D>::bytes);

    if (e != cudaSuccess)
        return e;
    if (KIND <= MEET_LARGEST)
        offset_kernel<<<dim3(int_ceil(a->offset_stride, THREADS), (unsigned)a->q_heads), THREADS, 0, q.stream>>>(*a);
    if (q.warpgroups)
        return launch_meet_wgmma(q, (enum meet_kind)KIND, in, a, out);
    meet_kernel<D, KIND>
        <<<dim3(int_ceil(in->rows_longest, BLOCK_ROWS), (unsigned)a->q_heads), WARPS * 32, room<D>::bytes, q.stream>>>(
            *in, *a, out);
    return cudaGetLastError();
}

template <int D>
static cudaError_t form_fast(const struct cuda_queue &q, const struct rows_view *in, const struct meet_args *args,
                             float *out)
{
    const size_t bytes = 2 * D * room<D>::row + D * 4;
    struct meet_args a = *args;
    int64_t blocks = (in->rows_longest - a.from + BLOCK_ROWS - 1) / BLOCK_ROWS, most = 2 * q.sms / a.q_heads;
    cudaError_t e = allow_shared(form_kernel<D>, bytes);

    if (e != cudaSuccess || blocks <= 0)
        return e;
    a.form_rows =
        BLOCK_ROWS *
        int_ceil(blocks, most > 0 ? most : 1); /* C is brought in once for as many rows as keep the card full */
    if (a.cov)
        e = launch_form_split(q, D, &a);
    if (e != cudaSuccess)
        return e;
    form_kernel<D>
        <<<dim3(int_ceil(in->rows_longest - a.from, a.form_rows), (unsigned)a.q_heads), WARPS * 32, bytes, q.stream>>>(
            *in, a, out);
    return cudaGetLastError();
}

template <typename T, int KIND>
static cudaError_t meet_plain(const struct cuda_queue &q, const struct rows_view *in, const struct meet_args *a,
                              float *out)
{
    const size_t bytes = (size_t)PLAIN_ROWS * (size_t)(in->dim + 1) * 4;
    cudaError_t e = allow_shared(meet_plain_kernel<T, KIND>, bytes);

    if (e != cudaSuccess)
        return e;
    meet_plain_kernel<T, KIND>
        <<<dim3(int_ceil(in->rows_longest, PLAIN_ROWS), (unsigned)a->q_heads), PLAIN_THREADS, bytes, q.stream>>>(
            *in, *a, out);
    return cudaGetLastError();
}

template <int D, int KIND>
static cudaError_t fast(const struct cuda_queue &q, const struct rows_view *in, const struct meet_args *a, float *out)
{
    if constexpr (KIND == MEET_FORM)
        return form_fast<D>(q, in, a, out);
    else
        return meet_fast<D, KIND>(q, in, a, out);
}

template <int KIND>
static cudaError_t meet(const struct cuda_queue &q, enum dtype t, const struct rows_view *in, const struct meet_args *a,
                        float *out)
{
    if (t == DT_F32)
        return meet_plain<float, KIND>(q, in, a, out);
    if (in->dim == 64)
        return fast<64, KIND>(q, in, a, out);
    if (in->dim == 96)
        return fast<96, KIND>(q, in, a, out);
    if (in->dim == 128)
        return fast<128, KIND>(q, in, a, out);
    return meet_plain<bf16, KIND>(q, in, a, out);
}

cudaError_t launch_meet(struct cuda_queue q, enum dtype t, enum meet_kind kind, const struct rows_view *in,
                        const struct meet_args *a, float *out)
{
    if (in->rows_longest == 0)
        return cudaSuccess;
    switch (kind) {
    case MEET_SUM:
        return meet<MEET_SUM>(q, t, in, a, out);
    case MEET_LARGEST:
        return meet<MEET_LARGEST>(q, t, in, a, out);
    case MEET_NORM1:
        return meet<MEET_NORM1>(q, t, in, a, out);
    case MEET_NORM2:
        return meet<MEET_NORM2>(q, t, in, a, out);
    default:
        return meet<MEET_FORM>(q, t, in, a, out);
    }
}
