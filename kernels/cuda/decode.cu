/* SPDX-License-Identifier: Apache-2.0 */
/*
 * decode.cu - attention of one step over ragged blocks and tails, near the speed at which the rows can be read.
 *
 *   items          (unit, KV head): lengths differ from head to head and from sequence to sequence
 *   tiles of 64    [ item 0: block ......... tail ][ item 1: b t ][ item 2: block ... tail ] ...
 *   thread blocks  |------ 0 ------|------ 1 ------|------ 2 ------|          equal shares, wherever items begin
 *
 * The flattened tiles of a layer are dealt out evenly to a fixed grid, so no raggedness costs anything and the launch is
 * the same for every step (a captured graph replays). An item that lies in several thread blocks leaves (max, sum, out)
 * of each; the one that arrives last merges them. Where each block begins is worked out once a step for all layers.
 *
 * A warp owns 16 rows of a tile and its own pipeline of asynchronous copies: no barrier inside an item. Queries (up to
 * 16: the group's heads times the unit's rows) are the M side of the tensor cores' 16 x 8 x 16, rows of the cache the N
 * side. Shared memory: 4 warps x STAGES x (K and V) x 16 rows, each padded by 16 bytes against bank conflicts.
 *
 * f32 caches and other head sizes take a plain kernel: one thread block per query head, nothing shared.
 */
#include "kernels/cuda/device.cuh"

enum { MERGED = 4, PIECES_MAX = 600 }; /* query rows that four warps put together at once; thread blocks */
enum { TILE = KV_PAGE_TOKENS, WARPS = 4, ROWS = 16, PLAN_THREADS = 1024, PLAIN_WARPS = 8 };

#define LOG2E 1.4426950408889634f

template <int D> struct room {
    enum {
        row = D * 2 + 16, /* bytes */
        matrix = ROWS * row,
        stages = D <= 64    ? 4
                 : D <= 128 ? 3
                            : 2,
        warp = stages * 2 * matrix,
        bytes = WARPS * warp
    };
};

__device__ __forceinline__ const struct slot_block *block_of(const struct decode_shape &s, int32_t slot, int32_t layer)
{
    const int64_t bytes = (4 * (int64_t)sizeof(void *) + 4 * (int64_t)(s.kv_heads + 2) + 15) / 16 * 16;

    return (const struct slot_block *)(s.blocks + ((int64_t)slot * s.layers + layer) * bytes);
}

/* The pages of a slot's tail in a layer. */
__device__ __forceinline__ const int32_t *pages_of(const struct decode_shape &s, int32_t slot, int32_t layer)
{
    return s.pages + ((s.ringed[layer / 32] >> layer % 32 & 1) ? s.ring_table : 0) + (int64_t)slot * s.pages_per_slot;
}

/* An item as a thread block works on it. */
struct work {
    int32_t unit_row, unit_rows, unit_tail, head;
    int32_t block_rows, block_tiles, tail_rows, base, whole;
    const char *k, *v; /* of the head in the block */
    const int32_t *pages;
};

__device__ __forceinline__ struct work work_of(const struct decode_item &at)
{
    struct work w = { at.unit_row,
                      at.unit_rows,
                      at.unit_tail,
                      at.head,
                      at.block_rows,
                      (at.block_rows + TILE - 1) / TILE,
                      at.unit_tail + at.unit_rows,
                      at.base,
                      at.whole,
                      (const char *)at.k,
                      (const char *)at.v,
                      at.pages };
    return w;
}

/* ---- the plan ---- */

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
    at.block_rows = b->first[at.head + 1] - (int32_t)first;
    at.k = (const char *)b->k + first * s.dim * 2;
    at.v = (const char *)b->v + first * s.dim * 2;
    at.pages = pages_of(s, slot, layer);
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

