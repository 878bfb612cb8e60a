/* SPDX-License-Identifier: Apache-2.0 */
/*
 * isa.h - what is written once and compiled for several instruction sets, and the choice between them.
 *
 *   tile.c   products: tile_<isa>   plain · avx2 · avx512 · avx512_bf16, and tile_amx.c
 *   direct.c attention of few rows  avx512_bf16
 *   loops.c  rows of numbers        plain · avx2 · avx512
 *   score_loops.c  small matrices of scores   plain · avx2 · avx512
 *   codes.c  rows to codes and back plain · avx2 · avx512
 *
 * The rule that makes an answer independent of what else is in a batch: an output of a tile is the sum over the depth in
 * one fixed order, however many rows and panels are computed together. Every row count uses the same kernels.
 */
#ifndef PLATEN_KERNELS_CPU_ISA_H
#define PLATEN_KERNELS_CPU_ISA_H

#include "common/kv/layout.h"
#include "common/model/hparams.h"
#include "common/tensor/dtype.h"

#include <stdbool.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/*
 * c[rows][panels * panel] (+)= a . b
 *
 * The depth is counted in units: one f32, or two neighbouring bf16. b holds, panel after panel, [units][panel] units of
 * 4 bytes: column n's unit u stands at u * b_stride + n * 4. a holds rows of units, each `operand_bytes` wide.
 */
struct tile {
    const void *a;
    int64_t a_stride; /* bytes between rows */
    const void *b;
    int64_t b_stride; /* bytes between units */
    int64_t b_panel;  /* bytes between panels */
    float *c;
    int64_t c_stride; /* floats between rows */
    int32_t rows;     /* 1 .. strip */
    int32_t panels;
    int32_t units;    /* a multiple of units_align */
    bool add;         /* c += instead of c = */
    int64_t ahead[2]; /* bytes from b to lines that will be read soon, one of each for every unit; 0: none */
};

/* Products of one dtype on one instruction set. */
struct cpu_math {
    int32_t panel;         /* columns of b that stand together */
    int32_t strip;         /* most rows of a tile */
    int32_t operand_bytes; /* of a unit of a */
    int32_t units_align;
    void (*tile)(const struct tile *t);
    /* f32 to a's form; `count` is padded with zeros to whole units by the caller. NULL: f32 rows are a's form. */
    void (*operand)(const float *in, int64_t count, void *out);
};

struct cpu_tile {
    struct cpu_math f32, bf16;
    /* Both fetch, with every line they read, the one `ahead` bytes behind it: rows that are laid out next come while these
     * are laid out. In one burst most of such requests are dropped. 0: nothing comes next.
     *
     * Rows of 4-byte units become columns of a panel: out[u][panel], u < units; columns past `count` are zero. */
    void (*panel_rows)(const void *rows, int64_t stride_bytes, int32_t count, int32_t units, int32_t panel,
                       int64_t ahead, void *out);
    /* bf16 rows t and t + 1 become units: out[t / 2][width_out]; rows past `count` and columns past `width` are zero. */
    void (*pair_rows)(const uint16_t *rows, int64_t stride, int32_t count, int32_t count_out, int32_t width,
                      int32_t width_out, int64_t ahead, void *out);
};

/* Rows of a head of the cache where they stand: bf16 [count][dim], dim a multiple of 32. With every line that is read the
 * one `ahead` bytes behind it is asked for. */
struct direct_rows {
    const uint16_t *rows;
    int32_t count, dim;
    int64_t ahead;
};

/* Attention of few query rows on bf16 rows of the cache (direct.c); NULL where the instruction set has none. */
struct cpu_direct {
    /* out[r][t] = q[r] . k[t]; columns up to the next multiple of 16 are written too. q: operands. */
    void (*scores)(const struct direct_rows *k, const void *q, int64_t q_stride, int32_t q_rows, float *out,
                   int64_t out_stride);
    /* out[r][dim] += weights[r][count] . v; weights: operands, an odd count filled up with a zero. */
    void (*values)(const struct direct_rows *v, const void *weights, int64_t weights_stride, int32_t q_rows, float *out,
                   int64_t out_stride);
};

/* Which columns of scores a row may see: row r sees those of [0, cols) that lie in [end - window, end), where
 * end = seen + (row + r) / group: the rows of one token's query heads stand together. */
struct score_mask {
    int64_t seen; /* may lie past the columns, or below 0 */
    int32_t row, group;
    int32_t window; /* 0: no lower end */
};

struct cpu_loops {
    void (*to_bf16)(const float *in, int64_t count, uint16_t *out);
    void (*from_bf16)(const uint16_t *in, int64_t count, float *out);
    void (*add)(float *x, const float *y, int64_t count);
    void (*scale)(float *x, float factor, int64_t count);
    void (*rms_norm)(const float *x, const float *w, float eps, int32_t dim, float *out);
    void (*gated)(enum activation kind, const float *gate, const float *up, int64_t count, float *out);
    /* out = c + bias (where not NULL) + out (where add) */
    void (*finish)(const float *c, const float *bias, bool add, int64_t count, float *out);
    /* cos and sin of position * inv_freq[j], times scale */
    void (*angles)(int64_t position, const float *inv_freq, int32_t pairs, float scale, float *cos, float *sin);
    /* Half-split rotation of x[0 .. 2 pairs) */
    void (*rotate)(float *x, const float *cos, const float *sin, int32_t pairs);
    /* The first of the largest; NaN is never larger. */
    int64_t (*argmax)(const float *x, int64_t count, float *largest);
    /* Online softmax: scores s[rows][cols] become exp(scale * s - max), masked ones and those up to the next multiple of
     * 32 zero; max and sum are brought up to date and o[rows][width] is rescaled to the new max. A row that sees none of
     * the columns leaves max, sum and o bit for bit as they were. */
    void (*softmax)(float *s, int64_t s_stride, int32_t rows, int32_t cols, float scale, const struct score_mask *mask,
                    float *max, float *sum, float *o, int32_t width);
    /* p[col] += weight * exp(scale * s[col] - lse) for col < count */
    void (*softmax_sum)(const float *s, int32_t count, float scale, float lse, float weight, float *p);
    /* o = a * o + b * p */
    void (*blend)(float *o, float a, const float *p, float b, int32_t count);
    float (*square_sum)(const float *x, int32_t count);
    float (*dot)(const float *x, const float *y, int32_t count);
};

