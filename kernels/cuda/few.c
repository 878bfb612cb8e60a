/* SPDX-License-Identifier: Apache-2.0 */
/*
 * few.c - products of few rows: which kernel takes them, and how their rows come to be normed.
 *
 *   large matrices     thin.cu: reads x times the norm's weight, and sums of squares of x
 *   small ones         skinny.cu: reads x, and norms it itself
 *   more rows          neither: cuBLASLt, with launches for what stands before and behind
 *
 * Whoever writes x can leave what thin.cu reads on the way, if it knows which norm comes next. So within a step such a
 * launch is held back until the next operation: either that norms x, and says how, or what was held is launched as it is.
 * Nothing else can tell the difference: whoever queues on the compute lane asks cuda_compute for it.
 */
#include "kernels/cuda/cuda.h"

#include <string.h>

/* Of a matrix that skinny.cu takes with more than THIN_ROWS_MAX rows: SmolLM2's head is one. */
enum { SMALL_NUMBERS = 32 << 20 };

enum status few_open(struct cuda *c, struct err *err)
{
    const uint64_t pieces = (uint64_t)c->sms * THIN_ROWS_MAX * THIN_TILE * 4;
    const struct {
        void *out;
        uint64_t bytes;
    } rooms[] = {
        { &c->few.row, (uint64_t)THIN_ROWS_MAX * THIN_WIDTH_MAX * 2 },
        { &c->few.square, (uint64_t)THIN_ROWS_MAX * (THIN_WIDTH_MAX / THIN_TILE) * 4 },
        { &c->few.pieces, pieces },
    };

    if (c->base.act != DT_BF16)
        return ST_OK;
    for (size_t i = 0; i < sizeof rooms / sizeof rooms[0]; i++) {
        void *at;
        enum status st = cuda_alloc(&c->base, rooms[i].bytes, "other", &at, err);

        if (st != ST_OK)
            return st;
        memcpy(rooms[i].out, &at, sizeof at);
    }
    if (cuda_fill(c, c->few.pieces, CUDA_HOLE & 0xff, pieces) != cudaSuccess)
        return err_set(err, ST_EUNAVAILABLE, "cuda:%d does not take a memset", c->device);
    return ST_OK;
}

void few_close(struct cuda *c)
{
    cuda_free(&c->base, c->few.row);
    cuda_free(&c->base, c->few.square);
    cuda_free(&c->base, c->few.pieces);
}

static void thin_launch(struct cuda *c, const struct few_product *p)
{
    const struct cuda_queue q = c->queue[LANE_COMPUTE];

    switch (p->kind) {
    case FEW_PLAIN:
        cuda_failed(c, launch_thin(q, &p->args), "product");
        break;
    case FEW_GATED:
        cuda_failed(c, launch_thin_gated(q, &p->args), "gated product");
        break;
    case FEW_QKV:
        cuda_failed(c, launch_thin_qkv(q, &p->args, &p->heads), "product of heads");
        break;
    }
}

static void skinny_launch(struct cuda *c, const struct few_product *p)
{
    const struct cuda_queue q = cuda_compute(c);

    switch (p->kind) {
    case FEW_PLAIN:
        cuda_failed(c, launch_skinny(q, &p->args), "product");
        break;
    case FEW_GATED:
        cuda_failed(c, launch_skinny_gated(q, &p->args), "gated product");
        break;
    case FEW_QKV:
        cuda_failed(c, launch_skinny_qkv(q, &p->args, &p->heads), "product of heads");
        break;
    }
}

/* Launches what is held back, which leaves `next` what it asks for. */
static void held_go(struct cuda *c, struct normed_rows next)
{
    struct few *few = &c->few;
    const enum held held = few->held;

    few->held = HELD_NOTHING;
    if (held == HELD_EMBED) {
        few->embed.next = next;
        step_plan(c, &few->embed);
    } else if (held == HELD_PRODUCT) {
        few->product.args.next = next;
        thin_launch(c, &few->product);
    }
}

struct cuda_queue cuda_compute(struct cuda *c)
{
    held_go(c, (struct normed_rows){ .norm = NULL });
    return c->queue[LANE_COMPUTE];
}

void few_embed(struct cuda *c, const struct embed_args *rows)
{
    (void)cuda_compute(c);
    c->few.embed = *rows;
    c->few.held = HELD_EMBED;
    if (c->base.act != DT_BF16 || rows->rows > THIN_ROWS_MAX)
        (void)cuda_compute(c);
}

