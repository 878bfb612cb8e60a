/* SPDX-License-Identifier: Apache-2.0 */
/* local.c - opens what a node opens, and runs what its engine runs, in the caller. */
#include "client/local.h"

#include "client/shapes.h"
#include "common/base/clock.h"
#include "common/model/roles.h"
#include "prefill-node/held.h"
#include "prefill-node/room.h"

#include <string.h>

enum status local_open_model(struct local *l, const struct local_options *o, struct err *err)
{
    enum status st;

    if (o->random)
        return shape_find(o->random, &l->hp, err);
    st = checkpoint_open(&l->checkpoint, o->model, err);
    if (st == ST_OK)
        st = tokenizer_open(&l->tokenizer, l->checkpoint, err);
    if (st == ST_OK)
        l->hp = *checkpoint_hparams(l->checkpoint);
    return st;
}

enum status local_open_device(struct local *l, const struct local_options *o, int64_t tokens_max, int64_t rows_max,
                              struct err *err)
{
    int64_t rows = prefill_rows(o->backend, tokens_max);
    struct backend_config config = {
        .dtype = o->dtype, .threads = o->threads, .memory_fraction = 0.9, .rows_max = rows > rows_max ? rows : rows_max
    };
    enum status st = backend_open(&l->be, o->backend, &config, err);

    if (st == ST_OK)
        st = weights_open(&l->weights, l->be, &l->hp, l->checkpoint ? checkpoint_rows : NULL, l->checkpoint, 1, err);
    if (st == ST_OK)
        st = prefill_open(&l->prefill, l->be, l->weights, tokens_max, err);
    if (st == ST_OK)
        st = l->be->ops->alloc(l->be, prefill_x_bytes(l->prefill, tokens_max), "activations", &l->x, err);
    if (st == ST_OK)
        st = press_run_open(&l->press, l->be, &l->hp, tokens_max, err);
    if (st == ST_OK)
        st = l->be->ops->fence_open(l->be, &l->computed, err);
    if (st == ST_OK)
        st = l->be->ops->fence_open(l->be, &l->pressed, err);
    return st;
}

void local_close(struct local *l)
{
    press_run_close(l->press);
    if (l->computed)
        l->be->ops->fence_close(l->be, l->computed);
    if (l->pressed)
        l->be->ops->fence_close(l->be, l->pressed);
    if (l->x)
        l->be->ops->free(l->be, l->x);
    prefill_close(l->prefill);
    weights_close(l->weights, l->be);
    backend_close(l->be);
    chat_close(l->chat);
    tokenizer_close(l->tokenizer);
    checkpoint_close(l->checkpoint);
    memset(l, 0, sizeof *l);
}

static enum status press_layer_of(struct local *l, const struct press_layer *layer, local_tap tap, void *ctx,
                                  struct err *err)
{
    struct press_result result;
    enum status st;

    if (!hparams_layer_is_full(&l->hp, layer->layer))
        return tap ? tap(ctx, layer, NULL, err) : ST_OK;
    st = press_run_layer(l->press, layer, &result, err);
    if (st == ST_OK && tap)
        st = tap(ctx, layer, &result, err);
    return st;
}

/* Whether all layers can be held, as a node asks at its door. */
static enum status room_for(struct local *l, const struct chain *chain, const struct held_config *held, struct err *err)
{
    const struct room_ask ask = { .prefill = l->prefill,
                                  .be = l->be,
                                  .hp = &l->hp,
                                  .chain = chain,
                                  .needs = &held->needs,
                                  .prompt = &held->prompt,
                                  .tokens = held->pass->tokens };
    uint64_t bytes = room_bytes(&ask, ask.tokens);

    if (bytes > room_left(l->be)) {
        prefill_trim(l->prefill);
        press_run_trim(l->press);
    }
    return room_admit(&ask, room_left(l->be), &bytes, err);
}

/* A chain that must see every layer first: all are held, then pressed one after another. */
static enum status press_held(struct local *l, const struct chain *chain, struct pass *pass, int64_t query_tokens,
                              const struct chain_needs *needs, local_tap tap, void *ctx, int64_t *press_ns,
                              struct err *err)
{
    struct held_config config = { .be = l->be,
                                  .prefill = l->prefill,
                                  .hp = &l->hp,
                                  .press = l->press,
                                  .pass = pass,
                                  .query_tokens = query_tokens,
                                  .needs = *needs,
                                  .prompt = l->prompt };
    struct held *held = NULL;
    enum status st;

