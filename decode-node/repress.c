/* SPDX-License-Identifier: Apache-2.0 */
/*
 * repress.c - one compression in the middle of an answer, layer by layer.
 *
 *   slot: block, tail ──gather──▶ rows ──press_run_decode──▶ which stay ──pack──▶ own block of the layer, in its place
 *
 * The rows are a copy, so what is packed may lie where the slot's block was. Layers with a window are not pressed: their
 * newest `window` rows are all that a later token sees. Nothing here looks at how much the other answers hold.
 */
#include "decode-node/repress.h"

#include "common/kv/block.h"

#include <assert.h>
#include <string.h>

void repress_init(struct repress *r, struct backend *be, const struct weights *weights, int64_t step_rows)
{
    *r = (struct repress){ .be = be, .weights = weights, .step_rows = step_rows };
}

void repress_fini(struct repress *r)
{
    press_run_close(r->run);
    if (r->rows)
        r->be->ops->free(r->be, r->rows);
    if (r->hidden)
        r->be->ops->free(r->be, r->hidden);
    memset(r, 0, sizeof *r);
}

/* ---- queries ----------------------------------------------------------------------------------------------------- */

static uint64_t query_bytes(const struct repress *r)
{
    const struct hparams *hp = &r->weights->hp;

    return dtype_bytes(r->be->act, (uint64_t)hp->q_heads * (uint64_t)hp->head_dim);
}

static char *in_extent(const struct repressed *a, uint64_t offset)
{
    return (char *)blocks_at(a->own->arena, a->own->extent) + offset;
}

static char *queries_at(const struct repressed *a, const struct repress *r, int32_t layer, int64_t token)
{
    return in_extent(a, a->queries.offset) + (uint64_t)(layer * a->queries.room + token) * query_bytes(r);
}

/* The buffer is full: what is still looked at goes to its front. The two never overlap, since as many were forgotten as
 * are left at least. hot */
static void queries_to_front(struct repressed *a, struct repress *r)
{
    struct query_buffer *q = &a->queries;

    assert(q->from >= q->tokens);
    for (int32_t l = 0; l < r->weights->hp.layers; l++)
        r->be->ops->copy(r->be, LANE_COMPUTE, queries_at(a, r, l, 0), queries_at(a, r, l, q->from),
                         (uint64_t)q->tokens * query_bytes(r));
    q->from = 0;
}

bool repressed_feed(struct repressed *a, struct repress *r, int32_t row, int32_t rows, struct forward_take *take)
{
    struct query_buffer *q = &a->queries;

    *take = (struct forward_take){ .row = row, .rows = rows };
    a->fed += rows;
    if (a->part.cam_merge > 0) {
        take->turned = in_extent(a, a->turned_offset);
        take->turned_stride = query_bytes(r);
    }
    if (q->room > 0) {
        if (q->from + q->tokens + rows > q->room)
            queries_to_front(a, r);
        take->plain = queries_at(a, r, 0, q->from + q->tokens);
        take->plain_stride = (uint64_t)q->room * query_bytes(r);
    }
    q->tokens += rows;
    if (a->part.scored > 0)
        repressed_take_hidden(a, r, take);
    return take->plain || take->turned || take->hidden;
}

void repressed_call(struct repressed *a)
{
    if (a->fed > 1)
        a->queries.question = a->fed;
    a->fresh = a->fed;
    a->fed = 0;
    a->calls++;
    a->cam.calls = a->calls;
}

bool repressed_due(const struct repressed *a, int64_t seen)
{
    return press_decode_due(&a->part, a->calls, a->fresh, seen) && a->queries.tokens >= a->queries_least;
}

void repressed_trim(struct repressed *a)
{
    struct query_buffer *q = &a->queries;

    while (q->tokens - q->question + (q->question > 0) > q->calls) {
        int64_t oldest = q->question > 0 ? q->question : 1;

        q->question = 0;
        q->from += oldest;
        q->tokens -= oldest;
    }
}

static void queries_forget(struct repressed *a)
{
    a->queries.from = a->queries.tokens = a->queries.question = 0;
    a->calls = a->cam.calls = 0;
}

/* ---- rows ---------------------------------------------------------------------------------------------------------- */

static const struct kv_block *block_now(const struct repressed *a, const struct context *context, int32_t layer)
{
    return a->pressed ? &a->own->block[layer] : &context->block[layer];
}

/* Copies a layer's newest rows, `most` of each head at most, into scratch. */
static void gather(struct repressed *a, struct repress *r, int32_t slot, const struct context *context, int32_t tail,
                   int32_t layer, int64_t most, struct kv_block *out)
{
    const struct kv_block *now = block_now(a, context, layer);

    *out = (struct kv_block){
        .layer = layer, .heads = now->heads, .dim = now->dim, .k_dim = now->dim, .dtype = r->be->kv
    };
    for (int32_t g = 0; g < now->heads; g++) {
        int64_t rows = now->first[g + 1] - now->first[g] + tail;

        out->first[g + 1] = out->first[g] + (rows < most ? rows : most);
    }
    kv_block_plan(out, NULL);
    assert(out->bytes <= r->rows_bytes);
    out->data = r->rows;
    r->be->ops->slot_gather(r->be, slot, layer, tail, out);
}

static struct kv_rows view_of(const struct kv_block *block)
{
    struct kv_rows v = { .k = (const char *)block->data + block->k_offset,
                         .v = (const char *)block->data + block->v_offset,
                         .dtype = block->dtype,
                         .heads = block->heads,
                         .dim = block->dim };

    for (int32_t g = 0; g < block->heads; g++) {
        v.first[g] = v.at[g] = block->first[g];
        v.rows[g] = block->first[g + 1] - block->first[g];
    }
    v.at[v.heads] = block->first[v.heads];
    return v;
}

