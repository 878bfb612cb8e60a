/* SPDX-License-Identifier: Apache-2.0 */
/*
 * few.c - products of few rows: which kernel takes them, and how their rows come to be normed.
 *
 *   large matrices     thin.cu, more rows wide_wgmma.cu: read x times the norm's weight, and sums of squares of x
 *   small ones         skinny.cu: reads x, and norms it itself; what that does not take, wide_wgmma.cu
 *   what is left       cuBLASLt, with launches for what stands before and behind
 *
 * Whoever writes x can leave what the first two read on the way, if it knows which norm comes next. So within a step such a
 * launch is held back until the next operation: either that norms x, and says how, or what was held is launched as it is.
 * Nothing else can tell the difference: whoever queues on the compute lane asks cuda_compute for it.
 */
#include "kernels/cuda/cuda.h"

#include <string.h>

/* Of a matrix that skinny.cu takes with more than THIN_ROWS_MAX rows: SmolLM2's head is one. */
enum { SMALL_NUMBERS = 32 << 20 };
/* Rows of a small matrix: more take wide_wgmma.cu longer than cuBLASLt and the launches around. */
enum { SMALL_ROWS_MAX = 64 };

/* Rows of x that can be normed on the way. */
static int32_t few_rows_max(const struct cuda *c)
{
    return c->queue[LANE_COMPUTE].warpgroups ? WIDE_ROWS_MAX : THIN_ROWS_MAX;
}

enum status few_open(struct cuda *c, struct err *err)
{
    const uint64_t pieces = (uint64_t)c->sms * (uint64_t)few_rows_max(c) * THIN_TILE * 4;
    const struct {
        void *out;
        uint64_t bytes;
    } rooms[] = {
        { &c->few.row, (uint64_t)few_rows_max(c) * THIN_WIDTH_MAX * 2 },
        { &c->few.square, (uint64_t)WIDE_ROWS_MAX * (THIN_WIDTH_MAX / THIN_TILE) * 4 },
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

/* A kernel for few rows, by what it makes. */
struct launchers {
    cudaError_t (*plain)(struct cuda_queue q, const struct skinny_args *a);
    cudaError_t (*gated)(struct cuda_queue q, const struct skinny_args *a);
    cudaError_t (*qkv)(struct cuda_queue q, const struct skinny_args *a, const struct rotate_args *t);
};

static const struct launchers launchers_of[] = {
    [FEW_THIN] = { launch_thin, launch_thin_gated, launch_thin_qkv },
    [FEW_WIDE] = { launch_wide, launch_wide_gated, launch_wide_qkv },
    [FEW_SKINNY] = { launch_skinny, launch_skinny_gated, launch_skinny_qkv },
};

static void few_launch(struct cuda *c, const struct few_product *p)
{
    const struct cuda_queue q = c->queue[LANE_COMPUTE];
    const struct launchers *l = &launchers_of[p->way];

    switch (p->kind) {
    case FEW_PLAIN:
        cuda_failed(c, l->plain(q, &p->args), "product");
        break;
    case FEW_GATED:
        cuda_failed(c, l->gated(q, &p->args), "gated product");
        break;
    case FEW_QKV:
        cuda_failed(c, l->qkv(q, &p->args, &p->heads), "product of heads");
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
        few_launch(c, &few->product);
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
    if (c->base.act != DT_BF16 || rows->rows > few_rows_max(c))
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

/* Rows of x as thin.cu and wide_wgmma.cu want them: left by what wrote x, or normed by a launch of their own. */
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

/* More rows take it longer than cuBLASLt where reading w is what takes time, whatever the launches around cost. */
static bool skinny_fits(const struct few_product *p)
{
    const struct skinny_args *a = &p->args;
    const int32_t rows =
        thin_takes(1, a->n, a->k) || (int64_t)a->n * a->k > SMALL_NUMBERS ? THIN_ROWS_MAX : SKINNY_ROWS_MAX;

    return a->rows <= rows && a->k % 32 == 0 && (p->kind != FEW_GATED || a->n % 16 == 0) &&
           (p->kind != FEW_QKV || skinny_takes_heads(&p->heads));
}

static enum few_way way_of(const struct cuda *c, const struct few_product *p, int64_t in_rows)
{
    const struct skinny_args *a = &p->args;
    const bool normed = !a->norm || (in_rows <= few_rows_max(c) && a->k <= THIN_WIDTH_MAX);
    const bool thin = normed && thin_takes(a->rows, a->n, a->k) && (p->kind != FEW_QKV || thin_takes_heads(&p->heads));
    const bool wide = normed && wide_takes(c->queue[LANE_COMPUTE], in_rows, a->n, a->k) &&
                      (p->kind != FEW_QKV || wide_takes_heads(&p->heads));

    if (c->base.act != DT_BF16)
        return FEW_NOT;
    if (thin)
        return FEW_THIN;
    if (wide && thin_takes(1, a->n, a->k))
        return FEW_WIDE;
    if (skinny_fits(p))
        return FEW_SKINNY;
    return wide && a->rows <= SMALL_ROWS_MAX ? FEW_WIDE : FEW_NOT;
}

bool few_run(struct cuda *c, struct few_product *p, int64_t in_rows)
{
    p->way = way_of(c, p, in_rows);
    if (p->way == FEW_NOT)
        return false;
    if (p->way != FEW_SKINNY && p->args.norm)
        rows_norm(c, p, in_rows);
    (void)cuda_compute(c);
    p->args.in_rows = (int32_t)in_rows;
    p->args.pieces = c->few.pieces;
    if (p->way != FEW_SKINNY && p->args.accumulate && p->args.n <= THIN_WIDTH_MAX && step_is_open(c)) {
        c->few.product = *p;
        c->few.held = HELD_PRODUCT;
    } else {
        few_launch(c, p);
    }
    return true;
}

/* qkv goes to the library where it is no FEW_QKV: few rows of it that no normed_qkv_to_tail took are rare. */
bool few_takes(const struct cuda *c, const struct gemm_shape *s)
{
    const struct few_product p = { .kind = FEW_PLAIN,
                                   .args = { .rows = (int32_t)s->rows, .n = (int32_t)s->n, .k = (int32_t)s->k } };

    return s->out != GEMM_F32 && way_of(c, &p, s->rows) != FEW_NOT;
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
