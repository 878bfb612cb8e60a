/* SPDX-License-Identifier: Apache-2.0 */
/*
 * forward.c - stop 5 of 12: forward.                before: scheduler.c   after: handoff.c
 *
 *   ids ─▶ x ─▶ [ for every block of rows:  norm, qkv ─▶ K, V of the layer ─▶ attention ─▶ o ─▶ mlp ] ─▶ tap ─▶ next layer
 *
 * The context goes through a layer in blocks of rows: causal attention of a block needs only the K, V of the blocks
 * before it, so one block's activations are all the scratch there is, however long the context. What makes this the
 * prefill node's forward pass: dense causal attention, and a tap after every layer where the press takes what it keeps.
 *
 * Of the last layer only K and V are wanted; its attention and MLP are left out unless logits are asked for.
 */
#include "prefill-node/forward.h"

#include "common/base/arena.h"
#include "common/model/rope.h"

#include <assert.h>
#include <stdlib.h>

enum { ROWS_HOST = 512, ROWS_DEVICE = 8192, SECOND_PASS_MORE = 1024, HELD_ROWS = 2048, HELD_LENGTHS = 16 };
enum { KEPT_Q_TAIL, KEPT_Q_PLAIN, KEPT_Q, KEPT_HIDDEN, KEPT_LSE, KEPT_COUNT = PREFILL_KEPT };

/* Device memory that grows when a press wants more of it than any before. */
struct kept {
    void *data;
    uint64_t bytes;
};

struct prefill {
    struct backend *be;
    struct weights *w;
    int64_t tokens_max, rows;
    struct scratch scratch;
    void *kv[2];               /* dense K, V of a layer: K [G][T][D], then V */
    int32_t kv_count, kv_next; /* how many take turns, with their taps; the next one's */
    int32_t *ids;              /* device [rows] */
    int64_t positions;         /* a context, and as much again for a second pass */
    int32_t *position;         /* device [positions]: 0, 1, 2, ... */
    int32_t *host_position;
    struct kept kept[2][KEPT_COUNT]; /* beside kv */
};

int64_t prefill_rows(const char *backend_name, int64_t tokens_max)
{
    const struct backend_ops *ops = backend_find(backend_name);
    const int64_t rows = !ops || ops->host_is_device ? ROWS_HOST : ROWS_DEVICE;

    return rows < tokens_max ? rows : tokens_max;
}

static int64_t q_width(const struct prefill *p)
{
    return (int64_t)p->w->hp.q_heads * p->w->hp.head_dim;
}

static uint64_t act_bytes(const struct prefill *p, int64_t values)
{
    return dtype_bytes(p->be->act, (uint64_t)values);
}

uint64_t prefill_x_bytes(const struct prefill *p, int64_t tokens)
{
    return (uint64_t)tokens * (uint64_t)p->w->hp.dim * sizeof(float);
}

uint64_t prefill_kv_bytes(const struct prefill *p, int64_t rows)
{
    const struct hparams *hp = &p->w->hp;

    return 2 * dtype_bytes(p->be->kv, (uint64_t)rows * (uint64_t)hp->kv_heads * (uint64_t)hp->head_dim);
}

int64_t prefill_held_rows(const struct prefill *p, int64_t tokens)
{
    const int64_t least = (p->tokens_max / HELD_LENGTHS + HELD_ROWS - 1) / HELD_ROWS * HELD_ROWS;
    const int64_t step = least > HELD_ROWS ? least : HELD_ROWS;

    return p->kv_count == 1 ? tokens : (tokens + step - 1) / step * step;
}

int64_t prefill_positions(const struct prefill *p)
{
    return p->positions;
}

/* Row `row` of x. */
static float *x_at(const struct prefill *p, const struct pass *pass, int64_t row)
{
    return pass->x + row * p->w->hp.dim;
}

/* Row `row` of an activation matrix with rows of `width` numbers. */
static void *row_at(const struct prefill *p, void *base, int64_t row, int64_t width)
{
    return (uint8_t *)base + act_bytes(p, row * width);
}

int32_t prefill_layers_kept(const struct prefill *p)
{
    return p->kv_count;
}

static enum status open_buffers(struct prefill *p, struct err *err)
{
    const struct backend_ops *ops = p->be->ops;
    const struct hparams *hp = &p->w->hp;
    const uint64_t values = (uint64_t)p->tokens_max * (uint64_t)hp->kv_heads * (uint64_t)hp->head_dim;
    enum status st = scratch_open(&p->scratch, p->be, hp, p->rows, err);

