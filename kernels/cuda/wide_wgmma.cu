/* SPDX-License-Identifier: Apache-2.0 */
/*
 * wide_wgmma.cu - thin.cu for 17 to 96 rows, on warpgroups (sm_90a); also where matrices are small and skinny.cu takes none.
 *
 * Chunks are dealt out as deal.cuh says, to clusters of two thread blocks, which take those of their part in turns. A thread
 * block is
 *
 *   1 thread   that has the copy engine fetch weights and `in`  ──▶ ring of stages ──▶ 2 warpgroups that multiply
 *   3 warps    that make 1 / rms of rows of `in`, and how they turn, meanwhile
 *
 * Weights are the 64-row side of the products, half a tile to a warpgroup; rows of `in` are the other side, 32 to 96 of
 * them. What stands past the end of a matrix arrives as zeros. Where a cluster leaves a tile both have sums of the same
 * numbers: each sends the other the half of the rows that the other shall end, and adds up. What is left to do is thin.cu's,
 * with half of the rows.
 *
 * Sums that are sent (rounds of up to 64 rows) go straight into the other's shared memory, into one of two inboxes in turns.
 * Nobody says that one is free: who has all of a round knows that the round before was read, since it is sent after that.
 *
 * Shared memory, all there is: stages of (128 + 8 NT) x 128 bytes, panels of wgmma.cuh; two inboxes; a desk f32
 * [4 NT][TILE + 4]; how rows turn, [4 NT][TILE / 2] pairs, where heads do.
 */
#include "kernels/cuda/deal.cuh"
#include "kernels/cuda/wgmma.cuh"

#include <cuda.h>

enum { C = 2, SPARE = 3, THREADS = (WORKERS + 1 + SPARE) * 32, SHARED = 227 * 1024, STAGES_MAX = 12, PAIRS = TILE / 2 };
/* A cluster's share is no less than this many chunks, or a tile: pieces of less cost more than they save. */
enum { CHUNKS_LEAST = 32 };

template <int NT, int OUT> struct wide {
    enum {
        weights = TILE * CHUNK_BYTES,
        rows = 8 * NT,
        stage = weights + rows * CHUNK_BYTES,
        round = NT <= 8 ? NT : NT / 2, /* eights of rows that are sent at a time */
        each = round / C,              /* of those, a thread block's */
        own = NT / C,                  /* eights of rows that a thread block ends */
        letter = WORKERS * 32 * 16,    /* an eighth of a round: four numbers of every thread */
        inbox = each * letter,
        desk = 8 * own * DESK_ROW * 4,
        turns = OUT == OUT_QKV ? 8 * own * PAIRS * 8 : 0,
        fixed = 2 * inbox + desk + turns + rows * 4 + 2 * STAGES_MAX * 8 + 3 * 8,
        room = (SHARED - 1024 - fixed) / stage,
        stages = room < STAGES_MAX ? room : STAGES_MAX,
        /* from the first stage on */
        inbox_at = stages * stage,
        desk_at = inbox_at + 2 * inbox,
        turns_at = desk_at + desk,
        factor_at = turns_at + turns,
        gates_at = factor_at + rows * 4,
        bytes = inbox_at + fixed + 1024
    };
    static_assert(NT % C == 0 && round % C == 0 && NT % round == 0, "rounds of whole eights of rows to each");
    /* The first row of `in` of a thread block's n-th eight. */
    static __device__ __forceinline__ int32_t eight(int n, int32_t rank)
    {
        return (n / each * round + rank * each + n % each) * 8;
    }
};

/* Where chunks come from, as the copy engine reads them. */
struct wide_maps {
    CUtensorMap w, in;
    int32_t box; /* outputs that one copy brings */
};

/* Which of its cluster a thread block is, and where its shared memory lies. */
template <int NT, int OUT> struct place_of {
    typedef wide<NT, OUT> W;
    uint32_t base;
    int32_t rank;
    __device__ uint32_t full(int stage) const
    {
        return base + W::gates_at + 8 * stage;
    }
    __device__ uint32_t empty(int stage) const
    {
        return base + W::gates_at + 8 * (STAGES_MAX + stage);
    }
    __device__ uint32_t aside_there() const
    {
        return base + W::gates_at + 16 * STAGES_MAX;
    }
    __device__ uint32_t sent(int inbox) const
    {
        return base + W::gates_at + 16 * STAGES_MAX + 8 + 8 * inbox;
    }
};

