/* SPDX-License-Identifier: Apache-2.0 */
/*
 * run_survive.c - between two rounds: the rows that stay become the next round's view.
 *
 *      view, index ──pack──▶ survivors[flip] = the next view        token, position ──choose──▶ next_token, next_position
 *
 * Two buffers take turns, since a round's view lies in one while its survivors go to the other.
 */
#include "common/kv/block.h"
#include "presses/run_parts.h"

#include <string.h>

/* Bytes of a packed layer with all rows. */
enum status run_survivors_reserve(struct press_run *run, int32_t which, struct err *err)
{
    uint64_t row = dtype_bytes(run->be->kv, (uint64_t)run->hp->head_dim);
    uint64_t bytes = 2 * kv_align((uint64_t)(run->tokens * run->hp->kv_heads) * row);
    enum status st;

    if (run->survivors_bytes[which] >= bytes)
        return ST_OK;
    if (run->survivors[which])
        run->be->ops->free(run->be, run->survivors[which]);
    run->survivors[which] = NULL;
    run->survivors_bytes[which] = 0;
    st = run->be->ops->alloc(run->be, bytes, "presses", &run->survivors[which], err);
    if (st == ST_OK)
        run->survivors_bytes[which] = bytes;
    return st;
}

void press_run_trim(struct press_run *run)
{
    run->be->ops->wait(run->be, LANE_PRESS);
    for (int32_t i = 0; i < 2; i++) {
        if (run->survivors[i])
            run->be->ops->free(run->be, run->survivors[i]);
        run->survivors[i] = NULL;
        run->survivors_bytes[i] = 0;
    }
    work_fini(&run->work);
    run->work.be = run->be;
}

/* The chosen rows on the host. */
static const int32_t *chosen(struct press_run *run, int64_t count)
{
    if (run->be->ops->host_is_device)
        return run->index;
    run->be->ops->download(run->be, LANE_PRESS, run->index_host, run->index, (uint64_t)count * sizeof(int32_t));
    run->be->ops->wait(run->be, LANE_PRESS);
    return run->index_host;
}

/* next = what the chosen rows are called in `now`; consecutive numbers where `renumber`. */
void run_map_choose(struct press_run *run, const struct row_map *now, const struct kv_rows *view, const int64_t *first,
                    bool renumber, struct row_map *next)
{
    const int32_t *index = chosen(run, first[view->heads]);

    for (int32_t g = 0; g < view->heads; g++)
        for (int64_t i = first[g]; i < first[g + 1]; i++)
            next->host[i] = renumber   ? (int32_t)(i - first[g])
                            : now->set ? now->host[view->at[g] + index[i]]
                                       : index[i];
    next->set = true;
    run->be->ops->upload(run->be, LANE_PRESS, next->device, next->host, (uint64_t)first[view->heads] * sizeof(int32_t));
    run->be->ops->wait(run->be, LANE_PRESS);
}

static void maps_swap(struct row_map *a, struct row_map *b)
{
    struct row_map t = *a;

    *a = *b;
    *b = t;
    b->set = false;
}

int64_t run_longest(const int64_t *first, int32_t heads)
{
    int64_t most = 0;

    for (int32_t g = 0; g < heads; g++)
        most = first[g + 1] - first[g] > most ? first[g + 1] - first[g] : most;
    return most;
}

enum status run_block_plan(const struct kv_rows *view, const int64_t *first, int32_t k_dim, enum kv_codec codec,
                           int64_t scored, struct kv_block *block, struct err *err)
{
    *block = (struct kv_block){ .heads = view->heads, .dim = view->dim, .k_dim = k_dim, .dtype = view->dtype };
    block->codec = codec;
    block->scored = scored;
    memcpy(block->first, first, ((size_t)view->heads + 1) * sizeof *first);
    return kv_block_plan(block, err);
}

/* Packs the survivors into scratch: the next round's view. */
enum status run_survive(struct press_run *run, struct press_round *round, const int64_t *first, struct err *err)
{
    struct kv_rows *view = &round->view;
    struct kv_block block;
    struct pack_args args = { .rows = view, .index = run->index };
    enum status st = run_block_plan(view, first, view->dim, KV_PLAIN, 0, &block, err);

    if (st == ST_OK)
        st = run_survivors_reserve(run, run->flip, err); /* there already, unless somebody trimmed */
    if (st != ST_OK)
        return st;
    block.data = run->survivors[run->flip];
    run->flip = 1 - run->flip;
    memcpy(args.first, first, ((size_t)view->heads + 1) * sizeof *first);
    args.rerotate = round->rerotate ? &round->in->rope : NULL;
    args.token = run->position.set ? run->position.device : NULL;
    run->be->ops->pack(run->be, &args, &block);
    run_map_choose(run, &run->token, view, first, false, &run->next_token);
    run_map_choose(run, &run->position, view, first, round->rerotate, &run->next_position);
    maps_swap(&run->token, &run->next_token);
    maps_swap(&run->position, &run->next_position);
    if (round->rerotate && run_longest(first, view->heads) > run->rows_most)
        run->rows_most = run_longest(first, view->heads);
    round->rerotate = round->scored = false;
    round->first = false;
    view->k = (const char *)block.data + block.k_offset;
    view->v = (const char *)block.data + block.v_offset;
    view->token = run->token.device;
    for (int32_t g = 0; g < view->heads; g++) {
        view->first[g] = view->at[g] = first[g];
        view->rows[g] = first[g + 1] - first[g];
    }
    view->at[view->heads] = first[view->heads];
    return ST_OK;
}
