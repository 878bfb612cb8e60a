/* SPDX-License-Identifier: Apache-2.0 */
/*
 * handoff.c - stops 6 and 7 of 12: press, pack.     before: forward.c   after: mover.c (stop 8: ship)
 *
 * While layer l+1 computes, the rows that the press chose from layer l leave for the decode node.
 *
 *      engine thread     forward l ──tap──▶ press ─▶ pack ─▶ [free slot] ──packed──▶ mover thread ─▶ transport
 *
 * Two slots are enough: a job gets no turn while both wait for the wire (scheduler.h), and that time is its `stall`. The
 * second is touched only when the wire falls behind: where it keeps up, a context holds the dense K, V of a layer and
 * one packed block.
 *
 * Layers with a window are not pressed: their last `window` rows go, since no later token can see the others.
 */
#include "prefill-node/handoff.h"

#include "common/base/arena.h"
#include "common/base/clock.h"
#include "common/base/trace.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

static enum status slot_open(struct handoff_slot *s, struct backend *be, uint64_t bytes, struct err *err)
{
    enum status st = be->ops->alloc(be, bytes, "activations", &s->device, err);

    if (st != ST_OK)
        return st;
    s->host = s->device;
    return be->ops->host_is_device ? ST_OK : be->ops->host_alloc(be, bytes, &s->host, err);
}

static void slot_close(struct handoff_slot *s, struct backend *be)
{
    if (s->host != s->device)
        be->ops->host_free(be, s->host);
    be->ops->free(be, s->device);
}

/* What the largest block takes, in whatever codec. */
static uint64_t slot_bytes(const struct kv_shape *shape, int64_t tokens)
{
    uint64_t most = 0;

    for (int codec = 0; codec < KV_CODECS; codec++) {
        const uint64_t bytes = kv_block_bytes_max(shape, codec, tokens);

        most = bytes > most ? bytes : most;
    }
    return most;
}

enum status track_open(struct track *t, struct backend *be, const struct hparams *hp, uint64_t x_bytes,
                       int64_t tokens_max, struct err *err)
{
    enum status st;

    *t = (struct track){ .be = be };
    t->shape = (struct kv_shape){ hp->layers, hp->kv_heads, hp->head_dim, be->kv, tokens_max };
    st = be->ops->alloc(be, x_bytes, "activations", &t->x, err);
    for (int i = 0; st == ST_OK && i < SCHEDULER_SLOTS; i++)
        st = slot_open(&t->slot[i], be, slot_bytes(&t->shape, tokens_max), err);
    if (st == ST_OK)
        st = press_run_open(&t->press, be, hp, tokens_max, err);
    if (st != ST_OK)
        track_close(t);
    return st;
}

void track_close(struct track *t)
{
    if (!t->be)
        return;
    press_run_close(t->press);
    for (int i = 0; i < SCHEDULER_SLOTS; i++)
        slot_close(&t->slot[i], t->be);
    t->be->ops->free(t->be, t->window_index);
    t->be->ops->free(t->be, t->x);
    *t = (struct track){ 0 };
}

enum status handoff_begin(struct track *t, struct job *job, struct err *err)
{
    enum status st = press_run_begin(t->press, job->chain, job->tokens, job->query_tokens, job->compact, err);

    if (st != ST_OK)
        err_prefix(err, "press");
    job->slots = t->slot;
    return st;
}

/* Bytes between the parts of a block belong to nobody and travel all the same: they must say nothing. */
static void blank_padding(struct track *t, const struct kv_block *b)
{
    static const uint8_t zeros[64];
    struct kv_parts parts;

    kv_block_parts(b, &parts);
    for (int p = 0; p < KV_PARTS; p++) {
        const uint64_t end = parts.offset[p] + parts.bytes[p], pad = kv_align(end) - end;

        if (pad > 0)
            t->be->ops->upload(t->be, LANE_PRESS, (uint8_t *)b->data + end, zeros, pad);
    }
}

/* Device index 0, 1, ..., rows - 1 for each head. */
static enum status window_index(struct track *t, int64_t rows, struct err *err)
{
    const int64_t count = rows * t->shape.heads;
    int32_t *host;
    enum status st;

    if (t->window_rows == rows)
        return ST_OK;
    t->be->ops->free(t->be, t->window_index);
    t->window_index = NULL;
    t->window_rows = 0;
    st = t->be->ops->alloc(t->be, (uint64_t)count * sizeof *host, "activations", (void **)&t->window_index, err);
    if (st != ST_OK)
        return st;
    host = mem_alloc((size_t)count * sizeof *host);
    for (int64_t i = 0; i < count; i++)
        host[i] = (int32_t)(i % rows);
    t->be->ops->upload(t->be, LANE_PRESS, t->window_index, host, (uint64_t)count * sizeof *host);
    t->be->ops->wait(t->be, LANE_PRESS);
    free(host);
    t->window_rows = rows;
    return ST_OK;
}