template <int OUT>
__device__ __forceinline__ struct share share_in(const struct skinny_args &a, const struct rotate_args &t)
{
    const int32_t outputs = tile_outputs<OUT>(t);

    return share_of(blockIdx.x / C, gridDim.x / C, (a.k + CHUNK - 1) / CHUNK, (a.n + outputs - 1) / outputs);
}

/* A thread block's first chunk from `chunk` on; its others stand C apart. */
__device__ __forceinline__ int32_t own_chunk(int32_t chunk, int32_t rank)
{
    return chunk + (rank + C - chunk % C) % C;
}

/* ---- copies ---- */

__device__ __forceinline__ void gate_expect(uint32_t gate, uint32_t bytes)
{
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;\n" ::"r"(gate), "r"(bytes) : "memory");
}

/* A box of a matrix, whose first number is number k of row `row`; by `policy`: weights leave the L2 first. */
__device__ __forceinline__ void box_bring(const CUtensorMap &map, int32_t k, int32_t row, uint32_t to, uint32_t gate)
{
    asm volatile("cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1, {%2, %3}], "
                 "[%4];\n" ::"r"(to),
                 "l"(&map), "r"(k), "r"(row), "r"(gate)
                 : "memory");
}
__device__ __forceinline__ void box_bring(const CUtensorMap &map, int32_t k, int32_t row, uint32_t to, uint32_t gate,
                                          uint64_t policy)
{
    asm volatile("cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes.L2::cache_hint [%0], "
                 "[%1, {%2, %3}], [%4], %5;\n" ::"r"(to),
                 "l"(&map), "r"(k), "r"(row), "r"(gate), "l"(policy)
                 : "memory");
}

/* A chunk's weights are asked for, and how much will have arrived when it is there is said. Gates stand before their ups. */
template <int NT, int OUT>
__device__ __forceinline__ void weights_bring(const struct skinny_args &a, const struct wide_maps &maps,
                                              int32_t outputs, int32_t tile, int32_t k,
                                              const struct place_of<NT, OUT> &at, int stage, uint64_t policy)
{
    typedef wide<NT, OUT> W;
    const uint32_t to = at.base + stage * W::stage;

    gate_expect(at.full(stage), (uint32_t)(outputs + W::rows) * CHUNK_BYTES);
    for (int32_t r = 0; r < outputs; r += maps.box) {
        const int32_t row = OUT != OUT_GATED ? tile * outputs + r
                            : r < TILE / 2   ? tile * (TILE / 2) + r
                                             : a.n / 2 + tile * (TILE / 2) + r - TILE / 2;
        box_bring(maps.w, k, row, to + r * CHUNK_BYTES, at.full(stage), policy);
    }
}

/* Chunks of the thread block, by one thread: weights as far as there is room, in any case before the kernel in front has
 * ended; then rows for those, then both. */
template <int NT, int OUT> struct mover {
    typedef wide<NT, OUT> W;
    const struct skinny_args &a;
    const struct wide_maps &maps;
    const struct place_of<NT, OUT> &at;
    struct share s;
    int32_t outputs, first;
    uint64_t policy;
    __device__ mover(const struct skinny_args &args, const struct rotate_args &t, const struct wide_maps &from,
                     const struct place_of<NT, OUT> &place)
        : a(args), maps(from), at(place), s(share_in<OUT>(args, t)), outputs(tile_outputs<OUT>(t)),
          first(own_chunk(s.begin, place.rank)), policy(once_only())
    {
    }
    __device__ __forceinline__ void weights(int32_t i, int stage) const
    {
        weights_bring<NT, OUT>(a, maps, outputs, i / s.depth, i % s.depth * CHUNK, at, stage, policy);
    }
    __device__ __forceinline__ void rows(int32_t i, int stage) const
    {
        box_bring(maps.in, i % s.depth * CHUNK, 0, at.base + stage * W::stage + W::weights, at.full(stage));
    }
    __device__ __forceinline__ void begin() const
    {
        asm volatile("prefetch.tensormap [%0];\n" ::"l"(&maps.in) : "memory");
        for (int32_t i = first, stage = 0; i < s.end && stage < W::stages; i += C, stage++)
            weights(i, stage);
    }
    __device__ __forceinline__ void go_on() const
    {
        ring_place<W::stages> place;
        int32_t i = first;

        for (int stage = 0; i < s.end && stage < W::stages; i += C, stage++)
            rows(i, stage);
        place.round = 1;
        for (; i < s.end; i += C, place.next()) {
            gate_wait(at.empty(place.stage), place.round - 1);
            weights(i, place.stage);
            rows(i, place.stage);
        }
    }
};