/* Thread blocks that share a layer's tiles: all, where each then has 8 or more, else half of them. */
__device__ __forceinline__ int32_t sharers(int32_t ctas, int32_t total)
{
    return min(min(ctas, total), max(ctas / 2, total / 8));
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
    at.item = low, at.tile = tile - first[low], at.left = end - tile, at.total = total;
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
    int32_t used = sharers(s.ctas, carry);
    for (int32_t c = threadIdx.x; c < s.ctas; c += PLAN_THREADS)
        s.start[(int64_t)layer * s.ctas + c] = start_of(first, item, items, c, carry, used);
}

/* Thread blocks [0, planned) plan a layer each, those behind them make a row of x each. */
template <typename T>
__global__ void __launch_bounds__(PLAN_THREADS)
    begin_kernel(const __grid_constant__ struct decode_shape s, const __grid_constant__ struct embed_args e,
                 int32_t planned)
{
    const int32_t row = (int32_t)blockIdx.x - planned;

    chain_begin();
    if (row < 0)
        plan_layer(s, blockIdx.x);
    else
        embed_row<T>((const T *)e.table, e.vocab, e.ids, e.slot_token, e.dim, e.scale, row, (T *)e.x);
}

/* ---- one layer ---- */

/* Queues the copies of this warp's 16 rows of tile `tile`. */
template <int D>
__device__ __forceinline__ void rows_fetch(const struct decode_shape &s, const struct work &w, const char *pool,
                                           int32_t tile, int warp, int lane, uint32_t to, bool &waited)
{
    const char *k, *v;
    int32_t row, valid;

    if (tile < w.block_tiles) {
        row = tile * TILE + warp * ROWS;
        valid = w.block_rows - row;
        k = w.k + (int64_t)row * (D * 2);
        v = w.v + (int64_t)row * (D * 2);
    } else {
        if (!waited) { /* the row that this step appended */
            chain_wait();
            waited = true;
        }
        row = (tile - w.block_tiles) * TILE + warp * ROWS;
        valid = w.tail_rows - row;
        if (valid <= 0)
            return;
        int64_t page = w.pages[tile - w.block_tiles];
        k = pool + (page * s.page_stride + ((int64_t)w.head * TILE + warp * ROWS) * D) * 2;
        v = k + (int64_t)s.kv_heads * TILE * D * 2;
    }
    if (valid <= 0)
        return;
#pragma unroll
    for (int i = 0; i < D / 16; i++) {
        int unit = lane + 32 * i, r = unit / (D / 8), c = unit % (D / 8);
        copy16_async(to + r * room<D>::row + c * 16, k + r * (D * 2) + c * 16, r < valid);
    }
#pragma unroll
    for (int i = 0; i < D / 16; i++) {
        int unit = lane + 32 * i, r = unit / (D / 8), c = unit % (D / 8);
        copy16_async(to + room<D>::matrix + r * room<D>::row + c * 16, v + r * (D * 2) + c * 16, r < valid);
    }
}

/* Running softmax of this warp: two query rows to a thread (lane / 4, and 8 more). */
template <int D> struct running {
    float max[2], sum[2], out[D / 8][4];
};

template <int D>
__device__ __forceinline__ void rows_attend(const struct work &w, const uint32_t (&query)[D / 16][4], int32_t group,
                                            float scale2, int32_t window, int32_t tile, int warp, int lane, uint32_t at,
                                            struct running<D> &run)
{
    const bool tail = tile >= w.block_tiles;
    const int32_t row = (tail ? tile - w.block_tiles : tile) * TILE + warp * ROWS;
    const int32_t valid = (tail ? w.tail_rows : w.block_rows) - row;
    float s[2][4] = {};

