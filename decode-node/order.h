/* SPDX-License-Identifier: Apache-2.0 */
/*
 * order.h - one context ordered from the prefill nodes: picked, sent, received, tried again elsewhere when it is lost.
 *
 *             start ─▶ reserve blocks ─▶ pick ─▶ stream ─▶ blocks arrive ─▶ commit ─▶ done(ST_OK)
 *                          │              ▲         │ lost
 *                          ▼              └─────────┴─▶ at most ORDER_ATTEMPTS in all ─▶ done(why)
 *                        compact (engine thread), then on
 *
 * Counted: the opener holds one count, the order itself one from order_begin until done() has returned.
 */
#ifndef PLATEN_DECODE_ORDER_H
#define PLATEN_DECODE_ORDER_H

#include "common/base/status.h"
#include "common/kv/layout.h"
#include "common/model/tokenizer.h"
#include "decode-node/context.h"

#include <stdbool.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

struct chain;
struct node;
struct order;
struct orders;

enum { ORDER_ATTEMPTS = 3, ORDER_PARK_MS = 3000, ORDER_SILENCE_MS = 25000 };

/* Everything borrowed until done() has returned. */
struct order_spec {
    const char *request_id;
    const struct token_list *tokens; /* context, then query */
    int64_t query_tokens;
    const struct chain *chain;
    enum kv_codec codec;
    bool compact;
    int64_t deadline_ns;
    int64_t prefix_tokens;           /* template tokens before the user's text */
    const struct token_list *suffix; /* template tokens after it; NULL: none */
    struct context *context;         /* blocks and figures are written into it */

    /* Layers that have arrived; on an rpc thread. */
    void (*progress)(void *ctx, int32_t layers);
    /* Exactly once after order_begin, and the last thing that happens; on any thread, perhaps inside order_begin.
     * retry_ms -1: no advice. */
    void (*done)(void *ctx, const struct err *err, int64_t retry_ms);
    void *ctx;
};

/* An order that has not begun: the caller's count only. Never fails. */
struct order *order_open(struct node *node, const struct order_spec *spec);

/* Begins it. Failures come through done, perhaps before this returns. Does not wait. */
void order_begin(struct order *o);
void order_cancel(struct order *o); /* any thread; done comes with ST_ECANCELLED unless it came already */
void order_unref(struct order *o);

/* What a prefill node compares with itself before it works for this one. Borrows from the node. */
struct Platen__Internal__V1__Identity;
void order_identity(struct Platen__Internal__V1__Identity *id, const struct node *n);

/* The orders of a node: those that wait for a prefill node, and those under way. */
struct orders *orders_open(void);
void orders_close(struct orders *all);
/* Tries again for those that wait; gives up on silent streams and on those that waited too long. Watching thread. */
void orders_tick(struct orders *all);

#ifdef __cplusplus
}
#endif
#endif
