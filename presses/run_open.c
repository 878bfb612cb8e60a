/* SPDX-License-Identifier: Apache-2.0 */
/*
 * run_open.c - what a run holds from a node's start to its end, and what one order sets.
 *
 *   open     score and index of a whole layer, two maps and their successors: tokens_max rows of every head
 *   begin    the chain, the context's length, and room for survivors where the chain has another round
 */
#include "common/base/arena.h"
#include "presses/run_parts.h"

#include <inttypes.h>
#include <stdlib.h>

static int64_t rows_room(const struct press_run *run)
{
    return run->tokens_max * run->hp->kv_heads;
}

static enum status map_open(struct press_run *run, struct row_map *map, struct err *err)
{
    void *device = NULL;
    enum status st = run->be->ops->alloc(run->be, (uint64_t)rows_room(run) * sizeof(int32_t), "presses", &device, err);

    map->device = device;
    map->host = mem_alloc((size_t)rows_room(run) * sizeof(int32_t));
    return st;
}

static void map_close(struct press_run *run, struct row_map *map)
{
    if (map->device)
        run->be->ops->free(run->be, map->device);
    free(map->host);
}

enum status press_run_open(struct press_run **out, struct backend *be, const struct hparams *hp, int64_t tokens_max,
                           struct err *err)
{
    struct press_run *run = mem_zero(1, sizeof *run);
    struct row_map *maps[] = { &run->token, &run->position, &run->next_token, &run->next_position };
    void *score = NULL, *index = NULL;
    enum status st;

    run->be = run->work.be = be;
    run->hp = hp;
    run->tokens_max = tokens_max;
    st = be->ops->alloc(be, (uint64_t)rows_room(run) * sizeof(float), "presses", &score, err);
    run->score = score;
    if (st == ST_OK)
        st = be->ops->alloc(be, (uint64_t)rows_room(run) * sizeof(int32_t), "presses", &index, err);
    run->index = index;
    run->index_host = mem_alloc((size_t)rows_room(run) * sizeof(int32_t));
    for (size_t i = 0; i < 4 && st == ST_OK; i++)
        st = map_open(run, maps[i], err);
    if (st == ST_OK)
        *out = run;
    else
        press_run_close(run);
    return st;
}

void press_run_close(struct press_run *run)
{
    if (!run)
        return;
    if (run->score)
        run->be->ops->free(run->be, run->score);
    if (run->index)
        run->be->ops->free(run->be, run->index);
    press_run_trim(run);
    map_close(run, &run->token);
    map_close(run, &run->position);
    map_close(run, &run->next_token);
    map_close(run, &run->next_position);
    free(run->index_host);
    free(run->verdict);
    run_hold_end(run);
    free(run->feed);
    free(run);
}

enum status press_run_begin(struct press_run *run, const struct chain *chain, int64_t tokens, int64_t query_tokens,
                            bool compact, struct err *err)
{
    enum status st = ST_OK;

    if (tokens > run->tokens_max)
        return err_set(err, ST_ERANGE,
                       "a context of %" PRId64 " tokens is longer than the press was opened for (%" PRId64 ")", tokens,
                       run->tokens_max);
    run->chain = chain && chain_presses_prefill(chain) ? chain : NULL;
    run->tokens = tokens;
    run->query_tokens = query_tokens;
    run->compact = compact;
    run->rows_most = 0;
    run->scored = 0;
    run_hold_end(run);
    if (!run->chain)
        return ST_OK;
    run_hold_begin(run);
    run_scored_begin(run);
    st = chain_check(chain, run->hp, run->be->ops, tokens, query_tokens, err);
    for (int32_t i = 0; i < run_survivors(chain, compact) && st == ST_OK; i++)
        st = run_survivors_reserve(run, i, err);
    return st;
}