    p->kv_count = ops->host_is_device ? 1 : 2;
    for (int32_t i = 0; st == ST_OK && i < p->kv_count; i++)
        st = ops->alloc(p->be, 2 * dtype_bytes(p->be->kv, values), "activations", &p->kv[i], err);
    if (st == ST_OK)
        st = ops->alloc(p->be, (uint64_t)p->rows * sizeof *p->ids, "activations", (void **)&p->ids, err);
    if (st == ST_OK)
        st = ops->alloc(p->be, (uint64_t)p->positions * sizeof *p->position, "activations", (void **)&p->position, err);
    if (st != ST_OK)
        return st;
    p->host_position = mem_alloc((size_t)p->positions * sizeof *p->host_position);
    for (int64_t t = 0; t < p->positions; t++)
        p->host_position[t] = (int32_t)t;
    ops->upload(p->be, LANE_COMPUTE, p->position, p->host_position, (uint64_t)p->positions * sizeof *p->position);
    return ST_OK;
}

static enum status set_rope(struct prefill *p, struct err *err)
{
    const int64_t positions = p->w->hp.max_positions;
    struct rope_tables tables;
    enum status st;

    rope_tables_open(&tables, &p->w->hp, p->tokens_max > positions ? p->tokens_max : positions);
    st = weights_rope(p->w, p->be, &tables, err);
    rope_tables_close(&tables);
    return st;
}

enum status prefill_open(struct prefill **out, struct backend *be, struct weights *w, int64_t tokens_max,
                         struct err *err)
{
    struct prefill *p = mem_zero(1, sizeof *p);
    enum status st;

    p->be = be;
    p->w = w;
    p->tokens_max = tokens_max;
    p->positions = 2 * tokens_max + SECOND_PASS_MORE;
    p->rows = prefill_rows(be->ops->name, tokens_max);
    st = open_buffers(p, err);
    if (st == ST_OK)
        st = set_rope(p, err);
    if (st == ST_OK && be->ops->attn_prepare)
        be->ops->attn_prepare(
            be, w->hp.q_heads,
            &(struct kv_layer){
                .dtype = be->kv, .heads = w->hp.kv_heads, .dim = w->hp.head_dim, .stride = tokens_max });
    if (st != ST_OK) {
        prefill_close(p);
        return st;
    }
    *out = p;
    return ST_OK;
}

void prefill_trim(struct prefill *p)
{
    p->be->ops->wait(p->be, LANE_COMPUTE);
    p->be->ops->wait(p->be, LANE_PRESS);
    for (int i = 0; i < 2 * KEPT_COUNT; i++) {
        struct kept *k = &p->kept[i / KEPT_COUNT][i % KEPT_COUNT];

        p->be->ops->free(p->be, k->data);
        *k = (struct kept){ 0 };
    }
}

void prefill_close(struct prefill *p)
{
    if (!p)
        return;
    prefill_trim(p);
    p->be->ops->free(p->be, p->position);
    p->be->ops->free(p->be, p->ids);
    for (int32_t i = 0; i < p->kv_count; i++)
        p->be->ops->free(p->be, p->kv[i]);
    scratch_close(&p->scratch, p->be);
    free(p->host_position);
    free(p);
}

/* Makes sure of `bytes`; *out is NULL where none are wanted. */
static enum status keep(struct prefill *p, struct kept *k, uint64_t bytes, void **out, struct err *err)
{
    enum status st = ST_OK;

    *out = NULL;
    if (bytes == 0)
        return ST_OK;
    if (k->bytes < bytes) {
        p->be->ops->wait(p->be, LANE_PRESS);
        p->be->ops->free(p->be, k->data);
        *k = (struct kept){ 0 };
        st = p->be->ops->alloc(p->be, bytes, "activations", &k->data, err);
        k->bytes = st == ST_OK ? bytes : 0;
    }
    *out = k->data;
    return st;
}

/* What stays of a layer besides K and V, as its press asked. */
struct tap {
    void *q_tail, *q_plain, *q, *hidden, *lse;
    int64_t tail_rows;
};

/* Rows from one head to the next, in K, V and the log-sum-exps. On devices the same for every context, or one of a few where
 * layers are held: what is planned for a shape there serves them all. */
static int64_t own_stride(const struct prefill *p, const struct pass *pass)
{
    if (p->kv_count == 1)
        return pass->base + pass->tokens;
    return pass->kv ? pass->kv_rows : p->tokens_max;
}

static int64_t tail_rows(const struct chain_needs *needs, int64_t tokens)
{
    return needs->q_tail < tokens ? needs->q_tail : tokens;
}

