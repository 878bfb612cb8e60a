/* SPDX-License-Identifier: Apache-2.0 */
/*
 * score_leverage.c - how little the other keys can stand in for a key (PRESSES 2.3, arXiv:2507.08143).
 *
 *      centre    the mean of each head's first block                     per head
 *      gram      += (x - centre)(x - centre)'      64 rows at a time     per piece of rows, all heads: they share the angles
 *      form      S (S' gram S + jitter I)^-1 S'    S the sketch          per head
 *      score     (x - mean)' form (x - mean)                             per block of rows, all heads
 *
 * x are keys turned back to position 0. There are PIECES pieces however many threads there are, and their sums are added in
 * order.
 */
#include "kernels/cpu/product.h"

#include <assert.h>
#include <string.h>

enum { BLOCK = 64, PIECES = 8 };

struct leverage {
    const struct cpu *c;
    const struct cpu_score_loops *loops;
    const struct kv_rows *in;
    const struct rope_table *rope;
    int64_t position;
    const float *sketch;
    int32_t dim, k;
    int64_t width, piece_rows;
    double *gram;  /* [PIECES][heads][D][D]; of piece 0 in the end the head's */
    double *sum;   /* [PIECES][heads][D] */
    float *centre; /* [heads][D] */
    float *packed; /* [heads] forms */
    double *rooms; /* per worker */
    int64_t room_doubles;
    float *score;
};

/* What one worker works in. */
struct room {
    double *s, *turned_s, *half, *small, *inverse, *form; /* [D][k], [k][D], [k][D], [k][k], [k][k], [D][D] */
    float *x, *turned, *packed, *product;                 /* [BLOCK][D], [D][BLOCK], b, [BLOCK or D][width] */
    float *cos, *sin;                                     /* [BLOCK][D / 2] */
};

static int64_t larger(int64_t a, int64_t b)
{
    return a > b ? a : b;
}

static struct room room_at(const struct leverage *s, int worker)
{
    const int64_t dim = s->dim, k = s->k;
    struct room r = { .s = s->rooms + worker * s->room_doubles };

    r.turned_s = r.s + dim * k;
    r.half = r.turned_s + dim * k;
    r.small = r.half + dim * k;
    r.inverse = r.small + k * k;
    r.form = r.inverse + k * k;
    r.x = (float *)(r.form + dim * dim);
    r.turned = r.x + larger(BLOCK, dim) * dim;
    r.packed = r.turned + dim * BLOCK;
    r.product = r.packed + BLOCK * s->width;
    r.cos = r.product + larger(BLOCK, dim) * s->width;
    r.sin = r.cos + BLOCK * dim / 2;
    return r;
}

static int64_t room_doubles(const struct leverage *s)
{
    const int64_t dim = s->dim, k = s->k;
    int64_t floats = (larger(BLOCK, dim) + BLOCK) * dim + (BLOCK + larger(BLOCK, dim)) * s->width + BLOCK * dim;

    return 3 * dim * k + 2 * k * k + dim * dim + (floats + 1) / 2;
}

/* ---- keys turned back ------------------------------------------------------------------------------------------------ */

/* Angles of rows [row, row + count): the same for all heads where rows are tokens. */
static void block_angles(const struct leverage *s, const struct room *r, int32_t head, int64_t row, int64_t count)
{
    const int32_t pairs = s->rope->dims / 2;

    if (!s->rope->inv_freq)
        return;
    for (int64_t i = 0; i < count; i++) {
        int64_t position = s->in->token ? s->in->token[s->in->at[head] + row + i] : s->position + row + i;

        s->c->loops->angles(-position, s->rope->inv_freq, pairs, 1.0f, r->cos + i * pairs, r->sin + i * pairs);
    }
}

/* Up to BLOCK keys from `row` on, before `end`, turned back, less the head's centre where there is one. */
static int64_t plain_block(const struct leverage *s, const struct room *r, int32_t head, int64_t row, int64_t end,
                           const float *centre)
{
    const struct cpu_loops *loops = s->c->loops;
    const int32_t dim = s->dim, pairs = s->rope->dims / 2;
    int64_t left = end - row, count = left < BLOCK ? left : BLOCK;
    const float *k = count > 0 ? view_rows(s->c, s->in, false, head, row, count, r->x) : r->x;

    if (count > 0 && k != r->x)
        memcpy(r->x, k, (size_t)(count * dim) * 4);
    for (int64_t i = 0; i < count; i++) {
        float *x = r->x + i * dim;

        if (s->rope->inv_freq)
            loops->rotate(x, r->cos + i * pairs, r->sin + i * pairs, pairs);
        if (s->rope->inv_freq && s->rope->scale != 1.0f)
            loops->scale(x, 1.0f / s->rope->scale, s->rope->dims);
        if (centre)
            loops->blend(x, 1.0f, centre, -1.0f, dim);
    }
    return count;
}

