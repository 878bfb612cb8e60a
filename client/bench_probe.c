/* SPDX-License-Identifier: Apache-2.0 */
/*
 * bench_probe.c - what the device can do at this moment: copy, a layer's products and causal attention alone, through the
 * same operations. Taken just before and just after a measurement, whose share of them is then a ratio of one run.
 *
 * Numbers are random and calls follow each other for a while, as in the measurement: an H200 multiplies ones at 890 TFLOP/s
 * in a short burst, random numbers at 700 for as long as a prefill lasts, held back by its power.
 */
#include "client/bench.h"

#include "common/base/clock.h"
#include "common/tensor/dtype.h"
#include "kernels/random.h"

#include <string.h>

enum { SETS = 2, SET_MS = 100, SET_CALLS_MAX = 256, SDPA_TOKENS_MAX = 8192 };

/* Two rooms of equal size. */
struct probe {
    struct local *l;
    int64_t rows, tokens;
    uint64_t bytes;
    void *a, *b;
};

static uint64_t act_bytes(const struct local *l, int64_t values)
{
    return dtype_bytes(l->be->act, (uint64_t)values);
}

/* q, k and v as their product gives them: f32 everywhere. */
static uint64_t qkv_bytes(const struct hparams *hp, int64_t rows)
{
    return (uint64_t)rows * (uint64_t)((hp->q_heads + 2 * hp->kv_heads) * hp->head_dim) * sizeof(float);
}

static uint64_t larger(uint64_t a, uint64_t b)
{
    return a > b ? a : b;
}

/* Random numbers between -1 and 1 in `a`, as activations and as rows. In f32 two of them make one number near the second. */
static enum status fill(struct probe *p, struct err *err)
{
    struct backend *be = p->l->be;
    const uint64_t count = p->bytes / sizeof(uint16_t), own = count < (1 << 20) ? count : (1 << 20);
    uint16_t *numbers;
    enum status st = be->ops->host_alloc(be, p->bytes, (void **)&numbers, err);

    if (st != ST_OK)
        return st;
    for (uint64_t i = 0; i < own; i++)
        numbers[i] = f32_to_bf16(2 * random_unit(1, 0, 0, (int64_t)i) - 1);
    for (uint64_t i = own; i < count; i++)
        numbers[i] = numbers[i - own];
    be->ops->upload(be, LANE_COMPUTE, p->a, numbers, p->bytes);
    be->ops->wait(be, LANE_COMPUTE);
    be->ops->host_free(be, numbers);
    return ST_OK;
}

static enum status probe_open(struct probe *p, struct local *l, int64_t tokens, struct err *err)
{
    const struct hparams *hp = &l->hp;
    const uint64_t copy = l->be->ops->host_is_device ? UINT64_C(64) << 20 : UINT64_C(256) << 20;
    enum status st;

    memset(p, 0, sizeof *p);
    p->l = l;
    p->rows = prefill_rows(l->be->ops->name, tokens);
    p->tokens = tokens < SDPA_TOKENS_MAX ? tokens : SDPA_TOKENS_MAX;
    p->bytes = larger(copy, act_bytes(l, p->rows * 2 * hp->ff_dim));
    p->bytes = larger(p->bytes, qkv_bytes(hp, p->rows));
    p->bytes = larger(p->bytes, act_bytes(l, p->tokens * hp->q_heads * hp->head_dim) +
                                    2 * dtype_bytes(l->be->kv, (uint64_t)(p->tokens * hp->kv_heads * hp->head_dim)));
    st = l->be->ops->alloc(l->be, p->bytes, "activations", &p->a, err);
    if (st == ST_OK)
        st = l->be->ops->alloc(l->be, p->bytes, "activations", &p->b, err);
    return st == ST_OK ? fill(p, err) : st;
}

static void probe_close(struct probe *p)
{
    if (p->a)
        p->l->be->ops->free(p->l->be, p->a);
    if (p->b)
        p->l->be->ops->free(p->l->be, p->b);
}

