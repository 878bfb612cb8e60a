/* SPDX-License-Identifier: Apache-2.0 */
/*
 * bench_decode.c - steps of a batch, as the decode node makes them, without its queues.
 *
 *   one context ─▶ prefill, press, pack ─▶ its blocks, copied for every sequence ─▶ [ step ] x N, tails growing
 *
 * Every sequence has its own copy of the blocks, so a step reads what so many different contexts would make it read.
 * On a device that runs by itself a step's tokens are looked at one step late, as the batcher does it.
 */
#include "client/bench.h"

#include "common/base/arena.h"
#include "common/base/clock.h"
#include "common/kv/block.h"
#include "decode-node/forward.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

struct decoding {
    const struct bench *b;
    struct backend *be;
    struct kv_block *block; /* [batch][layers] */
    struct forward forward;
    bool cache_open, forward_open;
    int64_t next_position;
    int32_t first_token;
    double block_bytes; /* of rows, all sequences */
    struct step step;
    struct step_seq *seq;
    int32_t *token, *position, *output, *chosen;
};

static struct kv_block *block_at(const struct decoding *d, int32_t sequence, int32_t layer)
{
    return &d->block[sequence * d->b->local->hp.layers + layer];
}

/* Rows of each head spread geometrically from mean / (1 + S) to mean * (1 + S), scaled so that their sum stays. */
static void spread_rows(struct kv_block *block, double spread)
{
    int64_t rows = kv_block_rows(block), given = 0;
    double weight[KV_HEADS_MAX], sum = 0;

    for (int32_t g = 0; g < block->heads; g++) {
        double place = block->heads > 1 ? 2.0 * g / (block->heads - 1) - 1 : 0; /* -1 .. 1 */

        weight[g] = pow(1 + spread, place);
        sum += weight[g];
    }
    for (int32_t g = 0; g < block->heads; g++) {
        int64_t n = g == block->heads - 1 ? rows - given : (int64_t)((double)rows * weight[g] / sum);

        given += n;
        block->first[g + 1] = given;
    }
}

static enum status pack_layer(void *ctx, const struct press_layer *layer, const struct press_result *result,
                              struct err *err)
{
    struct decoding *d = ctx;
    struct kv_block *block = block_at(d, 0, layer->layer);
    struct press_result kept;
    enum status st;

    if (!result)
        return err_set(err, ST_EUNIMPLEMENTED, "layer %d has a window; decode is measured without", layer->layer);
    st = bench_plan(d->b, result, &kept, block, err);
    if (st == ST_OK)
        st = d->be->ops->alloc(d->be, block->bytes, "blocks", &block->data, err);
    if (st == ST_OK)
        st = press_run_pack(d->b->local->press, &kept, block, err);
    return st;
}

/* The context once through the model: the first sequence's blocks, and what every sequence chooses first. */
static enum status prefill(struct decoding *d, struct err *err)
{
    const struct bench *b = d->b;
    float *logits = mem_zero((size_t)b->local->hp.vocab, sizeof *logits);
    enum status st = local_prefill(b->local, b->token, b->context, 0, b->chain, pack_layer, d, logits, NULL, err);

    if (st == ST_OK) {
        d->first_token = bench_argmax(logits, b->local->hp.vocab);
        d->next_position = chain_next_position(b->chain, false, b->context, press_run_rows_most(b->local->press));
    }
    free(logits);
    return st;
}

static enum status copy_blocks(struct decoding *d, struct err *err)
{
    const struct bench *b = d->b;
    enum status st = ST_OK;

    for (int32_t l = 0; l < b->local->hp.layers && b->ragged > 0; l++)
        spread_rows(block_at(d, 0, l), b->ragged);
    for (int32_t s = 0; s < b->batch && st == ST_OK; s++) {
        for (int32_t l = 0; l < b->local->hp.layers && st == ST_OK; l++) {
            struct kv_block *from = block_at(d, 0, l), *to = block_at(d, s, l);

            d->block_bytes += (double)kv_block_row_bytes(from);
            if (s == 0)
                continue;
            *to = *from;
            to->data = NULL;
            st = d->be->ops->alloc(d->be, to->bytes, "blocks", &to->data, err);
            if (st == ST_OK)
                d->be->ops->copy(d->be, LANE_PRESS, to->data, from->data, to->bytes);
        }
    }
    d->be->ops->wait(d->be, LANE_PRESS);
    return st;
}

