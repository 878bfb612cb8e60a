/* SPDX-License-Identifier: Apache-2.0 */
/*
 * thin.cu - out = in . w^T for the fewest rows: as skinny.cu, but the weights never stop coming.
 *
 *   thread block b of one on each multiprocessor     [ tile ][ tile ][ tile ]      an equal run of tiles of 16 outputs
 *   a warp                                            its eighth of the depth, tile after tile, in one queue of copies
 *
 * A block takes less than half of a multiprocessor, so that the next kernel's block stands beside it and has its queue
 * full when its turn comes. It is asked for at once: when it was asked for late, it found some multiprocessors done and
 * others not, and two of its blocks met on one. Rows of `in` are read once by every block, times the norm's
 * weight, and stay in shared memory; a lane reads back the weights that it copied, so that nothing is waited for but a
 * lane's own copies, and one barrier a tile where the warps' sums meet.
 *
 * Shared memory, of at most THIN_SHARED bytes:
 *   queue     [WARPS][STAGES][4][32] x 16 bytes: of a pair of steps, both runs of 8 outputs
 *   rows      [rows][k], each row moved by 64 bytes against bank conflicts
 *   part      [2][WARPS][rows][17] f32, of this tile and the one before
 *   square    [WARPS][rows]
 *   angle     [tiles of a block][rows][8] pairs, where heads are turned
 */
#include "kernels/cuda/skinny.cuh"

enum { PAIR = 2 * STEP * WARPS, THREADS = WARPS * 32, ROWS = 8, DEPTH = 2048, THIN_SHARED = 113 * 1024 };

/* 16 bytes of weights to shared memory, leaving the L2 first. */
__device__ __forceinline__ void copy16_once(uint32_t to, const void *from, uint64_t policy)
{
    asm volatile("cp.async.cg.shared.global.L2::cache_hint.L2::256B [%0], [%1], 16, %2;\n" ::"r"(to), "l"(from),
                 "l"(policy)
                 : "memory");
}

/* 16 bytes that the kernel before wrote, asked for here and not where they are wanted. */
__device__ __forceinline__ uint4 load_now(const void *p)
{
    uint4 x;
    asm volatile("ld.global.cg.v4.u32 {%0,%1,%2,%3}, [%4];\n" : "=r"(x.x), "=r"(x.y), "=r"(x.z), "=r"(x.w) : "l"(p));
    return x;
}

struct thin_room {
    int32_t row; /* bytes of a staged row */
    int32_t rows, part, square, angle, all;
};

__host__ __device__ static inline struct thin_room thin_room_of(int32_t stages, int32_t rows, int32_t k, int32_t turned)
{
    struct thin_room r;

    r.row = (k * 2 + 127) / 128 * 128 + 64;
    r.rows = WARPS * stages * 2048;
    r.part = r.rows + rows * r.row;
    r.square = r.part + 2 * WARPS * rows * 17 * 4;
    r.angle = r.square + WARPS * rows * 4;
    r.all = r.angle + turned * rows * 8 * 8;
    return r;
}

/* The next copies of a warp: pair `pair` of tile `tile`. */
struct thin_queue {
    int32_t tile, pair;
    const bf16 *first, *second;
};

template <int OUT>
__device__ __forceinline__ void queue_tile(const struct skinny_args &a, const struct rotate_args &t, int warp, int lane,
                                           struct thin_queue &q)
{
    const struct tile_runs runs = tile_at<OUT>(a, t, q.tile);
    const int32_t at = warp * 2 * STEP + (lane & 3) * 8, quad = lane >> 2;

    /* rows past the end read the last one and are not written */
    q.first = (const bf16 *)a.w + (int64_t)min(runs.first + quad, a.n - 1) * a.k + at;
    q.second = (const bf16 *)a.w + (int64_t)min(runs.second + quad, a.n - 1) * a.k + at;
}

/* Asks for the next pair of steps and goes on. Behind the last tile nothing is asked for. */
template <int OUT>
__device__ __forceinline__ void queue_take(const struct skinny_args &a, const struct rotate_args &t, int32_t end,
                                           int warp, int lane, uint32_t to, uint64_t policy, struct thin_queue &q)
{
    if (q.tile < end) {
        const int32_t k = q.pair * PAIR, mine = k + warp * 2 * STEP;
        if (mine < a.k) {
            copy16_once(to, q.first + k, policy);
            copy16_once(to + 512, q.second + k, policy);
        }
        if (mine + STEP < a.k) {
            copy16_once(to + 1024, q.first + k + STEP, policy);
            copy16_once(to + 1536, q.second + k + STEP, policy);
        }
        if ((q.pair + 1) * PAIR < a.k) {
            q.pair++;
        } else {
            q.pair = 0;
            q.tile++;
            if (q.tile < end)
                queue_tile<OUT>(a, t, warp, lane, q);
        }
    }
    copies_commit();
}