/* ---- products ---- */

template <int NT> __device__ __forceinline__ void sums_pinned(float (&sum)[NT][4])
{
#pragma unroll
    for (int n = 0; n < NT; n++)
        pinned(sum[n]);
}

/* sum = the products of `chunks` chunks. */
template <int NT, int OUT>
__device__ __forceinline__ void chunks_multiply(int32_t chunks, const struct place_of<NT, OUT> &at,
                                                ring_place<wide<NT, OUT>::stages> &place, float (&sum)[NT][4], int warp,
                                                int lane)
{
    typedef wide<NT, OUT> W;
    uint32_t before = 0;

    if (chunks == 0)
        sums_clear<NT>(sum);
    sums_pinned<NT>(sum);
    for (int32_t i = 0; i < chunks; i++, place.next()) {
        const uint32_t stage = at.base + place.stage * W::stage;
        const uint64_t w = panel_at(stage + (warp >> 2) * (TILE / 2 * CHUNK_BYTES)), in = panel_at(stage + W::weights);

        gate_wait(at.full(place.stage), place.round);
        products_begin();
#pragma unroll
        for (int k = 0; k < 4; k++)
            products(sum, w + 2 * k, in + 2 * k, i > 0 || k > 0);
        products_commit();
        if (i > 0) {
            products_wait<1>();
            if (lane == 0)
                gate_arrive(before);
        }
        before = at.empty(place.stage);
    }
    products_wait<0>();
    sums_pinned<NT>(sum);
    if (chunks > 0 && lane == 0)
        gate_arrive(before);
}

/* ---- sums of a cluster ---- */

/* Where address `at` of this thread block lies in thread block `rank` of the cluster. */
__device__ __forceinline__ uint32_t there(uint32_t at, int32_t rank)
{
    uint32_t to;
    asm("mapa.shared::cluster.u32 %0, %1, %2;\n" : "=r"(to) : "r"(at), "r"(rank));
    return to;
}
/* 16 bytes to the other thread block, counted by its gate when they are there. */
__device__ __forceinline__ void send(uint32_t to, const float (&x)[4], uint32_t gate)
{
    asm volatile(
        "st.async.weak.shared::cluster.mbarrier::complete_tx::bytes.v4.f32 [%0], {%1, %2, %3, %4}, [%5];\n" ::"r"(to),
        "f"(x[0]), "f"(x[1]), "f"(x[2]), "f"(x[3]), "r"(gate)
        : "memory");
}
__device__ __forceinline__ void read_sent(uint32_t at, float (&x)[4])
{
    asm volatile("ld.shared.v4.f32 {%0, %1, %2, %3}, [%4];\n"
                 : "=f"(x[0]), "=f"(x[1]), "=f"(x[2]), "=f"(x[3])
                 : "r"(at)
                 : "memory");
}
/* As gate_wait, for what the other thread block sent. */
__device__ __forceinline__ void sent_wait(uint32_t gate, uint32_t round)
{
    asm volatile("{.reg .pred p;\n"
                 "again: mbarrier.try_wait.parity.acquire.cluster.shared::cta.b64 p, [%0], %1;\n"
                 "@p bra done;\nbra again;\ndone:\n}\n" ::"r"(gate),
                 "r"(round & 1)
                 : "memory");
}

