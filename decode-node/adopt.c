/* SPDX-License-Identifier: Apache-2.0 */
/*
 * adopt.c - stop 9 of 12: adopt.            before: prefill-node/handoff.c and the wire   after: batcher.c
 *
 *   Block ─▶ place in the context's extent ─▶ bytes arrive there ─▶ ... ─▶ Commit ─▶ struct context
 *
 *   extent   [ block of the first layer that came ][ second ][ ... ][ not needed: given back at commit ]
 *
 * Blocks come exactly as attention will read them and are never moved again except by compaction. The receiver proves
 * headers, order, checksums and totals before anything here believes them; so what is committed is whole, and what is
 * not committed is never seen by the batcher.
 */
#include "common/base/arena.h"
#include "common/base/bytes.h"
#include "common/base/clock.h"
#include "common/base/log.h"
#include "decode-node/order_state.h"
#include "proto/platen/internal/v1/prefill.pb-c.h"
#include "presses/chain.h"

#include <assert.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

/* ---- room ---------------------------------------------------------------------------------------------------- */

/* Last rows of each head of a layer on which verdicts come with its block: where the press goes on by them. */
static int64_t scored_rows(const struct order *o, int32_t layer)
{
    struct chain_decode part = { 0 };

    if (!hparams_layer_is_full(&o->node->parts.weights->hp, layer) || !o->spec.chain ||
        !chain_decode_part(o->spec.chain, &part))
        return 0;
    return part.scored;
}

/* The most that the blocks of this order can take. */
static uint64_t extent_bytes(const struct order *o)
{
    const struct hparams *hp = &o->node->parts.weights->hp;
    int64_t tokens = (int64_t)o->spec.tokens->count;
    uint64_t bytes = 0;

    for (int32_t l = 0; l < hp->layers; l++) {
        int64_t window = hp->window[l];
        int64_t rows = window == 0 ? chain_rows_max(o->spec.chain, hp, l, tokens)
                                   : (window < tokens ? window : tokens) * hp->kv_heads;
        struct kv_shape shape = o->node->parts.shape;

        shape.scored = scored_rows(o, l);
        bytes += kv_align(kv_block_bytes_most(&shape, o->spec.codec, rows));
    }
    return bytes;
}

struct compaction {
    struct order *order;
    void (*then)(struct order *o);
};

static void compact(struct batcher *b, void *arg)
{
    struct compaction *c = arg;

    batcher_compact(b, c->order->node->blocks);
    c->then(c->order);
    free(c);
}

enum status adopt_reserve(struct order *o, void (*then)(struct order *o), struct err *err)
{
    struct context *context = o->spec.context;
    enum status st = blocks_reserve(o->node->blocks, extent_bytes(o), context, &context->extent, err);
    struct compaction *c;

    if (st != ST_AGAIN)
        return st;
    if (then == NULL)
        return err_set(err, ST_EEXHAUSTED, "blocks: there is room in sum, but not in one piece");
    c = mem_zero(1, sizeof *c);
    c->order = o;
    c->then = then;
    if (batcher_call(o->node->batcher, compact, c) == ST_OK)
        return ST_AGAIN;
    free(c);
    return err_set(err, ST_EEXHAUSTED, "blocks: too many contexts wait for room");
}

/* ---- what the receiver tells --------------------------------------------------------------------------------- */

static enum status on_ready(void *ctx, int32_t layer, const struct ticket *ticket)
{
    return filling_say_ready(&((struct order *)ctx)->at.filling, layer, ticket);
}

/* Why this transport and not the operator's first: the prefill node's reasons, and what was lost before. */
static void note_transport(struct order *o, const char *note, struct figures *f)
{
    const struct stations *s = o->node->parts.stations;
    const char *between = "";
    struct log_text quoted;
    struct text t = { 0 };

    for (size_t i = 0; stations_at(s, i); i++) {
        if (!(o->shunned & 1u << i))
            continue;
        text_printf(&t, "%s%s was lost in an attempt before", between, stations_at(s, i)->name);
        between = "; ";
    }
    if (note[0])
        text_printf(&t, "%s%s", between, note);
    snprintf(f->transport_note, sizeof f->transport_note, "%s", text_str(&t));
    if (o->at.transport != stations_at(s, 0)) {
        metric_add(node_transport_metric(o->node->m_transport_fallbacks, o->at.transport->name), 1);
        log_event(LOG_INFO, "transport-not-first", "request=%s transport=%s first=%s note=%s", o->spec.request_id,
                  o->at.transport->name, stations_at(s, 0)->name, log_quote(&quoted, text_str(&t)));
    }
    text_fini(&t);
}

