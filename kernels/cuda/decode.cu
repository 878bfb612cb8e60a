/* SPDX-License-Identifier: Apache-2.0 */
/*
 * decode.cu - attention of one step over ragged blocks and tails, near the speed at which the rows can be read.
 *
 *   items          (unit, KV head): lengths differ from head to head and from sequence to sequence
 *   tiles of 64    [ item 0: block ......... tail ][ item 1: b t ][ item 2: block ... tail ] ...
 *   thread blocks  |------ 0 ------|------ 1 ------|------ 2 ------|          equal shares, wherever items begin
 *
 * The flattened tiles of a layer are dealt out evenly to a fixed grid, so no raggedness costs anything and the launch is
 * the same for every step (a captured graph replays). Tiles that a layer's window no longer reaches are none of them. An item that lies in several thread blocks leaves (max, sum, out)
 * of each; the one that arrives last merges them. Where each block begins is worked out once a step for all layers.
 *
 * A warp owns 16 rows of a tile and its own pipeline of asynchronous copies: no barrier inside an item. Queries (up to
 * 16: the group's heads times the unit's rows) are the M side of the tensor cores' 16 x 8 x 16, rows of the cache the N
 * side. Shared memory: 4 warps x STAGES x (K and V) x 16 rows, each padded by 16 bytes against bank conflicts.
 *
 * Blocks whose rows are coded or lack channels (MIXED; the tail is plain): codes go to shared memory as they are and become
 * bf16 in registers, exactly; K's scales multiply scores, V's the weights. A lane takes 4 neighbouring channels of a key,
 * so queries stand in that order too. Two codes of a row are one 16-bit unit to the turning load of V: sums of even and odd
 * channels come apart, and are put in order when a head's block ends. K rows without some channels meet queries without
 * them, and are read number by number. int4 codes become values in registers, each with its pair; the last rows of such a
 * head are plain, and no warp's 16 rows are of both kinds.
 *
 * f32 caches and other head sizes take a plain kernel: one thread block per query head, nothing shared.
 */
#include "kernels/cuda/coded.cuh"

enum { MERGED = 4 }; /* query rows that four warps put together at once */
enum { TILE = KV_PAGE_TOKENS, WARPS = 4, ROWS = 16, PLAN_THREADS = 1024, PLAIN_WARPS = 8 };

#define LOG2E 1.4426950408889634f

/* Cards of sm_86 and sm_89 give a thread block 99 KiB, not 163 and more: heads of 128 and 256 have a tile less on its way. */
enum { LITTLE_FROM = 86, LITTLE_TO = 89 };
#ifdef __CUDA_ARCH__
enum { LITTLE = __CUDA_ARCH__ >= LITTLE_FROM * 10 && __CUDA_ARCH__ <= LITTLE_TO * 10 };
#else
enum { LITTLE = false }; /* the host asks for the kernel that was loaded */
#endif

template <int D, bool SMALL = LITTLE> struct room {
    enum {
        row = D * 2 + 16, /* bytes */
        matrix = ROWS * row,
        stages = D <= 64    ? 4
                 : D <= 96  ? 3
                 : D <= 128 ? 3 - SMALL
                            : 2 - SMALL,
        warp = stages * 2 * matrix,
        bytes = WARPS * warp
    };
};

__device__ __forceinline__ const struct slot_block *block_of(const struct decode_shape &s, int32_t slot, int32_t layer)
{
    return (const struct slot_block *)(s.blocks + ((int64_t)slot * s.layers + layer) * s.block_bytes);
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
    const float *k_scale, *v_scale;
    const char *k_whole, *v_whole;
    const uint8_t *mask;
    int32_t codec, k_dim, coded;
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
                      at.pages,
                      at.k_scale,
                      at.v_scale,
                      (const char *)at.k_whole,
                      (const char *)at.v_whole,
                      at.mask,
                      at.codec,
                      at.k_dim,
                      at.coded };
    return w;
}

/* ---- the plan ---- */

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

/* ---- rows that are coded or lack channels ---- */

/* Bytes: rows of codes; of int4 codes, where they have all channels; where int4's pairs of K stand; where scales, or
 * int4's pairs of V behind 64, do. */
template <int D> struct coded_room {
    enum {
        row = D + 16,
        row4 = D / 2 + (D % 64 == 0 ? 16 : 0),
        pairs = 16 * D,
        scales = 2 * room<D>::matrix - 8 * ROWS
    };
};