__device__ __forceinline__ float4 load_floats(const float4 *p)
{
    const uint4 x = load_now(p);
    return make_float4(__uint_as_float(x.x), __uint_as_float(x.y), __uint_as_float(x.z), __uint_as_float(x.w));
}

/* A row of bf16 to shared memory. */
__device__ __forceinline__ void row_stage(const uint4 *from, int32_t chunks, uint4 *to)
{
    enum { BATCH = 7 };

    for (int32_t base = threadIdx.x; base < chunks; base += BATCH * THREADS) {
        uint4 x[BATCH];
#pragma unroll
        for (int j = 0; j < BATCH; j++)
            x[j] = load_now(from + min(base + j * THREADS, chunks - 1));
#pragma unroll
        for (int j = 0; j < BATCH; j++)
            if (base + j * THREADS < chunks)
                to[base + j * THREADS] = x[j];
    }
}

/* A row of f32, times the norm's weight; a thread's sum of its squares. */
__device__ __forceinline__ float row_stage_normed(const float4 *from, const float4 *norm, int32_t chunks, uint4 *to)
{
    enum { BATCH = 2 };
    float sum = 0.0f;

    for (int32_t base = threadIdx.x; base < chunks; base += BATCH * THREADS) {
        float4 x[BATCH][2], w[BATCH][2];
#pragma unroll
        for (int j = 0; j < 2 * BATCH; j++) {
            const int32_t i = 2 * min(base + j / 2 * THREADS, chunks - 1) + j % 2;
            x[j / 2][j % 2] = load_floats(from + i);
            w[j / 2][j % 2] = load_floats(norm + i);
        }
#pragma unroll
        for (int j = 0; j < BATCH; j++)
            if (base + j * THREADS < chunks)
                to[base + j * THREADS] = weighed(x[j], w[j], sum);
    }
    return sum;
}

/* Rows of `in` to shared memory, times the norm's weight; sums of their squares by warp. */
template <bool NORM>
__device__ __forceinline__ void rows_stage(const struct skinny_args &a, char *rows, int32_t row_bytes, float *square)
{
    const int32_t chunks = a.k / 8, warp = threadIdx.x >> 5, lane = threadIdx.x & 31;

    for (int32_t m = 0; m < a.rows; m++) {
        const int64_t at = (int64_t)(a.index ? a.index[m] : m) * a.k;
        uint4 *to = (uint4 *)(rows + m * row_bytes);

        if constexpr (NORM) {
            const float4 *from = (const float4 *)((const float *)a.in + at);
            const float sum = warp_sum(row_stage_normed(from, (const float4 *)a.norm, chunks, to));
            if (lane == 0)
                square[warp * a.rows + m] = sum;
        } else {
            row_stage((const uint4 *)((const bf16 *)a.in + at), chunks, to);
        }
    }
}

/* What the warps' sums of a tile become. One warp does it; `before` is what `out` held. */
template <int OUT, bool NORM>
__device__ __forceinline__ void tile_end(const struct skinny_args &a, const struct rotate_args &t, int32_t tile,
                                         const float *part, const float *square, const float2 *angle, int lane,
                                         const float (&before)[ROWS / 2])
{
    const struct tile_runs runs = tile_at<OUT>(a, t, tile);
    const auto output_of = [&](int32_t m, int32_t at, int32_t n) {
        float value = 0.0f, all = 0.0f;
#pragma unroll
        for (int k = 0; k < WARPS; k++)
            value += part[(k * a.rows + m) * 17 + at];
        if constexpr (NORM) {
#pragma unroll
            for (int k = 0; k < WARPS; k++)
                all += square[k * a.rows + m];
            value *= rsqrtf(all / (float)a.k + a.eps);
        }
        return value + (a.bias ? a.bias[n] : 0.0f);
    };
    if constexpr (OUT == OUT_PLAIN) {
#pragma unroll
        for (int u = 0; u < ROWS / 2; u++) {
            const int32_t i = lane + 32 * u, m = i / 16, n = tile * 16 + i % 16;
            if (m >= a.rows || n >= a.n)
                continue;
            const float value = output_of(m, i % 16, n);
            if (a.accumulate)
                ((float *)a.out)[(int64_t)m * a.n + n] = value + before[u];
            else
                ((bf16 *)a.out)[(int64_t)m * a.n + n] = rounded<bf16>(value);
        }
    } else {
        for (int32_t i = lane; i < a.rows * 8; i += 32) {
            const int32_t m = i / 8, o = i % 8;
            if (runs.second + o >= a.n)
                continue;
            const float x = output_of(m, o, runs.first + o), y = output_of(m, 8 + o, runs.second + o);
            if (OUT == OUT_GATED)
                ((bf16 *)a.out)[(int64_t)m * (a.n / 2) + runs.first + o] = rounded<bf16>(activate(x, a.kind) * y);
            else
                pair_place(t, runs, m, o, x, y, (const float *)(angle + i));
        }
    }
}