static enum status on_accepted(void *ctx, const Platen__Internal__V1__Accepted *msg, struct err *err)
{
    struct order *o = ctx;
    struct figures *f = &o->spec.context->figures;
    enum status st;

    if (msg->layers != o->node->parts.shape.layers)
        return err_set(err, ST_EPRECONDITION, "order: %s would send %d layers, the model has %d", msg->prefill_node,
                       msg->layers, o->node->parts.shape.layers);
    st = filling_connect(&o->at.filling, o->node->intake, o->node->parts.stations, msg, on_ready, err);
    if (st != ST_OK)
        return st;
    o->at.transport = transport_find(msg->transport);
    o->at.stage = "queue";
    o->at.accepted_ns = clock_now_ns();
    snprintf(f->prefill_node, sizeof f->prefill_node, "%s", msg->prefill_node);
    snprintf(f->transport, sizeof f->transport, "%s", msg->transport);
    note_transport(o, msg->transport_note, f);
    return ST_OK;
}

static void on_beat(void *ctx, const Platen__Internal__V1__Beat *msg)
{
    static const char *const stages[] = { "queue", "forward", "press", "pack", "ship", "commit" };
    struct order *o = ctx;

    for (size_t i = 0; i < ARRAY_LEN(stages); i++)
        if (strcmp(msg->stage, stages[i]) == 0)
            o->at.stage = stages[i];
}

/* The host cannot write the device's memory: the block lands in a pinned buffer first. One block is under way at a time. */
static enum status place_in_staging(struct order *o, const struct kv_block *plan, void **place, struct err *err)
{
    enum status st;

    if (o->at.staged && o->at.staged->bytes < plan->bytes) {
        staging_give(o->node->staging, o->at.staged);
        o->at.staged = NULL;
    }
    if (o->at.staged == NULL) {
        st = staging_take(o->node->staging, plan->bytes, &o->at.staged, err);
        if (st != ST_OK)
            return st;
    }
    *place = o->at.staged->host;
    return ST_OK;
}

static bool needs_staging(const struct order *o)
{
    return o->node->staging && o->at.transport->place == PLACE_HOST;
}

static enum status on_place(void *ctx, const struct kv_block *plan, void **place, struct err *err)
{
    struct order *o = ctx;
    struct extent *e = o->spec.context->extent;

    o->at.block_ns = clock_now_ns();
    if (o->at.first_block_ns == 0)
        o->at.first_block_ns = o->at.block_ns;
    o->at.stage = "ship";
    if (plan->scored != scored_rows(o, plan->layer))
        return err_set(err, ST_EDATALOSS, "adopt: layer %d comes with verdicts on %lld rows of each head, not %lld",
                       plan->layer, (long long)plan->scored, (long long)scored_rows(o, plan->layer));
    if (plan->bytes > e->bytes - o->at.placed_bytes)
        return err_set(err, ST_EDATALOSS, "adopt: layer %d brings more rows than its press may keep", plan->layer);
    o->at.place = (uint8_t *)blocks_at(o->node->blocks, e) + o->at.placed_bytes;
    o->at.placed_bytes += kv_align(plan->bytes);
    *place = o->at.place;
    return needs_staging(o) ? place_in_staging(o, plan, place, err) : ST_OK;
}

/* A block is whole: it belongs to the context, which nobody sees before the commit. */
static void on_arrived(void *ctx, const struct kv_block *block)
{
    struct order *o = ctx;
    const int64_t came = clock_now_ns();

    if (needs_staging(o))
        staging_upload(o->node->staging, o->at.place, o->at.staged, block->bytes);
    o->spec.context->block[block->layer] = *block;
    o->spec.context->block[block->layer].data = o->at.place;
    o->at.arrived_ns = clock_now_ns();
    trace_add(o->node->parts.trace, TRACE_receive, o->trace_order, block->layer, o->at.block_ns, came, block->bytes);
    trace_add(o->node->parts.trace, TRACE_adopt, o->trace_order, block->layer, came, o->at.arrived_ns, block->bytes);
    if (o->spec.progress)
        o->spec.progress(o->spec.ctx, receiver_layers(o->at.receiver));
}

