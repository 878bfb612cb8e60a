/* SPDX-License-Identifier: Apache-2.0 */
/*
 * solve.cu - scores that come out of a small system per head: cap and leverage.
 *
 *   cap        w = exp(tau cos(k, mean) - largest)    A = I + sum (w + eps) v v'             w v' A^-1 v   per query head
 *   leverage   x = key turned back, less the mean     F = S (S' (sum x x') S + jitter)^-1 S'      x' F x   per KV head
 *
 *   gram    x' x in f32: a block owns 128 x 128 entries and a stretch of rows, a thread 8 x 8 of them. Stretches are added
 *           in order, in double, so that two runs agree bit by bit
 *   solve   one block per head, in double, in device memory (a matrix is 128 KiB at D = 128 and stays in L2)
 *   form    x . M in f32, 64 rows to a block (16 KiB to 65 KiB of shared memory), and the row's product with itself
 *
 * Multiplications are plain f32: what these scores rank are small differences of large sums. PRESSES 2.3;
 * arXiv:2604.25975 (cap), arXiv:2507.08143 (leverage).
 */
#include "kernels/cuda/rowwise.cuh"

enum { THREADS = 256, WARPS = THREADS / 32, SIDE = 128, GRAM_ROWS = 16, FORM_ROWS = 64, DEPTH = 16 };
enum { STRETCH = SOLVE_STRETCH, SOLVERS = 1024 };

/* Channel c of a key turned back to position 0. */
template <typename T>
__device__ __forceinline__ float plain_channel(const struct solve_args &a, const T *k, int32_t c, int64_t position)
{
    const int32_t half = a.rope_dims / 2, j = c < half ? c : c - half;
    float sine, cosine;

    if (!a.inv_freq || c >= a.rope_dims)
        return number(k[c]);
    sincosf((float)position * a.inv_freq[j], &sine, &cosine);
    const float low = number(k[j]), high = number(k[j + half]);
    return (c < half ? low * cosine + high * sine : high * cosine - low * sine) / a.rope_scale;
}

/* Number c of row `row` of head g: of its value, or of its plain key less the centre. */
template <typename T, bool KEYS>
__device__ __forceinline__ float entry(const struct rows_view &in, const struct solve_args &a, int32_t g, int32_t row,
                                       int32_t c)
{
    if (!KEYS)
        return number(value_row<T>(in, g, row)[c]);
    const int64_t position = in.token ? in.token[in.at[g] + row] : a.position + row;
    return plain_channel<T>(a, key_row<T>(in, g, row), c, position) - a.centre[g * in.dim + c];
}

/* ---- the mean of the plain keys ---- */

/* partial [G][stretches][dim]. grid: stretches, heads */
template <typename T>
__global__ void centre_kernel(const __grid_constant__ struct rows_view in, const __grid_constant__ struct solve_args a,
                              double *partial)
{
    const int32_t g = blockIdx.y, end = min(((int32_t)blockIdx.x + 1) * STRETCH, in.rows[g]);

    for (int32_t c = threadIdx.x; c < in.dim; c += blockDim.x) {
        double sum = 0.0;
        for (int32_t row = blockIdx.x * STRETCH; row < end; row++) {
            const int64_t position = in.token ? in.token[in.at[g] + row] : a.position + row;
            sum += plain_channel<T>(a, key_row<T>(in, g, row), c, position);
        }
        partial[((int64_t)g * gridDim.x + blockIdx.x) * in.dim + c] = sum;
    }
}

__global__ void centre_join_kernel(const __grid_constant__ struct rows_view in, const double *partial,
                                   int32_t stretches, float *centre)
{
    const int32_t g = blockIdx.x;

    for (int32_t c = threadIdx.x; c < in.dim; c += blockDim.x) {
        double sum = 0.0;
        for (int32_t s = 0; s < stretches; s++)
            sum += partial[((int64_t)g * stretches + s) * in.dim + c];
        centre[g * in.dim + c] = in.rows[g] > 0 ? (float)(sum / in.rows[g]) : 0.0f;
    }
}

