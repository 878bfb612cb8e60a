/* SPDX-License-Identifier: Apache-2.0 */
/*
 * rows.c - what is done to each row by itself: embedding, norms, activations, argmax.
 *
 * Rows are dealt out to the pool in pieces of about PIECE numbers; less than one piece is done by the caller, for which
 * waking another core would cost more than the work.
 */
#include "kernels/cpu/cpu.h"

#include <assert.h>
#include <math.h>
#include <string.h>

enum { PIECE = 16384, ARGMAX_PIECES_MAX = 64 };

/* One loop over rows: `piece` rows to a task. */
struct row_loop {
    const struct cpu *c;
    void (*body)(const struct row_loop *l, int64_t row, int64_t rows);
    int64_t rows, piece;
    const void *in;
    void *out, *spent;
    const struct weight *w;
    const int32_t *index;
    float number;
    int32_t dim, slices;
    enum activation kind;
};

static void row_task(void *arg, int64_t i, int worker)
{
    const struct row_loop *l = arg;
    int64_t row = i * l->piece;

    (void)worker;
    l->body(l, row, l->rows - row < l->piece ? l->rows - row : l->piece);
}

static void run_rows(struct row_loop *l)
{
    l->piece = l->dim < PIECE ? PIECE / l->dim : 1;
    pool_run(l->c->pool, (l->rows + l->piece - 1) / l->piece, row_task, l);
}

static void embed_rows(const struct row_loop *l, int64_t row, int64_t rows)
{
    for (int64_t r = row; r < row + rows; r++) {
        float *x = (float *)l->out + r * l->dim;

        weight_row(l->c, l->w, l->index[r], x);
        if (l->number != 1.0f)
            l->c->loops->scale(x, l->number, l->dim);
    }
}

void cpu_embed(struct backend *be, const struct weight *table, const int32_t *ids, int64_t rows, float scale, void *x)
{
    struct row_loop l = { .c = cpu_of(be),
                          .body = embed_rows,
                          .rows = rows,
                          .w = table,
                          .index = ids,
                          .number = scale,
                          .dim = (int32_t)table->cols,
                          .out = x };

    run_rows(&l);
}

static void norm_rows(const struct row_loop *l, int64_t row, int64_t rows)
{
    for (int64_t r = row; r < row + rows; r++)
        l->c->loops->rms_norm((const float *)l->in + r * l->dim, l->w->vector, l->number, l->dim,
                              (float *)l->out + r * l->dim);
}

void cpu_rms_norm(struct backend *be, const void *x, const struct weight *w, float eps, int64_t rows, int32_t dim,
                  void *out)
{
    struct row_loop l = {
        .c = cpu_of(be), .body = norm_rows, .rows = rows, .in = x, .w = w, .number = eps, .dim = dim, .out = out
    };

    assert(w->vector && w->cols == dim);
    run_rows(&l);
}

static void add_normed_rows(const struct row_loop *l, int64_t row, int64_t rows)
{
    for (int64_t r = row; r < row + rows; r++) {
        float *y = (float *)l->spent + r * l->dim;

        l->c->loops->rms_norm(y, l->w->vector, l->number, l->dim, y);
        l->c->loops->add((float *)l->out + r * l->dim, y, l->dim);
    }
}

void cpu_add_normed(struct backend *be, void *y, const struct weight *w, float eps, int64_t rows, int32_t dim, void *x)
{
    struct row_loop l = {
        .c = cpu_of(be), .body = add_normed_rows, .rows = rows, .spent = y, .w = w, .number = eps, .dim = dim, .out = x
    };

    assert(w->vector && w->cols == dim);
    run_rows(&l);
}

static void gated_rows(const struct row_loop *l, int64_t row, int64_t rows)
{
    for (int64_t r = row; r < row + rows; r++) {
        const float *gate = (const float *)l->in + r * 2 * l->dim;

        l->c->loops->gated(l->kind, gate, gate + l->dim, l->dim, (float *)l->out + r * l->dim);
    }
}

void cpu_gated(struct backend *be, enum activation kind, const void *gate_up, int64_t rows, int32_t ff, void *out)
{
    struct row_loop l = {
        .c = cpu_of(be), .body = gated_rows, .rows = rows, .in = gate_up, .kind = kind, .dim = ff, .out = out
    };

    run_rows(&l);
}

static void gathered_rows(const struct row_loop *l, int64_t row, int64_t rows)
{
    for (int64_t r = row; r < row + rows; r++)
        memcpy((float *)l->out + r * l->dim, (const float *)l->in + (int64_t)l->index[r] * l->dim, (size_t)l->dim * 4);
}

void cpu_gather_rows(struct backend *be, const void *x, const int32_t *index, int64_t count, int32_t dim, void *out)
{
    struct row_loop l = {
        .c = cpu_of(be), .body = gathered_rows, .rows = count, .in = x, .index = index, .dim = dim, .out = out
    };

    run_rows(&l);
}

static void mixed_rows(const struct row_loop *l, int64_t row, int64_t rows)
{
    const int32_t width = l->dim / l->slices;

    for (int64_t s = row; s < row + rows; s++)
        for (int32_t g = 0; g < l->slices; g++) {
            const int32_t begin = g * width, end = g == l->slices - 1 ? l->dim : begin + width;

            memcpy((float *)l->out + s * l->dim + begin,
                   (const float *)l->in + (int64_t)l->index[g * l->rows + s] * l->dim + begin,
                   (size_t)(end - begin) * 4);
        }
}

void cpu_mix_rows(struct backend *be, const void *x, const int32_t *index, int32_t slices, int64_t rows, int32_t cols,
                  void *out)
{
    struct row_loop l = { .c = cpu_of(be),
                          .body = mixed_rows,
                          .rows = rows,
                          .in = x,
                          .index = index,
                          .slices = slices,
                          .dim = cols,
                          .out = out };

    assert(slices >= 1 && slices <= cols);
    run_rows(&l);
}

/* A row of logits is longer than a piece: the pieces of one row find their largest side by side. */
struct argmax_loop {
    const struct cpu *c;
    const float *row;
    int32_t vocab;
    int64_t piece;
    float value[ARGMAX_PIECES_MAX];
    int64_t at[ARGMAX_PIECES_MAX];
};

static void argmax_task(void *arg, int64_t i, int worker)
{
    struct argmax_loop *l = arg;
    int64_t from = i * l->piece, count = l->vocab - from < l->piece ? l->vocab - from : l->piece;

    (void)worker;
    l->at[i] = from + l->c->loops->argmax(l->row + from, count, &l->value[i]);
}

void cpu_argmax(struct backend *be, const void *logits, int64_t rows, int32_t vocab, int32_t *ids)
{
    struct argmax_loop l = { .c = cpu_of(be), .vocab = vocab };
    int64_t pieces = (vocab + PIECE - 1) / PIECE;

    if (pieces > ARGMAX_PIECES_MAX)
        pieces = ARGMAX_PIECES_MAX;
    l.piece = (vocab + pieces - 1) / pieces;
    pieces = (vocab + l.piece - 1) / l.piece;
    for (int64_t r = 0; r < rows; r++) {
        int64_t best = 0;

        l.row = (const float *)logits + r * vocab;
        pool_run(l.c->pool, pieces, argmax_task, &l);
        for (int64_t i = 1; i < pieces; i++)
            if (l.value[i] > l.value[best])
                best = i;
        ids[r] = (int32_t)l.at[best];
    }
}
