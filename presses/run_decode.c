/* SPDX-License-Identifier: Apache-2.0 */
/*
 * run_decode.c - one compression while tokens are generated: the decode part's round on a sequence's own rows.
 *
 *      block | tail ──slot_gather──▶ rows ──score, keep──▶ result ──pack──▶ the sequence's new block, an empty tail
 *
 * The context's shared block is only read. Queries of the buffered calls are turned to the last token's position, all of
 * them, as the reference does it.
 */
#include "presses/run_parts.h"

int64_t press_decode_target(const struct chain_decode *d, int64_t seen)
{
    struct press_keep keep = { d->ratio, d->rows };

    return d->rows > 0 ? d->rows : press_keep_rows(&keep, seen);
}

bool press_decode_due(const struct chain_decode *d, int64_t calls, int64_t fresh, int64_t seen)
{
    return calls >= d->every || fresh >= press_decode_target(d, seen);
}

int64_t press_decode_rows_max(const struct chain *c, const struct hparams *hp, int32_t layer, int64_t rows,
                              int64_t seen)
{
    struct press_keep keep = { 0, press_decode_target(&c->decode_part, seen) };
    int32_t place, places;

    chain_places(hp, layer, &place, &places);
    return chain_round_rows_max(&c->decode, &c->decode.rounds[0], &keep, place, places, rows) * hp->kv_heads;
}

/* The last queries of the buffer, rotated. */
static enum status turn_queries(struct press_run *run, struct press_round *round, struct press_layer *in, int64_t tail,
                                int64_t position, struct err *err)
{
    uint64_t row = dtype_bytes(run->be->act, (uint64_t)in->hp->q_heads * (uint64_t)in->hp->head_dim);
    int64_t rows = tail < in->tokens ? tail : in->tokens;
    void *q;
    enum status st = press_work_device(round, (uint64_t)rows * row, &q, err);

    if (st != ST_OK)
        return st;
    run->be->ops->rotate_rows(run->be, (const char *)in->q_plain + (uint64_t)(in->tokens - rows) * row, in->hp->q_heads,
                              in->hp->head_dim, &in->rope, position, 0, rows, q);
    in->q_tail = q;
    in->q_tail_rows = rows;
    return ST_OK;
}

enum status press_run_decode(struct press_run *run, const struct chain *chain, const struct press_layer *given,
                             const struct kv_rows *rows, const int32_t *token, int64_t position, int64_t seen,
                             struct press_cam *cam, struct press_result *out, struct err *err)
{
    struct press_layer in = *given;
    struct press_round round = run_round_open(run, &in);
    struct chain_needs needs;
    enum status st = ST_OK;

    if (rows->at[rows->heads] > run->tokens_max * run->hp->kv_heads)
        return err_set(err, ST_ERANGE, "more rows than the press was opened for");
    chain_needs_of(chain, 0, true, &needs);
    in.query_tokens = 0;
    round.view = *rows;
    round.view.token = NULL;
    round.first = false;
    round.held = NULL;
    round.cam = cam;
    round.cam_calls = cam ? cam->calls : 0;
    round.cam_coin = run->cam_coin;
    if (needs.q_tail > in.tokens)
        return err_set(err, ST_EINVAL, "the decode part looks at the last %lld queries, but buffers only %lld",
                       (long long)needs.q_tail, (long long)in.tokens);
    if (needs.q_tail > 0)
        st = turn_queries(run, &round, &in, needs.q_tail, position, err);
    if (st == ST_OK)
        st = run_decode_round(run, &round, chain, press_decode_target(&chain->decode_part, seen), token, out, err);
    work_back(&run->work, (struct press_scratch){ 0, 0 });
    return st;
}