/* own = what both thread blocks of the cluster have in `sum` of the rows that this one ends. `turn` counts rounds. */
template <int NT, int OUT>
__device__ __forceinline__ void sums_exchange(const float (&sum)[NT][4], const struct place_of<NT, OUT> &at,
                                              uint32_t &turn, float (&own)[NT / C][4])
{
    typedef wide<NT, OUT> W;

#pragma unroll
    for (int round = 0; round < NT / W::round; round++, turn++) {
        const uint32_t inbox = at.base + W::inbox_at + (turn & 1) * W::inbox + threadIdx.x * 16,
                       gate = at.sent(turn & 1);

        const uint32_t to = there(inbox, 1 - at.rank), counts = there(gate, 1 - at.rank);

#pragma unroll
        for (int i = 0; i < W::each; i++) {
            const int mine = round * W::round + i, theirs = mine + W::each; /* of rank 0 */
            float x[4];
#pragma unroll
            for (int j = 0; j < 4; j++)
                x[j] = at.rank == 0 ? sum[theirs][j] : sum[mine][j];
            send(to + i * W::letter, x, counts);
        }
        sent_wait(gate, turn >> 1);
        if (threadIdx.x == 0)
            gate_expect(gate, W::inbox); /* of the round after the next */
#pragma unroll
        for (int i = 0; i < W::each; i++) {
            const int mine = round * W::round + i, theirs = mine + W::each;
            float x[4];
            read_sent(inbox + i * W::letter, x);
#pragma unroll
            for (int j = 0; j < 4; j++)
                own[round * W::each + i][j] = (at.rank == 0 ? sum[mine][j] : sum[theirs][j]) + x[j];
        }
    }
}

/* ---- tiles ---- */

/* What a thread block has in shared memory beside sums. */
struct aside {
    float *desk, *factor; /* factor: 1 / rms of every row of `in` */
    float2 *turn;         /* of the rows that it ends: [8 own][PAIRS] */
};

/* What the warp's rows of a tile take from memory. */
template <int NT, int OUT>
__device__ __forceinline__ void rows_ready(const struct skinny_args &a, const struct rotate_args &t, int32_t tile,
                                           int32_t rank, int warp, int lane, struct ready<OUT> (&had)[NT / C])
{
#pragma unroll
    for (int n = 0; n < NT / C; n++) {
        const int32_t m = wide<NT, OUT>::eight(n, rank) + warp;

        if constexpr (OUT == OUT_QKV)
            had[n].read_place(a, t, m);
        else
            had[n].read(a, t, tile, m, lane);
    }
}

/* The rows of `in` that are wanted, where they are not all, one after the other. */
template <int NT, int OUT>
__device__ __forceinline__ void rows_pick(const struct skinny_args &a, const struct rotate_args &t, int32_t tile,
                                          int32_t rank, const struct aside &aside, int warp, int lane)
{
    typedef wide<NT, OUT> W;

    for (int32_t m = warp; m < a.rows; m += WORKERS) {
        const int32_t row = a.index[m], eighth = row / 8, within = eighth % W::round;
        const float *sum = aside.desk + ((eighth / W::round * W::each + within % W::each) * 8 + row % 8) * DESK_ROW;

        if (within / W::each == rank)
            row_write(a, tile, m, sum, aside.factor[row], lane);
    }
}

/* A whole tile becomes outputs: the rows that this thread block ends. */
template <int NT, int OUT>
__device__ __forceinline__ void tile_end(const struct skinny_args &a, const struct rotate_args &t, int32_t tile,
                                         const float (&own)[NT / C][4], const struct place_of<NT, OUT> &at,
                                         struct ready<OUT> (&had)[NT / C], const struct aside &aside, int warp,
                                         int lane)
{
    typedef wide<NT, OUT> W;

    gate_wait(at.aside_there(), 0);
    workers_sync(); /* rows before these were taken */
#pragma unroll
    for (int n = 0; n < W::own; n++)
        sums_place(own[n], aside.desk + n * 8 * DESK_ROW, warp, lane);
    workers_sync();
    if (OUT == OUT_PLAIN && a.index) {
        rows_pick<NT, OUT>(a, t, tile, at.rank, aside, warp, lane);
        return;
    }
#pragma unroll
    for (int n = 0; n < W::own; n++) {
        const int32_t m = W::eight(n, at.rank) + warp;
        if (m >= a.rows)
            continue;
        if constexpr (OUT == OUT_QKV)
#pragma unroll
            for (int i = 0; i < ready<OUT>::EACH; i++)
                had[n].turn[i] = aside.turn[(n * 8 + warp) * PAIRS + lane + 32 * i];
        row_end<OUT>(a, t, had[n], tile, m, aside.desk + (n * 8 + warp) * DESK_ROW, aside.factor[m], lane);
    }
}

