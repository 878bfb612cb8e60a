/* SPDX-License-Identifier: Apache-2.0 */
/*
 * block - the context comes block by block, and only the best rows so far are compared with the next ones.
 *
 *      kept = first m rows      for every next block: kept = the m best of kept and block, scored anew, alone
 *
 * Candidates are shown to the score in ascending position, packed together. Scores that look at queries or hidden states
 * (expected, cap, kvzap) see those of a hidden state that the reference puts together in an odd way, which is imitated so
 * that the rows are the same: channels are cut into G equal slices, and slice g of candidate s comes from head g's s-th
 * candidate, kept ones by score.
 *
 * Park et al. 2025, arXiv:2504.15364, section 4.
 */
#include "common/base/bytes.h"
#include "common/base/order.h"
#include "kernels/block.h"
#include "presses/parts.h"
#include "presses/scores.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { ROWS_AT_ONCE = 64 };

struct block_options {
    int64_t size;
};

static const struct opt block_table[] = {
    { .name = "size",
      .type = OPT_INT,
      .offset = offsetof(struct block_options, size),
      .min = 1,
      .max = INT32_MAX,
      .fallback = "128",
      .help = "rows of a block" },
};

/* What goes on from block to block. Candidates: `count` per head. */
struct blocks {
    struct press_round *round;
    const struct press_stage *self;
    int64_t kept, count, end;
    int32_t *best;         /* host [G][kept]: rows by score, best first; ascending where nobody asks for more */
    int32_t *rows;         /* host [G][kept + size]: the candidates, kept ones as in `best`, then the block */
    int32_t *order;        /* host [G][kept + size]: the same, ascending */
    int32_t *token;        /* host, of the ascending ones; NULL: row r is token r */
    const int32_t *tokens; /* host, of the round's view; NULL: row r is token r */
    void *index, *token_device, *packed, *score;
    int32_t *slot, *slot_of; /* host: of the ascending candidates, their place in `rows`; of a row of the view */
    bool queries;            /* the score looks at plain queries */
    bool hidden;             /* the score looks at hidden states */
};

/* Whether the score looks at what the reference puts together by the order of scores. */
static bool by_score(const struct blocks *b)
{
    return b->queries || b->hidden;
}

/* Lists the candidates of every head: kept rows and [from, end). */
static void list_candidates(struct blocks *b, int64_t from, int64_t end)
{
    const struct kv_rows *view = &b->round->view;

    b->end = end;
    b->count = b->kept + end - from;
    for (int32_t g = 0; g < view->heads; g++) {
        int32_t *rows = b->rows + g * b->count, *order = b->order + g * b->count;

        memcpy(rows, b->best + g * b->kept, (size_t)b->kept * sizeof *rows);
        for (int64_t i = 0; i < end - from; i++)
            rows[b->kept + i] = (int32_t)(from + i);
        memcpy(order, rows, (size_t)b->count * sizeof *rows);
        if (by_score(b))
            qsort(order, (size_t)b->kept, sizeof *order, order_i32);
        for (int64_t i = 0; i < b->count; i++)
            b->token[g * b->count + i] = b->tokens ? b->tokens[view->at[g] + order[i]] : order[i];
    }
}

/* The candidates, packed, as a view of their own. */
static struct kv_rows gather(struct blocks *b)
{
    struct press_round *round = b->round;
    const struct kv_rows *view = &round->view;
    uint64_t bytes = dtype_bytes(view->dtype, (uint64_t)(b->count * view->heads * view->dim));
    struct kv_block block = { .heads = view->heads,
                              .dim = view->dim,
                              .k_dim = view->dim,
                              .dtype = view->dtype,
                              .codec = KV_PLAIN,
                              .v_offset = kv_align(bytes),
                              .bytes = 2 * kv_align(bytes) };
    struct pack_args args = { .rows = view, .index = b->index };
    struct kv_rows out = { .dtype = view->dtype, .heads = view->heads, .dim = view->dim, .token = b->token_device };

    for (int32_t g = 0; g < view->heads; g++) {
        out.first[g] = out.at[g] = g * b->count;
        out.rows[g] = b->count;
        out.at[g + 1] = block.first[g + 1] = args.first[g + 1] = (g + 1) * b->count;
    }
    block.data = b->packed;
    press_index_put(round, b->index, b->order, out.at[view->heads]);
    press_index_put(round, b->token_device, b->token, out.at[view->heads]);
    round->be->ops->pack(round->be, &args, &block);
    out.k = b->packed;
    out.v = (const char *)b->packed + block.v_offset;
    return out;
}

/* x device [count][dim]: the hidden states that the reference puts together: slice g of row s is that of head g's s-th
 * candidate. NULL where nobody looks at them. */
static enum status mix_hidden(struct blocks *b, void **x, struct err *err)
{
    struct press_round *round = b->round;
    const struct press_layer *in = round->in;
    enum status st;

