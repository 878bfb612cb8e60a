/* SPDX-License-Identifier: Apache-2.0 */
/*
 * repress_room.c - what an answer with a decode part will need, all of it before its first token.
 *
 *   extent   [ own block of layer 0 | layer 1 | ... | plain queries of all layers | cam: last queries of all layers ]
 *   scratch  one layer's rows at their most; hidden states of a step, where rows are scored as they come; the press's own,
 *            grown by a rehearsal on the first pressed layer
 *
 * The rehearsal is a compression of the largest size on rows that are all zero: whatever a stage asks for then, it has.
 */
#include "decode-node/repress.h"

#include "common/base/arena.h"
#include "common/kv/block.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

enum { ZEROS = 1 << 16, HEAD_SLACK = 256 };

/* ---- how much ------------------------------------------------------------------------------------------------------ */

int32_t repress_tail_rows(const struct chain_decode *part, int32_t prompt_tokens, int32_t max_new)
{
    int64_t rows = prompt_tokens + part->every - 1, all = sequence_tail_rows(prompt_tokens, max_new);

    return (int32_t)(rows < all ? rows : all);
}

bool repress_ever_due(const struct chain_decode *part, int32_t prompt_tokens, int32_t max_new)
{
    if (part->rows == 0) /* the target follows the tokens seen: a long question may reach it */
        return true;
    return max_new >= part->every || prompt_tokens >= part->rows;
}