template <int NT, int OUT>
__device__ __forceinline__ void work(const struct skinny_args &a, const struct rotate_args &t,
                                     const struct place_of<NT, OUT> &at, const struct aside &aside, int warp, int lane)
{
    const struct share s = share_in<OUT>(a, t);
    const int32_t first = s.begin / s.depth;
    const bool owes = s.begin % s.depth != 0 && s.end >= (first + 1) * s.depth; /* ends a tile that others begin */
    ring_place<wide<NT, OUT>::stages> place;
    float sum[NT][4], own[NT / C][4], owed[NT / C][4];
    struct ready<OUT> had[NT / C];
    uint32_t turn = 0;

    /* where rows go stands in what was written long before; x may be what the kernel in front writes */
    if constexpr (OUT == OUT_QKV)
        rows_ready<NT, OUT>(a, t, first, at.rank, warp, lane, had);
    chain_wait();
    for (int32_t i = s.begin, tile = first; i < s.end; tile++) {
        const int32_t stop = min(s.end, (tile + 1) * s.depth), begin = own_chunk(i, at.rank);

        if constexpr (OUT == OUT_PLAIN)
            rows_ready<NT, OUT>(a, t, tile, at.rank, warp, lane, had);
        chunks_multiply<NT, OUT>(begin < stop ? (stop - begin + C - 1) / C : 0, at, place, sum, warp, lane);
        sums_exchange<NT, OUT>(sum, at, turn, own);
        i = stop;
        if (stop < (tile + 1) * s.depth) {
            piece_leave<NT / C>(a, own);
        } else if (tile == first && owes) {
#pragma unroll
            for (int n = 0; n < NT / C; n++)
#pragma unroll
                for (int j = 0; j < 4; j++)
                    owed[n][j] = own[n][j];
        } else {
            tile_end<NT, OUT>(a, t, tile, own, at, had, aside, warp, lane);
        }
    }
    if (!owes)
        return;
    /* had may be of another tile by now; for the most rows there are no registers to keep it in meanwhile */
    if (OUT == OUT_PLAIN && (NT > 8 || s.end > (first + 1) * s.depth))
        rows_ready<NT, OUT>(a, t, first, at.rank, warp, lane, had);
    pieces_add<NT / C, C>(a, s, holder(s, first * s.depth), owed);
    tile_end<NT, OUT>(a, t, first, owed, at, had, aside, warp, lane);
}

/* 1 / rms of every row of `in`, by the spare warps. */
__device__ __forceinline__ void factors_make(const struct skinny_args &a, int thread, int rows, float *factor)
{
    for (int row = thread; row < rows; row += SPARE * 32) {
        float sum = 0.0f;
#pragma unroll 16
        for (int32_t p = 0; p < (row < a.in_rows && a.square ? a.square_parts : 0); p++)
            sum += __ldcg(a.square + p * WIDE_ROWS_MAX + row);
        factor[row] = a.square ? rsqrtf(sum / (float)a.k + a.eps) : 1.0f;
    }
}

/* How rows turn that this thread block ends. Positions stand in what was written long before. */
template <int NT, int OUT>
__device__ __forceinline__ void turns_make(const struct skinny_args &a, const struct rotate_args &t, int thread,
                                           int32_t rank, float2 *turn)
{
    typedef wide<NT, OUT> W;
    const int32_t half = t.inv_freq ? t.rope_dims / 2 : 0;

#pragma unroll 4
    for (int i = thread; i < 8 * W::own * PAIRS; i += SPARE * 32) {
        const int32_t m = W::eight(i / (8 * PAIRS), rank) + i / PAIRS % 8, c = i % PAIRS;
        if (c < half && m < a.rows)
            turn[i] = turn_of(t, m, c);
    }
}

/* ---- the kernel ---- */

