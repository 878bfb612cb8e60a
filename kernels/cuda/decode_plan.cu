/* SPDX-License-Identifier: Apache-2.0 */
/*
 * decode_plan.cu - once a step: the tiles of every item of every layer, and where each thread block of decode.cu begins.
 *
 * A thread block plans a layer. A thread makes one item out of a slot's block and tail, without what stands before the
 * first tile that the layer's window reaches; a prefix sum over the thread block (128 bytes of shared memory) gives each
 * item its first tile. Then a thread finds where one thread block begins, by bisection.
 *
 * The rows of embeddings that a step begins with are made in the same launch, by thread blocks of their own: layers +
 * rows thread blocks of 1,024 threads.
 */
#include "kernels/cuda/coded.cuh"
#include "kernels/cuda/decode.cuh"

enum { PLAN_THREADS = 1024 };

/* Lets an item's rows begin so many coded and whole ones later. */
__device__ __forceinline__ void head_advance(const struct decode_shape &s, struct decode_item &at, int64_t coded,
                                             int64_t whole)
{
    at.k = (const char *)at.k + coded * coded_bytes(at.codec, at.k_dim, 2);
    at.v = (const char *)at.v + coded * coded_bytes(at.codec, s.dim, 2);
    at.k_scale += at.codec == KV_INT4 ? coded / KV_GROUP_ROWS * at.k_dim : coded;
    at.v_scale += coded;
    at.k_whole = (const char *)at.k_whole + whole * at.k_dim * 2;
    at.v_whole = (const char *)at.v_whole + whole * s.dim * 2;
}

/* Leaves out what stands before the first tile that a row of the item sees. */
__device__ void unseen_drop(const struct decode_shape &s, int32_t window, struct decode_item &at)
{
    const int32_t seen = window > 0 ? at.block_rows + at.unit_tail + 1 - window : 0;

    if (seen >= at.block_rows && window > 0) {
        const int32_t pages = (seen - at.block_rows) / TILE;
        at.block_rows = 0;
        at.pages += pages;
        at.unit_tail -= pages * TILE;
    } else if (seen >= TILE) {
        const int32_t rows = seen / TILE * TILE, coded = min(rows, at.coded);
        at.block_rows -= rows;
        at.coded -= coded;
        head_advance(s, at, coded, rows - coded);
    }
}

/* An item without its place among the tiles. Units that stand for nobody have no tiles; they come last. */
__device__ struct decode_item item_of(const struct decode_shape &s, int32_t layer, int32_t i)
{
    struct decode_item at = {};
    const int32_t unit = i / s.kv_heads, slot = s.rows.unit_slot[unit];

    at.head = i % s.kv_heads;
    at.unit_row = s.rows.unit_row[unit];
    at.unit_rows = s.rows.unit_rows[unit];
    at.unit_tail = s.rows.unit_tail[unit];
    if (at.unit_rows == 0)
        return at;
    const struct slot_block *b = block_of(s, slot, layer);
    const int64_t first = b->first[at.head];
    const int64_t before = b->codec == KV_INT4 ? coded_before(b, s.kv_heads, at.head) : first;
    at.block_rows = b->first[at.head + 1] - (int32_t)first;
    at.coded = b->codec == KV_INT4 ? coded_before(b, s.kv_heads, at.head + 1) - (int32_t)before : at.block_rows;
    at.codec = b->codec;
    at.k_dim = b->k_dim;
    at.k = b->k, at.k_scale = b->k_scale, at.k_whole = b->k_whole;
    at.v = b->v, at.v_scale = b->v_scale, at.v_whole = b->v_whole;
    head_advance(s, at, before, first - before);
    at.mask = b->mask ? b->mask + at.head * ((s.dim + 7) / 8) : NULL;
    at.pages = pages_of(s, slot, layer);
    unseen_drop(s, s.window[layer], at);
    at.whole = (at.block_rows + TILE - 1) / TILE + (at.unit_tail + at.unit_rows + TILE - 1) / TILE;
    return at;
}

__device__ int32_t block_prefix(int32_t x, int32_t *total)
{
    __shared__ int32_t part[32];
    int lane = threadIdx.x & 31, warp = threadIdx.x >> 5;
    int32_t sum = x;

    for (int d = 1; d < 32; d <<= 1) {
        int32_t other = __shfl_up_sync(0xffffffffu, sum, d);
        if (lane >= d)
            sum += other;
    }
    if (lane == 31)
        part[warp] = sum;
    __syncthreads();
    if (warp == 0) {
        int32_t p = part[lane];
        for (int d = 1; d < 32; d <<= 1) {
            int32_t other = __shfl_up_sync(0xffffffffu, p, d);
            if (lane >= d)
                p += other;
        }
        part[lane] = p;
    }
    __syncthreads();
    int32_t before = (warp ? part[warp - 1] : 0) + sum - x;
    *total = part[31];
    __syncthreads();
    return before;
}