    *x = NULL;
    if (!by_score(b))
        return ST_OK;
    st = press_work_device(round, dtype_bytes(round->be->act, (uint64_t)(b->count * in->hp->dim)), x, err);
    if (st != ST_OK)
        return st;
    press_index_put(round, b->index, b->rows, b->count * round->view.heads); /* packing is done with it */
    round->be->ops->mix_rows(round->be, in->hidden, b->index, round->view.heads, b->count, in->hp->dim, *x);
    return ST_OK;
}

/* Plain queries of the mixed hidden states, into round->q_part. */
static enum status make_queries(struct blocks *b, const char *x, struct err *err)
{
    struct press_round *round = b->round;
    const struct backend_ops *ops = round->be->ops;
    const struct hparams *hp = round->in->hp;
    const struct layer_weights *w = &round->in->weights->layer[round->in->layer];
    const struct qkv_shape shape = block_qkv_shape(round->in->weights, round->in->layer);
    const uint64_t q_row = dtype_bytes(round->be->act, (uint64_t)hp->q_heads * (uint64_t)hp->head_dim);
    const uint64_t qkv_row = (uint64_t)(hp->q_heads + 2 * hp->kv_heads) * (uint64_t)hp->head_dim * sizeof(float);
    const uint64_t x_row = dtype_bytes(round->be->act, (uint64_t)hp->dim);
    void *qkv, *plain;
    enum status st = press_work_device(round, ROWS_AT_ONCE * qkv_row, &qkv, err);

    if (st == ST_OK)
        st = press_work_device(round, (uint64_t)b->count * q_row, &plain, err);
    if (st != ST_OK)
        return st;
    ops->wait(round->be, LANE_PRESS); /* products are on a lane of their own */
    for (int64_t row = 0; row < b->count; row += ROWS_AT_ONCE) {
        int64_t rows = b->count - row < ROWS_AT_ONCE ? b->count - row : ROWS_AT_ONCE;

        ops->matmul(round->be, w->qkv, w->qkv_bias, x + (uint64_t)row * x_row, rows, qkv, false);
        ops->queries_plain(round->be, &shape, qkv, rows, (char *)plain + (uint64_t)row * q_row);
    }
    ops->wait(round->be, LANE_COMPUTE);
    round->q_part = plain;
    round->q_part_rows = b->count;
    return ST_OK;
}

/* The mixed hidden states go into round->x_part, and which of them each candidate looks at. */
static void show_hidden(struct blocks *b, const void *x)
{
    struct press_round *round = b->round;

    for (int32_t g = 0; g < round->view.heads; g++) {
        for (int64_t i = 0; i < b->count; i++)
            b->slot_of[b->rows[g * b->count + i]] = (int32_t)i;
        for (int64_t i = 0; i < b->count; i++)
            b->slot[g * b->count + i] = b->slot_of[b->order[g * b->count + i]];
    }
    round->x_part = x;
    round->x_part_rows = b->count;
    round->x_slot = b->slot;
}

/* The best m of every head, best first. */
static void best_by_score(struct blocks *b, const struct kv_rows *view)
{
    struct press_round *round = b->round;
    const float *score = press_scores_get(round, view, b->score);
    int32_t *order = press_work_host(round, (uint64_t)b->count * sizeof *order);

    for (int32_t g = 0; g < view->heads; g++) {
        scores_order(score + view->at[g], b->count, order);
        for (int64_t i = 0; i < b->kept; i++)
            b->best[g * b->kept + i] = b->order[g * b->count + order[i]];
    }
}

/* The same rows, ascending. */
static void best_by_row(struct blocks *b, const struct kv_rows *view)
{
    struct press_round *round = b->round;
    struct select_args args = { .score = b->score, .total = -1, .protected_score = INFINITY };
    int64_t first[KV_HEADS_MAX + 1];
    const int32_t *chosen;

    for (int32_t g = 0; g < view->heads; g++)
        args.keep[g] = b->kept;
    round->be->ops->select(round->be, view, &args, b->index, first);
    chosen = press_index_get(round, b->index, first[view->heads]);
    for (int32_t g = 0; g < view->heads; g++)
        for (int64_t i = 0; i < b->kept; i++)
            b->best[g * b->kept + i] = b->order[g * b->count + chosen[first[g] + i]];
}

/* Scores the candidates and keeps the best m of every head. */
static enum status keep_best(struct blocks *b, struct err *err)
{
    struct press_round *round = b->round;
    struct press_scratch mark = press_scratch_mark(round);
    struct kv_rows view = gather(b);
    void *x;
    enum status st = mix_hidden(b, &x, err);

    round->part_end = b->end;
    if (st == ST_OK && b->queries)
        st = make_queries(b, x, err);
    if (st == ST_OK && b->hidden)
        show_hidden(b, x);
    if (st == ST_OK)
        st = press_rescore(round, b->self, &view, b->score, err);
    round->q_part = round->x_part = NULL;
    round->part_end = -1;
    if (st != ST_OK)
        return st;
    if (by_score(b))
        best_by_score(b, &view);
    else
        best_by_row(b, &view);
    press_scratch_back(round, mark);
    return ST_OK;
}