/* Loops of the presses' scores. Widths are multiples of 16; a block s [rows][width] stands without gaps. */
struct cpu_score_loops {
    /* s becomes exp(scale * s - max) by columns; max and sum: [width] of scale * s and of what it became. A column of
     * -infinity becomes zeros, its max stays -infinity. */
    void (*columns_exp)(float *s, int64_t rows, int32_t width, float scale, float *max, float *sum);
    /* max and sum of many blocks [blocks][width]: max becomes what a block's exponentials are multiplied by to be weight
     * [width] times the softmax over all blocks. 0 for a column that sees nothing. */
    void (*columns_join)(float *max, const float *sum, int64_t blocks, int32_t width, const float *weight);
    /* out[r] += s[r] . factor */
    void (*rows_dot)(const float *s, int64_t rows, int32_t width, const float *factor, float *out);
    /* parts [rows][16] += pieces of the sum over the row of |s| (power 1) or of s^2 (power 2): sixteen make a sum */
    void (*add_power)(const float *s, int64_t rows, int32_t width, int32_t power, float *parts);
    /* The largest of each row so far, and its column (the first of equal ones), when s comes as columns [column, column +
     * width): best and at [rows][16] begin as -infinity and 0. best_end: of each row. A NaN is never the largest. */
    void (*best_columns)(const float *s, int64_t rows, int32_t width, int32_t column, float *best, int32_t *at);
    void (*best_end)(const float *best, const int32_t *at, int64_t rows, float *value, int32_t *column_out);

    /* Rows x [rows][dim] of K or V. out[r] = x[r] . x[r]; out[v * stride + r] = x[r] . vector[v] */
    void (*squares)(const float *x, int64_t rows, int32_t dim, float *out);
    void (*dots)(const float *x, int64_t rows, int32_t dim, const float *vector, int32_t vectors, int64_t stride,
                 float *out);
    /* Per channel: sum += x weight; sum += x^2; least and most brought up to date. */
    void (*weighted_sum)(const float *x, int64_t rows, int32_t dim, const float *weight, float *sum);
    void (*channel_squares)(const float *x, int64_t rows, int32_t dim, float *sum);
    void (*channel_ranges)(const float *x, int64_t rows, int32_t dim, float *least, float *most);
    /* out[r]: standard deviation (divisor dim - 1) over the channels of (x - least) / (most - least), of 0 where both are
     * the same */
    void (*deviations)(const float *x, int64_t rows, int32_t dim, const float *least, const float *most, float *out);

    /* In doubles. sum += x; out[rows][cols] = a . b, a(r, k) at r * a_row + k * a_step. */
    void (*add_floats)(double *sum, const float *x, int64_t count);
    void (*multiply)(const double *a, int64_t a_row, int64_t a_step, const double *b, int64_t rows, int64_t depth,
                     int64_t cols, double *out);
    /* inverse[n][n] of the symmetric positive definite a[n][n], n <= KV_HEAD_DIM_MAX; a is overwritten. False: it is
     * not. */
    bool (*spd_inverse)(double *a, int64_t n, double *inverse);
};

/* Rows to codes and back, as common/kv/codec.h says, the same bits everywhere. Rows and codes stand without gaps. */
struct cpu_codes {
    /* int8, fp8: f32 row[count] to out[count]; returns the scale. */
    float (*write_scaled)(enum kv_codec codec, const float *row, int32_t count, uint8_t *out);
    /* int4, V: f32 row[channels]; returns the pair. */
    uint32_t (*write_int4)(const float *row, int32_t channels, uint8_t *out);
    /* int4, K: f32 rows [KV_GROUP_ROWS][channels]; pair [channels]. */
    void (*write_group)(const float *rows, int32_t channels, uint8_t *out, uint32_t *pair);
    /* int8, fp8: the codes alone as f32 or bf16, which rounds nothing. */
    void (*read_numbers)(enum kv_codec codec, const uint8_t *codes, int64_t count, enum dtype to, void *out);
    /* int4: one row's values; a pair for each channel, or one for all. */
    void (*read_int4)(const uint8_t *codes, int32_t channels, const uint32_t *pair, bool each, enum dtype to,
                      void *out);
};

/* One row per instruction set, best first (isa.c). */
struct cpu_isa {
    const char *name; /* "avx512_bf16" */
    bool (*runs_here)(void);
    bool (*is_chosen)(void); /* runs here, and is not slower than those below it */
    const struct cpu_math *f32, *bf16;
    const struct cpu_tile *layout; /* panel_rows, pair_rows */
    const struct cpu_loops *loops;
    const struct cpu_score_loops *score_loops;
    const struct cpu_codes *codes;
    const struct cpu_direct *direct; /* or NULL */
};

/* The instruction set called `name`, or the best one where it is NULL; NULL when it does not exist or does not run
 * here. Asks the kernel for AMX state where there is AMX: call before threads are started. */
const struct cpu_isa *cpu_isa_find(const char *name);

/* Row `i` of those that run here, best first; NULL past the end. */
const struct cpu_isa *cpu_isa_at(int i);

#ifdef __cplusplus
}
#endif
#endif