    if (valid <= 0)
        return;
#pragma unroll
    for (int kk = 0; kk < D / 16; kk++) {
        uint32_t b[4];
        load_matrices(b, at + ((lane >> 4) * 8 + (lane & 7)) * room<D>::row + kk * 32 + ((lane >> 3) & 1) * 16);
        multiply(s[0], query[kk], b[0], b[1]);
        multiply(s[1], query[kk], b[2], b[3]);
    }
    if (tail || window > 0 || valid < ROWS) {
        const int32_t ahead = tail ? w.block_rows : 0; /* cache rows of this head before `row`'s segment */
#pragma unroll
        for (int i = 0; i < 4; i++) {
            int32_t q = (lane >> 2) + (i >= 2 ? 8 : 0), self = w.block_rows + w.unit_tail + q / group;
#pragma unroll
            for (int j = 0; j < 2; j++) {
                int32_t r = j * 8 + 2 * (lane & 3) + (i & 1), place = ahead + row + r;
                if (r >= valid || place > self || (window > 0 && place <= self - window))
                    s[j][i] = -CUDART_INF_F;
            }
        }
    }
    float p[2][4];
    bool same = true;
#pragma unroll
    for (int half = 0; half < 2; half++) {
        float top = fmaxf(fmaxf(s[0][2 * half], s[0][2 * half + 1]), fmaxf(s[1][2 * half], s[1][2 * half + 1]));
        top = fmaxf(top, __shfl_xor_sync(0xffffffffu, top, 1));
        top = fmaxf(top, __shfl_xor_sync(0xffffffffu, top, 2));
        top = fmaxf(top, run.max[half]);
        float base = top == -CUDART_INF_F ? 0.0f : top * scale2, sum = 0.0f;
#pragma unroll
        for (int j = 0; j < 2; j++)
#pragma unroll
            for (int i = 0; i < 2; i++) {
                p[j][2 * half + i] = power2(s[j][2 * half + i] * scale2 - base);
                sum += p[j][2 * half + i];
            }
        float less = power2(run.max[half] * scale2 - base);
        same = same && less == 1.0f;
        run.sum[half] = run.sum[half] * less + sum;
        run.max[half] = top;
        s[0][half] = less;
    }
    if (!__all_sync(0xffffffffu, same)) {
#pragma unroll
        for (int n = 0; n < D / 8; n++) {
            run.out[n][0] *= s[0][0], run.out[n][1] *= s[0][0];
            run.out[n][2] *= s[0][1], run.out[n][3] *= s[0][1];
        }
    }
    uint32_t a[4] = { bf16_pair(p[0][0], p[0][1]), bf16_pair(p[0][2], p[0][3]), bf16_pair(p[1][0], p[1][1]),
                      bf16_pair(p[1][2], p[1][3]) };
#pragma unroll
    for (int n = 0; n < D / 16; n++) {
        uint32_t b[4];
        load_matrices_turned(b, at + room<D>::matrix + (((lane >> 3) & 1) * 8 + (lane & 7)) * room<D>::row + n * 32 +
                                    (lane >> 4) * 16);
        multiply(run.out[2 * n], a, b[0], b[1]);
        multiply(run.out[2 * n + 1], a, b[2], b[3]);
    }
}

/* The queries of an item as the A side: 16 rows of D, zeros where there are fewer. */
template <int D>
__device__ __forceinline__ void queries_load(const struct decode_shape &s, const struct work &w, const bf16 *in,
                                             int32_t group, int lane, uint32_t (&query)[D / 16][4])
{
#pragma unroll
    for (int half = 0; half < 2; half++) {
        int32_t q = (lane >> 2) + half * 8;
        const bf16 *row = in + ((int64_t)(w.unit_row + q / group) * s.q_heads + w.head * group + q % group) * D;
        bool there = q < w.unit_rows * group;
#pragma unroll
        for (int kk = 0; kk < D / 16; kk++) {
            const uint32_t *at = (const uint32_t *)(row + kk * 16 + 2 * (lane & 3));
            query[kk][half] = there ? at[0] : 0;
            query[kk][half + 2] = there ? at[4] : 0;
        }
    }
}

/* Leaves this warp's max (in exponents of 2), sum and out of query rows [from, from + MERGED) in shared memory. */
template <int D> struct merging {
    float max[MERGED], sum[MERGED], out[MERGED][D];
};

