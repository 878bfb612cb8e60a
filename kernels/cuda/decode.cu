/* SPDX-License-Identifier: Apache-2.0 */
/*
 * decode.cu - attention of one step over ragged blocks and tails, near the speed at which the rows can be read.
 *
 *   items          (unit, KV head): lengths differ from head to head and from sequence to sequence
 *   tiles of 64    [ item 0: block ......... tail ][ item 1: b t ][ item 2: block ... tail ] ...
 *   thread blocks  |------ 0 ------|------ 1 ------|------ 2 ------|          equal shares, wherever items begin
 *
 * The flattened tiles of a layer are dealt out evenly to a fixed grid, so no raggedness costs anything and the launch is
 * the same for every step (a captured graph replays). Tiles that a layer's window no longer reaches are none of them. An
 * item that lies in several thread blocks leaves (max, sum, out) of each, which some of them merge.
 *
 *   decode_plan.cu     where each thread block begins: worked out once a step for all layers
 *   decode_rows.cuh    a warp's 16 rows of a tile: shared memory, copies, tensor cores
 *   decode_codes.cuh   the same for rows that are coded or lack channels (MIXED)
 *   decode_merge.cuh   what warps and thread blocks have of an item becomes its output
 *   decode_plain.cu    f32 caches and other head sizes: one thread block per query head
 *
 * Here they are put together: one launch per layer, of as many thread blocks of 4 warps as the card holds at once.
 */
#include "kernels/cuda/decode_codes.cuh"
#include "kernels/cuda/decode_merge.cuh"
#include "kernels/cuda/decode_rows.cuh"
#include "kernels/cuda/numbers.cuh"

/* Whether a tile of an item is read as codes, or without some channels. */
template <bool MIXED> __device__ __forceinline__ bool is_coded(const struct work &w, int32_t dim, int32_t tile)
{
    return MIXED && tile < w.block_tiles && (w.codec != KV_PLAIN || w.k_dim < dim);
}

template <int D, bool MIXED>
__device__ __forceinline__ void tile_fetch(const struct decode_shape &s, const struct work &w, const char *pool,
                                           int32_t tile, int warp, int lane, uint32_t to, bool &waited)
{
    if (is_coded<MIXED>(w, D, tile))
        codes_fetch<D>(w, tile, warp, lane, to);
    else
        rows_fetch<D>(s, w, pool, tile, warp, lane, to, waited);
}

/* Asks for the first tiles of an item. */
template <int D, bool MIXED>
__device__ __forceinline__ void item_begin(const struct decode_shape &s, const struct work &w, const char *pool,
                                           int32_t tile, int32_t stop, int warp, int lane, uint32_t to, bool &waited)
{
#pragma unroll
    for (int i = 0; i < room<D>::stages; i++) {
        if (tile + i < stop)
            tile_fetch<D, MIXED>(s, w, pool, tile + i, warp, lane, to + i * 2 * room<D>::matrix, waited);
        copies_commit();
    }
}

template <int D, bool MIXED>
__global__ void __launch_bounds__(WARPS * 32, D <= 128 ? 2 : 1)
    decode_kernel(const __grid_constant__ struct decode_shape s, int32_t layer, const bf16 *in, float scale2,
                  int32_t window, bf16 *out)
{
    extern __shared__ __align__(128) char shared[];
    __shared__ __align__(16) struct merging<D> desk[WARPS];
    __shared__ uint8_t kept[MIXED ? WARPS : 1][KV_HEAD_DIM_MAX];
    const int warp = threadIdx.x >> 5, lane = threadIdx.x & 31;
    const int32_t group = s.q_heads / s.kv_heads, cta = blockIdx.x;
    const struct decode_item *items = s.item + (int64_t)layer * s.units * s.kv_heads;
    const char *pool = (const char *)s.pool;
    const uint32_t mine = shared_address(shared) + warp * room<D>::warp;
    const struct decode_start begin = s.start[(int64_t)layer * s.ctas + cta];
    int32_t item = begin.item, tile = begin.tile, left = begin.left;
    struct work w = work_of(begin.first);
    enum ending owed = WHOLE; /* of the first item, whose pieces this block puts together at its end */
    bool ends = false;        /* whether these are all of its pieces: it ends here */
    bool waited = false;

    chain_next();
    if (left == 0 && cta > 0) /* makes room for the next kernel's; the first always waits for the kernel before */
        return;
    if (left > 0)
        item_begin<D, MIXED>(s, w, pool, tile, min(tile + left, w.whole), warp, lane, mine, waited);
    if (!waited)
        chain_wait();
    waited = true;
    for (int32_t part = 0; left > 0; part++) {
        const int32_t stop = min(tile + left, w.whole);
        struct running<D> run = {
            { -CUDART_INF_F, -CUDART_INF_F }, {},
            {
            }
        };
        struct decode_item next = {};
        uint32_t query[D / 16][4];

        if (left > stop - tile)
            next = items[item + 1];
        bool coded = is_coded<MIXED>(w, D, tile);
        if (coded)
            queries_load_coded<D>(s, w, in, group, lane, kept[MIXED ? warp : 0], query);
        else
            queries_load<D>(s, w, in, group, lane, query);
        for (int32_t t = tile, stage = 0; t < stop; t++) {
            copies_wait<room<D>::stages - 1>();
            __syncwarp();
            if (MIXED && coded && t >= w.block_tiles) { /* the tail is plain */
                if (has_scales(w.codec))
                    running_turn<D>(lane, run);
                queries_load<D>(s, w, in, group, lane, query);
                coded = false;
            }
            if (MIXED && coded)
                codes_attend<D>(w, query, group, scale2, window, t, warp, lane,
                                shared + warp * room<D>::warp + stage * 2 * room<D>::matrix,
                                mine + stage * 2 * room<D>::matrix, run);
            else
                rows_attend<D>(w, query, group, scale2, window, t, warp, lane, mine + stage * 2 * room<D>::matrix, run);
            __syncwarp();
            if (t + room<D>::stages < stop)
                tile_fetch<D, MIXED>(s, w, pool, t + room<D>::stages, warp, lane, mine + stage * 2 * room<D>::matrix,
                                     waited);
            copies_commit();
            stage = stage == room<D>::stages - 1 ? 0 : stage + 1;
        }
        if (MIXED && coded && has_scales(w.codec))
            running_turn<D>(lane, run);
        const struct work done = w;
        enum ending ending = tile == 0 && stop == w.whole ? WHOLE : PIECE;
        left -= stop - tile;
        if (tile > 0 && (stop == w.whole || ends_team(cta, begin.from))) {
            if (left == 0 && w.unit_rows * group <= MERGED)
                ending = LAST;
            owed = ending;
            ends = stop == w.whole;
        }
        if (left > 0) { /* its rows come in while this item is put together */
            w = work_of(next);
            item_begin<D, MIXED>(s, w, pool, 0, min(left, w.whole), warp, lane, mine, waited);
        }
        item_end<D>(s, done, run, group, scale2, ending, warp, lane, desk,
                    s.partial + ((int64_t)cta * 2 + (part > 0)) * DECODE_PIECE_FLOATS(D), out);
        item++;
        tile = 0;
    }
    if (owed != WHOLE)
        pieces_merge<D>(s, layer, group, ends, owed == LAST, desk, out);
}

