/* SPDX-License-Identifier: Apache-2.0 */
/* room.c - the bytes of a context besides what is open, and whether they are there. */
#include "prefill-node/room.h"

#include <inttypes.h>

/* What the fed tokens of a second pass stand on; tokens of the longest feed. */
static int64_t feed_tokens(const struct room_ask *ask, int64_t tokens)
{
    struct press_prompt prompt = *ask->prompt;

    prompt.tokens = tokens;
    return ask->needs->second_pass ? press_feed_max(ask->chain, &prompt) : 0;
}

/* Of one layer, by the context and by a feed in turn. */
static uint64_t kept_bytes(const struct room_ask *ask, int64_t tokens, int64_t feed)
{
    uint64_t context[PREFILL_KEPT], fed[PREFILL_KEPT] = { 0 }, sum = 0;
    struct chain_needs needs;

    prefill_kept_bytes(ask->prefill, ask->needs, tokens, 0, context);
    if (feed > 0) {
        press_feed_needs(ask->chain, &needs);
        prefill_kept_bytes(ask->prefill, &needs, feed, tokens, fed);
    }
    for (int i = 0; i < PREFILL_KEPT; i++)
        sum += context[i] > fed[i] ? context[i] : fed[i];
    return sum;
}

/* Every layer's K, V with the fed rows behind them, and its last queries. */
static uint64_t held_bytes(const struct room_ask *ask, int64_t tokens, int64_t feed)
{
    const struct chain_needs tail = { .q_tail = ask->needs->q_tail };
    uint64_t kept[PREFILL_KEPT], sum = prefill_kv_bytes(ask->prefill, prefill_held_rows(ask->prefill, tokens + feed));

    prefill_kept_bytes(ask->prefill, &tail, tokens, 0, kept);
    for (int i = 0; i < PREFILL_KEPT; i++)
        sum += kept[i];
    return (uint64_t)ask->hp->layers * sum + prefill_x_bytes(ask->prefill, feed);
}

uint64_t room_bytes(const struct room_ask *ask, int64_t tokens)
{
    int64_t feed;
    uint64_t kept;

    if (!ask->chain)
        return 0;
    feed = feed_tokens(ask, tokens);
    kept = kept_bytes(ask, tokens, feed);
    if (ask->needs->all_layers)
        kept += held_bytes(ask, tokens, feed);
    else
        kept *= (uint64_t)prefill_layers_kept(ask->prefill);
    return kept + press_run_bytes(ask->chain, ask->be, ask->hp, tokens, feed, ask->compact);
}

uint64_t room_left(struct backend *be)
{
    struct device_bytes b;
    uint64_t used;

    be->ops->device_bytes(be, &b);
    used = b.weights + b.activations + b.blocks + b.tails + b.other;
    return used < b.capacity ? b.capacity - used : 0;
}

/* The longest context that fits; more tokens never take less. */
static int64_t tokens_that_fit(const struct room_ask *ask, uint64_t room)
{
    int64_t fits = 0, too_many = ask->tokens;

    while (too_many - fits > 1) {
        int64_t tokens = fits + (too_many - fits) / 2;

        if (room_bytes(ask, tokens) <= room)
            fits = tokens;
        else
            too_many = tokens;
    }
    return fits;
}

static enum status refuse(const struct room_ask *ask, uint64_t bytes, uint64_t room, struct err *err)
{
    const int64_t fits = tokens_that_fit(ask, room);

    if (ask->needs->all_layers)
        return err_set(err, ST_ERANGE,
                       "%s holds all %d layers of the context at once: %" PRId64 " tokens need %" PRIu64
                       " bytes, there are %" PRIu64 "; %" PRId64 " tokens would fit",
                       press_holder(ask->chain), ask->hp->layers, ask->tokens, bytes, room, fits);
    return err_set(err, ST_ERANGE,
                   "what the press looks at besides a layer's rows needs %" PRIu64 " bytes for %" PRId64
                   " tokens, there are %" PRIu64 "; %" PRId64 " tokens would fit",
                   bytes, ask->tokens, room, fits);
}

enum status room_admit(const struct room_ask *ask, uint64_t room, uint64_t *bytes, struct err *err)
{
    const int64_t feed = ask->chain ? feed_tokens(ask, ask->tokens) : 0;

    *bytes = room_bytes(ask, ask->tokens);
    if (ask->tokens + feed > prefill_positions(ask->prefill))
        return err_set(err, ST_ERANGE,
                       "%s feeds %" PRId64 " tokens after a context of %" PRId64 ", past position %" PRId64,
                       press_holder(ask->chain), feed, ask->tokens, prefill_positions(ask->prefill));
    return *bytes <= room ? ST_OK : refuse(ask, *bytes, room, err);
}