template <int D>
__device__ __forceinline__ void running_leave(const struct running<D> &run, float scale2, int from, int lane,
                                              struct merging<D> &to)
{
#pragma unroll
    for (int half = 0; half < 2; half++) {
        const int q = (lane >> 2) + half * 8 - from;
        float sum = run.sum[half];

        sum += __shfl_xor_sync(0xffffffffu, sum, 1);
        sum += __shfl_xor_sync(0xffffffffu, sum, 2);
        if (q < 0 || q >= MERGED)
            continue;
        if ((lane & 3) == 0) {
            to.max[q] = run.max[half] * scale2;
            to.sum[q] = sum;
        }
#pragma unroll
        for (int n = 0; n < D / 8; n++)
            *(float2 *)&to.out[q][n * 8 + 2 * (lane & 3)] = make_float2(run.out[n][2 * half], run.out[n][2 * half + 1]);
    }
}

__device__ __forceinline__ float fraction(float max, float top)
{
    return max == -CUDART_INF_F ? 0.0f : power2(max - top);
}

/* The thread block that holds tile `tile` of `total`, where `used` blocks share them evenly. */
__device__ __forceinline__ int32_t holder(int32_t tile, int32_t total, int32_t used)
{
    return (int32_t)((((int64_t)tile + 1) * used - 1) / total);
}

__device__ __forceinline__ int64_t piece_floats(int32_t dim)
{
    return CUDA_UNIT_QUERIES * (dim + 2);
}

template <int D>
__device__ __forceinline__ bf16 *out_at(const struct decode_shape &s, const struct work &w, int32_t group, int32_t q,
                                        int32_t c, bf16 *out)
{
    return out + ((int64_t)(w.unit_row + q / group) * s.q_heads + w.head * group + q % group) * D + c;
}

/* All pieces of an item, thread blocks [from, to], become its output, MERGED query rows at a time: a warp finds the
 * weights of a row's pieces, then a thread takes two channels. A piece is its thread block's first, unless the item
 * begins behind another in the block `from`. */
template <int D>
__device__ __noinline__ void pieces_merge(const struct decode_shape &s, const struct work &w, int32_t layer,
                                          int32_t item, int32_t group, int32_t from, int32_t to,
                                          float (&factor)[PIECES_MAX][MERGED], bf16 *out)
{
    const int32_t rows = w.unit_rows * group, pieces = to - from + 1, lane = threadIdx.x & 31;
    const int32_t second = s.start[(int64_t)layer * s.ctas + from].item != item;
    const float *base = s.partial + (int64_t)from * 2 * piece_floats(D);

    for (int32_t q0 = 0; q0 < rows; q0 += MERGED) {
        const int32_t mine = threadIdx.x >> 5, q = q0 + mine;

        if (q < rows) {
            float top = -CUDART_INF_F, sum = 0.0f;
#pragma unroll 4
            for (int32_t p = lane; p < pieces; p += 32) {
                const float2 x =
                    __ldcg((const float2 *)(base + (2 * (int64_t)p + (p == 0 ? second : 0)) * piece_floats(D)) + q);
                const float high = fmaxf(top, x.x);
                sum = sum * fraction(top, high) + x.y * fraction(x.x, high);
                top = high;
                factor[p][mine] = x.x;
            }
            const float high = warp_max(top);
            sum = warp_sum(sum * fraction(top, high));
            const float scale = sum > 0.0f ? 1.0f / sum : 0.0f;
            for (int32_t p = lane; p < pieces; p += 32)
                factor[p][mine] = fraction(factor[p][mine], high) * scale;
        }
        __syncthreads();
        for (int32_t i = threadIdx.x; i < min((int32_t)MERGED, rows - q0) * (D / 2); i += WARPS * 32) {
            const int32_t k = i / (D / 2), c = i % (D / 2) * 2;
            const float *at = base + 2 * ROWS + (q0 + k) * D + c;
            float2 value = __ldcg((const float2 *)(at + second * piece_floats(D)));
            value.x *= factor[0][k], value.y *= factor[0][k];
#pragma unroll 16
            for (int32_t p = 1; p < pieces; p++) {
                const float2 more = __ldcg((const float2 *)(at + 2 * (int64_t)p * piece_floats(D)));
                value.x += factor[p][k] * more.x;
                value.y += factor[p][k] * more.y;
            }
            *(uint32_t *)out_at<D>(s, w, group, q0 + k, c, out) = bf16_pair(value.x, value.y);
        }
        __syncthreads();
    }
}

