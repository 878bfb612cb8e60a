/* SPDX-License-Identifier: Apache-2.0 */
/*
 * context.h - a pressed context on this node, and the table of those that are kept.
 *
 * Counted: the request that made it, every running answer, and (after Contexts.Create) the table hold one count each.
 * When the last is gone its blocks go back. After commit a context never changes, except that compaction moves it.
 */
#ifndef PLATEN_DECODE_CONTEXT_H
#define PLATEN_DECODE_CONTEXT_H

#include "common/base/status.h"
#include "common/kv/layout.h"
#include "decode-node/blocks.h"
#include "proto/platen/v1/inference.pb-c.h"

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

enum { HANDLE_CHARS = 32, PRESS_TEXT_MAX = 1024, NODE_NAME_MAX = 300, TRANSPORT_MAX = 32, NOTE_MAX = 256 };

/* Times of the stages, milliseconds; the reply's StageTimes. */
struct stage_ms {
    double tokenize, order, queue, forward, press, pack, ship, adopt;
};

struct figures {
    char press[PRESS_TEXT_MAX];
    int64_t context_tokens, truncated_tokens, dropped_bytes;
    int64_t dense_bytes, kept_bytes, wire_bytes;
    int64_t rows_min, rows_max;
    double rows_mean;
    char transport[TRANSPORT_MAX], transport_note[NOTE_MAX];
    char prefill_node[NODE_NAME_MAX];
    bool held_layers;
    int32_t attempts;
    const char *codec; /* static */
    struct stage_ms ms;
};

struct chain;

struct context {
    struct chain *chain; /* how it is pressed; the context's. NULL: keep everything */
    struct blocks *arena;
    struct extent *extent; /* NULL until reserved */
    int32_t layers;
    struct kv_block *block; /* [layers]; data point into the extent */
    int64_t next_position;  /* where a question's first token stands */
    size_t hashes;          /* '#' characters the template's split takes from the context (chat.h) */
    struct figures figures;
    int32_t refs; /* atomic */
};

/* A context without blocks, one count held by the caller. */
struct context *context_open(struct blocks *arena, int32_t layers);
void context_ref(struct context *c);
void context_unref(struct context *c); /* any thread; NULL is fine */
int32_t context_refs(const struct context *c);

/* Adds `by` to every block's address after a move. Engine thread. */
void context_moved(struct context *c, int64_t by);

/* ---- kept contexts ---------------------------------------------------------------------------------------- */
struct contexts;

struct contexts *contexts_open(int32_t limit);
void contexts_close(struct contexts *t); /* NULL is fine */

/* Keeps `c` (takes a count) for ttl_s seconds after its last use; writes its handle. ST_EEXHAUSTED: `limit` are kept. */
enum status contexts_keep(struct contexts *t, struct context *c, int64_t ttl_s, char handle[HANDLE_CHARS + 1],
                          struct err *err);

/* Finds and counts: the caller unrefs. renew: its time to live begins anew. ttl_left_s may be NULL. ST_ENOTFOUND. */
enum status contexts_find(struct contexts *t, const char *handle, bool renew, struct context **out, int64_t *ttl_left_s,
                          struct err *err);
enum status contexts_drop(struct contexts *t, const char *handle, struct err *err);

/* Drops what has outlived its time. Called about once a second. */
void contexts_expire(struct contexts *t);
int32_t contexts_count(struct contexts *t);

#ifdef __cplusplus
}
#endif
#endif