    config.prompt.token = pass->token;
    config.prompt.tokens = pass->tokens;
    st = room_for(l, chain, &config, err);
    if (st == ST_OK)
        st = held_open(&held, &config, err);
    while (st == ST_OK && !held_ready(held)) {
        const bool again = held_reads_again(held);
        const int64_t from = clock_now_ns();

        st = held_step(held, err);
        *press_ns += again ? clock_now_ns() - from : 0;
    }
    for (int32_t i = 0; i < l->hp.layers && st == ST_OK; i++) {
        struct press_layer layer;
        int64_t from = clock_now_ns();

        held_layer(held, i, &layer);
        st = press_layer_of(l, &layer, tap, ctx, err);
        l->be->ops->wait(l->be, LANE_PRESS);
        *press_ns += clock_now_ns() - from;
    }
    held_close(held);
    return st;
}

/* Press and tap of a layer; the lane that computes goes on meanwhile. */
static enum status press_next(struct local *l, const struct press_layer *layer, local_tap tap, void *ctx,
                              struct err *err)
{
    enum status st = press_layer_of(l, layer, tap, ctx, err);

    l->be->ops->fence_record(l->be, l->pressed, LANE_PRESS);
    return st;
}

/* The same when nothing is computed meanwhile; its time is the press's. */
static enum status press_last(struct local *l, const struct press_layer *layer, local_tap tap, void *ctx,
                              int64_t *press_ns, struct err *err)
{
    int64_t from;
    enum status st;

    l->be->ops->wait(l->be, LANE_COMPUTE);
    from = clock_now_ns();
    st = press_next(l, layer, tap, ctx, err);
    l->be->ops->wait(l->be, LANE_PRESS);
    *press_ns += clock_now_ns() - from;
    return st;
}

/* Layer after layer, each pressed while the next one is computed where the back end keeps two; as the engine of a node. */
static enum status run_layers(struct local *l, struct pass *pass, const struct chain_needs *needs, int64_t query_tokens,
                              bool pressed, local_tap tap, void *ctx, int64_t *press_ns, struct err *err)
{
    const bool overlap = prefill_layers_kept(l->prefill) > 1;
    struct press_layer before, layer;
    enum status st = ST_OK;

    for (bool waits = false; pass->layer < l->hp.layers && st == ST_OK; waits = pressed) {
        l->be->ops->fence_after(l->be, LANE_COMPUTE, l->pressed);
        st = prefill_layer(l->prefill, pass, needs, query_tokens, &layer, err);
        if (st != ST_OK || !pressed)
            continue;
        l->be->ops->fence_record(l->be, l->computed, LANE_COMPUTE);
        if (overlap && waits)
            st = press_next(l, &before, tap, ctx, err);
        l->be->ops->fence_after(l->be, LANE_PRESS, l->computed);
        before = layer;
        if (st == ST_OK && (!overlap || pass->layer == l->hp.layers))
            st = press_last(l, &layer, tap, ctx, press_ns, err);
    }
    return st;
}

enum status local_prefill(struct local *l, const int32_t *token, int64_t tokens, int64_t query_tokens,
                          const struct chain *chain, local_tap tap, void *ctx, float *logits, struct local_times *times,
                          struct err *err)
{
    struct pass pass = { .token = token, .tokens = tokens, .x = l->x, .logits = logits != NULL };
    struct chain_needs needs = { 0 };
    struct local_times spent = { 0 };
    int64_t begin = clock_now_ns();
    enum status st = ST_OK;

    if (chain) {
        chain_needs_of(chain, query_tokens, false, &needs);
        st = press_run_begin(l->press, chain, tokens, query_tokens, false, err);
    }
    if (st != ST_OK)
        return st;
    if (needs.all_layers) {
        st = press_held(l, chain, &pass, query_tokens, &needs, tap, ctx, &spent.press_ns, err);
    } else {
        prefill_begin(l->prefill, &pass);
        st = run_layers(l, &pass, &needs, query_tokens, chain != NULL, tap, ctx, &spent.press_ns, err);
    }
    if (st == ST_OK && logits)
        st = prefill_logits(l->prefill, &pass, logits, err);
    l->be->ops->wait(l->be, LANE_COMPUTE);
    l->be->ops->wait(l->be, LANE_PRESS);
    if (st == ST_OK)
        st = l->be->ops->health(l->be, err);
    spent.forward_ns = clock_now_ns() - begin - spent.press_ns;
    if (times)
        *times = spent;
    return st;
}
