/* SPDX-License-Identifier: Apache-2.0 */
/*
 * decode_codes.cuh - the same as decode_rows.cuh for tiles of a block whose rows are coded or lack channels (MIXED; the
 * tail is plain).
 *
 * Codes go to shared memory as they are and become bf16 in registers, exactly; K's scales multiply scores, V's the weights.
 * A lane takes 4 neighbouring channels of a key, so queries stand in that order too. Two codes of a row are one 16-bit unit
 * to the turning load of V: sums of even and odd channels come apart, and are put in order when a head's block ends. K rows
 * without some channels meet queries without them, and are read number by number. int4 codes become values in registers,
 * each with its pair; the last rows of such a head are plain, and no warp's 16 rows are of both kinds.
 */
#ifndef PLATEN_KERNELS_CUDA_DECODE_CODES_CUH
#define PLATEN_KERNELS_CUDA_DECODE_CODES_CUH

#include "kernels/cuda/coded.cuh"
#include "kernels/cuda/decode_rows.cuh"

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

/* rows_fetch for a tile of a block whose rows are not plain; scales as they are. K rows that lack channels, and the whole
 * ones of int4, are one run of bytes, from the 16 bytes on in which it begins. */
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

/* Four neighbouring numbers of row n of K from shared memory, as two pairs: int4, or a row that lacks channels, or one that
 * is not coded. */
template <int D>
__device__ __forceinline__ void keys_load(const struct work &w, int32_t codec, const char *k, int32_t shift, int32_t n,
                                          int32_t at, uint32_t (&b)[2])
{
    if (codec == KV_INT4) {
        keys_load4<D>(w, k, shift, n, at, b);
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

/* int8 or e4m3 keys that have all channels. The codec is known when this is compiled: with a decision at every pair loads
 * wait for each other. */
template <int D, int CODEC>
__device__ __forceinline__ void keys_meet(const uint32_t (&query)[D / 16][4], int lane, const char *stage,
                                          float (&s)[2][4])
{
    const char *k = stage + (lane >> 2) * coded_room<D>::row + 4 * (lane & 3);

#pragma unroll
    for (int kk = 0; kk < D / 16; kk++)
#pragma unroll
        for (int half = 0; half < 2; half++) {
            const uint32_t word = *(const uint32_t *)(k + half * 8 * coded_room<D>::row + kk * 16);
            multiply(s[half], query[kk], codes_pair<0, 1>(word, CODEC), codes_pair<2, 3>(word, CODEC));
        }
}

/* Their values. */
template <int D, int CODEC>
__device__ __forceinline__ void values_meet(const uint32_t (&a)[4], int lane, uint32_t at, struct running<D> &run)
{
#pragma unroll
    for (int m = 0; m < D / 16; m++) {
        uint32_t v[2];
        load_two_turned(v, at + room<D>::matrix + (lane & 15) * coded_room<D>::row + m * 16);
        multiply(run.out[2 * m], a, codes_pair<0, 2>(v[0], CODEC), codes_pair<0, 2>(v[1], CODEC));
        multiply(run.out[2 * m + 1], a, codes_pair<1, 3>(v[0], CODEC), codes_pair<1, 3>(v[1], CODEC));
    }
}

/* Scores of 16 rows of a block, without their scales. */
template <int D>
__device__ __forceinline__ void codes_meet(const struct work &w, const struct piece &piece,
                                           const uint32_t (&query)[D / 16][4], int lane, const char *stage,
                                           float (&s)[2][4])
{
    const int32_t shift = (int32_t)((uintptr_t)piece.k & 15);

    if (w.k_dim == D && piece.codec == KV_INT8) {
        keys_meet<D, KV_INT8>(query, lane, stage, s);
    } else if (w.k_dim == D && piece.codec == KV_FP8) {
        keys_meet<D, KV_FP8>(query, lane, stage, s);
    } else {
#pragma unroll
        for (int kk = 0; kk < D / 16; kk++) {
            uint32_t b[2];
            if (kk * 16 >= w.k_dim)
                break;
            keys_load<D>(w, piece.codec, stage, shift, lane >> 2, kk * 16 + 4 * (lane & 3), b);
            multiply(s[0], query[kk], b[0], b[1]);
            keys_load<D>(w, piece.codec, stage, shift, 8 + (lane >> 2), kk * 16 + 4 * (lane & 3), b);
            multiply(s[1], query[kk], b[0], b[1]);
        }
    }
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

/* rows_attend for a tile of a block whose rows are not plain; `stage` is the shared memory at `at`. */
template <int D>
__device__ __forceinline__ void codes_attend(const struct work &w, const uint32_t (&query)[D / 16][4], int32_t group,
                                             float scale2, int32_t window, int32_t tile, int warp, int lane,
                                             const char *stage, uint32_t at, struct running<D> &run)
{
    const int32_t row = tile * TILE + warp * ROWS, valid = w.block_rows - row;
    const struct piece piece = piece_of<D>(w, row);
    const int32_t codec = piece.codec;
    const float *scale = (const float *)(stage + coded_room<D>::scales) + 2 * (lane & 3);
    float s[2][4] = {}, p[2][4];

    if (valid <= 0)
        return;
    codes_meet<D>(w, piece, query, lane, stage, s);
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
    if (codec == KV_INT8)
        values_meet<D, KV_INT8>(a, lane, at, run);
    else
        values_meet<D, KV_FP8>(a, lane, at, run);
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

#endif