/* The last rows of a layer with a window, unpressed. */
static enum status pack_window(struct track *t, const struct press_layer *in, enum kv_codec codec,
                               struct handoff_slot *slot, struct err *err)
{
    const int64_t window = in->hp->window[in->layer];
    const int64_t rows = window < in->tokens ? window : in->tokens;
    struct kv_rows view = { .k = in->kv.k, .v = in->kv.v, .dtype = in->kv.dtype, .heads = in->kv.heads };
    struct kv_block *b = &slot->block;
    struct pack_args args = { .rows = &view };
    enum status st = window_index(t, rows, err);

    if (st != ST_OK)
        return st;
    *b = (struct kv_block){ .layer = in->layer, .heads = in->kv.heads, .dim = in->kv.dim, .k_dim = in->kv.dim };
    b->dtype = in->kv.dtype;
    b->codec = codec;
    view.dim = in->kv.dim;
    for (int32_t g = 0; g < view.heads; g++) {
        view.first[g] = g * in->kv.stride + in->tokens - rows;
        view.rows[g] = rows;
        view.at[g + 1] = args.first[g + 1] = b->first[g + 1] = (g + 1) * rows;
    }
    args.index = t->window_index;
    st = kv_block_plan(b, err);
    if (st != ST_OK)
        return st;
    b->data = slot->device;
    blank_padding(t, b);
    t->be->ops->pack(t->be, &args, b);
    return ST_OK;
}

static enum status pack_pressed(struct track *t, const struct press_result *result, struct handoff_slot *slot,
                                struct err *err)
{
    enum status st = press_run_plan(t->press, result, &slot->block, err);

    if (st != ST_OK)
        return st;
    slot->block.data = slot->device;
    blank_padding(t, &slot->block);
    return press_run_pack(t->press, result, &slot->block, err);
}

/* The packed bytes to where the mover reads them. */
static void settle(struct track *t, struct handoff_slot *slot, enum transport_place place)
{
    struct backend *be = t->be;

    if (place == PLACE_DEVICE) {
        be->ops->wait(be, LANE_PRESS);
        return;
    }
    if (slot->host != slot->device)
        be->ops->download(be, LANE_PRESS, slot->host, slot->device, slot->block.bytes);
    be->ops->wait(be, LANE_PRESS);
    slot->block.data = slot->host;
}

/* A slot with nothing in it that still has to leave: the first, unless the layer before is there. The layers before that
 * one have left, or there would have been no turn. */
static struct handoff_slot *free_slot(struct track *t, struct job *job, int32_t layer)
{
    const bool waits = __atomic_load_n(&job->shipped, __ATOMIC_ACQUIRE) < layer;
    const int32_t free = waits && job->slot_of[(layer - 1) % SCHEDULER_SLOTS] == 0 ? 1 : 0;

    job->slot_of[layer % SCHEDULER_SLOTS] = free;
    return &t->slot[free];
}

enum status handoff_layer(struct track *t, struct job *job, const struct press_layer *in, struct err *err)
{
    struct handoff_slot *slot = free_slot(t, job, in->layer);
    struct press_result result = { 0 };
    const int64_t begin = clock_now_ns();
    int64_t pressed, packed;
    enum status st = ST_OK;

    if (hparams_layer_is_full(in->hp, in->layer))
        st = press_run_layer(t->press, in, &result, err);
    if (st != ST_OK) {
        err_prefix(err, "press: layer %d", in->layer);
        return st;
    }
    pressed = clock_now_ns();
    result.codec = job->codec;
    st = hparams_layer_is_full(in->hp, in->layer) ? pack_pressed(t, &result, slot, err)
                                                  : pack_window(t, in, job->codec, slot, err);
    if (st != ST_OK) {
        err_prefix(err, "pack: layer %d", in->layer);
        return st;
    }
    settle(t, slot, job->transport->place);
    assert(slot->block.bytes <= kv_block_bytes_max(&t->shape, slot->block.codec, in->tokens));
    packed = clock_now_ns();
    job->times.press += pressed - begin;
    job->times.pack += packed - pressed;
    job->rows += (uint64_t)kv_block_rows(&slot->block);
    trace_add(job->trace, TRACE_press, job->trace_order, in->layer, begin, pressed, (uint64_t)in->tokens);
    trace_add(job->trace, TRACE_pack, job->trace_order, in->layer, pressed, packed, slot->block.bytes);
    return ST_OK;
}