static void centre_task(void *arg, int64_t head, int worker)
{
    const struct leverage *s = arg;
    struct room r = room_at(s, worker);
    const int32_t dim = s->dim;
    double *sum = s->sum + head * dim;
    int64_t count;

    block_angles(s, &r, (int32_t)head, 0, s->in->rows[head] < BLOCK ? s->in->rows[head] : BLOCK);
    count = plain_block(s, &r, (int32_t)head, 0, s->in->rows[head], NULL);
    memset(sum, 0, (size_t)dim * sizeof *sum);
    for (int64_t i = 0; i < count; i++)
        s->loops->add_floats(sum, r.x + i * dim, dim);
    for (int32_t d = 0; d < dim; d++)
        s->centre[head * dim + d] = count > 0 ? (float)(sum[d] / (double)count) : 0.0f;
}

/* ---- gram --------------------------------------------------------------------------------------------------------------- */

static void add_block(const struct leverage *s, const struct room *r, int64_t count, double *gram, double *sum)
{
    const int32_t dim = s->dim;

    /* [count][D] to [D][BLOCK] */
    s->c->isa->layout->panel_rows(r->x, (int64_t)dim * 4, (int32_t)count, dim, BLOCK, 0, r->turned);
    product_pack_rows(s->c, r->x, dim, dim, count, r->packed);
    product_run(s->c, r->turned, BLOCK, dim, r->packed, dim, count, r->product, s->width, false);
    for (int32_t i = 0; i < dim; i++)
        s->loops->add_floats(gram + i * dim, r->product + i * s->width, dim);
    for (int64_t i = 0; i < count; i++)
        s->loops->add_floats(sum, r->x + i * dim, dim);
}

static void gram_task(void *arg, int64_t piece, int worker)
{
    const struct leverage *s = arg;
    struct room r = room_at(s, worker);
    const int64_t heads = s->in->heads, dim = s->dim, end = (piece + 1) * s->piece_rows;
    double *gram = s->gram + piece * heads * dim * dim, *sum = s->sum + piece * heads * dim;

    memset(gram, 0, (size_t)(heads * dim * dim) * sizeof *gram);
    memset(sum, 0, (size_t)(heads * dim) * sizeof *sum);
    for (int64_t row = piece * s->piece_rows; row < end; row += BLOCK)
        for (int32_t g = 0; g < heads; g++) {
            int64_t last = s->in->rows[g] < end ? s->in->rows[g] : end, count;

            if (g == 0 || s->in->token)
                block_angles(s, &r, g, row, s->in->token ? (last - row < BLOCK ? last - row : BLOCK) : BLOCK);
            count = plain_block(s, &r, g, row, last, s->centre + g * dim);
            if (count > 0)
                add_block(s, &r, count, gram + g * dim * dim, sum + g * dim);
        }
}

/* ---- form --------------------------------------------------------------------------------------------------------------- */

/* The sums of all pieces, measured from the mean, and the centre moved there. */
static double *head_gram(const struct leverage *s, int64_t head)
{
    const int64_t dim = s->dim, heads = s->in->heads, n = s->in->rows[head];
    double *gram = s->gram + head * dim * dim, *mean = s->sum + head * dim;

    for (int64_t piece = 1; piece < PIECES; piece++) {
        const double *more = s->gram + (piece * heads + head) * dim * dim, *sum = s->sum + (piece * heads + head) * dim;

        for (int64_t i = 0; i < dim * dim; i++)
            gram[i] += more[i];
        for (int64_t d = 0; d < dim; d++)
            mean[d] += sum[d];
    }
    for (int64_t i = 0; i < dim; i++)
        for (int64_t j = 0; j < dim; j++)
            gram[i * dim + j] -= mean[i] * mean[j] / (double)n;
    for (int64_t d = 0; d < dim; d++)
        s->centre[head * dim + d] += (float)(mean[d] / (double)n);
    return gram;
}

/* form = S (S' gram S + jitter I)^-1 S', S the sketch [D][k]; the jitter ten times as large at every failure. y = x S never
 * has to be made: y' (Y'Y + jitter I)^-1 y = x' form x, and form has none of the inverse's large directions. */
