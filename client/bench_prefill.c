/* SPDX-License-Identifier: Apache-2.0 */
/* bench_prefill.c - one context through the model, again and again; and the small arithmetic of measurements. */
#include "client/bench.h"

#include "common/base/arena.h"
#include "common/base/clock.h"
#include "common/base/order.h"

#include <stdlib.h>

void bench_tokens(int32_t *token, int64_t count, int32_t vocab)
{
    for (int64_t i = 0; i < count; i++)
        token[i] = (int32_t)((100 + 7919 * i % 40000) % vocab);
}

double bench_median(double *values, int32_t count)
{
    qsort(values, (size_t)count, sizeof *values, order_f64);
    return count % 2 ? values[count / 2] : (values[count / 2 - 1] + values[count / 2]) / 2;
}

int32_t bench_argmax(const float *logits, int32_t vocab)
{
    int32_t best = 0;

    for (int32_t i = 1; i < vocab; i++)
        if (logits[i] > logits[best])
            best = i;
    return best;
}

enum status bench_plan(const struct bench *b, const struct press_result *result, struct press_result *kept,
                       struct kv_block *block, struct err *err)
{
    *kept = *result;
    kept->codec = b->codec;
    return press_run_plan(b->local->press, kept, block, err);
}

/* Where a layer's block is packed, one after another: the same place for all. */
struct coding {
    const struct bench *b;
    void *data;
    size_t room;
};

static void coding_free(struct coding *c)
{
    struct backend *be = c->b->local->be;

    be->ops->wait(be, LANE_PRESS);
    if (c->data)
        be->ops->free(be, c->data);
    c->data = NULL;
}

static enum status code_layer(void *ctx, const struct press_layer *layer, const struct press_result *result,
                              struct err *err)
{
    struct coding *c = ctx;
    struct backend *be = c->b->local->be;
    struct kv_block block;
    struct press_result kept;
    enum status st;

    (void)layer;
    if (!result) /* a layer with a window: not pressed either */
        return ST_OK;
    st = bench_plan(c->b, result, &kept, &block, err);
    if (st == ST_OK && block.bytes > c->room) {
        coding_free(c);
        st = be->ops->alloc(be, block.bytes, "blocks", &c->data, err);
        c->room = st == ST_OK ? block.bytes : 0;
    }
    block.data = c->data;
    return st == ST_OK ? press_run_pack(c->b->local->press, &kept, &block, err) : st;
}

enum status bench_prefill(const struct bench *b, struct bench_result *out, struct err *err)
{
    double forward[BENCH_ROUNDS_MAX], press[BENCH_ROUNDS_MAX], total[BENCH_ROUNDS_MAX];
    int32_t vocab = b->local->hp.vocab;
    float *logits = mem_zero((size_t)vocab, sizeof *logits);
    struct coding coding = { .b = b };
    enum status st = ST_OK;

    for (int32_t round = -1; round < b->rounds && st == ST_OK; round++) { /* the first one warms up */
        struct local_times times;

        st = local_prefill(b->local, b->token, b->prefill, 0, b->chain, b->coded ? code_layer : NULL, &coding, logits,
                           &times, err);
        if (round < 0)
            continue;
        forward[round] = (double)times.forward_ns / 1e6;
        press[round] = (double)times.press_ns / 1e6;
        total[round] = forward[round] + press[round];
    }
    if (st == ST_OK) {
        out->prefill_ms = bench_median(forward, b->rounds);
        out->press_ms = bench_median(press, b->rounds);
        out->total_ms = bench_median(total, b->rounds);
        out->first_token = bench_argmax(logits, vocab);
    }
    coding_free(&coding);
    free(logits);
    return st;
}