template <int D>
static cudaError_t decode(const struct cuda_queue &q, const struct decode_shape *s, int32_t layer, const void *in,
                          float scale, int32_t window, void *out)
{
    return launch_chained(q, dim3((unsigned)s->ctas), dim3(WARPS * 32), (size_t)s->shared_bytes,
                          s->mixed ? decode_kernel<D, true> : decode_kernel<D, false>, *s, layer, (const bf16 *)in,
                          scale * LOG2E, window, (bf16 *)out);
}

template <int D> static int32_t ctas_of(const struct cuda_queue &q, int32_t *shared_bytes)
{
    cudaFuncAttributes loaded = {};
    const bool told = cudaFuncGetAttributes(&loaded, decode_kernel<D, false>) == cudaSuccess;
    const bool little = loaded.binaryVersion >= LITTLE_FROM && loaded.binaryVersion <= LITTLE_TO;
    const int bytes = little ? (int)room<D, true>::bytes : (int)room<D, false>::bytes;
    int each = 0;

    *shared_bytes = bytes;
    if (!told || allow_shared(decode_kernel<D, false>, bytes) != cudaSuccess ||
        allow_shared(decode_kernel<D, true>, bytes) != cudaSuccess ||
        all_shared(decode_kernel<D, false>) != cudaSuccess || all_shared(decode_kernel<D, true>) != cudaSuccess ||
        cudaOccupancyMaxActiveBlocksPerMultiprocessor(&each, decode_kernel<D, false>, WARPS * 32, bytes) !=
            cudaSuccess) {
        (void)cudaGetLastError(); /* a card with less shared memory: not for the next launch to find */
        return 0;
    }
    return each * q.sms;
}

int32_t decode_ctas(struct cuda_queue q, enum dtype t, int32_t dim, int32_t *shared_bytes)
{
    *shared_bytes = 0;
    if (t != DT_BF16)
        return 0;
    switch (dim) {
    case 64:
        return ctas_of<64>(q, shared_bytes);
    case 80:
        return ctas_of<80>(q, shared_bytes);
    case 96:
        return ctas_of<96>(q, shared_bytes);
    case 128:
        return ctas_of<128>(q, shared_bytes);
    case 256:
        return ctas_of<256>(q, shared_bytes);
    default:
        return 0;
    }
}

cudaError_t launch_decode(struct cuda_queue q, enum dtype t, const struct decode_shape *s, int32_t rows, int32_t layer,
                          const void *in, float scale, int32_t window, void *out)
{
    if (s->ctas > 0)
        switch (s->dim) {
        case 64:
            return decode<64>(q, s, layer, in, scale, window, out);
        case 80:
            return decode<80>(q, s, layer, in, scale, window, out);
        case 96:
            return decode<96>(q, s, layer, in, scale, window, out);
        case 128:
            return decode<128>(q, s, layer, in, scale, window, out);
        case 256:
            return decode<256>(q, s, layer, in, scale, window, out);
        default:
            return cudaErrorInvalidValue;
        }
    return launch_decode_plain(q, t, s, rows, layer, in, scale, window, out);
}
