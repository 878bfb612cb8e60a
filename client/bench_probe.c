/* SPDX-License-Identifier: Apache-2.0 */
/*
 * bench_probe.c - what the device can do at this moment: copy, matrix product and causal attention alone, through the same
 * operations. Taken just before and just after a measurement, whose share of them is then a ratio of one run.
 */
#include "client/bench.h"

#include "common/base/clock.h"

#include <string.h>

enum { REPEATS = 5, SDPA_TOKENS_MAX = 8192 };

/* Two rooms of equal size. What is in `a` decides nothing but must be finite: denormals and NaNs are slow on CPUs. */
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

static uint64_t larger(uint64_t a, uint64_t b)
{
    return a > b ? a : b;
}

/* Ones everywhere, in activations and in rows. */
static enum status fill(struct probe *p, struct err *err)
{
    struct backend *be = p->l->be;
    uint16_t *ones;
    enum status st = be->ops->host_alloc(be, p->bytes, (void **)&ones, err);

    if (st != ST_OK)
        return st;
    for (uint64_t i = 0; i < p->bytes / sizeof *ones; i++)
        ones[i] = 0x3f80; /* 1.0 in bf16; as f32 about 1.00195 */
    be->ops->upload(be, LANE_COMPUTE, p->a, ones, p->bytes);
    be->ops->wait(be, LANE_COMPUTE);
    be->ops->host_free(be, ones);
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

/* The widest product of a layer: rows x dim -> rows x 2F. */
static void product_once(struct probe *p)
{
    p->l->be->ops->matmul(p->l->be, p->l->weights->layer[0].gate_up, NULL, p->a, p->rows, p->b, false);
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

/* Seconds of one call, the fastest of a few after one that warms up. */
static double fastest(struct probe *p, void (*once)(struct probe *p))
{
    double best = 0;

    for (int i = 0; i <= REPEATS; i++) {
        int64_t begin = clock_now_ns();
        double seconds;

        once(p);
        p->l->be->ops->wait(p->l->be, LANE_COMPUTE);
        seconds = (double)(clock_now_ns() - begin) / 1e9;
        if (i == 1 || (i > 1 && seconds < best))
            best = seconds;
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
        double flops = 2.0 * (double)p.rows * hp->dim * 2 * hp->ff_dim;
        double seen =
            2.0 * (double)p.tokens * ((double)p.tokens + 1) * hp->q_heads * hp->head_dim; /* pairs, not the square */

        keep_larger(&roofs->copy_gb_s, 2 * (double)p.bytes / fastest(&p, copy_once) / 1e9);
        keep_larger(&roofs->gemm_tflops, flops / fastest(&p, product_once) / 1e12);
        keep_larger(&roofs->sdpa_tflops, seen / fastest(&p, attention_once) / 1e12);
        st = l->be->ops->health(l->be, err);
    }
    probe_close(&p);
    return st;
}