/* The angles of a block's tiles. */
__device__ __forceinline__ void angles_make(const struct skinny_args &a, const struct rotate_args &t, int32_t begin,
                                            int32_t end, float2 *angle)
{
    for (int32_t i = threadIdx.x; i < (end - begin) * a.rows * 8; i += THREADS) {
        const int32_t m = i / 8 % a.rows;
        const struct tile_runs runs = tile_at<OUT_QKV>(a, t, begin + i / 8 / a.rows);
        if (runs.turned) {
            float sine, cosine;
            sincosf((float)t.position[m] * table_at(t, m)[runs.channel + i % 8], &sine, &cosine);
            angle[i] = make_float2(cosine * t.rope_scale, sine * t.rope_scale);
        }
    }
}

template <int STAGES, int OUT, bool NORM>
__global__ void __launch_bounds__(THREADS, 2) thin_kernel(const __grid_constant__ struct skinny_args a,
                                                          const __grid_constant__ struct rotate_args t, int32_t turned)
{
    extern __shared__ __align__(128) char shared[];
    const int warp = threadIdx.x >> 5, lane = threadIdx.x & 31, quad = lane >> 2, c = lane & 3;
    const struct thin_room room = thin_room_of(STAGES, a.rows, a.k, turned);
    const uint32_t tiles = (uint32_t)(a.n + 15) / 16;
    const int32_t begin = (int32_t)(blockIdx.x * tiles / gridDim.x),
                  end = (int32_t)((blockIdx.x + 1) * tiles / gridDim.x);
    const int32_t pairs = (a.k + PAIR - 1) / PAIR;
    const uint64_t policy = once_only();
    const uint32_t mine = shared_address(shared) + warp * STAGES * 2048 + lane * 16;
    const char *weights = shared + warp * STAGES * 2048 + lane * 16;
    const char *x = shared + room.rows + quad * room.row + (warp * 2 * STEP + c * 8) * 2;
    float *square = (float *)(shared + room.square);
    float2 *angle = (float2 *)(shared + room.angle);
    struct thin_queue queue = { begin, 0, NULL, NULL };

    queue_tile<OUT>(a, t, warp, lane, queue);
#pragma unroll
    for (int u = 0; u < STAGES; u++)
        queue_take<OUT>(a, t, end, warp, lane, mine + u * 2048, policy, queue);
    if (a.ahead > 0 && warp == 0 && c == 0 && queue.tile < end) { /* the rest of the row that the queue stands at */
        const int32_t from = queue.pair * PAIR, bytes = min((a.k - from) * 2, a.ahead);
        call_ahead(queue.first + from, (uint32_t)bytes);
        call_ahead(queue.second + from, (uint32_t)bytes);
        if (bytes < a.ahead && queue.tile + 1 < end) {
            struct thin_queue next = { queue.tile + 1, 0, NULL, NULL };
            queue_tile<OUT>(a, t, warp, lane, next);
            call_ahead(next.first, (uint32_t)min(a.k * 2, a.ahead - bytes));
            call_ahead(next.second, (uint32_t)min(a.k * 2, a.ahead - bytes));
        }
    }
    if (NORM && threadIdx.x == 32)
        call_ahead(a.norm, (uint32_t)a.k * 4);
    if (OUT == OUT_QKV) /* positions were there before the step's first kernel */
        angles_make(a, t, begin, end, angle);
    chain_begin();
    rows_stage<NORM>(a, shared + room.rows, room.row, square);
    __syncthreads();
    int32_t stage = 0;
    for (int32_t tile = begin; tile < end; tile++) {
        float *part = (float *)(shared + room.part) + (tile & 1) * WARPS * a.rows * 17;
        float sum[2][4] = {}, before[ROWS / 2] = {};
        const bool ending = ((tile - begin) & (WARPS - 1)) == warp;

        if (OUT == OUT_PLAIN && a.accumulate && ending)
#pragma unroll
            for (int u = 0; u < ROWS / 2; u++) {
                const int32_t i = lane + 32 * u, m = i / 16, n = tile * 16 + i % 16;
                if (m < a.rows && n < a.n)
                    before[u] = ((const float *)a.out)[(int64_t)m * a.n + n];
            }
        for (int32_t pair = 0; pair < pairs; pair++) {
            const int32_t k = pair * PAIR + warp * 2 * STEP;

            copies_wait<STAGES - 1>();
#pragma unroll
            for (int u = 0; u < 2; u++) {
                if (k + u * STEP >= a.k)
                    break;
                const uint4 w0 = *(const uint4 *)(weights + stage * 2048 + u * 1024);
                const uint4 w1 = *(const uint4 *)(weights + stage * 2048 + u * 1024 + 512);
                const uint32_t one[4] = { w0.x, w1.x, w0.y, w1.y }, two[4] = { w0.z, w1.z, w0.w, w1.w };
                uint4 v = make_uint4(0, 0, 0, 0);
                if (quad < a.rows)
                    v = *(const uint4 *)(x + (pair * PAIR + u * STEP) * 2);
                multiply(sum[0], one, v.x, v.y);
                multiply(sum[1], two, v.z, v.w);
            }
            queue_take<OUT>(a, t, end, warp, lane, mine + stage * 2048, policy, queue);
            stage = stage == STAGES - 1 ? 0 : stage + 1;
        }
#pragma unroll
        for (int i = 0; i < 4; i++)
            if (2 * c + (i & 1) < a.rows)
                part[(warp * a.rows + 2 * c + (i & 1)) * 17 + quad + (i >> 1) * 8] = sum[0][i] + sum[1][i];
        __syncthreads();
        if (ending)
            tile_end<OUT, NORM>(a, t, tile, part, square, angle + (tile - begin) * a.rows * 8, lane, before);
    }
}