static enum status open_cache(struct decoding *d, struct err *err)
{
    const struct bench *b = d->b;
    const struct hparams *hp = &b->local->hp;
    int32_t pages = (int32_t)((b->decode + KV_PAGE_TOKENS - 1) / KV_PAGE_TOKENS);
    struct cache_config cache = { .slots = b->batch,
                                  .pages = b->batch * pages,
                                  .pages_per_slot = pages,
                                  .rows_max = b->batch,
                                  .layers = hp->layers,
                                  .q_heads = hp->q_heads,
                                  .kv_heads = hp->kv_heads,
                                  .dim = hp->head_dim,
                                  .replay = true };
    enum status st = d->be->ops->cache_open(d->be, &cache, err);

    d->cache_open = st == ST_OK;
    if (st == ST_OK)
        st = forward_open(&d->forward, d->be, b->local->weights, b->batch, b->batch, err);
    d->forward_open = st == ST_OK;
    for (int32_t s = 0; s < b->batch && st == ST_OK; s++) {
        d->be->ops->slot_blocks(d->be, s, block_at(d, s, 0));
        for (int32_t i = 0; i < pages; i++)
            d->be->ops->slot_page(d->be, s, i, s * pages + i);
    }
    return st;
}

/* Step number `step` of a round: one row of every sequence. */
static void run_step(struct decoding *d, int32_t step)
{
    for (int32_t s = 0; s < d->b->batch; s++) {
        d->seq[s] = (struct step_seq){ .slot = s, .row = s, .rows = 1, .tail = step };
        d->token[s] = step == 0 ? d->first_token : -1 - s;
        d->position[s] = (int32_t)(d->next_position + step);
        d->output[s] = s;
    }
    forward_step(&d->forward, &d->step);
}

static double run_round(struct decoding *d)
{
    int32_t behind = d->be->ops->host_is_device ? 0 : 1;
    int64_t begin = clock_now_ns();

    for (int32_t step = 0; step < d->b->decode; step++) {
        run_step(d, step);
        if (step >= behind)
            d->be->ops->step_result(d->be, behind, d->chosen);
    }
    if (behind > 0)
        d->be->ops->step_result(d->be, 0, d->chosen);
    return (double)(clock_now_ns() - begin) / 1e6;
}

static void decoding_open(struct decoding *d, const struct bench *b)
{
    size_t batch = (size_t)b->batch;

    memset(d, 0, sizeof *d);
    d->b = b;
    d->be = b->local->be;
    d->block = mem_zero(batch * (size_t)b->local->hp.layers, sizeof *d->block);
    d->seq = mem_zero(batch, sizeof *d->seq);
    d->token = mem_zero(batch, sizeof *d->token);
    d->position = mem_zero(batch, sizeof *d->position);
    d->output = mem_zero(batch, sizeof *d->output);
    d->chosen = mem_zero(batch, sizeof *d->chosen);
    d->step = (struct step){ .rows = b->batch,
                             .seqs = b->batch,
                             .seq = d->seq,
                             .token = d->token,
                             .position = d->position,
                             .output = d->output };
}

static void decoding_close(struct decoding *d)
{
    if (d->forward_open)
        forward_close(&d->forward);
    if (d->cache_open)
        d->be->ops->cache_close(d->be);
    for (int32_t i = 0; i < d->b->batch * d->b->local->hp.layers; i++)
        if (d->block[i].data)
            d->be->ops->free(d->be, d->block[i].data);
    free(d->block);
    free(d->seq);
    free(d->token);
    free(d->position);
    free(d->output);
    free(d->chosen);
}

/* Tail bytes that a step reads, mean over the steps: 1, 2, ... rows of every head. */
static double tail_bytes(const struct bench *b)
{
    const struct hparams *hp = &b->local->hp;
    double row = 2.0 * hp->head_dim * (double)dtype_bytes(b->local->be->kv, 1);

    return b->batch * hp->layers * hp->kv_heads * row * ((double)b->decode + 1) / 2;
}

enum status bench_decode(const struct bench *b, struct bench_result *out, struct err *err)
{
    double ms[BENCH_ROUNDS_MAX];
    struct decoding d;
    enum status st;

    decoding_open(&d, b);
    st = prefill(&d, err);
    if (st == ST_OK)
        st = copy_blocks(&d, err);
    if (st == ST_OK)
        st = open_cache(&d, err);
    if (st == ST_OK) {
        run_round(&d); /* warms up */
        for (int32_t round = 0; round < b->rounds; round++)
            ms[round] = run_round(&d);
        st = d.be->ops->health(d.be, err);
    }
    if (st == ST_OK) {
        out->decode_ms = out->total_ms = bench_median(ms, b->rounds);
        out->first_token = d.first_token;
        out->kv_bytes = d.block_bytes + tail_bytes(b);
        out->step_launches = d.be->ops->step_launches ? d.be->ops->step_launches(d.be) : 0;
    }
    decoding_close(&d);
    return st;
}