/* 16 rows of a block from `row` on. */
struct piece {
    const char *k, *v;
    int32_t codec; /* of these rows */
};
template <int D> __device__ __forceinline__ struct piece piece_of(const struct work &w, int32_t row)
{
    const bool whole = w.codec == KV_INT4 && row >= w.coded;
    const int32_t codec = whole ? (int32_t)KV_PLAIN : w.codec;
    const int64_t at = whole ? row - w.coded : row;
    const struct piece p = { (whole ? w.k_whole : w.k) + at * coded_bytes(codec, w.k_dim, 2),
                             (whole ? w.v_whole : w.v) + at * coded_bytes(codec, D, 2), codec };
    return p;
}

/* 16 rows of int4 codes that have all channels. */
template <int D> __device__ __forceinline__ void fours_fetch(const char *from, int lane, uint32_t to)
{
    for (int32_t i = lane * 16; i < 8 * D; i += 32 * 16)
        copy16_async(to + i / (D / 2) * coded_room<D>::row4 + i % (D / 2), from + i, true);
}

/* The same for a tile of a block whose rows are not plain; scales as they are. K rows that lack channels, and the whole ones
 * of int4, are one run of bytes, from the 16 bytes on in which it begins. */
template <int D>
__device__ __forceinline__ void codes_fetch(const struct work &w, int32_t tile, int warp, int lane, uint32_t to)
{
    const int32_t row = tile * TILE + warp * ROWS, valid = min(w.block_rows - row, (int32_t)ROWS);
    const struct piece p = piece_of<D>(w, row);
    const int32_t v_bytes = D * (p.codec == KV_PLAIN ? 2 : 1), v_units = v_bytes / 16;
    const int32_t v_row = p.codec == KV_PLAIN ? (int)room<D>::row : (int)coded_room<D>::row;

    if (valid <= 0)
        return;
    if (w.k_dim < D || p.codec == KV_PLAIN) {
        const int32_t shift = (int32_t)((uintptr_t)p.k & 15);
        const int32_t units = (shift + valid * (int32_t)coded_bytes(p.codec, w.k_dim, 2) + 15) / 16;
        for (int32_t i = lane; i < units; i += 32)
            copy16_async(to + i * 16, p.k - shift + i * 16, true);
    } else if (p.codec == KV_INT4) {
        fours_fetch<D>(p.k, lane, to);
    } else {
        for (int32_t i = lane; i < D; i += 32) {
            const int32_t r = i / (D / 16), c = i % (D / 16);
            copy16_async(to + r * coded_room<D>::row + c * 16, p.k + r * D + c * 16, r < valid);
        }
    }
    if (p.codec == KV_INT4) {
        fours_fetch<D>(p.v, lane, to + room<D>::matrix);
        for (int32_t i = lane; i < w.k_dim; i += 32)
            copy4_async(to + coded_room<D>::pairs + i * 4, w.k_scale + row / KV_GROUP_ROWS * w.k_dim + i, true);
    } else {
        for (int32_t i = lane; i < ROWS * v_units; i += 32) {
            const int32_t r = i / v_units, c = i % v_units;
            copy16_async(to + room<D>::matrix + r * v_row + c * 16, p.v + r * v_bytes + c * 16, r < valid);
        }
    }
    if (p.codec != KV_PLAIN && (p.codec != KV_INT4 || lane >= ROWS)) {
        const int32_t r = lane & 15;
        copy4_async(to + coded_room<D>::scales + lane * 4, (lane < ROWS ? w.k_scale : w.v_scale) + row + r, r < valid);
    }
}

/* The queries of an item in the order of codes, those of absent channels left out. */
template <int D>
__device__ __forceinline__ void queries_load_coded(const struct decode_shape &s, const struct work &w, const bf16 *in,
                                                   int32_t group, int lane, uint8_t *kept, uint32_t (&query)[D / 16][4])
{
    if (w.mask)
        channels_kept(w.mask, D, lane, kept);
    __syncwarp();
#pragma unroll
    for (int half = 0; half < 2; half++) {
        const int32_t q = (lane >> 2) + half * 8;
        const uint16_t *row =
            (const uint16_t *)in + ((int64_t)(w.unit_row + q / group) * s.q_heads + w.head * group + q % group) * D;
        const bool there = q < w.unit_rows * group;
#pragma unroll
        for (int kk = 0; kk < D / 16; kk++) {
            uint32_t x[4];
#pragma unroll
            for (int i = 0; i < 4; i++) {
                const int32_t at = kk * 16 + 4 * (lane & 3) + i;
                x[i] = there && at < w.k_dim ? row[w.mask ? kept[at] : at] : 0;
            }
            query[kk][half] = x[0] | x[1] << 16;
            query[kk][half + 2] = x[2] | x[3] << 16;
        }
    }
    __syncwarp(); /* the list may be written for the next item */
}