/* Asks for the first tiles of an item. */
template <int D>
__device__ __forceinline__ void item_begin(const struct decode_shape &s, const struct work &w, const char *pool,
                                           int32_t tile, int32_t stop, int warp, int lane, uint32_t to, bool &waited)
{
#pragma unroll
    for (int i = 0; i < room<D>::stages - 1; i++) {
        if (tile + i < stop)
            rows_fetch<D>(s, w, pool, tile + i, warp, lane, to + i * 2 * room<D>::matrix, waited);
        copies_commit();
    }
}

/* What the four warps have of an item becomes its output, or a piece of it. */
template <int D>
__device__ __forceinline__ void item_end(const struct decode_shape &s, const struct work &w,
                                         const struct running<D> &run, int32_t group, float scale2, bool alone,
                                         int warp, int lane, struct merging<D> *merging, float *piece, bf16 *out)
{
    const int32_t rows = w.unit_rows * group;

    for (int32_t from = 0; from < rows; from += MERGED) {
        const int32_t count = min((int32_t)MERGED, rows - from);

        running_leave<D>(run, scale2, from, lane, merging[warp]);
        __syncthreads();
        for (int32_t i = threadIdx.x; i < count * (D / 2); i += WARPS * 32) {
            const int32_t q = i / (D / 2), c = i % (D / 2) * 2;
            float top = -CUDART_INF_F, sum = 0.0f, x = 0.0f, y = 0.0f;
#pragma unroll
            for (int k = 0; k < WARPS; k++)
                top = fmaxf(top, merging[k].max[q]);
#pragma unroll
            for (int k = 0; k < WARPS; k++) {
                const float f = fraction(merging[k].max[q], top);
                const float2 more = *(const float2 *)&merging[k].out[q][c];
                sum += f * merging[k].sum[q];
                x += f * more.x;
                y += f * more.y;
            }
            if (alone) {
                const float f = sum > 0.0f ? 1.0f / sum : 0.0f;
                *(uint32_t *)out_at<D>(s, w, group, from + q, c, out) = bf16_pair(x * f, y * f);
            } else {
                *(float2 *)(piece + 2 * ROWS + (from + q) * D + c) = make_float2(x, y);
                if (c == 0)
                    *(float2 *)(piece + 2 * (from + q)) = make_float2(top, sum);
            }
        }
        __syncthreads();
    }
}

