/* SPDX-License-Identifier: Apache-2.0 */
/*
 * promise.c - what an answer will need is promised at the door, so that none that was let in runs out of it.
 *
 *   positions of the model ─▶ rows of tail ─▶ a decode part: blocks of its own, for the most a compression can leave
 */
#include "decode-node/promise.h"

#include "common/base/arena.h"
#include "decode-node/node.h"
#include "decode-node/repress.h"
#include "presses/chain.h"

static enum status fits_model(const struct request *r, const struct question *q, int64_t position, struct err *err)
{
    int64_t limit = r->node->parts.weights->hp.max_positions;
    int64_t all = position + q->sequence.prompt_tokens + r->max_new;

    if (all <= limit)
        return ST_OK;
    return err_set(err, ST_ERANGE,
                   "context, question and answer would need %lld positions (%lld + %d + %d), the model has %lld",
                   (long long)all, (long long)position, q->sequence.prompt_tokens, r->max_new, (long long)limit);
}

/* Most rows of a layer of the context, all heads, and of one head of it. */
static void measure_context(const struct request *r, struct repress_ask *ask)
{
    const struct hparams *hp = &r->node->parts.weights->hp;
    const struct context *c = r->context;

    ask->context_tokens = c->figures.context_tokens;
    for (int32_t l = 0; l < hp->layers; l++) {
        int64_t rows = r->kind == REQUEST_ASK ? kv_block_rows(&c->block[l])
                       : hparams_layer_is_full(hp, l)
                           ? chain_rows_max(c->chain, hp, l, ask->context_tokens)
                           : (hp->window[l] < ask->context_tokens ? hp->window[l] : ask->context_tokens) * hp->kv_heads;

        ask->context_rows = rows > ask->context_rows ? rows : ask->context_rows;
    }
}

/* Blocks of its own for an answer with a decode part. */
static enum status promise_own(struct request *r, struct question *q, int64_t position, struct err *err)
{
    struct repress_ask ask = { .context = r->context,
                               .next_position = position,
                               .prompt_tokens = q->sequence.prompt_tokens,
                               .max_new = r->max_new };

    measure_context(r, &ask);
    return batcher_repress(r->node->batcher, &ask, &q->sequence.own, err);
}

enum status promise_room(struct request *r, struct question *q, int64_t position, int64_t *retry_ms, struct err *err)
{
    struct chain_decode part;
    bool decodes = r->context->chain && chain_decode_part(r->context->chain, &part);
    int32_t prompt = q->sequence.prompt_tokens;
    int32_t rows = decodes ? repress_tail_rows(&part, prompt, r->max_new) : sequence_tail_rows(prompt, r->max_new);
    enum status st = fits_model(r, q, position, err);

    if (st != ST_OK || r->max_new == 0)
        return st;
    st = batcher_reserve(r->node->batcher, rows, err);
    if (st == ST_OK) {
        q->tail_rows = rows;
        q->sequence.made = mem_zero((size_t)r->max_new, sizeof(int32_t));
        if (decodes && repress_ever_due(&part, prompt, r->max_new))
            st = promise_own(r, q, position, err);
    }
    if (st == ST_EEXHAUSTED)
        *retry_ms = 500;
    return st;
}