/* ---- weights of cap ---- */

/* column [H][stride] = tau cos(k, mean). grid: stretches, heads */
template <typename T>
__global__ void cosine_kernel(const __grid_constant__ struct rows_view in, const __grid_constant__ struct solve_args a,
                              const float *mean, float tau, float *column)
{
    __shared__ float length[KV_HEAD_DIM_MAX];
    const int warp = threadIdx.x >> 5, lane = threadIdx.x & 31;
    const int32_t g = blockIdx.y, group = a.forms / in.heads;
    const int32_t end = min(a.from + ((int32_t)blockIdx.x + 1) * STRETCH, in.rows[g]);

    for (int32_t i = warp; i < group; i += WARPS) {
        const float norm = sqrtf(channels<float>(mean + (g * group + i) * in.dim, in.dim, lane).square());
        if (lane == 0)
            length[i] = fmaxf(norm, 1e-12f);
    }
    __syncthreads();
    for (int32_t row = a.from + blockIdx.x * STRETCH + warp; row < end; row += WARPS) {
        const channels<T> k(key_row<T>(in, g, row), in.dim, lane);
        const float norm = fmaxf(sqrtf(k.square()), 1e-12f);
        for (int32_t i = 0; i < group; i++) {
            const float cosine = k.dot(mean + (g * group + i) * in.dim, in.dim, lane) / (norm * length[i]);
            if (lane == 0)
                column[(int64_t)(g * group + i) * a.stride + in.at[g] + row] = tau * fminf(fmaxf(cosine, -1.0f), 1.0f);
        }
    }
}

/* exp of each line less its largest, in place. A block owns a line. */
__global__ void __launch_bounds__(1024) exponent_kernel(const __grid_constant__ struct rows_view in,
                                                        const __grid_constant__ struct solve_args a, float *column)
{
    __shared__ float part[32];
    const int32_t f = blockIdx.x, g = f / (a.forms / in.heads), rows = in.rows[g];
    float *x = column + f * a.stride + in.at[g], top = -CUDART_INF_F;

    for (int32_t r = a.from + (int32_t)threadIdx.x; r < rows; r += 1024)
        top = fmaxf(top, x[r]);
    top = warp_max(top);
    if ((threadIdx.x & 31) == 0)
        part[threadIdx.x >> 5] = top;
    __syncthreads();
    top = warp_max(part[threadIdx.x & 31]);
    for (int32_t r = a.from + (int32_t)threadIdx.x; r < rows; r += 1024)
        x[r] = expf(x[r] - top);
}

/* ---- gram ---- */

/* partial [forms][splits][dim][dim] = sum of weight x x' over the split's rows. grid: tiles, splits, forms */
template <typename T, bool KEYS>
__global__ void __launch_bounds__(THREADS, 2) gram_kernel(const __grid_constant__ struct rows_view in,
                                                          const __grid_constant__ struct solve_args a, float *partial)
{
    __shared__ __align__(16) float x[GRAM_ROWS][KV_HEAD_DIM_MAX];
    __shared__ float weight[GRAM_ROWS];
    const int32_t f = blockIdx.z, g = f / (a.forms / in.heads), dim = in.dim, tiles = (dim + SIDE - 1) / SIDE;
    const int32_t i0 = blockIdx.x / tiles * SIDE + threadIdx.x / 16 * 4, width = tiles * SIDE;
    const int32_t j0 = blockIdx.x % tiles * SIDE + threadIdx.x % 16 * 4;
    const int32_t begin = a.from + blockIdx.y * a.split_rows, end = min(begin + a.split_rows, in.rows[g]);
    float sum[8][8] = {};

    for (int32_t at = begin; at < end; at += GRAM_ROWS) {
        __syncthreads();
        for (int32_t i = threadIdx.x; i < GRAM_ROWS * width; i += THREADS) {
            const int32_t r = i / width, c = i % width;
            x[r][c] = at + r < end && c < dim ? entry<T, KEYS>(in, a, g, at + r, c) : 0.0f;
        }
        if (threadIdx.x < GRAM_ROWS) {
            const int32_t row = at + threadIdx.x;
            weight[threadIdx.x] = KEYS || row >= end ? 1.0f : a.weight[f * a.stride + in.at[g] + row] + a.eps;
        }
        __syncthreads();
#pragma unroll 4
        for (int r = 0; r < GRAM_ROWS; r++) {
            float left[8], right[8];
#pragma unroll
            for (int i = 0; i < 8; i++) {
                left[i] = x[r][i0 + (i & 3) + (i >> 2) * 64] * weight[r];
                right[i] = x[r][j0 + (i & 3) + (i >> 2) * 64];
            }
#pragma unroll
            for (int i = 0; i < 8; i++)
#pragma unroll
                for (int j = 0; j < 8; j++)
                    sum[i][j] += left[i] * right[j];
        }
    }
    partial += ((int64_t)f * gridDim.y + blockIdx.y) * dim * dim;
#pragma unroll
    for (int i = 0; i < 8; i++)
#pragma unroll
        for (int j = 0; j < 8; j++) {
            const int32_t row = i0 + (i & 3) + (i >> 2) * 64, c = j0 + (j & 3) + (j >> 2) * 64;
            if (row < dim && c < dim)
                partial[row * dim + c] = sum[i][j];
        }
}