static enum status blocks_reserve(struct blocks *b, int64_t size, struct err *err)
{
    struct press_round *round = b->round;
    uint64_t rows = (uint64_t)round->view.heads * (uint64_t)(b->kept + size);
    uint64_t bytes = kv_align(dtype_bytes(round->view.dtype, rows * (uint64_t)round->view.dim));
    enum status st = press_work_device(round, rows * sizeof(int32_t), &b->index, err);

    if (st == ST_OK)
        st = press_work_device(round, rows * sizeof(int32_t), &b->token_device, err);
    if (st == ST_OK)
        st = press_work_device(round, rows * sizeof(float), &b->score, err);
    if (st == ST_OK)
        st = press_work_device(round, 2 * bytes, &b->packed, err);
    b->best = press_work_host(round, rows * sizeof(int32_t));
    b->rows = press_work_host(round, rows * sizeof(int32_t));
    b->order = press_work_host(round, rows * sizeof(int32_t));
    b->token = press_work_host(round, rows * sizeof(int32_t));
    b->slot = press_work_host(round, rows * sizeof(int32_t));
    b->slot_of = press_work_host(round, (uint64_t)round->view.rows[0] * sizeof(int32_t));
    return st;
}

static enum status block_choose(const struct press_stage *stage, struct press_round *round, int32_t *index,
                                int64_t *first, struct err *err)
{
    const struct kv_rows *view = &round->view;
    int64_t n = view->rows[0], size = ((const struct block_options *)stage->options)->size;
    struct blocks b = { .round = round, .self = stage, .kept = round->budget.keep[0] };
    const struct press_stage *score = &round->stages[round->begin];
    struct chain_needs needs = { 0 };
    enum status st;

    size = size < n ? size : n;
    round->scored = false; /* a row has as many scores as blocks it met */
    if (score->press->needs)
        score->press->needs(score, round->in->query_tokens, &needs);
    b.queries = needs.q_plain || needs.q_rotated;
    b.hidden = needs.hidden;
    if (b.queries && !round->in->weights)
        return err_set(err, ST_EINTERNAL, "block has no weights to make queries of");
    st = blocks_reserve(&b, size, err);
    if (st != ST_OK)
        return st;
    b.tokens = view->token ? press_index_get(round, view->token, view->at[view->heads]) : NULL;
    for (int32_t g = 0; g < view->heads; g++)
        for (int64_t r = 0; r < b.kept; r++)
            b.best[g * b.kept + r] = (int32_t)r;
    for (int64_t from = b.kept; from < n && st == ST_OK; from += size) {
        list_candidates(&b, from, from + size < n ? from + size : n);
        st = keep_best(&b, err);
    }
    for (int32_t g = 0; g < view->heads; g++) {
        if (by_score(&b))
            qsort(b.best + g * b.kept, (size_t)b.kept, sizeof *b.best, order_i32);
        first[g] = g * b.kept;
    }
    first[view->heads] = view->heads * b.kept;
    if (st == ST_OK)
        press_index_put(round, index, b.best, first[view->heads]);
    return st;
}

static void block_needs(const struct press_stage *stage, int64_t query_tokens, struct chain_needs *needs)
{
    (void)stage;
    (void)query_tokens;
    needs->hidden = needs->hidden || needs->q_plain || needs->q_rotated;
    needs->q_plain = needs->q_plain || needs->q_rotated || needs->q_tail > 0; /* every block turns its own */
}

static enum status block_admit(const struct press_stage *stage, const struct press_door *door, struct err *err)
{
    enum status st = press_admit_op(stage, door, door->ops->rotate_rows != NULL, "rotate_rows", err);

    if (st == ST_OK)
        st = press_admit_op(stage, door, door->ops->mix_rows != NULL, "mix_rows", err);
    return st == ST_OK ? press_admit_op(stage, door, door->ops->queries_plain != NULL, "queries_plain", err) : st;
}

const struct press press_block = {
    .name = "block",
    .kind = PRESS_REFINE,
    .summary = "compares the best rows so far with the next block, and so on",
    .source = "arXiv:2504.15364",
    .reference = "BlockPress",
    .cost = "the score's, (m + size) / size times",
    .differs =
        "Candidates stand in ascending position. A score that looks at where a row stands (streaming, lagkv, "
        "cur, noncausal, compactor, snapkv with kernel > 1) sees them by score in the reference, so the rows "
        "differ there; leverage sees each row's own hidden state, which the reference puts together from several.",
    .options = block_table,
    .option_count = ARRAY_LEN(block_table),
    .options_bytes = sizeof(struct block_options),
    .even_only = true,
    .in_parts = true,
    .prefill_only = true,
    .needs = block_needs,
    .admit = block_admit,
    .choose = block_choose,
};
