/* SPDX-License-Identifier: Apache-2.0 */
/*
 * thin.cu - out = in . w^T for few rows and a large w, at the speed at which w can be read, with what stands behind it in
 * a step.
 *
 * Chunks of 64 of the depth of tiles of 128 outputs are dealt out evenly over one thread block to a multiprocessor
 * (deal.cuh), as decode.cu deals rows of the cache.
 * A thread block is
 *
 *   2 warps   that copy weights         ─┐
 *   1 warp    that copies rows of `in`  ─┴▶ ring of stages ─▶ 8 warps that multiply
 *
 * so that copies are asked for long before they are wanted, whatever the others do: weights even before the kernel in
 * front has ended. A chunk's rows are 128 bytes, whose 16-byte parts are turned by the row's number against bank
 * conflicts. Weights are the 16-row side of the tensor cores, 16 outputs to a warp; rows of `in` are the 8-column side.
 * At the end of a tile 8 rows at a time meet in shared memory, where a warp takes a row (thin_rows.cuh). What it takes from
 * memory besides is asked for at the beginning: at the end nothing else would be read meanwhile, a microsecond each time.
 *
 * Norms: `in` is x times the norm's weight, in bf16, and there are sums of squares of x by part (struct normed_rows);
 * 1 / rms is multiplied in at the end. A product that adds to x leaves both for the next norm, a part to a tile.
 *
 * Shared memory: a ring of stages of (128 + 8 NT) x 128 bytes, 12 where the card has as much; a desk [2][8][TILE + 4] f32.
 */
#include "kernels/cuda/deal.cuh"
#include "kernels/cuda/ring.cuh"

enum { MOVERS = 2, THREADS = (WORKERS + MOVERS + 1) * 32, STAGES_MAX = 12 };

/* Bytes of shared memory: of a stage, and of the rest. */
template <int NT> struct thin {
    enum { stage = (TILE + 8 * NT) * CHUNK_BYTES, desk = 2 * 8 * DESK_ROW * 4, fixed = desk + 2 * STAGES_MAX * 8 };
};

template <int OUT>
__device__ __forceinline__ struct share share_in(const struct skinny_args &a, const struct rotate_args &t)
{
    const int32_t outputs = tile_outputs<OUT>(t);

    return share_of(blockIdx.x, gridDim.x, (a.k + CHUNK - 1) / CHUNK, (a.n + outputs - 1) / outputs);
}

/* 16 bytes of weights, which leave the L2 first; zeros where !valid. */
__device__ __forceinline__ void copy16_once(uint32_t to, const void *from, bool valid, uint64_t policy)
{
    const int bytes = valid ? 16 : 0;
    asm volatile("cp.async.cg.shared.global.L2::cache_hint.L2::128B [%0], [%1], 16, %2, %3;\n" ::"r"(to), "l"(from),
                 "r"(bytes), "l"(policy)
                 : "memory");
}

/* The two runs of 64 outputs that make a tile: where their rows of w begin, and how many there are. Gates stand before
 * their ups. */
struct runs {
    int64_t at[2];
    int32_t rows[2];
};

template <int OUT>
__device__ __forceinline__ struct runs runs_of(const struct skinny_args &a, int32_t outputs, int32_t tile)
{
    enum { RUN = TILE / 2 };
    struct runs r;

    if constexpr (OUT == OUT_GATED) {
        r.at[0] = (int64_t)tile * RUN;
        r.at[1] = a.n / 2 + (int64_t)tile * RUN;
        r.rows[0] = r.rows[1] = min(a.n / 2 - tile * RUN, (int32_t)RUN);
    } else {
        const int32_t rows = min(a.n - tile * outputs, outputs);
        r.at[0] = (int64_t)tile * outputs;
        r.at[1] = r.at[0] + RUN;
        r.rows[0] = min(rows, (int32_t)RUN);
        r.rows[1] = rows - r.rows[0];
    }
    return r;
}

