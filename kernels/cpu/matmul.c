/* SPDX-License-Identifier: Apache-2.0 */
/*
 * matmul.c - out [rows][N] = in [rows][K] . w^T (+ bias) (+ out): how a product is cut into tiles and dealt out.
 *
 *   few rows (one strip)   bandwidth: every panel of the weights is read once, several panels at a time
 *   many rows              arithmetic: DEPTH units of one panel stay in the first cache while the strips of a block of
 *                          rows pass over them; partial sums go through the tile's c, exactly
 *
 * Either way an output is the same sum in the same order: a row's result does not depend on the other rows.
 */
#include "kernels/cpu/cpu.h"

#include <assert.h>

/* Units of a panel's depth that stay in the first cache: 256 x 32 x 4 bytes = 32 KiB. */
enum { DEPTH_UNITS = 256, DEPTH_ALIGN = 16, TASK_BYTES = 64 << 10, AHEAD_BYTES = 4096 };

struct product {
    const struct cpu *c;
    const struct weight *w;
    const float *bias; /* or NULL */
    const char *a;
    int64_t a_stride;
    const float *in;
    float *out;
    int64_t rows;
    bool accumulate;
    int64_t block_rows;
    int64_t task_panels, tasks_across;
};

static void to_operand(void *arg, int64_t row, int worker)
{
    const struct product *p = arg;
    const struct cpu *c = p->c;
    char *to = (char *)c->operand + row * p->a_stride;
    const int64_t numbers = (int64_t)p->w->units * cpu_unit_numbers(c),
                  bytes = c->math->operand_bytes / cpu_unit_numbers(c);

    (void)worker;
    c->math->operand(p->in + row * p->w->cols, p->w->cols, to);
    memset(to + p->w->cols * bytes, 0, (size_t)((numbers - p->w->cols) * bytes));
}

/* The left side as tiles read it: f32 rows as they are, or rounded into c->operand. */
static void left_side(struct cpu *c, struct product *p)
{
    if (!c->math->operand) {
        p->a = (const char *)p->in;
        p->a_stride = p->w->cols * 4;
        return;
    }
    assert(p->rows <= c->rows_max && p->w->units <= c->operand_units);
    p->a = c->operand;
    p->a_stride = (int64_t)p->w->units * c->math->operand_bytes;
    if (p->rows * p->w->cols < 1 << 15)
        for (int64_t row = 0; row < p->rows; row++)
            to_operand(p, row, 0);
    else
        pool_run(c->pool, p->rows, to_operand, p);
}

/* Whether tiles may write to the output at once: nothing to add, and whole panels. */
static bool is_direct(const struct product *p, int64_t panel, int64_t panels)
{
    return !p->bias && !p->accumulate && (panel + panels) * p->c->math->panel <= p->w->rows;
}

static void finish_rows(const struct product *p, int64_t row, int64_t rows, int64_t panel, int64_t panels,
                        const float *tile)
{
    const int64_t col = panel * p->c->math->panel, width = panels * p->c->math->panel;
    const int64_t cols = p->w->rows - col < width ? p->w->rows - col : width;

    for (int64_t r = 0; r < rows; r++)
        p->c->loops->finish(tile + r * width, p->bias ? p->bias + col : NULL, p->accumulate, cols,
                            p->out + (row + r) * p->w->rows + col);
}

/* Weights come from memory while tiles compute. One strip: the lines a little further on. Several: the first two fetch
 * the next piece, which stands right behind this one, between them. */
static void fetch_ahead(struct tile *t, int64_t strip, int64_t strips)
{
    const int64_t next = strips == 1 ? AHEAD_BYTES : t->units * t->b_stride;

    t->ahead[0] = strip == 0 ? next : 0;
    t->ahead[1] = strip == (strips > 1) ? next + 64 : 0;
}