static int64_t least(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

/* Most rows, over all heads, that a compression leaves of a layer. */
static int64_t own_rows(const struct repress_ask *ask, const struct hparams *hp, int32_t layer)
{
    int64_t answer = (int64_t)ask->prompt_tokens + ask->max_new, head = ask->context_tokens + answer;

    if (!hparams_layer_is_full(hp, layer))
        return least(hp->window[layer], head) * hp->kv_heads;
    return press_decode_rows_max(ask->context->chain, hp, layer, head, ask->next_position + answer);
}

static uint64_t own_bytes(const struct repress_ask *ask, const struct hparams *hp, const struct backend *be,
                          int32_t layer)
{
    struct kv_shape one = { .layers = hp->layers, .heads = 1, .dim = hp->head_dim, .dtype = be->kv };

    return kv_align(kv_block_bytes_max(&one, KV_PLAIN, own_rows(ask, hp, layer)));
}

/* Calls that are looked at besides the last, and tokens that the buffer holds. */
static void plan_queries(const struct repress_ask *ask, struct query_buffer *q, int64_t *queries_least)
{
    struct chain_decode part;
    struct chain_needs needs;

    chain_decode_part(ask->context->chain, &part);
    chain_needs_of(ask->context->chain, 0, true, &needs);
    *queries_least = needs.q_tail;
    q->calls = needs.q_tail > 0 && !needs.q_plain ? least(part.buffer, needs.q_tail) : part.buffer;
    if (needs.q_plain || needs.q_tail > 0)
        q->room = ask->prompt_tokens + least(part.every, 2 * (q->calls + 1));
}

/* Lays the extent out: its bytes; offsets go into `a`. */
static uint64_t lay_out(const struct repress_ask *ask, const struct hparams *hp, const struct backend *be,
                        struct repressed *a)
{
    const uint64_t query = dtype_bytes(be->act, (uint64_t)hp->q_heads * (uint64_t)hp->head_dim);
    struct query_buffer queries = { 0 };
    struct chain_decode part;
    int64_t wanted;
    uint64_t at = 0;

    chain_decode_part(ask->context->chain, &part);
    plan_queries(ask, &queries, &wanted);
    for (int32_t l = 0; l < hp->layers; l++) {
        a->room[l] = own_bytes(ask, hp, be, l);
        at += a->room[l];
    }
    queries.offset = at;
    at += kv_align((uint64_t)hp->layers * (uint64_t)queries.room * query);
    a->queries = queries;
    a->queries_least = wanted;
    a->turned_offset = at;
    return at + (part.cam_merge > 0 ? kv_align((uint64_t)hp->layers * query) : 0);
}

/* Most rows of a layer before a compression, all heads. */
static int64_t rows_before(const struct repress_ask *ask, const struct hparams *hp)
{
    int64_t rows = ask->context_rows;
    struct chain_decode part;

    chain_decode_part(ask->context->chain, &part);
    for (int32_t l = 0; l < hp->layers; l++) {
        int64_t own = own_rows(ask, hp, l);

        rows = own > rows ? own : rows;
    }
    rows += (int64_t)repress_tail_rows(&part, ask->prompt_tokens, ask->max_new) * hp->kv_heads;
    return least(rows, hp->max_positions * hp->kv_heads); /* no head is longer than the model can count */
}

/* ---- what the device can ------------------------------------------------------------------------------------------- */

static enum status lacks(const struct backend *be, const char *op, const char *why, struct err *err)
{
    return err_set(err, ST_EUNIMPLEMENTED,
                   "the decode part cannot run here: %s, and the back end %s has not got the "
                   "operation %s",
                   why, be->ops->name, op);
}

enum status repress_admit(const struct chain *chain, const struct backend *be, struct err *err)
{
    struct chain_decode part;
    struct chain_needs needs;

    if (!chain_decode_part(chain, &part))
        return ST_OK;
    chain_needs_of(chain, 0, true, &needs);
    if (!be->ops->slot_gather)
        return lacks(be, "slot_gather", "it presses rows of the cache", err);
    if ((needs.q_plain || needs.q_tail > 0 || part.cam_merge > 0) && !be->ops->queries_plain)
        return lacks(be, "queries_plain", "it looks at queries of the answer", err);
    assert((!needs.hidden || part.scored > 0) && !needs.lse && !needs.q_rotated); /* no such score may go on */
    return ST_OK;
}

/* ---- scratch --------------------------------------------------------------------------------------------------------- */

/* Room to gather a layer of `rows` rows, and a press that takes as many tokens as the model has positions. */
enum status repress_reserve(struct repress *r, int64_t rows, struct err *err)
{
    const struct hparams *hp = &r->weights->hp;
    struct kv_shape one = { .layers = 1, .heads = 1, .dim = hp->head_dim, .dtype = r->be->kv };
    uint64_t bytes = kv_block_bytes_max(&one, KV_PLAIN, rows);
    enum status st = ST_OK;

    if (!r->run)
        st = press_run_open(&r->run, r->be, hp, hp->max_positions, err);
    if (st == ST_OK)
        press_run_keep_files(r->run);
    if (st != ST_OK || r->rows_bytes >= bytes)
        return st;
    if (r->rows)
        r->be->ops->free(r->be, r->rows);
    r->rows = NULL;
    r->rows_bytes = 0;
    st = r->be->ops->alloc(r->be, bytes, "presses", &r->rows, err);
    if (st == ST_OK)
        r->rows_bytes = bytes;
    return st;
}

void repress_zero(struct repress *r, char *device, uint64_t bytes)
{
    static const char zeros[ZEROS];

    for (uint64_t at = 0; at < bytes; at += ZEROS)
        r->be->ops->upload(r->be, LANE_PRESS, device + at, zeros, bytes - at < ZEROS ? bytes - at : ZEROS);
    r->be->ops->wait(r->be, LANE_PRESS);
}

/* The view of `rows` rows in scratch, spread over the heads. */
static struct kv_rows zero_view(const struct repress *r, int64_t rows)
{
    const struct hparams *hp = &r->weights->hp;
    const int64_t head = rows / hp->kv_heads;
    struct kv_rows v = { .k = r->rows, .dtype = r->be->kv, .heads = hp->kv_heads, .dim = hp->head_dim };

    v.v = (const char *)r->rows + kv_align(dtype_bytes(v.dtype, (uint64_t)(head * v.heads * v.dim)));
    for (int32_t g = 0; g < v.heads; g++) {
        v.first[g] = v.at[g] = g * head;
        v.rows[g] = head;
    }
    v.at[v.heads] = head * v.heads;
    return v;
}

static enum status rehearse(struct repressed *a, struct repress *r, int32_t layer, int64_t seen, struct err *err)
{
    const struct weights *w = r->weights;
    const uint64_t query = dtype_bytes(r->be->act, (uint64_t)w->hp.q_heads * (uint64_t)w->hp.head_dim);
    char *base = blocks_at(a->own->arena, a->own->extent);
    struct press_layer in = { .hp = &w->hp, .layer = layer, .o = w->layer[layer].o, .weights = w };
    struct kv_rows view = zero_view(r, a->rows_max);
    struct press_result result;
    enum status st = ST_OK;

    repress_zero(r, r->rows, r->rows_bytes);
    repress_zero(r, base + a->queries.offset, (uint64_t)a->queries.room * query);
    in.kv = (struct kv_layer){ .dtype = r->be->kv, .heads = w->hp.kv_heads, .dim = w->hp.head_dim };
    in.rope = rope_table_at(weights_layer_rope(w, layer), seen);
    in.tokens = a->queries.room;
    in.q_plain = base + a->queries.offset;
    in.q = base + a->turned_offset;
    if (a->part.cam_merge > 0) {
        repress_zero(r, base + a->turned_offset, query);
        st = press_cam_step(r->run, &a->cam, &in, &view, err);
    }
    if (a->part.scored > 0) {
        in.scored = &a->scored;
        st = repressed_rehearse_score(a, r, err);
    }
    if (st == ST_OK)
        st = press_run_decode(r->run, a->chain, &in, &view, NULL, seen - 1, seen,
                              a->part.cam_merge > 0 ? &a->cam : NULL, &result, err);
    if (layer < a->cam.layers)
        a->cam.rows[layer] = 0;
    return st;
}

static enum status make_ready(struct repressed *a, struct repress *r, const struct repress_ask *ask, struct err *err)
{
    const struct hparams *hp = &r->weights->hp;
    int64_t seen = ask->next_position + ask->prompt_tokens + ask->max_new;
    int32_t layer = 0;
    enum status st = repress_reserve(r, a->rows_max, err);

    if (st != ST_OK)
        return st;
    if (a->part.cam_merge > 0)
        press_cam_reserve(&a->cam, hp, a->rows_max / hp->kv_heads);
    if (a->part.scored > 0) {
        st = repressed_score_open(a, r, ask, err);
        if (st != ST_OK)
            return st;
    }
    while (layer < hp->layers && !hparams_layer_is_full(hp, layer))
        layer++;
    return layer < hp->layers ? rehearse(a, r, layer, seen, err) : ST_OK;
}

/* ---- open and close ---------------------------------------------------------------------------------------------------- */

static enum status reserve_own(struct repressed *a, struct repress *r, const struct repress_ask *ask,
                               void (*compact)(void *ctx, struct blocks *blocks), void *ctx, struct err *err)
{
    uint64_t bytes = lay_out(ask, &r->weights->hp, r->be, a);
    enum status st = blocks_reserve(ask->context->arena, bytes, a->own, &a->own->extent, NULL);

    if (st == ST_AGAIN) {
        compact(ctx, ask->context->arena);
        st = blocks_reserve(ask->context->arena, bytes, a->own, &a->own->extent, NULL);
    }
    if (st != ST_OK)
        return err_set(err, ST_EEXHAUSTED,
                       "the decode part needs %llu bytes of blocks for an answer of its own, %llu of "
                       "%llu are in use",
                       (unsigned long long)bytes, (unsigned long long)blocks_used(ask->context->arena),
                       (unsigned long long)blocks_capacity(ask->context->arena));
    blocks_commit(ask->context->arena, a->own->extent, bytes);
    return ST_OK;
}

/* Its blocks stand where they will lie, as long as they can become. */
static void place_blocks(struct repressed *a, struct repress *r, const struct repress_ask *ask)
{
    const struct hparams *hp = &r->weights->hp;
    char *at = blocks_at(a->own->arena, a->own->extent);

    for (int32_t l = 0; l < hp->layers; l++) {
        struct kv_block *b = &a->own->block[l];

        *b = (struct kv_block){
            .layer = l, .heads = hp->kv_heads, .dim = hp->head_dim, .k_dim = hp->head_dim, .dtype = r->be->kv
        };
        for (int32_t g = 0; g < b->heads; g++)
            b->first[g + 1] = b->first[g] + own_rows(ask, hp, l) / b->heads + HEAD_SLACK;
        b->data = at;
        at += a->room[l];
    }
}

enum status repressed_open(struct repressed **out, struct repress *r, const struct repress_ask *ask,
                           void (*compact)(void *ctx, struct blocks *blocks), void *ctx, struct err *err)
{
    const struct hparams *hp = &r->weights->hp;
    struct repressed *a = mem_zero(1, sizeof *a);
    enum status st;

    a->chain = ask->context->chain;
    chain_decode_part(ask->context->chain, &a->part);
    a->own = context_open(ask->context->arena, hp->layers);
    a->room = mem_zero((size_t)hp->layers, sizeof *a->room);
    a->rows_max = rows_before(ask, hp);
    st = reserve_own(a, r, ask, compact, ctx, err);
    if (st == ST_OK) {
        place_blocks(a, r, ask);
        st = make_ready(a, r, ask, err);
    }
    if (st != ST_OK) {
        repressed_close(a);
        return st;
    }
    *out = a;
    return ST_OK;
}

void repressed_close(struct repressed *a)
{
    if (!a)
        return;
    context_unref(a->own);
    press_cam_fini(&a->cam);
    press_scored_fini(&a->scored);
    free(a->room);
    free(a);
}

uint64_t repressed_bytes(const struct repressed *a)
{
    return a->own->extent->bytes;
}