static void copy_once(struct probe *p)
{
    p->l->be->ops->copy(p->l->be, LANE_COMPUTE, p->b, p->a, p->bytes);
}

/* The products of a layer, those that add to x adding: a back end may have chosen another way for either form. */
static void products_once(struct probe *p)
{
    const struct layer_weights *w = &p->l->weights->layer[0];
    const struct {
        const struct weight *w;
        bool adds;
    } each[] = { { w->qkv, false }, { w->o, true }, { w->gate_up, false }, { w->down, true } };

    for (size_t i = 0; i < sizeof each / sizeof each[0]; i++)
        p->l->be->ops->matmul(p->l->be, each[i].w, NULL, p->a, p->rows, p->b, each[i].adds);
}

static double products_flops(const struct probe *p)
{
    const struct hparams *hp = &p->l->hp;
    const double heads = (double)hp->q_heads * hp->head_dim, pairs = (double)hp->kv_heads * hp->head_dim;

    return 2.0 * (double)p->rows * hp->dim * (2 * heads + 2 * pairs + 3.0 * hp->ff_dim);
}

static void attention_once(struct probe *p)
{
    const struct hparams *hp = &p->l->hp;
    uint64_t q = act_bytes(p->l, p->tokens * hp->q_heads * hp->head_dim);
    struct kv_layer kv = { .k = (uint8_t *)p->a + q,
                           .dtype = p->l->be->kv,
                           .heads = hp->kv_heads,
                           .dim = hp->head_dim,
                           .tokens = p->tokens,
                           .stride = p->tokens };
    struct attn_span span = { .row = 0, .rows = p->tokens, .token = 0 };

    kv.v = (uint8_t *)kv.k + dtype_bytes(kv.dtype, (uint64_t)(p->tokens * hp->kv_heads * hp->head_dim));
    span.kv = kv;
    p->l->be->ops->attn_prefill(p->l->be, &span, 1, p->a, hp->q_heads, hp->attn_scale, 0, p->b, NULL, 0);
}

static double seconds_of(struct probe *p, void (*once)(struct probe *p), int64_t calls)
{
    const int64_t begin = clock_now_ns();

    for (int64_t i = 0; i < calls; i++)
        once(p);
    p->l->be->ops->wait(p->l->be, LANE_COMPUTE);
    return (double)(clock_now_ns() - begin) / 1e9 / (double)calls;
}

/* Seconds of one call of many queued behind each other, the best of a few sets after one call that warms up and one that
 * tells how many make a set. */
static double fastest(struct probe *p, void (*once)(struct probe *p))
{
    double best, one;
    int64_t calls;

    (void)seconds_of(p, once, 1);
    one = seconds_of(p, once, 1);
    calls = (int64_t)(SET_MS / 1e3 / one) + 1;
    calls = calls < SET_CALLS_MAX ? calls : SET_CALLS_MAX;
    best = seconds_of(p, once, calls);
    for (int i = 1; i < SETS; i++) {
        const double seconds = seconds_of(p, once, calls);

        best = seconds < best ? seconds : best;
    }
    return best;
}

static void keep_larger(double *at, double value)
{
    if (value > *at)
        *at = value;
}

enum status bench_probe(struct local *l, int64_t tokens, struct bench_roofs *roofs, struct err *err)
{
    const struct hparams *hp = &l->hp;
    struct probe p;
    enum status st = probe_open(&p, l, tokens, err);

    if (st == ST_OK) {
        double seen =
            2.0 * (double)p.tokens * ((double)p.tokens + 1) * hp->q_heads * hp->head_dim; /* pairs, not the square */

        keep_larger(&roofs->copy_gb_s, 2 * (double)p.bytes / fastest(&p, copy_once) / 1e9);
        keep_larger(&roofs->gemm_tflops, products_flops(&p) / fastest(&p, products_once) / 1e12);
        keep_larger(&roofs->sdpa_tflops, seen / fastest(&p, attention_once) / 1e12);
        st = l->be->ops->health(l->be, err);
    }
    probe_close(&p);
    return st;
}
