/* SPDX-License-Identifier: Apache-2.0 */
/*
 * score_window.c - attention of the last queries over all rows (PRESSES 2.2, Li et al. 2024, arXiv:2404.14469).
 *
 *   task (head, piece)   for every WIDTH columns, a column being one query of one query head:
 *
 *        K rows [BLOCK][D] . queries [D][WIDTH]  ──▶  s [BLOCK][WIDTH]  ──▶  exp(s - block's largest), held
 *        all blocks: largest and sums             ──▶  factor of each block and column
 *        held rows . factor                       ──▶  added to the piece's sums [rows]
 *
 *   of a few columns each one's scores of all rows stand together instead, and go through softmax as they are
 *
 *   task (head, rows)    the pieces' sums in order, pooled over `kernel` neighbours
 *
 * K is read where it lies, as rows, so nothing is laid out but the queries. What is held stays in the second cache; longer
 * contexts meet the queries a second time instead. Mean over the window, pooling and mean over the group are linear: the
 * sums are taken first and divided once.
 */
#include "kernels/cpu/product.h"

#include "common/base/bytes.h"

#include <assert.h>
#include <math.h>
#include <string.h>

enum {
    BLOCK = 96, /* rows: whole strips of every instruction set */
    WIDTH = 32,
    FEW = 8, /* columns that are not worth a product */
    HELD_BLOCKS = 96,
    PIECES_MAX = 8, /* per head; does not depend on the threads, so neither does the order of sums */
    POOLED_ROWS = 512,
    KERNEL_MAX = 255
};

struct window {
    const struct cpu *c;
    const struct kv_rows *in;
    const float *q;
    int32_t q_heads, group, window, kernel;
    int64_t tokens;
    const float *row_weight;
    int32_t columns, pieces;
    int64_t blocks, held; /* of the longest head; of them at once */
    float *parts;         /* [pieces][rows of all heads] */
    float *rooms;         /* per worker; of few columns, which are held for all rows, per head */
    int64_t room_floats;
    float *score;
    int64_t body[KV_HEADS_MAX]; /* rows of each head that are not among the last `window` tokens */
};

/* What a worker holds of some columns. */
struct columns {
    int32_t head, first; /* of the columns */
    float *q, *packed;   /* [WIDTH][D] */
    float *keys;         /* [BLOCK][D] */
    float *weight;       /* [WIDTH] */
    float *max, *sum;    /* [blocks][WIDTH], and one more block */
    float *s;            /* [held][BLOCK][WIDTH]; of few columns [columns][blocks * BLOCK] */
};

static int64_t room_size(const struct window *w)
{
    int64_t few = w->columns <= FEW ? w->columns * w->blocks * BLOCK : w->held * BLOCK * WIDTH;

    return (2 * WIDTH + BLOCK) * (int64_t)w->in->dim + WIDTH + 2 * (w->blocks + 1) * WIDTH + few;
}

static struct columns room_at(const struct window *w, int64_t room)
{
    const int64_t dim = w->in->dim;
    struct columns r = { .q = w->rooms + room * w->room_floats };

    r.packed = r.q + WIDTH * dim;
    r.keys = r.packed + WIDTH * dim;
    r.weight = r.keys + BLOCK * dim;
    r.max = r.weight + WIDTH;
    r.sum = r.max + (w->blocks + 1) * WIDTH;
    r.s = r.sum + (w->blocks + 1) * WIDTH;
    return r;
}

/* ---- rows and tokens ------------------------------------------------------------------------------------------------ */

static int64_t token_of(const struct kv_rows *in, int32_t head, int64_t row)
{
    return in->token ? in->token[in->at[head] + row] : row;
}

/* T as head `head` sees it. */
static int64_t tokens_of(const struct window *w, int32_t head)
{
    return w->tokens > 0 ? w->tokens : w->in->rows[head];
}