/* Tiles of a thread block at most. */
static int32_t thin_run(const struct cuda_queue &q, int32_t n)
{
    return int_ceil(int_ceil(n, 16), q.sms);
}

template <int STAGES, int OUT, bool NORM>
static cudaError_t thin(const struct cuda_queue &q, const struct skinny_args *a, const struct rotate_args *t)
{
    const struct rotate_args none = {};
    const int32_t turned = OUT == OUT_QKV ? thin_run(q, a->n) : 0, tiles = int_ceil(a->n, 16);
    const size_t bytes = (size_t)thin_room_of(STAGES, a->rows, a->k, turned).all;
    cudaError_t e = allow_shared(thin_kernel<STAGES, OUT, NORM>, THIN_SHARED);

    if (e == cudaSuccess)
        e = all_shared(thin_kernel<STAGES, OUT, NORM>);
    if (e != cudaSuccess)
        return e;
    return launch_chained(q, dim3((unsigned)(tiles < q.sms ? tiles : q.sms)), dim3(THREADS), bytes,
                          thin_kernel<STAGES, OUT, NORM>, *a, t ? *t : none, turned);
}

/* Stages of the queue that fit beside the rows; 0: too few. */
static int32_t thin_stages(const struct cuda_queue &q, const struct skinny_args *a, bool turned)
{
    for (int32_t stages = 6; stages >= 3; stages--)
        if (thin_room_of(stages, a->rows, a->k, turned ? thin_run(q, a->n) : 0).all <= THIN_SHARED - 1024)
            return stages;
    return 0;
}

template <int OUT, bool NORM>
static cudaError_t thin_staged(const struct cuda_queue &q, const struct skinny_args *a, const struct rotate_args *t)
{
    switch (thin_stages(q, a, t != NULL)) {
    case 6:
        return thin<6, OUT, NORM>(q, a, t);
    case 5:
        return thin<5, OUT, NORM>(q, a, t);
    case 4:
        return thin<4, OUT, NORM>(q, a, t);
    case 3:
        return thin<3, OUT, NORM>(q, a, t);
    default:
        return cudaErrorInvalidValue;
    }
}

/* Shallow products are over before a queue pays: measured, they are faster in skinny.cu. */
bool thin_takes(struct cuda_queue q, const struct skinny_args *a, bool turned)
{
    return q.chained && a->rows <= ROWS && a->k >= DEPTH && thin_stages(q, a, turned) > 0;
}

cudaError_t launch_thin(struct cuda_queue q, const struct skinny_args *args)
{
    return args->norm ? thin_staged<OUT_PLAIN, true>(q, args, NULL) : thin_staged<OUT_PLAIN, false>(q, args, NULL);
}

cudaError_t launch_thin_gated(struct cuda_queue q, const struct skinny_args *args)
{
    return thin_staged<OUT_GATED, true>(q, args, NULL);
}

cudaError_t launch_thin_qkv(struct cuda_queue q, const struct skinny_args *args, const struct rotate_args *t)
{
    return thin_staged<OUT_QKV, true>(q, args, t);
}