static struct press_layer press_layer_of(const struct repressed *a, const struct repress *r, int32_t layer,
                                         int64_t seen)
{
    const struct weights *w = r->weights;
    struct press_layer in = { .hp = &w->hp, .layer = layer, .o = w->layer[layer].o, .weights = w };

    in.kv = (struct kv_layer){ .dtype = r->be->kv, .heads = w->hp.kv_heads, .dim = w->hp.head_dim };
    in.rope = rope_table_at(weights_layer_rope(w, layer), seen);
    in.tokens = a->queries.tokens;
    if (a->queries.room > 0)
        in.q_plain = queries_at(a, r, layer, a->queries.from);
    if (a->part.cam_merge > 0)
        in.q = in_extent(a, a->turned_offset) + (uint64_t)layer * query_bytes(r);
    if (a->part.scored > 0)
        in.scored = &a->scored;
    return in;
}

enum status repressed_attend(struct repressed *a, struct repress *r, int32_t slot, const struct context *context,
                             int32_t tail)
{
    const struct hparams *hp = &r->weights->hp;
    enum status st = ST_OK;

    for (int32_t l = 0; l < hp->layers && st == ST_OK; l++) {
        struct press_layer in = press_layer_of(a, r, l, 1);
        struct kv_block block;
        struct kv_rows view;

        if (!hparams_layer_is_full(hp, l))
            continue;
        gather(a, r, slot, context, tail, l, INT64_MAX, &block);
        view = view_of(&block);
        st = press_cam_step(r->run, &a->cam, &in, &view, &a->failure);
    }
    return st;
}

/* A layer with a window keeps what can still be seen. */
static void keep_window(struct repressed *a, struct repress *r, const struct kv_block *rows)
{
    struct kv_block *own = &a->own->block[rows->layer];
    void *data = own->data;

    *own = *rows;
    own->data = data;
    r->be->ops->copy(r->be, LANE_PRESS, data, rows->data, rows->bytes);
}

static enum status press_layer(struct repressed *a, struct repress *r, const struct kv_block *rows, int64_t seen)
{
    struct kv_block *own = &a->own->block[rows->layer];
    struct press_layer in = press_layer_of(a, r, rows->layer, seen);
    struct kv_rows view = view_of(rows);
    struct press_result result;
    struct kv_block block;
    void *data = own->data;
    enum status st = press_run_decode(r->run, a->chain, &in, &view, NULL, seen - 1, seen,
                                      a->part.cam_merge > 0 ? &a->cam : NULL, &result, &a->failure);

    if (st == ST_OK)
        st = press_run_plan(r->run, &result, &block, &a->failure);
    if (st != ST_OK)
        return st;
    block.data = data;
    assert(block.bytes <= a->room[rows->layer]);
    st = press_run_pack(r->run, &result, &block, &a->failure);
    if (st == ST_OK)
        *own = block;
    r->be->ops->wait(r->be, LANE_PRESS);
    return st;
}

/* The shortest and the longest head of the pressed layers. */
static void measure(struct repressed *a, const struct hparams *hp, const struct kv_block *block)
{
    int64_t heads = 0, rows = 0;

    a->head_min = INT64_MAX;
    a->head_max = 0;
    for (int32_t l = 0; l < hp->layers; l++) {
        if (!hparams_layer_is_full(hp, l))
            continue;
        for (int32_t g = 0; g < hp->kv_heads; g++) {
            int64_t n = block[l].first[g + 1] - block[l].first[g];

            a->head_min = n < a->head_min ? n : a->head_min;
            a->head_max = n > a->head_max ? n : a->head_max;
        }
        heads += hp->kv_heads;
        rows += kv_block_rows(&block[l]);
    }
    a->head_min = heads > 0 ? a->head_min : 0;
    a->head_mean = heads > 0 ? (double)rows / (double)heads : 0;
}

enum status repressed_press(struct repressed *a, struct repress *r, int32_t slot, const struct context *context,
                            int32_t tail, int64_t seen)
{
    const struct hparams *hp = &r->weights->hp;
    enum status st = ST_OK;

    r->be->ops->wait(r->be, LANE_COMPUTE);
    for (int32_t l = 0; l < hp->layers && st == ST_OK; l++) {
        const int64_t window = hp->window[l];
        struct kv_block rows;

        gather(a, r, slot, context, tail, l, window > 0 ? window : INT64_MAX, &rows);
        if (window > 0)
            keep_window(a, r, &rows);
        else
            st = press_layer(a, r, &rows, seen);
    }
    if (st != ST_OK)
        return st;
    r->be->ops->wait(r->be, LANE_PRESS);
    a->pressed = true;
    a->compressions++;
    queries_forget(a);
    press_scored_chosen(&a->scored);
    measure(a, hp, a->own->block);
    r->be->ops->slot_blocks(r->be, slot, a->own->block);
    return ST_OK;
}

void repressed_seat(struct repressed *a, struct repress *r, int32_t slot, const struct context *context)
{
    r->be->ops->slot_blocks(r->be, slot, a->own->block); /* as opened: the longest that they will be */
    measure(a, &r->weights->hp, context->block);
    if (a->part.scored > 0)
        press_scored_begin(&a->scored, r->be, context->block);
}

void repressed_hold(struct repressed *a, int32_t tail)
{
    if (a->compressions == 0)
        return;
    if (a->steps == 0 || a->head_min + tail < a->held_min)
        a->held_min = a->head_min + tail;
    if (a->head_max + tail > a->held_max)
        a->held_max = a->head_max + tail;
    a->held_sum += a->head_mean + tail;
    a->steps++;
}