template <int OUT>
__device__ __forceinline__ void weights_move(const struct skinny_args &a, const struct rotate_args &t, int thread,
                                             struct ring ring)
{
    const struct share s = share_in<OUT>(a, t);
    const int32_t outputs = tile_outputs<OUT>(t), row = thread / 8, part = thread % 8;
    const uint32_t to = (uint32_t)(row * CHUNK_BYTES + ((part ^ row) << 4));
    const uint64_t policy = once_only();
    const int64_t further = 8 * (int64_t)a.k;
    int32_t tile = s.begin / s.depth, chunk = s.begin % s.depth;

    static_assert(MOVERS * 4 == 8, "a thread's rows are turned alike");
    for (int32_t i = s.begin; i < s.end; tile++, chunk = 0) {
        const struct runs runs = runs_of<OUT>(a, outputs, tile);
        const bf16 *from[2];

#pragma unroll
        for (int r = 0; r < 2; r++)
            from[r] = (const bf16 *)a.w + (runs.at[r] + row) * a.k + chunk * CHUNK + part * 8;
        for (; chunk < s.depth && i < s.end; chunk++, i++) {
            const bool inside = chunk * CHUNK + part * 8 < a.k;

            ring.wait_empty();
#pragma unroll
            for (int r = 0; r < 2; r++) {
                const bf16 *at = from[r];
#pragma unroll
                for (int j = 0; j < TILE / 16; j++, at += further) {
                    const bool valid = inside && row + 8 * j < runs.rows[r];
                    copy16_once(ring.at() + to + (r * (TILE / 2) + j * 8) * CHUNK_BYTES, valid ? at : (const bf16 *)a.w,
                                valid, policy);
                }
                from[r] += CHUNK;
            }
            ring.copied();
            ring.next();
        }
    }
}

template <int NT, int OUT>
__device__ __forceinline__ void rows_move(const struct skinny_args &a, const struct rotate_args &t, int lane,
                                          struct ring ring)
{
    const struct share s = share_in<OUT>(a, t);
    const int32_t row = lane / 8, part = lane % 8;
    const bf16 *from[2 * NT];
    int32_t chunk = s.begin % s.depth;

#pragma unroll
    for (int j = 0; j < 2 * NT; j++) {
        const int32_t m = row + 4 * j;
        from[j] = (const bf16 *)a.in + part * 8;
        if (m < a.rows)
            from[j] += (int64_t)(a.index ? a.index[m] : m) * a.k;
    }
    for (int32_t i = s.begin; i < s.end; i++) {
        const int32_t k = chunk * CHUNK;
        const bool inside = k + part * 8 < a.k;
        const uint32_t to = ring.at() + (TILE + row) * CHUNK_BYTES;

        ring.wait_empty();
#pragma unroll
        for (int j = 0; j < 2 * NT; j++) {
            const bool valid = inside && row + 4 * j < a.rows;
            copy16_async(to + 4 * j * CHUNK_BYTES + ((part ^ ((row + 4 * j) & 7)) << 4),
                         valid ? from[j] + k : (const bf16 *)a.in, valid);
        }
        ring.copied();
        ring.next();
        if (++chunk == s.depth)
            chunk = 0;
    }
}

/* Half a chunk of the depth as a warp's registers hold it. */
template <int NT> struct half_chunk {
    uint32_t w[2][4], x[NT][4];
    __device__ void load(uint32_t weights, uint32_t rows, int half, int lane)
    {
#pragma unroll
        for (int n = 0; n < NT; n++)
            load_matrices(x[n],
                          rows + (n * 8 + (lane & 7)) * CHUNK_BYTES + (((4 * half + (lane >> 3)) ^ (lane & 7)) << 4));
#pragma unroll
        for (int u = 0; u < 2; u++)
            load_matrices(w[u],
                          weights + (lane & 15) * CHUNK_BYTES + (((4 * half + 2 * u + (lane >> 4)) ^ (lane & 7)) << 4));
    }
    __device__ void multiply_into(float (&sum)[NT][4]) const
    {
#pragma unroll
        for (int u = 0; u < 2; u++)
#pragma unroll
            for (int n = 0; n < NT; n++)
                multiply(sum[n], w[u], x[n][2 * u], x[n][2 * u + 1]);
    }
};

/* ---- tiles ---- */