/* Panels [panel, panel + panels) for rows [row, row + rows), which share one reading of each piece of the weights. */
static void product_tiles(const struct product *p, int64_t row, int64_t rows, int64_t panel, int64_t panels,
                          int32_t depth, float *room)
{
    const struct cpu_math *math = p->c->math;
    const bool direct = is_direct(p, panel, panels);
    const int64_t width = panels * math->panel, strips = (rows + math->strip - 1) / math->strip;
    struct tile t = {
        .b_stride = math->panel * 4,
        .b_panel = p->w->panel_bytes,
        .a_stride = p->a_stride,
        .c_stride = direct ? p->w->rows : width,
        .panels = (int32_t)panels,
    };

    for (int32_t unit = 0; unit < p->w->units; unit += depth) {
        t.units = p->w->units - unit < depth ? p->w->units - unit : depth;
        t.add = unit > 0;
        t.b = (const char *)p->w->packed + panel * p->w->panel_bytes + unit * t.b_stride;
        for (int64_t s = 0; s < strips; s++) {
            int64_t from = rows * s / strips, to = rows * (s + 1) / strips;

            fetch_ahead(&t, s, strips);
            t.rows = (int32_t)(to - from);
            t.a = p->a + (row + from) * p->a_stride + (int64_t)unit * math->operand_bytes;
            t.c = direct ? p->out + (row + from) * p->w->rows + panel * math->panel : room + from * width;
            math->tile(&t);
        }
    }
    if (!direct)
        finish_rows(p, row, rows, panel, panels, room);
}

/* Pieces of the depth, of equal size but for the last: what one fetches ahead is then just the next. */
static int32_t even_depth(int32_t units)
{
    int32_t pieces = (units + DEPTH_UNITS - 1) / DEPTH_UNITS;

    return ((units + pieces - 1) / pieces + DEPTH_ALIGN - 1) / DEPTH_ALIGN * DEPTH_ALIGN;
}

static void product_task(void *arg, int64_t i, int worker)
{
    const struct product *p = arg;
    float *room = p->c->room[worker].tile;
    int64_t row = i / p->tasks_across * p->block_rows, panel = i % p->tasks_across * p->task_panels;
    int64_t rows = p->rows - row < p->block_rows ? p->rows - row : p->block_rows;
    int64_t end = panel + p->task_panels < p->w->panels ? panel + p->task_panels : p->w->panels;
    int64_t at_once = rows <= p->c->math->strip ? FEW_PANELS : 1;
    int32_t depth = rows <= p->c->math->strip ? p->w->units : even_depth(p->w->units);

    for (; panel < end; panel += at_once)
        product_tiles(p, row, rows, panel, end - panel < at_once ? end - panel : at_once, depth, room);
}

/* Tasks of about TASK_BYTES of weights, but enough of them that nobody waits long for the last. */
static int64_t task_panels(const struct cpu *c, const struct weight *w, int64_t blocks)
{
    int64_t by_bytes = TASK_BYTES / w->panel_bytes, by_share = w->panels * blocks / ((int64_t)c->threads * 8);
    int64_t panels = by_bytes < by_share ? by_bytes : by_share;

    return panels < 1 ? 1 : panels;
}

void cpu_matmul(struct backend *be, const struct weight *w, const struct weight *bias, const void *in, int64_t rows,
                void *out, bool accumulate)
{
    struct cpu *c = cpu_of(be);
    struct product p = {
        .c = c,
        .w = w,
        .bias = bias ? bias->vector : NULL,
        .in = in,
        .out = out,
        .rows = rows,
        .accumulate = accumulate,
        .block_rows = c->block_rows,
    };
    int64_t blocks = (rows + c->block_rows - 1) / c->block_rows;

    if (rows == 0)
        return;
    assert(w->packed);
    left_side(c, &p);
    p.task_panels = task_panels(c, w, blocks);
    p.tasks_across = (w->panels + p.task_panels - 1) / p.task_panels;
    pool_run(c->pool, blocks * p.tasks_across, product_task, &p);
}