static void make_form(const struct leverage *s, const float *sketch, const double *gram, const struct room *r)
{
    const int64_t dim = s->dim, k = s->k;
    double jitter = 1e-2;
    bool done = false;

    for (int64_t i = 0; i < dim; i++)
        for (int64_t j = 0; j < k; j++)
            r->s[i * k + j] = r->turned_s[j * dim + i] = sketch[i * k + j];
    s->loops->multiply(r->turned_s, dim, 1, gram, k, dim, dim, r->half);
    for (int attempt = 0; attempt < 6 && !done; attempt++) {
        s->loops->multiply(r->half, dim, 1, r->s, k, dim, k, r->small);
        for (int64_t i = 0; i < k; i++)
            r->small[i * k + i] += jitter;
        done = s->loops->spd_inverse(r->small, k, r->inverse);
        jitter *= 10;
    }
    if (!done) {
        memset(r->form, 0, (size_t)(dim * dim) * sizeof *r->form);
        return;
    }
    s->loops->multiply(r->inverse, k, 1, r->turned_s, k, k, dim, r->half);
    s->loops->multiply(r->s, k, 1, r->half, dim, k, dim, r->form);
}

static void form_task(void *arg, int64_t head, int worker)
{
    const struct leverage *s = arg;
    struct room r = room_at(s, worker);
    const int64_t dim = s->dim;

    if (s->in->rows[head] == 0)
        return;
    make_form(s, s->sketch + head * dim * s->k, head_gram(s, head), &r);
    for (int64_t i = 0; i < dim * dim; i++)
        r.x[i] = (float)r.form[i];
    product_pack_columns(s->c, r.x, dim, dim, dim, s->packed + head * product_floats(s->c, dim, dim));
}

/* ---- scores ------------------------------------------------------------------------------------------------------------- */

static void score_task(void *arg, int64_t i, int worker)
{
    const struct leverage *s = arg;
    struct room r = room_at(s, worker);
    const int64_t dim = s->dim, row = i * BLOCK;

    for (int32_t g = 0; g < s->in->heads; g++) {
        int64_t left = s->in->rows[g] - row, count = left < BLOCK ? left : BLOCK;
        float *score = s->score + s->in->at[g] + row;

        if (g == 0 || s->in->token)
            block_angles(s, &r, g, row, s->in->token ? count : BLOCK);
        plain_block(s, &r, g, row, s->in->rows[g], s->centre + g * dim);
        if (count <= 0)
            continue;
        product_run(s->c, r.x, dim, count, s->packed + g * product_floats(s->c, dim, dim), dim, dim, r.product,
                    s->width, false);
        for (int64_t j = 0; j < count; j++) {
            float form = s->c->loops->dot(r.product + j * s->width, r.x + j * dim, s->dim);

            score[j] = form > 0 ? form : 0.0f;
        }
    }
}

/* Room: doubles first. */
static void leverage_reserve(struct leverage *s, struct cpu *c)
{
    const int64_t dim = s->dim, heads = s->in->heads;
    int64_t doubles;

    s->width = product_width(c, dim);
    s->piece_rows = (view_longest(s->in) + PIECES * BLOCK - 1) / (PIECES * BLOCK) * BLOCK;
    s->room_doubles = room_doubles(s);
    doubles = PIECES * heads * (dim + 1) * dim + s->room_doubles * c->threads;
    cpu_press_reserve(c, 2 * doubles + heads * (dim + product_floats(c, dim, dim)));
    s->gram = (double *)c->press;
    s->sum = s->gram + PIECES * heads * dim * dim;
    s->rooms = s->sum + PIECES * heads * dim;
    s->centre = (float *)(s->rooms + s->room_doubles * c->threads);
    s->packed = s->centre + heads * dim;
}

void cpu_score_leverage(struct backend *be, const struct kv_rows *in, const struct rope_table *rope, int64_t position,
                        const float *sketch, int32_t sketch_dim, float *score)
{
    struct cpu *c = cpu_of(be);
    struct leverage s = { .c = c,
                          .loops = c->isa->score_loops,
                          .in = in,
                          .rope = rope,
                          .position = position,
                          .sketch = sketch,
                          .dim = in->dim,
                          .k = sketch_dim,
                          .score = score };

    leverage_reserve(&s, c);
    pool_run(c->pool, in->heads, centre_task, &s);
    pool_run(c->pool, PIECES, gram_task, &s);
    pool_run(c->pool, in->heads, form_task, &s);
    pool_run(c->pool, (view_longest(in) + BLOCK - 1) / BLOCK, score_task, &s);
}