template <int NT, int OUT>
__device__ __forceinline__ void sums_keep(const float (&sum)[NT][4], const struct ready<OUT> (&had)[NT],
                                          float (&owed)[NT][4], struct ready<OUT> (&had_first)[NT])
{
#pragma unroll
    for (int n = 0; n < NT; n++) {
        had_first[n] = had[n];
#pragma unroll
        for (int i = 0; i < 4; i++)
            owed[n][i] = sum[n][i];
    }
}

/* What the warp's rows of a tile take from memory. */
template <int NT, int OUT>
__device__ __forceinline__ void rows_ready(const struct skinny_args &a, const struct rotate_args &t, int32_t tile,
                                           int warp, int lane, struct ready<OUT> (&had)[NT])
{
#pragma unroll
    for (int n = 0; n < NT; n++)
        had[n].read(a, t, tile, n * 8 + warp, lane);
}

/* A whole tile becomes outputs. `turn` is the half of the desk that is free. */
template <int NT, int OUT>
__device__ __forceinline__ void tile_end(const struct skinny_args &a, const struct rotate_args &t, int32_t tile,
                                         const float (&sum)[NT][4], const struct squares (&square)[NT],
                                         const struct ready<OUT> (&had)[NT], float *desk, int &turn, int warp, int lane)
{
#pragma unroll
    for (int n = 0; n < NT; n++) {
        float *rows = desk + turn * (8 * DESK_ROW);
        sums_place(sum[n], rows, warp, lane);
        workers_sync();
        if (n * 8 + warp < a.rows)
            row_end<OUT>(a, t, had[n], tile, n * 8 + warp, rows + warp * DESK_ROW, factor_of(a, square[n]), lane);
        turn ^= 1;
    }
}

template <int NT, int OUT>
__device__ __forceinline__ void work(const struct skinny_args &a, const struct rotate_args &t, float *desk, int warp,
                                     int lane, struct ring ring)
{
    const struct share s = share_in<OUT>(a, t);
    const uint32_t weights = (uint32_t)(warp * 16 * CHUNK_BYTES), rows = (uint32_t)(TILE * CHUNK_BYTES);
    const int32_t first = s.begin / s.depth;
    const bool owes = s.begin % s.depth != 0 && s.end >= (first + 1) * s.depth; /* ends a tile that others begin */
    int32_t tile = first, chunk = s.begin % s.depth;
    struct half_chunk<NT> half[2];
    float sum[NT][4] = {}, owed[NT][4];
    struct squares square[NT];
    struct ready<OUT> had[NT], had_first[NT]; /* of the tile at hand; of the first, where it is owed */
    int turn = 0;

    /* how rows turn stands in what was written long before; x may be what the kernel in front writes */
    if constexpr (OUT == OUT_QKV)
        rows_ready<NT, OUT>(a, t, first, warp, lane, had);
    chain_wait();
    if constexpr (OUT != OUT_QKV)
        rows_ready<NT, OUT>(a, t, first, warp, lane, had);
#pragma unroll
    for (int n = 0; n < NT; n++) /* of the rows that the warp takes at the end of every tile */
        square[n] = squares_read(a, n * 8 + warp, lane);

    /* halves of chunks are loaded while those before them are multiplied, also from stage to stage */
    ring.wait_full();
    half[0].load(ring.at() + weights, ring.at() + rows, 0, lane);
    for (int32_t i = s.begin; i < s.end; i++) {
        const struct ring now = ring;

        half[1].load(ring.at() + weights, ring.at() + rows, 1, lane);
        half[0].multiply_into(sum);
        ring.next();
        if (i + 1 < s.end) {
            ring.wait_full();
            half[0].load(ring.at() + weights, ring.at() + rows, 0, lane);
        }
        half[1].multiply_into(sum);
        __syncwarp();
        if (lane == 0)
            now.done();
        if (++chunk < s.depth && i + 1 < s.end)
            continue;
        if (chunk < s.depth)
            piece_leave<NT>(a, sum);
        else if (tile == first && owes)
            sums_keep<NT, OUT>(sum, had, owed, had_first);
        else
            tile_end<NT, OUT>(a, t, tile, sum, square, had, desk, turn, warp, lane);
        sums_clear<NT>(sum);
        chunk = 0;
        tile++;
        if (OUT == OUT_PLAIN && i + 1 < s.end)
            rows_ready<NT, OUT>(a, t, tile, warp, lane, had);
    }
    if (!owes)
        return;
    pieces_add<NT, 1>(a, s, holder(s, first * s.depth), owed);
    tile_end<NT, OUT>(a, t, first, owed, square, had_first, desk, turn, warp, lane);
}