template <int NT, int OUT> __device__ __forceinline__ void gates_open(const struct place_of<NT, OUT> &at)
{
    for (int s = 0; s < wide<NT, OUT>::stages; s++) {
        gate_init(at.full(s), 1);
        gate_init(at.empty(s), WORKERS);
    }
    gate_init(at.aside_there(), SPARE * 32);
    for (int i = 0; i < 2; i++)
        gate_init(at.sent(i), 1);
    asm volatile("fence.mbarrier_init.release.cluster;\n" ::: "memory");
    operands_written();
    for (int i = 0; i < 2; i++)
        gate_expect(at.sent(i), wide<NT, OUT>::inbox);
}

template <int NT, int OUT>
__global__ void __launch_bounds__(THREADS, 1)
    wide_kernel(const __grid_constant__ struct skinny_args a, const __grid_constant__ struct rotate_args t,
                const __grid_constant__ struct wide_maps maps)
{
    extern __shared__ char shared[];
    const int warp = __shfl_sync(0xffffffffu, threadIdx.x >> 5, 0), lane = threadIdx.x & 31;
    const struct place_of<NT, OUT> at = {
        (shared_address(shared) + 1023) & ~1023u, (int32_t)(blockIdx.x % C)
    };
    char *const base = shared + (at.base - shared_address(shared));
    const struct aside aside = { (float *)(base + wide<NT, OUT>::desk_at), (float *)(base + wide<NT, OUT>::factor_at),
                                 (float2 *)(base + wide<NT, OUT>::turns_at) };
    const bool moves = warp == WORKERS && lane == 0;
    const struct mover<NT, OUT> mover(a, t, maps, at);

    if (threadIdx.x == 0)
        gates_open<NT, OUT>(at);
    __syncthreads();
    asm volatile("barrier.cluster.arrive.release.aligned;\n" ::: "memory");
    if (moves)
        mover.begin();
    __syncwarp();
    asm volatile("barrier.cluster.wait.acquire.aligned;\n" ::: "memory"); /* both can be sent to */
    if (moves) {
        chain_wait();
        chain_next();
        mover.go_on();
    } else if (warp > WORKERS) {
        const int thread = threadIdx.x - (WORKERS + 1) * 32;

        if (OUT == OUT_QKV)
            turns_make<NT, OUT>(a, t, thread, at.rank, aside.turn);
        chain_wait();
        factors_make(a, thread, wide<NT, OUT>::rows, aside.factor);
        gate_arrive(at.aside_there());
    } else if (warp < WORKERS) {
        work<NT, OUT>(a, t, at, aside, warp, lane);
    }
}

/* ---- launchers ---- */

typedef CUresult (*encode_fn)(CUtensorMap *, CUtensorMapDataType, cuuint32_t, void *, const cuuint64_t *,
                              const cuuint64_t *, const cuuint32_t *, const cuuint32_t *, CUtensorMapInterleave,
                              CUtensorMapSwizzle, CUtensorMapL2promotion, CUtensorMapFloatOOBfill);

/* The driver's function that describes a matrix to the copy engine; NULL: it has none. */
static encode_fn encoder(void)
{
    void *at = NULL;
    cudaDriverEntryPointQueryResult found;

    if (cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &at, 12000, cudaEnableDefault, &found) !=
            cudaSuccess ||
        found != cudaDriverEntryPointSuccess)
        return NULL;
    return (encode_fn)at;
}

/* bf16 [rows][k], of which a copy brings [box][CHUNK] as a panel. */
static bool map_make(encode_fn encode, const void *matrix, int64_t rows, int64_t k, int32_t box, CUtensorMap *out)
{
    const cuuint64_t size[2] = { (cuuint64_t)k, (cuuint64_t)rows }, stride[1] = { (cuuint64_t)k * 2 };
    const cuuint32_t boxes[2] = { CHUNK, (cuuint32_t)box }, steps[2] = { 1, 1 };

    return encode(out, CU_TENSOR_MAP_DATA_TYPE_BFLOAT16, 2, (void *)matrix, size, stride, boxes, steps,
                  CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_128B, CU_TENSOR_MAP_L2_PROMOTION_L2_256B,
                  CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE) == CUDA_SUCCESS;
}