/* In how many parts what is held back counts the squares of these rows of x; 0: it does not write them. */
static int32_t held_parts(const struct few *few, const void *x, int64_t rows, int32_t dim)
{
    const struct embed_args *e = &few->embed;
    const struct skinny_args *p = &few->product.args;

    if (few->held == HELD_EMBED && e->x == x && e->rows == rows && e->dim == dim)
        return 1;
    if (few->held == HELD_PRODUCT && p->out == x && p->rows == rows && p->n == dim)
        return (dim + THIN_TILE - 1) / THIN_TILE;
    return 0;
}

/* Rows of x as thin.cu wants them: left by what wrote x, or normed by a launch of their own. */
static void rows_norm(struct cuda *c, struct few_product *p, int64_t rows)
{
    struct few *few = &c->few;
    struct skinny_args *args = &p->args;
    const float *x = args->in, *norm = args->norm;

    args->in = few->row;
    args->norm = NULL;
    args->square_parts = held_parts(few, x, rows, args->k);
    args->square = args->square_parts > 0 ? few->square : NULL;
    if (args->square)
        held_go(c, (struct normed_rows){ norm, few->row, few->square });
    else
        cuda_failed(c, launch_rms_norm(cuda_compute(c), DT_BF16, x, norm, args->eps, rows, args->k, few->row),
                    "rms_norm");
}

static bool thin_fits(const struct cuda *c, const struct few_product *p, int64_t in_rows)
{
    return c->base.act == DT_BF16 && thin_takes(p->args.rows, p->args.n, p->args.k) &&
           (!p->args.norm || (in_rows <= THIN_ROWS_MAX && p->args.k <= THIN_WIDTH_MAX)) &&
           (p->kind != FEW_QKV || thin_takes_heads(&p->heads));
}

/* More rows take it longer than cuBLASLt where reading w is what takes time, whatever the launches around cost. */
static bool skinny_fits(const struct cuda *c, const struct few_product *p)
{
    const struct skinny_args *a = &p->args;
    const int32_t rows =
        thin_takes(1, a->n, a->k) || (int64_t)a->n * a->k > SMALL_NUMBERS ? THIN_ROWS_MAX : SKINNY_ROWS_MAX;

    return c->base.act == DT_BF16 && a->rows <= rows && a->k % 32 == 0 && (p->kind != FEW_GATED || a->n % 16 == 0) &&
           (p->kind != FEW_QKV || skinny_takes_heads(&p->heads));
}

bool few_run(struct cuda *c, struct few_product *p, int64_t in_rows)
{
    if (thin_fits(c, p, in_rows)) {
        if (p->args.norm)
            rows_norm(c, p, in_rows);
        (void)cuda_compute(c);
        p->args.pieces = c->few.pieces;
        if (p->args.accumulate && p->args.n <= THIN_WIDTH_MAX && step_is_open(c)) {
            c->few.product = *p;
            c->few.held = HELD_PRODUCT;
        } else {
            thin_launch(c, p);
        }
        return true;
    }
    if (skinny_fits(c, p)) {
        skinny_launch(c, p);
        return true;
    }
    return false;
}

/* qkv goes to the library where it is no FEW_QKV: few rows of it that no normed_qkv_to_tail took are rare. */
bool few_takes(const struct cuda *c, const struct gemm_shape *s)
{
    const struct few_product p = { .kind = FEW_PLAIN,
                                   .args = { .rows = (int32_t)s->rows, .n = (int32_t)s->n, .k = (int32_t)s->k } };

    return s->out != GEMM_F32 && (thin_fits(c, &p, s->rows) || skinny_fits(c, &p));
}

struct few_product few_normed(const struct normed_product *p, const void *x, int64_t rows, void *out)
{
    return (struct few_product){ .kind = FEW_PLAIN,
                                 .args = { .w = p->w->data,
                                           .in = x,
                                           .norm = p->norm->vector,
                                           .eps = p->eps,
                                           .bias = p->bias ? p->bias->vector : NULL,
                                           .out = out,
                                           .rows = (int32_t)rows,
                                           .n = (int32_t)p->w->rows,
                                           .k = (int32_t)p->w->cols,
                                           .ahead = CUDA_AHEAD_BYTES } };
}
