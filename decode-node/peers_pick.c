/* SPDX-License-Identifier: Apache-2.0 */
/*
 * peers_pick.c - which prefill node is asked next, and whether there is one.
 *
 *   listed, answering ─▶ link fast enough, not tried by this order ─▶ the least work
 *                        (else those that are not)
 *
 * Work is what a node reported last and what was sent to it since.
 */
#include "decode-node/peers_inside.h"

#include "common/base/clock.h"

#include <stdio.h>
#include <string.h>

enum { MEASURE_AGAIN_S = 30 };

/* Below the operator's floor, or not measured yet. */
static bool is_slow(const struct peer *x)
{
    return x->owner->cfg.floor_gb_s > 0 && x->gb_s < x->owner->cfg.floor_gb_s;
}

int32_t peers_alive_now(const struct peers *p)
{
    int32_t alive = 0;

    for (const struct peer *x = p->first; x; x = x->next)
        alive += x->listed && x->alive && !is_slow(x);
    return alive;
}

static bool was_tried(const struct peer *x, const char (*tried)[PEER_ADDRESS_MAX], int32_t count)
{
    for (int32_t i = 0; i < count; i++)
        if (strcmp(x->address, tried[i]) == 0)
            return true;
    return false;
}

/* Untried before tried, then less work before more. */
static bool better(const struct peer *x, bool x_tried, const struct peer *best, bool best_tried)
{
    if (best == NULL || x_tried != best_tried)
        return best == NULL || best_tried;
    return x->reported + x->assigned < best->reported + best->assigned;
}

enum status peers_pick(struct peers *p, int64_t tokens, const char (*tried)[PEER_ADDRESS_MAX], int32_t tried_count,
                       struct peer **out, struct err *err)
{
    struct peer *best = NULL, *silent = NULL;
    bool best_tried = false;

    pthread_mutex_lock(&p->lock);
    for (struct peer *x = p->first; x; x = x->next) {
        bool x_tried = was_tried(x, tried, tried_count) || is_slow(x); /* only where there is no other */
        if (!x->listed || !x->alive) {
            silent = x;
            continue;
        }
        if (better(x, x_tried, best, best_tried)) {
            best = x;
            best_tried = x_tried;
        }
    }
    if (best)
        best->assigned += tokens;
    else if (silent)
        err_set(err, ST_EUNAVAILABLE, "order: no prefill node answers (%s: %s)", silent->address, silent->why);
    else
        err_set(err, ST_EUNAVAILABLE, "order: no prefill node is known yet%s%s", p->unknown[0] ? ": " : "", p->unknown);
    pthread_mutex_unlock(&p->lock);
    if (best == NULL)
        return ST_EUNAVAILABLE;
    *out = best;
    return ST_OK;
}

void peer_give_back(struct peer *peer, int64_t tokens)
{
    pthread_mutex_lock(&peer->owner->lock);
    peer->assigned -= tokens;
    pthread_mutex_unlock(&peer->owner->lock);
}

const char *peer_address(const struct peer *peer)
{
    return peer->address;
}

struct rpc_channel *peer_channel(struct peer *peer)
{
    const uint32_t channels = (uint32_t)peer->owner->cfg.channels;

    if (channels <= 1)
        return peer->channel;
    return peer->orders[__atomic_fetch_add(&peer->turn, 1, __ATOMIC_RELAXED) % channels];
}

bool peers_unmeasured(struct peers *p, struct peer **out)
{
    const int64_t now = clock_now_ns();
    struct peer *found = NULL;

    pthread_mutex_lock(&p->lock);
    for (struct peer *x = p->first; x && !found; x = x->next) {
        const bool slow = x->gb_s < p->cfg.floor_gb_s && now - x->measured_ns > MEASURE_AGAIN_S * NS_PER_S;

        if (x->listed && x->alive && (x->measured_ns == 0 || slow))
            found = x;
    }
    pthread_mutex_unlock(&p->lock);
    *out = found;
    return found != NULL;
}

void peer_measured(struct peer *peer, double gb_s)
{
    struct peers *p = peer->owner;
    int32_t before, after;

    pthread_mutex_lock(&p->lock);
    before = peers_alive_now(p);
    peer->gb_s = gb_s;
    peer->measured_ns = clock_now_ns();
    after = peers_alive_now(p);
    pthread_mutex_unlock(&p->lock);
    if (after != before)
        p->cfg.changed(p->cfg.ctx, after);
}

void peers_why_none(struct peers *p, char out[PEERS_WHY_MAX])
{
    pthread_mutex_lock(&p->lock);
    snprintf(out, PEERS_WHY_MAX, "no prefill node is known yet%s%s", p->unknown[0] ? ": " : "", p->unknown);
    for (const struct peer *x = p->first; x; x = x->next) {
        if (x->listed && !x->alive)
            snprintf(out, PEERS_WHY_MAX, "prefill node %s does not answer: %s", x->address, x->why);
    }
    for (const struct peer *x = p->first; x; x = x->next) { /* one that answers says more */
        if (x->listed && x->alive && is_slow(x))
            snprintf(out, PEERS_WHY_MAX, "the link to prefill node %s %s %.3f GB/s, the floor is %.3f", x->address,
                     x->measured_ns > 0 ? "moves" : "is not measured yet:", x->gb_s, p->cfg.floor_gb_s);
    }
    if (peers_alive_now(p) > 0)
        out[0] = 0;
    pthread_mutex_unlock(&p->lock);
}

int32_t peers_alive(struct peers *p)
{
    int32_t alive;

    pthread_mutex_lock(&p->lock);
    alive = peers_alive_now(p);
    pthread_mutex_unlock(&p->lock);
    return alive;
}