/* gram [forms][dim][dim], symmetric, plus `diagonal` on it. grid: entries, forms */
__global__ void gram_join_kernel(const float *partial, int32_t splits, int32_t dim, double diagonal, double *gram)
{
    const int32_t e = blockIdx.x * THREADS + threadIdx.x, i = e / dim, j = e % dim, entries = dim * dim;
    double sum = 0.0;

    if (e >= entries)
        return;
    partial += (int64_t)blockIdx.y * splits * entries;
    for (int32_t s = 0; s < splits; s++)
        sum += 0.5 * ((double)partial[(int64_t)s * entries + e] + (double)partial[(int64_t)s * entries + j * dim + i]);
    gram[(int64_t)blockIdx.y * entries + e] = sum + (i == j ? diagonal : 0.0);
}

/* ---- inverses ---- */

/* m [n][n], symmetric and positive definite, becomes its inverse, by the whole block; false: it was not (m is void then).
 * Gauss-Jordan: the pivots are those of Cholesky's factor, squared. */
__device__ bool invert(double *m, int32_t n, double (&row)[KV_HEAD_DIM_MAX], double (&column)[KV_HEAD_DIM_MAX])
{
    for (int32_t p = 0; p < n; p++) {
        __syncthreads();
        const double pivot = m[p * n + p];
        if (!(pivot > 0.0))
            return false;
        for (int32_t i = threadIdx.x; i < n; i += blockDim.x) {
            row[i] = m[p * n + i] / pivot;
            column[i] = m[i * n + p];
        }
        __syncthreads();
        for (int32_t e = threadIdx.x; e < n * n; e += blockDim.x) {
            const int32_t i = e / n, j = e % n;
            m[e] = i == p ? (j == p ? 1.0 / pivot : row[j]) : (j == p ? -column[i] / pivot : m[e] - column[i] * row[j]);
        }
    }
    __syncthreads();
    return true;
}

/* inverse [forms][dim][dim] of m; zeros where there is none. A block owns a form. */
__global__ void __launch_bounds__(SOLVERS) inverse_kernel(double *m, int32_t dim, float *inverse)
{
    __shared__ double row[KV_HEAD_DIM_MAX], column[KV_HEAD_DIM_MAX];
    const int32_t entries = dim * dim;

    m += (int64_t)blockIdx.x * entries;
    inverse += (int64_t)blockIdx.x * entries;
    const bool done = invert(m, dim, row, column);
    for (int32_t e = threadIdx.x; e < entries; e += SOLVERS)
        inverse[e] = done ? (float)m[e] : 0.0f;
}