/* The largest box that outputs of a tile are made of. */
static int32_t box_of(int32_t outputs)
{
    int32_t box = TILE / 2;

    while (outputs % box != 0)
        box /= 2;
    return box;
}

/* Thread blocks: as many clusters as the card can hold at once, where their shares are not too small. */
template <typename K>
static int32_t wide_blocks(K kernel, const cudaLaunchConfig_t &config, int32_t sms, int32_t tiles, int32_t depth)
{
    const int32_t chunks = tiles * depth;
    int clusters = 0;

    if (cudaOccupancyMaxActiveClusters(&clusters, kernel, &config) != cudaSuccess || clusters < 1 || clusters > sms / C)
        clusters = sms / C;
    const int32_t even = int_ceil(chunks, clusters), least = depth < CHUNKS_LEAST ? depth : CHUNKS_LEAST;
    return int_ceil(chunks, even > least ? even : least) * C;
}

template <int NT, int OUT>
static cudaError_t wide_run(const struct cuda_queue &q, const struct skinny_args *a, const struct rotate_args *t)
{
    const auto kernel = wide_kernel<NT, OUT>;
    const struct rotate_args none = {};
    const int32_t outputs = tile_outputs<OUT>(t ? *t : none);
    const encode_fn encode = encoder();
    cudaError_t e = allow_shared(kernel, wide<NT, OUT>::bytes);
    cudaLaunchAttribute attribute[2];
    cudaLaunchConfig_t config = {};
    struct wide_maps maps;

    if (e == cudaSuccess)
        e = all_shared(kernel);
    if (e != cudaSuccess)
        return e;
    maps.box = box_of(outputs);
    if (!encode || !map_make(encode, a->w, a->n, a->k, maps.box, &maps.w) ||
        !map_make(encode, a->in, a->in_rows, a->k, wide<NT, OUT>::rows, &maps.in))
        return cudaErrorInvalidValue;
    attribute[0].id = cudaLaunchAttributeClusterDimension;
    attribute[0].val.clusterDim.x = C;
    attribute[0].val.clusterDim.y = attribute[0].val.clusterDim.z = 1;
    attribute[1].id = cudaLaunchAttributeProgrammaticStreamSerialization;
    attribute[1].val.programmaticStreamSerializationAllowed = 1;
    config.gridDim = dim3(C);
    config.blockDim = dim3(THREADS);
    config.dynamicSmemBytes = wide<NT, OUT>::bytes;
    config.stream = q.stream;
    config.attrs = attribute;
    config.numAttrs = q.chained ? 2 : 1;
    config.gridDim = dim3((unsigned)wide_blocks(kernel, config, q.sms, int_ceil(a->n, outputs), int_ceil(a->k, CHUNK)));
    return cudaLaunchKernelEx(&config, kernel, *a, t ? *t : none, maps);
}

template <int OUT>
static cudaError_t wide_rows(const struct cuda_queue &q, const struct skinny_args *a, const struct rotate_args *t)
{
    const int32_t rows = a->in_rows;

    return rows <= 32   ? wide_run<4, OUT>(q, a, t)
           : rows <= 48 ? wide_run<6, OUT>(q, a, t)
           : rows <= 64 ? wide_run<8, OUT>(q, a, t)
                        : wide_run<12, OUT>(q, a, t);
}

bool wide_takes(struct cuda_queue q, int64_t in_rows, int64_t n, int64_t k)
{
    return q.warpgroups && in_rows <= WIDE_ROWS_MAX && n > 0 && k % 8 == 0;
}

cudaError_t launch_wide(struct cuda_queue q, const struct skinny_args *args)
{
    return wide_rows<OUT_PLAIN>(q, args, NULL);
}

cudaError_t launch_wide_gated(struct cuda_queue q, const struct skinny_args *args)
{
    return wide_rows<OUT_GATED>(q, args, NULL);
}

bool wide_takes_heads(const struct rotate_args *t)
{
    return thin_takes_heads(t) && TILE / t->dim * t->dim % 8 == 0;
}

cudaError_t launch_wide_qkv(struct cuda_queue q, const struct skinny_args *args, const struct rotate_args *t)
{
    return wide_takes_heads(t) ? wide_rows<OUT_QKV>(q, args, t) : cudaErrorInvalidValue;
}