template <int D>
__global__ void __launch_bounds__(WARPS * 32, D <= 128 ? 2 : 1)
    decode_kernel(const __grid_constant__ struct decode_shape s, int32_t layer, const bf16 *in, float scale2,
                  int32_t window, bf16 *out)
{
    extern __shared__ __align__(128) char shared[];
    __shared__ __align__(16) union {
        struct merging<D> warps[WARPS];
        float factor[PIECES_MAX][MERGED];
    } desk;
    __shared__ int last;
    const int warp = threadIdx.x >> 5, lane = threadIdx.x & 31;
    const int32_t group = s.q_heads / s.kv_heads, cta = blockIdx.x;
    const struct decode_item *items = s.item + (int64_t)layer * s.units * s.kv_heads;
    const char *pool = (const char *)s.pool;
    const uint32_t mine = shared_address(shared) + warp * room<D>::warp;
    const struct decode_start begin = s.start[(int64_t)layer * s.ctas + cta];
    const int32_t used = sharers(s.ctas, begin.total);
    int32_t item = begin.item, tile = begin.tile, left = begin.left;
    struct work w = work_of(begin.first);
    bool waited = false;

    chain_next();
    if (left > 0)
        item_begin<D>(s, w, pool, tile, min(tile + left, w.whole), warp, lane, mine, waited);
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
        queries_load<D>(s, w, in, group, lane, query);
        for (int32_t t = tile, stage = 0; t < stop; t++) {
            int32_t ahead = t + room<D>::stages - 1, slot = stage == 0 ? room<D>::stages - 1 : stage - 1;
            if (ahead < stop)
                rows_fetch<D>(s, w, pool, ahead, warp, lane, mine + slot * 2 * room<D>::matrix, waited);
            copies_commit();
            copies_wait<room<D>::stages - 1>();
            __syncwarp();
            rows_attend<D>(w, query, group, scale2, window, t, warp, lane, mine + stage * 2 * room<D>::matrix, run);
            __syncwarp();
            stage = stage == room<D>::stages - 1 ? 0 : stage + 1;
        }
        const struct work done = w;
        const bool alone = tile == 0 && stop == w.whole;
        left -= stop - tile;
        if (left > 0) { /* its rows come in while this item is put together */
            w = work_of(next);
            item_begin<D>(s, w, pool, 0, min(left, w.whole), warp, lane, mine, waited);
        }
        item_end<D>(s, done, run, group, scale2, alone, warp, lane, desk.warps,
                    s.partial + ((int64_t)cta * 2 + (part > 0)) * piece_floats(D), out);
        if (!alone) {
            const int32_t from = holder(done.base, begin.total, used);
            const int32_t to = holder(done.base + done.whole - 1, begin.total, used);

            if (threadIdx.x == 0) {
                __threadfence();
                last = atomicAdd(&s.arrived[item], 1u) == (uint32_t)(to - from);
                if (last)
                    s.arrived[item] = 0;
                __threadfence();
            }
            __syncthreads();
            if (last)
                pieces_merge<D>(s, done, layer, item, group, from, to, desk.factor, out);
            __syncthreads();
        }
        item++;
        tile = 0;
    }
}

/* ---- the plain kernel: any head size, f32 or bf16 ---- */

/* grid: rows, query heads. A lane takes a row of the cache for the scores and channels for the sum. */
template <typename T>
__global__ void __launch_bounds__(PLAIN_WARPS * 32)
    plain_kernel(const __grid_constant__ struct decode_shape s, int32_t layer, const T *in, float scale, int32_t window,
                 T *out)
{
    enum { CHANNELS = KV_HEAD_DIM_MAX / 32 };
    __shared__ float query[KV_HEAD_DIM_MAX], max[PLAIN_WARPS], sum[PLAIN_WARPS], part[PLAIN_WARPS][KV_HEAD_DIM_MAX];
    const int warp = threadIdx.x >> 5, lane = threadIdx.x & 31;
    const int32_t row = blockIdx.x, h = blockIdx.y, g = h / (s.q_heads / s.kv_heads), dim = s.dim;

    chain_begin();
    const int32_t slot = s.rows.slot[row];
    if (slot < 0)
        return;
    const struct slot_block *b = block_of(s, slot, layer);
    const int32_t begin = b->first[g], block_rows = b->first[g + 1] - begin, self = block_rows + s.rows.tail[row];
    const int32_t *pages = pages_of(s, slot, layer);
    const T *pool = (const T *)s.pool;
    float top = -CUDART_INF_F, total = 0.0f, value[CHANNELS] = {};

    for (int32_t c = threadIdx.x; c < dim; c += blockDim.x)
        query[c] = number(in[((int64_t)row * s.q_heads + h) * dim + c]) * scale;
    __syncthreads();
    const int32_t seen = window > 0 && self + 1 > window ? self + 1 - window : 0;
    for (int32_t at = seen / 32 * 32 + warp * 32; at <= self; at += PLAIN_WARPS * 32) {
        int32_t place = at + lane;
        const T *k = NULL, *v = NULL;
        float score = -CUDART_INF_F;

        if (place <= self && place >= seen) {
            if (place < block_rows) {
                k = (const T *)b->k + (int64_t)(begin + place) * dim;
                v = (const T *)b->v + (int64_t)(begin + place) * dim;
            } else {
                int32_t t = place - block_rows;
                k = pool + pages[t / TILE] * s.page_stride + ((int64_t)g * TILE + t % TILE) * dim;
                v = k + (int64_t)s.kv_heads * TILE * dim;
            }
            score = 0.0f;
            for (int32_t c = 0; c < dim; c++)
                score += query[c] * number(k[c]);
        }
        float high = fmaxf(top, warp_max(score)), less = top == -CUDART_INF_F ? 0.0f : expf(top - high);
        float p = score == -CUDART_INF_F ? 0.0f : expf(score - high);
        top = high;
        total = total * less + warp_sum(p);
#pragma unroll
        for (int i = 0; i < CHANNELS; i++)
            value[i] *= less;
        for (int j = 0; j < 32; j++) {
            float pj = __shfl_sync(0xffffffffu, p, j);
            const T *vj = (const T *)__shfl_sync(0xffffffffu, (unsigned long long)v, j);
            if (!vj)
                continue;
#pragma unroll
            for (int i = 0; i < CHANNELS; i++)
                if (lane + 32 * i < dim)
                    value[i] += pj * number(vj[lane + 32 * i]);
        }
    }
    if (lane == 0) {
        max[warp] = top;
        sum[warp] = total;
    }
#pragma unroll
    for (int i = 0; i < CHANNELS; i++)
        if (lane + 32 * i < dim)
            part[warp][lane + 32 * i] = value[i];
    __syncthreads();
    for (int32_t c = threadIdx.x; c < dim; c += blockDim.x) {
        float high = -CUDART_INF_F, below = 0.0f, above = 0.0f;
        for (int k = 0; k < PLAIN_WARPS; k++)
            high = fmaxf(high, max[k]);
        for (int k = 0; k < PLAIN_WARPS; k++) {
            float f = max[k] == -CUDART_INF_F ? 0.0f : expf(max[k] - high);
            above += f * part[k][c];
            below += f * sum[k];
        }
        out[((int64_t)row * s.q_heads + h) * dim + c] = rounded<T>(below > 0.0f ? above / below : 0.0f);
    }
}