/* form [G][dim][dim] = S (S' gram S + jitter I)^-1 S'; the jitter ten times as large at every failure. small [G][k][k],
 * half [G][k][dim]. A block owns a head. */
__global__ void __launch_bounds__(SOLVERS) leverage_kernel(const double *gram, const float *sketch, int32_t dim,
                                                           int32_t k, double *small, double *half, float *form)
{
    __shared__ double row[KV_HEAD_DIM_MAX], column[KV_HEAD_DIM_MAX];
    const int32_t g = blockIdx.x;
    double jitter = 1e-2;
    bool done = false;

    gram += (int64_t)g * dim * dim;
    sketch += (int64_t)g * dim * k;
    small += (int64_t)g * k * k;
    half += (int64_t)g * k * dim;
    form += (int64_t)g * dim * dim;
    for (int32_t e = threadIdx.x; e < k * dim; e += SOLVERS) { /* half = S' gram */
        const int32_t j = e / dim, d = e % dim;
        double sum = 0.0;
        for (int32_t i = 0; i < dim; i++)
            sum += (double)sketch[i * k + j] * gram[i * dim + d];
        half[e] = sum;
    }
    for (int attempt = 0; attempt < 6 && !done; attempt++, jitter *= 10.0) {
        __syncthreads();
        for (int32_t e = threadIdx.x; e < k * k; e += SOLVERS) {
            const int32_t i = e / k, j = e % k;
            double sum = i == j ? jitter : 0.0;
            for (int32_t d = 0; d < dim; d++)
                sum += half[i * dim + d] * (double)sketch[d * k + j];
            small[e] = sum;
        }
        done = invert(small, k, row, column);
    }
    __syncthreads();
    for (int32_t e = threadIdx.x; e < k * dim; e += SOLVERS) { /* half = inverse S' */
        const int32_t j = e / dim, d = e % dim;
        double sum = 0.0;
        for (int32_t i = 0; i < k; i++)
            sum += small[j * k + i] * (double)sketch[d * k + i];
        half[e] = done ? sum : 0.0;
    }
    __syncthreads();
    for (int32_t e = threadIdx.x; e < dim * dim; e += SOLVERS) {
        const int32_t i = e / dim, d = e % dim;
        double sum = 0.0;
        for (int32_t j = 0; j < k; j++)
            sum += (double)sketch[i * k + j] * half[j * dim + d];
        form[e] = (float)sum;
    }
}

/* ---- quadratic forms ---- */

/* out[f][at[g] + r] = x' matrix[f] x, times what stands there (cap) or at least 0 (leverage). grid: row blocks, forms */
template <typename T, bool KEYS>
__global__ void __launch_bounds__(THREADS)
    form_rows_kernel(const __grid_constant__ struct rows_view in, const __grid_constant__ struct solve_args a,
                     const float *matrix, float *out)
{
    extern __shared__ __align__(16) float x[]; /* [FORM_ROWS][dim + 4] */
    __shared__ __align__(16) float slice[DEPTH][SIDE];
    const int32_t f = blockIdx.y, g = f / (a.forms / in.heads), dim = in.dim, stride = dim + 4;
    const int32_t row0 = a.from + blockIdx.x * FORM_ROWS, rows = in.rows[g];
    const int32_t i0 = threadIdx.x / 16 * 4, tx = threadIdx.x % 16;
    float value[4] = {};

    if (row0 >= rows)
        return;
    matrix += (int64_t)f * dim * dim;
    for (int32_t i = threadIdx.x; i < FORM_ROWS * dim; i += THREADS) {
        const int32_t r = i / dim, c = i % dim;
        x[r * stride + c] = row0 + r < rows ? entry<T, KEYS>(in, a, g, row0 + r, c) : 0.0f;
    }
    for (int32_t c0 = 0; c0 < dim; c0 += SIDE) {
        float sum[4][8] = {};

        for (int32_t d0 = 0; d0 < dim; d0 += DEPTH) {
            __syncthreads();
            for (int32_t i = threadIdx.x; i < DEPTH * SIDE; i += THREADS) {
                const int32_t d = d0 + i / SIDE, c = c0 + i % SIDE;
                slice[i / SIDE][i % SIDE] = d < dim && c < dim ? matrix[d * dim + c] : 0.0f;
            }
            __syncthreads();
#pragma unroll
            for (int d = 0; d < DEPTH; d++) {
                if (d0 + d >= dim)
                    break;
#pragma unroll
                for (int i = 0; i < 4; i++) {
                    const float left = x[(i0 + i) * stride + d0 + d];
#pragma unroll
                    for (int j = 0; j < 8; j++)
                        sum[i][j] += left * slice[d][tx * 4 + (j & 3) + (j >> 2) * 64];
                }
            }
        }
#pragma unroll
        for (int i = 0; i < 4; i++)
#pragma unroll
            for (int j = 0; j < 8; j++) {
                const int32_t c = c0 + tx * 4 + (j & 3) + (j >> 2) * 64;
                if (c < dim)
                    value[i] += sum[i][j] * x[(i0 + i) * stride + c];
            }
    }
#pragma unroll
    for (int i = 0; i < 4; i++) {
#pragma unroll
        for (int s = 8; s > 0; s >>= 1)
            value[i] += __shfl_xor_sync(0xffffffffu, value[i], s);
        const int32_t row = row0 + i0 + i;
        if (tx == 0 && row < rows) {
            float *to = out + f * a.stride + in.at[g] + row;
            *to = KEYS ? fmaxf(value[i], 0.0f) : *to * value[i];
        }
    }
}