/* Rows and bytes of pressed layers; windowed layers are not pressed and not counted. */
static void count_rows(struct order *o)
{
    struct context *c = o->spec.context;
    const struct hparams *hp = &o->node->parts.weights->hp;
    struct figures *f = &c->figures;
    int64_t heads = 0, rows = 0;

    f->rows_min = INT64_MAX;
    f->rows_max = 0;
    f->kept_bytes = f->dense_bytes = 0;
    for (int32_t l = 0; l < c->layers; l++) {
        const struct kv_block *b = &c->block[l];
        if (!hparams_layer_is_full(hp, l))
            continue;
        for (int32_t g = 0; g < b->heads; g++) {
            int64_t n = b->first[g + 1] - b->first[g];
            f->rows_min = n < f->rows_min ? n : f->rows_min;
            f->rows_max = n > f->rows_max ? n : f->rows_max;
        }
        heads += b->heads;
        rows += kv_block_rows(b);
        f->kept_bytes += (int64_t)kv_block_row_bytes(b);
        f->dense_bytes += (int64_t)kv_row_bytes(KV_PLAIN, b->dtype, b->dim) * 2 * b->heads * f->context_tokens;
    }
    f->rows_mean = heads > 0 ? (double)rows / (double)heads : 0;
    if (heads == 0)
        f->rows_min = 0;
}

static double ms_since(int64_t from, int64_t to)
{
    return from > 0 && to > from ? (double)(to - from) / 1e6 : 0;
}

static void on_committed(void *ctx, const Platen__Internal__V1__Commit *msg)
{
    struct order *o = ctx;
    struct context *c = o->spec.context;
    struct figures *f = &c->figures;
    int64_t now = clock_now_ns();

    blocks_commit(o->node->blocks, c->extent, o->at.placed_bytes);
    c->next_position = msg->next_position;
    f->held_layers = msg->held_layers;
    if (o->at.filling.link) /* the stream carried the announcements only */
        o->at.wire_bytes += receiver_bytes(o->at.receiver);
    f->wire_bytes = (int64_t)o->at.wire_bytes;
    f->attempts = o->attempts;
    f->ms.order = ms_since(o->begin_ns, o->at.accepted_ns);
    f->ms.queue = msg->queue_ms;
    f->ms.forward = msg->forward_ms;
    f->ms.press = msg->press_ms;
    f->ms.pack = msg->pack_ms;
    f->ms.ship = msg->ship_ms;
    f->ms.adopt = ms_since(o->at.first_block_ns, now);
    count_rows(o);
    metric_add(node_transport_metric(o->node->m_wire_bytes, o->at.transport->name), (double)o->at.wire_bytes);
    o->at.committed = true;
    trace_add(o->node->parts.trace, TRACE_commit, o->trace_order, TRACE_NO_LAYER, o->at.arrived_ns, clock_now_ns(),
              o->at.placed_bytes);
}

void adopt_open(struct order *o)
{
    struct receiver_config config = { .shape = o->node->parts.shape, .codec = o->spec.codec, .sink = &o->at.sink };

    config.rows_max = config.position_min = config.position_max = (int64_t)o->spec.tokens->count;
    for (int32_t l = 0; l < config.shape.layers && config.shape.scored == 0; l++)
        config.shape.scored = scored_rows(o, l);
    if (o->spec.compact || (o->spec.chain && chain_rerotates(o->spec.chain))) /* it follows the longest head */
        config.position_min = 1;
    o->at.sink = (struct receiver_sink){ .ctx = o,
                                         .accepted = on_accepted,
                                         .beat = on_beat,
                                         .place = on_place,
                                         .arrived = on_arrived,
                                         .committed = on_committed };
    o->at.receiver = o->at.filling.receiver = receiver_open(&config);
}

void adopt_close(struct order *o)
{
    receiver_close(o->at.receiver);
    o->at.receiver = NULL;
    if (o->node->staging)
        staging_give(o->node->staging, o->at.staged);
    o->at.staged = NULL;
}