/* Four neighbouring int4 numbers of row n of K from shared memory. */
template <int D>
__device__ __forceinline__ void keys_load4(const struct work &w, const char *k, int32_t shift, int32_t n, int32_t at,
                                           uint32_t (&b)[2])
{
    const int32_t half = (w.k_dim + 1) / 2;
    const uint4 pairs = *(const uint4 *)(k + coded_room<D>::pairs + at * 4);
    const uint32_t pair[4] = { pairs.x, pairs.y, pairs.z, pairs.w };
    float x[4];

    if (w.k_dim == D) {
        const bool low = at < D / 2;
        const uint32_t word =
            *(const uint32_t *)(k + n * coded_room<D>::row4 + at - (low ? 0 : D / 2)) >> (low ? 0 : 4);
#pragma unroll
        for (int i = 0; i < 4; i++)
            x[i] = (float)(word >> 8 * i & 15) * pair_step(pair[i]) + pair_least(pair[i]);
    } else {
#pragma unroll
        for (int i = 0; i < 4; i++)
            x[i] = at + i < w.k_dim ? pair_number(k + shift + n * half, at + i, w.k_dim, pair[i]) : 0.0f;
    }
    b[0] = bf16_pair(x[0], x[1]);
    b[1] = bf16_pair(x[2], x[3]);
}

/* Four neighbouring numbers of row n of K from shared memory, as two pairs. */
template <int D>
__device__ __forceinline__ void keys_load(const struct work &w, int32_t codec, const char *k, int32_t shift, int32_t n,
                                          int32_t at, uint32_t (&b)[2])
{
    if (codec == KV_INT4) {
        keys_load4<D>(w, k, shift, n, at, b);
        return;
    }
    if (w.k_dim == D && codec != KV_PLAIN) {
        const uint32_t word = *(const uint32_t *)(k + n * coded_room<D>::row + at);
        b[0] = codes_pair<0, 1>(word, codec);
        b[1] = codes_pair<2, 3>(word, codec);
        return;
    }
    uint32_t x[4];
#pragma unroll
    for (int i = 0; i < 4; i++) {
        const int32_t number = n * w.k_dim + at + i;
        x[i] = at + i >= w.k_dim   ? 0
               : codec == KV_PLAIN ? *(const uint16_t *)(k + shift + 2 * number)
                                   : *(const uint8_t *)(k + shift + number);
    }
    if (codec == KV_PLAIN) {
        b[0] = x[0] | x[1] << 16;
        b[1] = x[2] | x[3] << 16;
    } else {
        const uint32_t word = x[0] | x[1] << 8 | x[2] << 16 | x[3] << 24;
        b[0] = codes_pair<0, 1>(word, codec);
        b[1] = codes_pair<2, 3>(word, codec);
    }
}

/* Running softmax of this warp: two query rows to a thread (lane / 4, and 8 more). */
template <int D> struct running {
    float max[2], sum[2], out[D / 8][4];
};

/* 16 rows' scores become weights p of their V rows, and the running sums are made less where a score is larger than all
 * before it. */
template <int D>
__device__ __forceinline__ void scores_take(const struct work &w, int32_t group, float scale2, int32_t window,
                                            bool tail, int32_t row, int32_t valid, int lane, float (&s)[2][4],
                                            float (&p)[2][4], struct running<D> &run)
{
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
}