/* Thread blocks that share a layer's tiles: all, where each then has 4 or more; with fewer, pieces cost more than they
 * spare, and one on each multiprocessor is enough. */
__device__ __forceinline__ int32_t sharers(const struct decode_shape &s, int32_t total)
{
    return min(min(s.ctas, total), max(s.sms, total / 4));
}

/* Thread block c of `used` that share `total` tiles. */
__device__ struct decode_start start_of(const int32_t *first, const struct decode_item *item, int32_t items, int32_t c,
                                        int32_t total, int32_t used)
{
    struct decode_start at = {};
    int32_t low = 0, high = items;

    if (c >= used)
        return at;
    const int32_t tile = (int32_t)((int64_t)c * total / used), end = (int32_t)(((int64_t)c + 1) * total / used);
    while (high - low > 1) { /* the last item that begins at or before the tile, and is not empty */
        int32_t middle = (low + high) / 2;
        if (first[middle] <= tile)
            low = middle;
        else
            high = middle;
    }
    at.first = item[low];
    at.item = low, at.tile = tile - first[low], at.left = end - tile;
    at.from = (int32_t)((((int64_t)first[low] + 1) * used - 1) / total); /* the holder of that tile */
    at.second = (int64_t)at.from * total / used < first[low];
    return at;
}

__device__ void plan_layer(const struct decode_shape &s, int32_t layer)
{
    const int32_t items = s.units * s.kv_heads;
    int32_t *first = s.item_first + (int64_t)layer * (items + 1);
    struct decode_item *item = s.item + (int64_t)layer * items;
    int32_t carry = 0, total;

    for (int32_t base = 0; base < items; base += PLAN_THREADS) {
        const int32_t i = base + (int32_t)threadIdx.x;
        struct decode_item at = {};

        if (i < items)
            at = item_of(s, layer, i);
        at.base = carry + block_prefix(at.whole, &total);
        if (i < items) {
            first[i] = at.base;
            item[i] = at;
        }
        carry += total;
    }
    /* empty items at the end stand behind every tile, so that no search finds them */
    for (int32_t i = threadIdx.x; i <= items; i += PLAN_THREADS)
        if (i == items || s.rows.unit_rows[i / s.kv_heads] == 0)
            first[i] = carry;
    __syncthreads();
    int32_t used = sharers(s, carry);
    for (int32_t c = threadIdx.x; c < s.ctas; c += PLAN_THREADS)
        s.start[(int64_t)layer * s.ctas + c] = start_of(first, item, items, c, carry, used);
}

/* What the first norm of a row of x wants to know. */
__device__ void row_leave(const struct embed_args &e, int32_t row)
{
    float square = 0.0f;

    for (int32_t c = threadIdx.x; c < e.dim; c += PLAN_THREADS) { /* a thread's own numbers of embed_row */
        const float x = e.x[(int64_t)row * e.dim + c];
        square += x * x;
        ((bf16 *)e.next.row)[(int64_t)row * e.dim + c] = rounded<bf16>(x * e.next.norm[c]);
    }
    square = block_sum(square);
    if (threadIdx.x == 0)
        e.next.square[row] = square;
}

/* Thread blocks [0, planned) plan a layer each, those behind them make a row of x each. */
template <typename T>
__global__ void __launch_bounds__(PLAN_THREADS)
    begin_kernel(const __grid_constant__ struct decode_shape s, const __grid_constant__ struct embed_args e,
                 int32_t planned)
{
    const int32_t row = (int32_t)blockIdx.x - planned;

    chain_begin();
    if (row < 0) {
        plan_layer(s, blockIdx.x);
        return;
    }
    embed_row<T>((const T *)e.table, e.vocab, e.ids, e.slot_token, e.dim, e.scale, row, e.x);
    if (e.next.norm)
        row_leave(e, row);
}

cudaError_t launch_step_begin(struct cuda_queue q, enum dtype t, const struct decode_shape *s,
                              const struct embed_args *e)
{
    const int32_t planned = s->ctas > 0 ? s->layers : 0;
    const dim3 grid((unsigned)(planned + e->rows)), threads(PLAN_THREADS);

    if (planned + e->rows == 0)
        return cudaSuccess;
    return t == DT_F32 ? launch_chained(q, grid, threads, 0, begin_kernel<float>, *s, *e, planned)
                       : launch_chained(q, grid, threads, 0, begin_kernel<bf16>, *s, *e, planned);
}