template <int NT, int OUT>
__global__ void __launch_bounds__(THREADS, 1) thin_kernel(const __grid_constant__ struct skinny_args a,
                                                          const __grid_constant__ struct rotate_args t, int32_t stages)
{
    extern __shared__ __align__(128) char shared[];
    const int warp = threadIdx.x >> 5, lane = threadIdx.x & 31;
    char *fixed = shared + stages * thin<NT>::stage;
    const uint32_t barriers = shared_address(fixed) + thin<NT>::desk;
    const struct ring ring = {
        shared_address(shared), barriers, barriers + 8 * STAGES_MAX, thin<NT>::stage, stages, 0, 0
    };

    if (threadIdx.x == 0)
        ring_open(ring, (MOVERS + 1) * 32, WORKERS);
    __syncthreads();
    if (warp >= WORKERS + 1) {
        weights_move<OUT>(a, t, threadIdx.x - (WORKERS + 1) * 32, ring);
        return;
    }
    if (warp == WORKERS) {
        chain_wait();
        chain_next();
        rows_move<NT, OUT>(a, t, lane, ring);
    } else {
        work<NT, OUT>(a, t, (float *)fixed, warp, lane, ring);
    }
}

/* ---- launchers ---- */

/* No more thread blocks than it takes for the largest share to be as small as it can be. */
static int32_t thin_blocks(const struct cuda_queue &q, const struct skinny_args *a, int32_t outputs)
{
    const int32_t chunks = int_ceil(a->n, outputs) * int_ceil(a->k, CHUNK);

    return int_ceil(chunks, int_ceil(chunks, q.sms));
}

template <int NT, int OUT>
static cudaError_t thin_run(const struct cuda_queue &q, const struct skinny_args *a, const struct rotate_args *t)
{
    const struct rotate_args none = {};
    const int32_t outputs = tile_outputs<OUT>(t ? *t : none);
    int32_t stages = (q.shared_bytes - thin<NT>::fixed) / thin<NT>::stage;
    cudaError_t e = allow_shared(thin_kernel<NT, OUT>, (size_t)q.shared_bytes);

    stages = stages < STAGES_MAX ? stages : STAGES_MAX;
    if (e == cudaSuccess)
        e = all_shared(thin_kernel<NT, OUT>);
    if (e != cudaSuccess)
        return e;
    return launch_chained(q, dim3((unsigned)thin_blocks(q, a, outputs)), dim3(THREADS),
                          (size_t)(stages * thin<NT>::stage + thin<NT>::fixed), thin_kernel<NT, OUT>, *a, t ? *t : none,
                          stages);
}

template <int OUT>
static cudaError_t thin_rows(const struct cuda_queue &q, const struct skinny_args *a, const struct rotate_args *t)
{
    return a->rows <= 8 ? thin_run<1, OUT>(q, a, t) : thin_run<2, OUT>(q, a, t);
}

bool thin_takes(int64_t rows, int64_t n, int64_t k)
{
    return rows <= THIN_ROWS_MAX && n >= THIN_LEAST && k >= THIN_LEAST && k % 8 == 0;
}

cudaError_t launch_thin(struct cuda_queue q, const struct skinny_args *args)
{
    return thin_rows<OUT_PLAIN>(q, args, NULL);
}

cudaError_t launch_thin_gated(struct cuda_queue q, const struct skinny_args *args)
{
    return thin_rows<OUT_GATED>(q, args, NULL);
}

bool thin_takes_heads(const struct rotate_args *t)
{
    return t->dim <= TILE && t->rope_dims % 2 == 0 && t->slot && !t->q_plain;
}

cudaError_t launch_thin_qkv(struct cuda_queue q, const struct skinny_args *args, const struct rotate_args *t)
{
    return thin_takes_heads(t) ? thin_rows<OUT_QKV>(q, args, t) : cudaErrorInvalidValue;
}