/* ---- launchers ---- */

static int32_t splits_for(const struct cuda_queue &q, int64_t rows, int32_t forms)
{
    const int32_t most = (2 * q.sms + forms - 1) / forms, stretches = int_ceil(rows, STRETCH);

    return stretches < 1 ? 1 : stretches < most ? stretches : most;
}

struct solve_room solve_room_for(struct cuda_queue q, const struct rows_view *in, int32_t forms, int32_t from,
                                 int32_t sketch_dim)
{
    const int64_t entries = (int64_t)in->dim * in->dim, k = sketch_dim;
    struct solve_room r = {};

    r.splits = splits_for(q, in->rows_longest - from, forms);
    r.stretches = int_ceil(in->rows_longest, STRETCH);
    r.doubles = forms * (entries + k * k + k * in->dim);
    if (k > 0)
        r.doubles += (int64_t)forms * r.stretches * in->dim;
    r.floats = forms * entries * (r.splits + 1);
    r.floats += k > 0 ? forms * in->dim : forms * in->at[in->heads];
    return r;
}

template <typename T, bool KEYS>
static cudaError_t gram(const struct cuda_queue &q, const struct rows_view *in, struct solve_args *a, int32_t splits,
                        float *partial, double diagonal, double *out)
{
    const int32_t tiles = int_ceil(in->dim, SIDE), dim = in->dim;

    a->split_rows = int_ceil(in->rows_longest - a->from, splits);
    gram_kernel<T, KEYS>
        <<<dim3((unsigned)(tiles * tiles), (unsigned)splits, (unsigned)a->forms), THREADS, 0, q.stream>>>(*in, *a,
                                                                                                          partial);
    gram_join_kernel<<<dim3(int_ceil(dim * dim, THREADS), (unsigned)a->forms), THREADS, 0, q.stream>>>(
        partial, splits, dim, diagonal, out);
    return cudaGetLastError();
}

template <typename T, bool KEYS>
static cudaError_t forms(const struct cuda_queue &q, const struct rows_view *in, const struct solve_args *a,
                         const float *matrix, float *out)
{
    const size_t bytes = (size_t)FORM_ROWS * (size_t)(in->dim + 4) * 4;
    const cudaError_t e = allow_shared(form_rows_kernel<T, KEYS>, bytes);

    if (e != cudaSuccess)
        return e;
    form_rows_kernel<T, KEYS>
        <<<dim3(int_ceil(in->rows_longest - a->from, FORM_ROWS), (unsigned)a->forms), THREADS, bytes, q.stream>>>(
            *in, *a, matrix, out);
    return cudaGetLastError();
}

