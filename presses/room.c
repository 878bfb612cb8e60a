/* SPDX-License-Identifier: Apache-2.0 */
/*
 * room.c - what a run takes for one context besides what it was opened with, told before anything is done.
 *
 * A bound, not a sum: hooks ask for scratch as they go, and none of them asks for more than a packed copy of its rows, their
 * queries and hidden states, and a few numbers per row and head. tests/contract holds every press against it.
 */
#include "presses/run_parts.h"

enum {
    NUMBERS_PER_HEAD = 4, /* per row and head: indices, maps, scores, norms */
    PIECE_ROWS = 64,      /* what is made again in pieces */
    GATE_ROWS = 512,      /* what a learned network sees at once */
    GATE_WIDTH = 1024     /* its channels, at most */
};

/* One per further round, and one for an edit that wants rotated keys. */
int32_t run_survivors(const struct chain *chain, bool compact)
{
    const struct chain_part *part = &chain->prefill;
    int32_t wanted = part->round_count - 1;

    for (int32_t i = 0; i < part->stage_count; i++)
        wanted += part->stages[i].press->edits_keys && (compact || chain_rerotates(chain));
    return wanted < 2 ? wanted : 2;
}

/* K and V of one layer. */
static uint64_t layer_bytes(const struct backend *be, const struct hparams *hp, int64_t rows)
{
    return 2 * kv_align(dtype_bytes(be->kv, (uint64_t)rows * (uint64_t)hp->kv_heads * (uint64_t)hp->head_dim));
}

static uint64_t scratch_bytes(const struct backend *be, const struct hparams *hp, int64_t rows)
{
    const uint64_t q_width = (uint64_t)hp->q_heads * (uint64_t)hp->head_dim, dim = (uint64_t)hp->dim;
    const uint64_t heads = (uint64_t)hp->q_heads + (uint64_t)hp->kv_heads;
    const uint64_t row = dtype_bytes(be->act, 2 * q_width + dim) + NUMBERS_PER_HEAD * heads * sizeof(float);
    const uint64_t statistics = 2 * q_width * ((uint64_t)hp->head_dim + 1) * sizeof(float);
    const uint64_t piece = PIECE_ROWS * (6 * q_width + dim) * sizeof(float);

    return 2 * layer_bytes(be, hp, rows) + (uint64_t)rows * row + statistics + piece;
}

/* Parameters of learned networks, and what goes through them. */
static uint64_t gate_bytes(const struct chain *chain, const struct hparams *hp)
{
    for (int32_t i = 0; i < chain->prefill.stage_count; i++)
        if (chain->prefill.stages[i].file)
            return 2 * (uint64_t)GATE_WIDTH * (GATE_ROWS + (uint64_t)hp->dim) * sizeof(float);
    return 0;
}

/* The scores of all layers, their copy to be sorted, and one more of a layer's mean. */
static uint64_t held_bytes(const struct hparams *hp, int64_t tokens)
{
    return 3 * (uint64_t)hp->layers * (uint64_t)hp->kv_heads * (uint64_t)tokens * sizeof(float);
}

uint64_t press_run_bytes(const struct chain *chain, const struct backend *be, const struct hparams *hp, int64_t tokens,
                         int64_t feed, bool compact)
{
    const int64_t spare = feed > 0 && !be->ops->host_is_device ? HELD_STRIDE : 0;
    struct chain_needs needs;
    uint64_t bytes;

    if (!chain_presses_prefill(chain))
        return 0;
    chain_needs_of(chain, 0, false, &needs);
    bytes = scratch_bytes(be, hp, tokens + feed + spare) + gate_bytes(chain, hp);
    bytes += (uint64_t)run_survivors(chain, compact) * layer_bytes(be, hp, tokens);
    if (needs.all_layers && be->ops->host_is_device)
        bytes += held_bytes(hp, tokens);
    return bytes;
}
