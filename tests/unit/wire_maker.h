/* SPDX-License-Identifier: Apache-2.0 */
/* wire_maker.h - blocks with known bytes, messages of the prefill node as the wire has them, and a sink that remembers. */
#ifndef PLATEN_TESTS_WIRE_MAKER_H
#define PLATEN_TESTS_WIRE_MAKER_H

#include "common/kv/block.h"
#include "common/rpc/rpc_chunk.h"
#include "common/transport/receiver.h"
#include "proto/platen/internal/v1/prefill.pb-c.h"

#include <stdbool.h>

enum { MAKER_LAYERS = 4, MAKER_ROWS = 500 };

/* Of every block here: 4 layers, 2 heads of 16, f32. */
extern const struct kv_shape maker_shape;

/* A planned block with bytes that depend on layer and place; free(b.data). Rows of the two heads. */
struct kv_block maker_block(int32_t layer, uint32_t rows0, uint32_t rows1);

/* One message as a buffer of its own. */
struct rpc_buffer *maker_message(const Platen__Internal__V1__FromPrefill *msg);
struct rpc_buffer *maker_accepted(int32_t layers);
struct rpc_buffer *maker_announce(const struct kv_block *b);
struct rpc_buffer *maker_chunk(int32_t layer, uint64_t offset, const void *data, size_t bytes);

/* The Commit of these blocks, all of them right, after which generation goes on at MAKER_ROWS; or at `position`. */
struct rpc_buffer *maker_commit(const struct kv_block *blocks, int32_t layers);
struct rpc_buffer *maker_commit_at(const struct kv_block *blocks, int32_t layers, int64_t position);

/* A receiver and what it told. */
struct catcher {
    struct receiver *receiver;
    struct receiver_sink sink;
    void *place[MAKER_LAYERS];
    int32_t accepted, beats, arrived, committed, placed;
    enum status refuse;
    struct err err;
};

void catcher_open(struct catcher *c);
void catcher_close(struct catcher *c);

/* receiver_message with the catcher's err. */
enum status catcher_take(struct catcher *c, struct rpc_buffer *buffer);

/* Whether layer `b->layer` of the catcher holds b's bytes. */
bool catcher_has(const struct catcher *c, const struct kv_block *b);

#endif