template <typename T>
static cudaError_t cap(const struct cuda_queue &q, const struct rows_view *in, const struct cap_args *c, void *room,
                       float *score)
{
    const struct solve_room r = solve_room_for(q, in, c->q_heads, c->from, 0);
    double *gram_at = (double *)room;
    float *column = (float *)(gram_at + r.doubles), *inverse = column + c->q_heads * in->at[in->heads];
    float *partial = inverse + (int64_t)c->q_heads * in->dim * in->dim;
    struct solve_args a = {};
    struct group_args group = {};
    cudaError_t e;

    a.forms = c->q_heads;
    a.from = group.from = c->from;
    a.stride = group.stride = in->at[in->heads];
    a.weight = group.column = column;
    a.eps = c->eps;
    group.group = c->q_heads / in->heads;
    cosine_kernel<T>
        <<<dim3(int_ceil(in->rows_longest - c->from, STRETCH), (unsigned)in->heads), THREADS, 0, q.stream>>>(
            *in, a, c->mean, c->tau, column);
    exponent_kernel<<<(unsigned)c->q_heads, 1024, 0, q.stream>>>(*in, a, column);
    e = gram<T, false>(q, in, &a, r.splits, partial, 1.0, gram_at);
    if (e != cudaSuccess)
        return e;
    inverse_kernel<<<(unsigned)c->q_heads, SOLVERS, 0, q.stream>>>(gram_at, in->dim, inverse);
    e = forms<T, false>(q, in, &a, inverse, column);
    return e == cudaSuccess ? launch_group(q, in, &group, score) : e;
}

cudaError_t launch_cap(struct cuda_queue q, enum dtype t, const struct rows_view *in, const struct cap_args *c,
                       void *room, float *score)
{
    if (in->rows_longest <= c->from)
        return cudaSuccess;
    return t == DT_F32 ? cap<float>(q, in, c, room, score) : cap<bf16>(q, in, c, room, score);
}

template <typename T>
static cudaError_t leverage(const struct cuda_queue &q, const struct rows_view *in, const struct leverage_args *l,
                            void *room, float *score)
{
    const struct solve_room r = solve_room_for(q, in, in->heads, 0, l->sketch_dim);
    const int64_t entries = (int64_t)in->dim * in->dim, k = l->sketch_dim;
    double *gram_at = (double *)room, *small = gram_at + in->heads * entries, *half = small + in->heads * k * k;
    double *sums = half + in->heads * k * in->dim;
    float *centre = (float *)(gram_at + r.doubles), *form = centre + in->heads * in->dim;
    struct solve_args a = {};
    cudaError_t e;

    a.forms = in->heads;
    a.inv_freq = l->inv_freq;
    a.rope_dims = l->rope_dims;
    a.rope_scale = l->rope_scale;
    a.position = l->position;
    a.centre = centre;
    centre_kernel<T><<<dim3((unsigned)r.stretches, (unsigned)in->heads), 128, 0, q.stream>>>(*in, a, sums);
    centre_join_kernel<<<(unsigned)in->heads, 128, 0, q.stream>>>(*in, sums, r.stretches, centre);
    e = gram<T, true>(q, in, &a, r.splits, form + in->heads * entries, 0.0, gram_at);
    if (e != cudaSuccess)
        return e;
    leverage_kernel<<<(unsigned)in->heads, SOLVERS, 0, q.stream>>>(gram_at, l->sketch, in->dim, l->sketch_dim, small,
                                                                   half, form);
    return forms<T, true>(q, in, &a, form, score);
}

cudaError_t launch_leverage(struct cuda_queue q, enum dtype t, const struct rows_view *in,
                            const struct leverage_args *l, void *room, float *score)
{
    if (in->rows_longest == 0)
        return cudaSuccess;
    return t == DT_F32 ? leverage<float>(q, in, l, room, score) : leverage<bf16>(q, in, l, room, score);
}