/* Rows of a head whose token is at most `token`: rows are in ascending order of tokens. */
static int64_t rows_up_to(const struct kv_rows *in, int32_t head, int64_t token)
{
    int64_t low = 0, high = in->rows[head];

    while (low < high) {
        int64_t middle = (low + high) / 2;

        if (token_of(in, head, middle) <= token)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

/* ---- some columns ------------------------------------------------------------------------------------------------------ */

/* Column c is query c / group of the window, of the head's query head c % group. */
static void load_queries(const struct window *w, struct columns *r)
{
    const int64_t dim = w->in->dim;
    int32_t count = w->columns - r->first < WIDTH ? w->columns - r->first : WIDTH;

    for (int32_t i = 0; i < count; i++) {
        int64_t query = (r->first + i) / w->group, a = r->head * w->group + (r->first + i) % w->group;

        memcpy(r->q + i * dim, w->q + (query * w->q_heads + a) * dim, (size_t)dim * 4);
        r->weight[i] = w->row_weight ? w->row_weight[query] : 1.0f;
    }
    memset(r->weight + count, 0, (size_t)(WIDTH - count) * 4);
    if (w->columns > FEW)
        product_pack_columns(w->c, r->q, dim, count, dim, r->packed);
}

/* Rows of the window are seen by later queries only. */
static void hide_columns(const struct window *w, const struct columns *r, int64_t row, int64_t rows, float *s)
{
    const int64_t begin = tokens_of(w, r->head) - w->window;

    for (int64_t i = w->body[r->head] > row ? w->body[r->head] - row : 0; i < rows; i++) {
        int64_t hidden = (token_of(w->in, r->head, row + i) - begin) * w->group - r->first;

        for (int64_t c = 0; c < hidden && c < WIDTH; c++)
            s[i * WIDTH + c] = -INFINITY;
    }
}

/* exp(score - largest) of a block of rows, [BLOCK][WIDTH]. */
static void take_block(const struct window *w, const struct columns *r, int64_t block, int64_t rows, float *s,
                       float *max, float *sum)
{
    const int64_t dim = w->in->dim, row = block * BLOCK;
    const float *k = view_rows(w->c, w->in, false, r->head, row, rows, r->keys);

    product_run(w->c, k, dim, rows, r->packed, WIDTH, dim, s, WIDTH, false);
    hide_columns(w, r, row, rows, s);
    w->c->isa->score_loops->columns_exp(s, rows, WIDTH, 1.0f / sqrtf((float)dim), max, sum);
}

static int64_t rows_of(int64_t block, int64_t end)
{
    int64_t left = end - block * BLOCK;

    return left < BLOCK ? left : BLOCK;
}

/* Adds what the columns give every row of the body to part. */
static void take_columns(const struct window *w, struct columns *r, float *part)
{
    const struct cpu_score_loops *loops = w->c->isa->score_loops;
    const int64_t end = rows_up_to(w->in, r->head, tokens_of(w, r->head) - 1), body = w->body[r->head];
    const int64_t blocks = (end + BLOCK - 1) / BLOCK, step = blocks <= w->held ? BLOCK * WIDTH : 0;

    load_queries(w, r);
    for (int64_t b = 0; b < blocks; b++)
        take_block(w, r, b, rows_of(b, end), r->s + b * step, r->max + b * WIDTH, r->sum + b * WIDTH);
    loops->columns_join(r->max, r->sum, blocks, WIDTH, r->weight);
    for (int64_t b = 0; b * BLOCK < body; b++) {
        if (step == 0)
            take_block(w, r, b, rows_of(b, end), r->s, r->max + w->blocks * WIDTH, r->sum + w->blocks * WIDTH);
        loops->rows_dot(r->s + b * step, rows_of(b, body), WIDTH, r->max + b * WIDTH, part + b * BLOCK);
    }
}

/* The same where there are few: column after column. */
static void take_few(const struct window *w, struct columns *r, float *part)
{
    const int64_t rows = w->in->rows[r->head], dim = w->in->dim, stride = w->blocks * BLOCK;
    const int64_t first = tokens_of(w, r->head) - w->window;

    load_queries(w, r);
    for (int64_t row = 0; row < rows; row += BLOCK) {
        int64_t count = rows_of(row / BLOCK, rows);

        w->c->isa->score_loops->dots(view_rows(w->c, w->in, false, r->head, row, count, r->keys), count, w->in->dim,
                                     r->q, w->columns, stride, r->s + row);
    }
    for (int32_t c = 0; c < w->columns; c++) {
        const struct score_mask mask = { .seen = rows_up_to(w->in, r->head, first + c / w->group), .group = 1 };
        float *s = r->s + c * stride, max = -INFINITY, sum = 0;

        w->c->loops->softmax(s, stride, 1, (int32_t)rows, 1.0f / sqrtf((float)dim), &mask, &max, &sum, NULL, 0);
        w->c->loops->blend(part, 1.0f, s, sum > 0 ? r->weight[c] / sum : 0.0f, (int32_t)w->body[r->head]);
    }
}

static void piece_task(void *arg, int64_t i, int worker)
{
    const struct window *w = arg;
    const int32_t piece = (int32_t)(i / w->in->heads), head = (int32_t)(i % w->in->heads);
    struct columns r = room_at(w, w->columns <= FEW ? head : worker);
    float *part = w->parts + piece * w->in->at[w->in->heads] + w->in->at[head];

    r.head = head;
    r.first = 0;
    memset(part, 0, (size_t)w->body[head] * 4);
    if (w->columns <= FEW)
        take_few(w, &r, part);
    else
        for (r.first = piece * WIDTH; r.first < w->columns; r.first += w->pieces * WIDTH)
            take_columns(w, &r, part);
}

/* ---- pooling ------------------------------------------------------------------------------------------------------------- */

/* Average over `kernel` neighbours of the sums, with zeros outside. */
static void pool_task(void *arg, int64_t i, int worker)
{
    const struct window *w = arg;
    const struct cpu_loops *loops = w->c->loops;
    int32_t head = (int32_t)(i % w->in->heads), half = w->kernel / 2;
    int64_t from = i / w->in->heads * POOLED_ROWS, body = w->body[head], all = w->in->at[w->in->heads];
    int64_t rows = body - from < POOLED_ROWS ? body - from : POOLED_ROWS;
    int64_t low = from > half ? from - half : 0, high = from + rows + half < body ? from + rows + half : body;
    float sums[POOLED_ROWS + KERNEL_MAX] = { 0 }, *score = w->score + w->in->at[head] + from;

    (void)worker;
    if (rows <= 0)
        return;
    for (int32_t piece = 0; piece < w->pieces; piece++)
        loops->add(sums + half + (low - from), w->parts + piece * all + w->in->at[head] + low, high - low);
    memcpy(score, sums, (size_t)rows * 4);
    for (int32_t k = 1; k < w->kernel; k++)
        loops->add(score, sums + k, rows);
    loops->scale(score, 1.0f / ((float)w->columns * (float)w->kernel), rows);
}

/* Rows of the window itself get `pad`, or more than any other row of any head. */
static void pad_window(const struct window *w, float pad)
{
    float largest = -INFINITY, here;

    if (isinf(pad)) {
        for (int32_t g = 0; g < w->in->heads; g++) {
            w->c->loops->argmax(w->score + w->in->at[g], w->body[g], &here);
            largest = here > largest ? here : largest;
        }
        pad = (largest > -INFINITY ? largest : 0.0f) + 1.0f;
    }
    for (int32_t g = 0; g < w->in->heads; g++)
        for (int64_t row = w->body[g]; row < w->in->rows[g]; row++)
            w->score[w->in->at[g] + row] = pad;
}

/* How the columns are shared out, and room for it. */
static void plan(struct window *w, struct cpu *c)
{
    int32_t groups, rooms;

    w->columns = w->window * w->group;
    rooms = w->columns <= FEW ? w->in->heads : c->threads;
    groups = (w->columns + WIDTH - 1) / WIDTH;
    w->pieces = groups < PIECES_MAX ? groups : PIECES_MAX;
    w->blocks = (view_longest(w->in) + BLOCK - 1) / BLOCK;
    w->held = w->blocks <= HELD_BLOCKS ? w->blocks : 1;
    w->room_floats = (room_size(w) + 15) / 16 * 16;
    cpu_press_reserve(c, w->room_floats * rooms + w->pieces * w->in->at[w->in->heads]);
    w->rooms = c->press;
    w->parts = w->rooms + w->room_floats * rooms;
}

void cpu_score_window(struct backend *be, const struct kv_rows *in, const void *q, int32_t q_heads, int32_t window,
                      int64_t tokens, const float *row_weight, int32_t kernel, float pad, float *score)
{
    struct cpu *c = cpu_of(be);
    struct window w = { .c = c,
                        .in = in,
                        .q = q,
                        .q_heads = q_heads,
                        .group = q_heads / in->heads,
                        .window = window,
                        .kernel = kernel,
                        .tokens = tokens,
                        .row_weight = row_weight,
                        .score = score };

    assert(in->dtype == be->kv && window > 0 && kernel > 0 && kernel <= KERNEL_MAX && kernel % 2 == 1);
    plan(&w, c);
    for (int32_t g = 0; g < in->heads; g++)
        w.body[g] = rows_up_to(in, g, tokens_of(&w, g) - window - 1);
    pool_run(c->pool, (int64_t)w.pieces * in->heads, piece_task, &w);
    pool_run(c->pool, (view_longest(in) + POOLED_ROWS - 1) / POOLED_ROWS * in->heads, pool_task, &w);
    pad_window(&w, pad);
}