static void kept_bytes(const struct prefill *p, const struct chain_needs *needs, int64_t tokens, int64_t stride,
                       uint64_t bytes[KEPT_COUNT])
{
    const uint64_t q = act_bytes(p, tokens * q_width(p));

    bytes[KEPT_Q_TAIL] = act_bytes(p, tail_rows(needs, tokens) * q_width(p));
    bytes[KEPT_Q_PLAIN] = needs->q_plain ? q : 0;
    bytes[KEPT_Q] = needs->q_rotated ? q : 0;
    bytes[KEPT_HIDDEN] = needs->hidden ? act_bytes(p, tokens * p->w->hp.dim) : 0;
    bytes[KEPT_LSE] = needs->lse ? (uint64_t)p->w->hp.q_heads * (uint64_t)stride * sizeof(float) : 0;
}

void prefill_kept_bytes(const struct prefill *p, const struct chain_needs *needs, int64_t tokens, int64_t base,
                        uint64_t bytes[PREFILL_KEPT])
{
    const int64_t rows = prefill_held_rows(p, base + tokens); /* at least what own_stride will say, held or not */

    kept_bytes(p, needs, tokens, p->kv_count > 1 && rows < p->tokens_max ? p->tokens_max : rows, bytes);
}

/* In the room that takes turns with K, V: a press may still look at what the layer before left. */
static enum status open_tap(struct prefill *p, const struct pass *pass, const struct chain_needs *needs,
                            struct tap *tap, struct err *err)
{
    struct kept *kept = p->kept[pass->kv ? 0 : p->kv_next];
    uint64_t bytes[KEPT_COUNT];
    void **out[KEPT_COUNT] = { &tap->q_tail, &tap->q_plain, &tap->q, &tap->hidden, &tap->lse };
    enum status st = ST_OK;

    *tap = (struct tap){ 0 };
    if (!needs)
        return ST_OK;
    tap->tail_rows = tail_rows(needs, pass->tokens);
    kept_bytes(p, needs, pass->tokens, own_stride(p, pass), bytes);
    for (int i = 0; i < KEPT_COUNT && st == ST_OK; i++)
        st = keep(p, &kept[i], bytes[i], out[i], err);
    return st;
}

void prefill_begin(struct prefill *p, struct pass *pass)
{
    const struct hparams *hp = &p->w->hp;
    const struct backend_ops *ops = p->be->ops;

    assert(pass->tokens > 0 && pass->base + pass->tokens <= p->positions && pass->x);
    assert(pass->kv ? pass->base + pass->tokens <= pass->kv_rows : pass->tokens <= p->tokens_max && pass->base == 0);
    for (int64_t row = 0; row < pass->tokens; row += p->rows) {
        const int64_t rows = pass->tokens - row < p->rows ? pass->tokens - row : p->rows;

        ops->upload(p->be, LANE_COMPUTE, p->ids, pass->token + row, (uint64_t)rows * sizeof *p->ids);
        ops->embed(p->be, p->w->embedding, p->ids, rows, hp->embed_scale, x_at(p, pass, row));
    }
    pass->layer = 0;
}

/* The queries among the block's rows that belong to the last tail_rows tokens. */
static void keep_tail(struct prefill *p, const struct pass *pass, const struct tap *tap, void *q, int64_t row,
                      int64_t rows)
{
    const int64_t from = pass->tokens - tap->tail_rows;
    const int64_t begin = row > from ? row : from;
    const int64_t end = row + rows;

    if (!tap->q_tail || begin >= end)
        return;
    p->be->ops->copy(p->be, LANE_COMPUTE, row_at(p, tap->q_tail, begin - from, q_width(p)),
                     row_at(p, q, begin - row, q_width(p)), act_bytes(p, (end - begin) * q_width(p)));
}

/* The length that the rotation is chosen for: fed tokens stand on keys that were rotated for the context's. */
static int64_t rope_tokens(const struct pass *pass)
{
    return pass->base > 0 ? pass->base : pass->tokens;
}

/* Where layer l's K, V go. */
static struct kv_layer layer_kv(struct prefill *p, const struct pass *pass, int32_t l)
{
    const struct hparams *hp = &p->w->hp;
    const int64_t tokens = pass->base + pass->tokens;
    struct kv_layer kv = { .dtype = p->be->kv, .heads = hp->kv_heads, .dim = hp->head_dim, .tokens = tokens };