template <int D>
__device__ __forceinline__ void values_add(const float (&p)[2][4], int lane, uint32_t at, struct running<D> &run)
{
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

template <int D>
__device__ __forceinline__ void rows_attend(const struct work &w, const uint32_t (&query)[D / 16][4], int32_t group,
                                            float scale2, int32_t window, int32_t tile, int warp, int lane, uint32_t at,
                                            struct running<D> &run)
{
    const bool tail = tile >= w.block_tiles;
    const int32_t row = (tail ? tile - w.block_tiles : tile) * TILE + warp * ROWS;
    const int32_t valid = (tail ? w.tail_rows : w.block_rows) - row;
    float s[2][4] = {}, p[2][4];

    if (valid <= 0)
        return;
#pragma unroll
    for (int kk = 0; kk < D / 16; kk++) {
        uint32_t b[4];
        load_matrices(b, at + ((lane >> 4) * 8 + (lane & 7)) * room<D>::row + kk * 32 + ((lane >> 3) & 1) * 16);
        multiply(s[0], query[kk], b[0], b[1]);
        multiply(s[1], query[kk], b[2], b[3]);
    }
    scores_take<D>(w, group, scale2, window, tail, row, valid, lane, s, p, run);
    values_add<D>(p, lane, at, run);
}

/* int4: V rows from `stage` on become values here; sums come out in the order of plain rows. */
template <int D>
__device__ __forceinline__ void values_add4(const float (&p)[2][4], int lane, const char *stage, struct running<D> &run)
{
    const char *v = stage + room<D>::matrix + 2 * (lane & 3) * coded_room<D>::row4 + (lane >> 2);
    const uint32_t *pair = (const uint32_t *)(stage + coded_room<D>::scales) + ROWS + 2 * (lane & 3);
    const uint32_t a[4] = { bf16_pair(p[0][0], p[0][1]), bf16_pair(p[0][2], p[0][3]), bf16_pair(p[1][0], p[1][1]),
                            bf16_pair(p[1][2], p[1][3]) };
    float step[4], least[4];

#pragma unroll
    for (int i = 0; i < 4; i++) {
        step[i] = pair_step(pair[i % 2 + i / 2 * 8]);
        least[i] = pair_least(pair[i % 2 + i / 2 * 8]);
    }
#pragma unroll
    for (int n = 0; n < D / 8; n++) {
        const int byte = n * 8 % (D / 2), shift = n * 8 < D / 2 ? 0 : 4;
        float x[4];
#pragma unroll
        for (int i = 0; i < 4; i++) {
            const uint32_t two = *(const uint8_t *)(v + (i % 2 + i / 2 * 8) * coded_room<D>::row4 + byte);
            x[i] = (float)(two >> shift & 15) * step[i] + least[i];
        }
        multiply(run.out[n], a, bf16_pair(x[0], x[1]), bf16_pair(x[2], x[3]));
    }
}

/* The same for a tile of a block whose rows are not plain; `stage` is the shared memory at `at`. */
template <int D>
__device__ __forceinline__ void codes_attend(const struct work &w, const uint32_t (&query)[D / 16][4], int32_t group,
                                             float scale2, int32_t window, int32_t tile, int warp, int lane,
                                             const char *stage, uint32_t at, struct running<D> &run)
{
    const int32_t row = tile * TILE + warp * ROWS, valid = w.block_rows - row;
    const struct piece piece = piece_of<D>(w, row);
    const int32_t codec = piece.codec, shift = (int32_t)((uintptr_t)piece.k & 15);
    const float *scale = (const float *)(stage + coded_room<D>::scales) + 2 * (lane & 3);
    float s[2][4] = {}, p[2][4];

    if (valid <= 0)
        return;
#pragma unroll
    for (int kk = 0; kk < D / 16; kk++) {
        uint32_t b[2];
        if (kk * 16 >= w.k_dim)
            break;
        keys_load<D>(w, codec, stage, shift, lane >> 2, kk * 16 + 4 * (lane & 3), b);
        multiply(s[0], query[kk], b[0], b[1]);
        keys_load<D>(w, codec, stage, shift, 8 + (lane >> 2), kk * 16 + 4 * (lane & 3), b);
        multiply(s[1], query[kk], b[0], b[1]);
    }
    if (has_scales(codec))
#pragma unroll
        for (int i = 0; i < 8; i++)
            s[i / 4][i % 4] *= scale[i / 4 * 8 + (i & 1)];
    scores_take<D>(w, group, scale2, window, false, row, valid, lane, s, p, run);
    if (codec == KV_PLAIN) {
        values_add<D>(p, lane, at, run);
        return;
    }
    if (codec == KV_INT4) {
        values_add4<D>(p, lane, stage, run);
        return;
    }
#pragma unroll
    for (int i = 0; i < 8; i++)
        p[i / 4][i % 4] *= scale[ROWS + i / 4 * 8 + (i & 1)];
    const uint32_t a[4] = { bf16_pair(p[0][0], p[0][1]), bf16_pair(p[0][2], p[0][3]), bf16_pair(p[1][0], p[1][1]),
                            bf16_pair(p[1][2], p[1][3]) };
#pragma unroll
    for (int m = 0; m < D / 16; m++) {
        uint32_t v[2];
        load_two_turned(v, at + room<D>::matrix + (lane & 15) * coded_room<D>::row + m * 16);
        multiply(run.out[2 * m], a, codes_pair<0, 2>(v[0], codec), codes_pair<0, 2>(v[1], codec));
        multiply(run.out[2 * m + 1], a, codes_pair<1, 3>(v[0], codec), codes_pair<1, 3>(v[1], codec));
    }
}

/* Sums of 16 channels, even and odd ones apart, in the order in which plain rows leave them: a lane had channels 4 c to
 * 4 c + 3 (c its place in the quad), and gets 2 c, 2 c + 1 and the same behind the first 8. */
template <int D> __device__ __forceinline__ void running_turn(int lane, struct running<D> &run)
{
    const int from = (lane & ~3) | (lane & 3) >> 1;
    const bool odd = lane & 1;

#pragma unroll
    for (int m = 0; m < D / 16; m++)
#pragma unroll
        for (int half = 0; half < 4; half += 2) {
            float low[4], high[4];
#pragma unroll
            for (int i = 0; i < 4; i++) { /* channels 4 c + i */
                const float x = run.out[2 * m + (i & 1)][half + (i >> 1)];
                low[i] = __shfl_sync(0xffffffffu, x, from);
                high[i] = __shfl_sync(0xffffffffu, x, from + 2);
            }
#pragma unroll
            for (int i = 0; i < 2; i++) {
                run.out[2 * m][half + i] = odd ? low[2 + i] : low[i];
                run.out[2 * m + 1][half + i] = odd ? high[2 + i] : high[i];
            }
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

/* All pieces of an item, thread blocks [from, to], become its output: a thread takes 4 channels of a query row and asks
 * for many pieces at once. A piece is its thread block's first, unless the item begins behind another in the block `from`
 * (second). */
template <int D>
__device__ __noinline__ void pieces_merge(const struct decode_shape &s, const struct work &w, int32_t group,
                                          int32_t from, int32_t to, int32_t second, bf16 *out)
{
    enum { PIECES = D <= 128 ? 16 : 8 };
    const int32_t rows = w.unit_rows * group, pieces = to - from + 1;
    const float *base = s.partial + (int64_t)from * 2 * piece_floats(D);

    for (int32_t i = threadIdx.x; i < rows * (D / 4); i += WARPS * 32) {
        const int32_t q = i / (D / 4), c = i % (D / 4) * 4;
        float top = -CUDART_INF_F, sum = 0.0f, value[4] = {};

        for (int32_t p0 = 0; p0 < pieces; p0 += PIECES) {
            float2 weight[PIECES];
            float4 more[PIECES];
            float high = top;
#pragma unroll
            for (int d = 0; d < PIECES; d++) {
                const int32_t p = min(p0 + d, pieces - 1);
                const float *piece = base + (2 * (int64_t)p + (p == 0 ? second : 0)) * piece_floats(D);
                weight[d] = __ldcg((const float2 *)piece + q);
                more[d] = __ldcg((const float4 *)(piece + 2 * ROWS + q * D + c));
            }
#pragma unroll
            for (int d = 0; d < PIECES; d++) {
                if (p0 + d >= pieces)
                    weight[d].x = -CUDART_INF_F;
                high = fmaxf(high, weight[d].x);
            }
            const float less = fraction(top, high);
            top = high;
            sum *= less;
#pragma unroll
            for (int k = 0; k < 4; k++)
                value[k] *= less;
#pragma unroll
            for (int d = 0; d < PIECES; d++) {
                const float f = fraction(weight[d].x, high);
                sum += f * weight[d].y;
                value[0] += f * more[d].x, value[1] += f * more[d].y;
                value[2] += f * more[d].z, value[3] += f * more[d].w;
            }
        }
        const float f = sum > 0.0f ? 1.0f / sum : 0.0f;
        *(uint2 *)out_at<D>(s, w, group, q, c, out) =
            make_uint2(bf16_pair(value[0] * f, value[1] * f), bf16_pair(value[2] * f, value[3] * f));
    }
}

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

template <int D, bool MIXED>
__global__ void __launch_bounds__(WARPS * 32, D <= 128 ? 2 : 1)
    decode_kernel(const __grid_constant__ struct decode_shape s, int32_t layer, const bf16 *in, float scale2,
                  int32_t window, bf16 *out)
{
    extern __shared__ __align__(128) char shared[];
    __shared__ __align__(16) struct merging<D> desk[WARPS];
    __shared__ uint8_t kept[MIXED ? WARPS : 1][KV_HEAD_DIM_MAX];
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
        const bool alone = tile == 0 && stop == w.whole;
        left -= stop - tile;
        if (left > 0) { /* its rows come in while this item is put together */
            w = work_of(next);
            item_begin<D, MIXED>(s, w, pool, 0, min(left, w.whole), warp, lane, mine, waited);
        }
        item_end<D>(s, done, run, group, scale2, alone, warp, lane, desk,
                    s.partial + ((int64_t)cta * 2 + (part > 0)) * piece_floats(D), out);
        if (!alone) {
            const int32_t from = holder(done.base, begin.total, used);
            const int32_t to = holder(done.base + done.whole - 1, begin.total, used);

            if (threadIdx.x == 0) {
                last = arrive(&s.arrived[item]) == (uint32_t)(to - from);
                if (last)
                    s.arrived[item] = 0;
            }
            __syncthreads();
            if (last)
                pieces_merge<D>(s, done, group, from, to, (int64_t)from * begin.total / used < done.base, out);
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
    const int32_t block_rows = b->first[g + 1] - b->first[g], self = block_rows + s.rows.tail[row];
    const int32_t *pages = pages_of(s, slot, layer);
    const T *pool = (const T *)s.pool;
    __shared__ uint8_t kept[KV_HEAD_DIM_MAX];
    __shared__ float some[KV_HEAD_DIM_MAX]; /* the query's numbers for the channels that the block's keys have */
    const int32_t k_dim = b->mask ? b->k_dim : dim;
    float top = -CUDART_INF_F, total = 0.0f, value[CHANNELS] = {};

    for (int32_t c = threadIdx.x; c < dim; c += blockDim.x)
        query[c] = number(in[((int64_t)row * s.q_heads + h) * dim + c]) * scale;
    if (warp == 0 && b->mask)
        channels_kept(b->mask + g * ((dim + 7) / 8), dim, lane, kept);
    __syncthreads();
    for (int32_t c = threadIdx.x; c < k_dim; c += blockDim.x)
        some[c] = query[b->mask ? kept[c] : c];
    __syncthreads();
    const int32_t seen = window > 0 && self + 1 > window ? self + 1 - window : 0;
    for (int32_t at = seen / 32 * 32 + warp * 32; at <= self; at += PLAIN_WARPS * 32) {
        const int32_t place = at + lane;
        struct block_row r = { NULL, NULL, NULL, 0, 1.0f, 1.0f, KV_PLAIN };
        float score = -CUDART_INF_F;

        if (place <= self && place >= seen) {
            const bool tail = place >= block_rows;
            const int32_t t = place - block_rows, numbers = tail ? dim : k_dim;
            const float *from = tail ? query : some;
            if (tail) {
                const T *k = pool + pages[t / TILE] * s.page_stride + ((int64_t)g * TILE + t % TILE) * dim;
                r.k = k;
                r.v = k + (int64_t)s.kv_heads * TILE * dim;
            } else {
                r = block_row_of<T>(b, s.kv_heads, dim, g, place);
            }
            score = 0.0f;
            for (int32_t c = 0; c < numbers; c++)
                score += from[c] * key_number<T>(r, c, numbers);
            score *= r.k_scale;
        }
        float high = fmaxf(top, warp_max(score)), less = top == -CUDART_INF_F ? 0.0f : expf(top - high);
        float p = score == -CUDART_INF_F ? 0.0f : expf(score - high);
        top = high;
        total = total * less + warp_sum(p);
#pragma unroll
        for (int i = 0; i < CHANNELS; i++)
            value[i] *= less;
        for (int j = 0; j < 32; j++) {
            const float pj = __shfl_sync(0xffffffffu, p * r.v_scale, j);
            const void *vj = (const void *)__shfl_sync(0xffffffffu, (unsigned long long)r.v, j);
            const uint32_t pair = __shfl_sync(0xffffffffu, r.v_pair, j);
            const int32_t codec = __shfl_sync(0xffffffffu, r.codec, j);
            if (!vj)
                continue;
#pragma unroll
            for (int i = 0; i < CHANNELS; i++)
                if (lane + 32 * i < dim)
                    value[i] += pj * value_number<T>(vj, codec, pair, lane + 32 * i, dim);
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