/* ---- launchers ---- */

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

template <int D>
static cudaError_t decode(const struct cuda_queue &q, const struct decode_shape *s, int32_t layer, const void *in,
                          float scale, int32_t window, void *out)
{
    return launch_chained(q, dim3((unsigned)s->ctas), dim3(WARPS * 32), room<D>::bytes, decode_kernel<D>, *s, layer,
                          (const bf16 *)in, scale * LOG2E, window, (bf16 *)out);
}

template <int D> static int32_t ctas_of(const struct cuda_queue &q)
{
    int each = 0;

    if (allow_shared(decode_kernel<D>, room<D>::bytes) != cudaSuccess ||
        cudaOccupancyMaxActiveBlocksPerMultiprocessor(&each, decode_kernel<D>, WARPS * 32, room<D>::bytes) !=
            cudaSuccess)
        return 0;
    return min(each * q.sms, (int32_t)PIECES_MAX);
}

int32_t decode_ctas(struct cuda_queue q, enum dtype t, int32_t dim)
{
    if (t != DT_BF16)
        return 0;
    switch (dim) {
    case 64:
        return ctas_of<64>(q);
    case 80:
        return ctas_of<80>(q);
    case 96:
        return ctas_of<96>(q);
    case 128:
        return ctas_of<128>(q);
    case 256:
        return ctas_of<256>(q);
    default:
        return 0;
    }
}

cudaError_t launch_decode(struct cuda_queue q, enum dtype t, const struct decode_shape *s, int32_t rows, int32_t layer,
                          const void *in, float scale, int32_t window, void *out)
{
    dim3 plain((unsigned)rows, (unsigned)s->q_heads);

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
    if (t == DT_F32)
        return launch_chained(q, plain, dim3(PLAIN_WARPS * 32), 0, plain_kernel<float>, *s, layer, (const float *)in,
                              scale, window, (float *)out);
    return launch_chained(q, plain, dim3(PLAIN_WARPS * 32), 0, plain_kernel<bf16>, *s, layer, (const bf16 *)in, scale,
                          window, (bf16 *)out);
}