    if (pass->kv) {
        kv.k = pass->kv[l];
        kv.stride = pass->kv_rows;
    } else {
        kv.k = p->kv[p->kv_next];
        kv.stride = own_stride(p, pass);
        p->kv_next = (p->kv_next + 1) % p->kv_count;
    }
    kv.v = (uint8_t *)kv.k + prefill_kv_bytes(p, kv.stride) / 2;
    return kv;
}

/* Rows [row, row + rows) through layer l. */
static void rows_through(struct prefill *p, struct pass *pass, int32_t l, const struct kv_layer *kv,
                         const struct tap *tap, int64_t row, int64_t rows)
{
    const struct backend_ops *ops = p->be->ops;
    const struct hparams *hp = &p->w->hp;
    const struct qkv_shape shape = block_qkv_shape(p->w, l);
    const struct rope_table rope = rope_table_at(weights_layer_rope(p->w, l), rope_tokens(pass));
    struct scratch *s = &p->scratch;
    float *x = x_at(p, pass, row);
    void *q = tap->q ? row_at(p, tap->q, row, q_width(p)) : s->q;
    struct attn_span span = { .rows = rows, .token = pass->base + row, .kv = *kv };

    block_attention_in(p->be, p->w, l, x, rows, s);
    ops->qkv_to_layer(p->be, &shape, &rope, s->qkv, p->position + pass->base + row, rows, q,
                      tap->q_plain ? row_at(p, tap->q_plain, row, q_width(p)) : NULL, kv, pass->base + row);
    keep_tail(p, pass, tap, q, row, rows);
    if (tap->hidden)
        ops->copy(p->be, LANE_COMPUTE, row_at(p, tap->hidden, row, hp->dim), s->normed, act_bytes(p, rows * hp->dim));
    if (l == hp->layers - 1 && !pass->logits && !tap->lse)
        return;
    ops->attn_prefill(p->be, &span, 1, q, hp->q_heads, hp->attn_scale, hp->window[l], s->heads, tap->lse,
                      own_stride(p, pass));
    block_attention_out(p->be, p->w, l, x, rows, s);
    block_mlp(p->be, p->w, l, x, rows, s);
}

enum status prefill_layer(struct prefill *p, struct pass *pass, const struct chain_needs *needs, int64_t query_tokens,
                          struct press_layer *out, struct err *err)
{
    const struct hparams *hp = &p->w->hp;
    const int32_t l = pass->layer;
    const int64_t T = pass->tokens;
    struct kv_layer kv;
    struct tap tap;
    enum status st;

    assert(l < hp->layers);
    st = open_tap(p, pass, hparams_layer_is_full(hp, l) ? needs : NULL, &tap, err);
    if (st != ST_OK)
        return st;
    kv = layer_kv(p, pass, l);
    for (int64_t row = 0; row < T; row += p->rows)
        rows_through(p, pass, l, &kv, &tap, row, T - row < p->rows ? T - row : p->rows);
    pass->layer++;
    *out = (struct press_layer){
        .hp = hp,
        .layer = l,
        .kv = kv,
        .tokens = T,
        .query_tokens = query_tokens,
        .q_tail = tap.q_tail,
        .q_tail_rows = tap.tail_rows,
        .q_plain = tap.q_plain,
        .q = tap.q,
        .hidden = tap.hidden,
        .lse = tap.lse ? (const float *)tap.lse + pass->base : NULL,
        .lse_stride = own_stride(p, pass),
        .rope = rope_table_at(weights_layer_rope(p->w, l), rope_tokens(pass)),
        .o = p->w->layer[l].o,
        .weights = p->w,
    };
    return ST_OK;
}

enum status prefill_logits(struct prefill *p, const struct pass *pass, float *out, struct err *err)
{
    const struct backend_ops *ops = p->be->ops;
    const struct hparams *hp = &p->w->hp;
    const uint64_t bytes = act_bytes(p, hp->vocab);
    void *logits = NULL, *host = NULL;
    enum status st;

    assert(pass->layer == hp->layers && pass->logits);
    st = ops->alloc(p->be, bytes, "activations", &logits, err);
    if (st == ST_OK)
        st = ops->host_alloc(p->be, bytes, &host, err);
    if (st != ST_OK)
        goto out;
    block_logits(p->be, p->w, x_at(p, pass, pass->tokens - 1), 1, p->scratch.normed, logits);
    ops->download(p->be, LANE_COMPUTE, host, logits, bytes);
    ops->wait(p->be, LANE_COMPUTE);
    dtype_to_f32(out, host, p->be->act, (uint64_t)hp->vocab);
out:
    ops->host_free(p->be, host);
    ops->free(p->be, logits);
    return st;
}
