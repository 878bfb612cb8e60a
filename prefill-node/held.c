/* SPDX-License-Identifier: Apache-2.0 */
/* held.c - all layers of a context kept dense until its press has decided. */
#include "prefill-node/held.h"

#include "common/base/arena.h"

#include <inttypes.h>
#include <stdlib.h>

struct held {
    struct held_config config;
    void **kv;                 /* [layers] device */
    void **q_tail;             /* [layers] device; NULL where no queries are kept */
    struct press_layer *layer; /* [layers] */
    int64_t rows;
    void *feed_x;
    struct pass feed; /* the second pass under way */
    int32_t feeds, next_feed;
    bool settled;
};

static enum status hold_room(struct held *h, struct err *err)
{
    const struct held_config *c = &h->config;
    const int32_t layers = c->hp->layers;
    enum status st = ST_OK;

    h->kv = mem_zero((size_t)layers, sizeof *h->kv);
    h->q_tail = mem_zero((size_t)layers, sizeof *h->q_tail);
    h->layer = mem_zero((size_t)layers, sizeof *h->layer);
    for (int32_t l = 0; l < layers && st == ST_OK; l++)
        st = c->be->ops->alloc(c->be, prefill_kv_bytes(c->prefill, h->rows), "activations", &h->kv[l], err);
    return st;
}

enum status held_open(struct held **out, const struct held_config *config, struct err *err)
{
    struct held *h = mem_zero(1, sizeof *h);
    int64_t most = 0;
    enum status st;

    h->config = *config;
    if (config->needs.second_pass) {
        press_run_prompt(config->press, &config->prompt);
        h->feeds = press_run_feeds(config->press);
        most = press_run_feed_max(config->press);
    }
    h->rows = prefill_held_rows(config->prefill, config->pass->tokens + most);
    st = hold_room(h, err);
    if (st == ST_OK && most > 0)
        st = config->be->ops->alloc(config->be, prefill_x_bytes(config->prefill, most), "activations", &h->feed_x, err);
    if (st != ST_OK)
        goto out;
    config->pass->kv = h->kv;
    config->pass->kv_rows = h->rows;
    prefill_begin(config->prefill, config->pass);
    *out = h;
    return ST_OK;
out:
    held_close(h);
    return st;
}

void held_close(struct held *h)
{
    struct backend *be;

    if (!h)
        return;
    be = h->config.be;
    be->ops->wait(be, LANE_COMPUTE);
    be->ops->wait(be, LANE_PRESS);
    for (int32_t l = 0; l < h->config.hp->layers; l++) {
        if (h->kv)
            be->ops->free(be, h->kv[l]);
        if (h->q_tail)
            be->ops->free(be, h->q_tail[l]);
    }
    be->ops->free(be, h->feed_x);
    free(h->kv);
    free(h->q_tail);
    free(h->layer);
    free(h);
}

/* The last queries of the layer outlive the next layer. */
static enum status keep_tail(struct held *h, struct press_layer *layer, struct err *err)
{
    struct backend *be = h->config.be;
    const uint64_t width = (uint64_t)layer->hp->q_heads * (uint64_t)layer->hp->head_dim;
    const uint64_t bytes = dtype_bytes(be->act, (uint64_t)layer->q_tail_rows * width);
    void **to = &h->q_tail[layer->layer];
    enum status st;

    if (!layer->q_tail)
        return ST_OK;
    st = be->ops->alloc(be, bytes, "activations", to, err);
    if (st != ST_OK)
        return st;
    be->ops->copy(be, LANE_COMPUTE, *to, layer->q_tail, bytes);
    be->ops->wait(be, LANE_COMPUTE); /* the last layer's has nothing behind it that would */
    layer->q_tail = *to;
    return ST_OK;
}

static enum status context_layer(struct held *h, struct err *err)
{
    const struct held_config *c = &h->config;
    struct press_layer layer;
    enum status st = prefill_layer(c->prefill, c->pass, &c->needs, c->query_tokens, &layer, err);

    c->be->ops->wait(c->be, LANE_COMPUTE);
    if (st == ST_OK && hparams_layer_is_full(c->hp, layer.layer))
        st = press_run_hold(c->press, &layer, err);
    c->be->ops->wait(c->be, LANE_PRESS);
    if (st == ST_OK)
        st = keep_tail(h, &layer, err);
    layer.q = layer.q_plain = layer.hidden = NULL; /* the next layer writes over them */
    layer.lse = NULL;
    if (st == ST_OK)
        h->layer[layer.layer] = layer;
    return st;
}

static void feed_begin(struct held *h)
{
    const struct held_config *c = &h->config;
    const int32_t *token;
    const int64_t tokens = press_run_feed(c->press, h->next_feed, &token);

    h->feed = (struct pass){
        .token = token, .tokens = tokens, .x = h->feed_x, .kv = h->kv, .kv_rows = h->rows, .base = c->pass->tokens
    };
    prefill_begin(c->prefill, &h->feed);
}

static enum status feed_layer(struct held *h, struct err *err)
{
    const struct held_config *c = &h->config;
    struct chain_needs needs;
    struct press_layer layer;
    enum status st;

    if (h->feed.tokens == 0)
        feed_begin(h);
    press_run_feed_needs(c->press, &needs);
    st = prefill_layer(c->prefill, &h->feed, &needs, 0, &layer, err);
    c->be->ops->wait(c->be, LANE_COMPUTE);
    if (st == ST_OK && hparams_layer_is_full(c->hp, layer.layer))
        st = press_run_feed_layer(c->press, h->next_feed, &layer, h->feed.tokens, err);
    c->be->ops->wait(c->be, LANE_PRESS);
    if (st == ST_OK && h->feed.layer == c->hp->layers) {
        h->feed.tokens = 0;
        h->next_feed++;
    }
    return st;
}

enum status held_step(struct held *h, struct err *err)
{
    enum status st;

    if (held_reads_again(h))
        st = feed_layer(h, err);
    else
        st = context_layer(h, err);
    if (st == ST_OK && held_reads_again(h) && h->next_feed == h->feeds) {
        st = press_run_settle(h->config.press, err);
        h->settled = st == ST_OK;
    }
    return st;
}

bool held_reads_again(const struct held *h)
{
    return h->config.pass->layer == h->config.hp->layers;
}

bool held_ready(const struct held *h)
{
    return h->settled;
}

void held_layer(const struct held *h, int32_t layer, struct press_layer *out)
{
    *out = h->layer[layer];
}
