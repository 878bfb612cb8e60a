/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/unit/wire_maker.h"

#include "common/base/arena.h"
#include "common/kv/wire.h"
#include "common/transport/wire_block.h"

#include <stdlib.h>
#include <string.h>

const struct kv_shape maker_shape = { .layers = MAKER_LAYERS, .heads = 2, .dim = 16, .dtype = DT_F32 };

struct kv_block maker_block(int32_t layer, uint32_t rows0, uint32_t rows1)
{
    const uint32_t rows[] = { rows0, rows1 };
    struct kv_block b = { .layer = layer, .dim = 16, .k_dim = 16, .dtype = DT_F32 };

    kv_block_set_rows(&b, rows, 2, NULL);
    kv_block_plan(&b, NULL);
    b.data = mem_aligned(b.bytes + 64);
    for (uint64_t i = 0; i < b.bytes; i++)
        ((uint8_t *)b.data)[i] = (uint8_t)(i * 7 + (uint64_t)layer * 13 + i / 251);
    return b;
}

struct rpc_buffer *maker_message(const Platen__Internal__V1__FromPrefill *msg)
{
    const size_t bytes = protobuf_c_message_get_packed_size(&msg->base);
    uint8_t *packed = mem_alloc(bytes + 1);
    struct rpc_buffer *buffer;

    protobuf_c_message_pack(&msg->base, packed);
    buffer = rpc_buffer_copy(packed, bytes);
    free(packed);
    return buffer;
}

struct rpc_buffer *maker_accepted(int32_t layers)
{
    Platen__Internal__V1__FromPrefill msg = PLATEN__INTERNAL__V1__FROM_PREFILL__INIT;
    Platen__Internal__V1__Accepted accepted = PLATEN__INTERNAL__V1__ACCEPTED__INIT;

    accepted.layers = layers;
    msg.kind_case = PLATEN__INTERNAL__V1__FROM_PREFILL__KIND_ACCEPTED;
    msg.accepted = &accepted;
    return maker_message(&msg);
}

struct rpc_buffer *maker_announce(const struct kv_block *b)
{
    Platen__Internal__V1__FromPrefill msg = PLATEN__INTERNAL__V1__FROM_PREFILL__INIT;
    Platen__Internal__V1__Block block;
    uint32_t rows[KV_HEADS_MAX];

    wire_block_write(&block, rows, b, wire_checksum(b->data, b->bytes));
    msg.kind_case = PLATEN__INTERNAL__V1__FROM_PREFILL__KIND_BLOCK;
    msg.block = &block;
    return maker_message(&msg);
}

struct rpc_buffer *maker_chunk(int32_t layer, uint64_t offset, const void *data, size_t bytes)
{
    Platen__Internal__V1__FromPrefill msg = PLATEN__INTERNAL__V1__FROM_PREFILL__INIT;
    Platen__Internal__V1__Chunk chunk = PLATEN__INTERNAL__V1__CHUNK__INIT;

    chunk.layer = layer;
    chunk.offset = offset;
    chunk.data.data = (uint8_t *)data;
    chunk.data.len = bytes;
    msg.chunk = &chunk;
    return maker_message(&msg);
}

struct rpc_buffer *maker_commit(const struct kv_block *blocks, int32_t layers)
{
    return maker_commit_at(blocks, layers, MAKER_ROWS);
}

struct rpc_buffer *maker_commit_at(const struct kv_block *blocks, int32_t layers, int64_t position)
{
    Platen__Internal__V1__FromPrefill msg = PLATEN__INTERNAL__V1__FROM_PREFILL__INIT;
    Platen__Internal__V1__Commit commit = PLATEN__INTERNAL__V1__COMMIT__INIT;
    uint64_t sums[MAKER_LAYERS];

    commit.layers = layers;
    commit.next_position = position;
    for (int32_t l = 0; l < layers; l++) {
        commit.rows += (uint64_t)kv_block_rows(&blocks[l]);
        commit.bytes += blocks[l].bytes;
        sums[l] = wire_checksum(blocks[l].data, blocks[l].bytes);
    }
    commit.checksum = wire_checksum_layers(sums, (size_t)layers);
    msg.kind_case = PLATEN__INTERNAL__V1__FROM_PREFILL__KIND_COMMIT;
    msg.commit = &commit;
    return maker_message(&msg);
}

static enum status on_accepted(void *ctx, const Platen__Internal__V1__Accepted *msg, struct err *err)
{
    struct catcher *c = ctx;

    (void)msg;
    (void)err;
    c->accepted++;
    return ST_OK;
}

static void on_beat(void *ctx, const Platen__Internal__V1__Beat *msg)
{
    struct catcher *c = ctx;

    (void)msg;
    c->beats++;
}

static enum status on_place(void *ctx, const struct kv_block *plan, void **place, struct err *err)
{
    struct catcher *c = ctx;

    c->placed++;
    if (c->refuse != ST_OK)
        return err_set(err, c->refuse, "no room here");
    if (!c->place[plan->layer])
        c->place[plan->layer] = mem_aligned(plan->bytes + 64);
    memset(c->place[plan->layer], 0xee, plan->bytes);
    *place = c->place[plan->layer];
    return ST_OK;
}

static void on_arrived(void *ctx, const struct kv_block *block)
{
    struct catcher *c = ctx;

    (void)block;
    c->arrived++;
}

static void on_committed(void *ctx, const Platen__Internal__V1__Commit *msg)
{
    struct catcher *c = ctx;

    (void)msg;
    c->committed++;
}

void catcher_open(struct catcher *c)
{
    struct receiver_config config = { .shape = maker_shape,
                                      .codec = KV_PLAIN,
                                      .rows_max = MAKER_ROWS,
                                      .position_min = MAKER_ROWS - 20,
                                      .position_max = MAKER_ROWS };

    *c = (struct catcher){ .sink = { .ctx = c,
                                     .accepted = on_accepted,
                                     .beat = on_beat,
                                     .place = on_place,
                                     .arrived = on_arrived,
                                     .committed = on_committed } };
    config.sink = &c->sink;
    c->receiver = receiver_open(&config);
}

void catcher_close(struct catcher *c)
{
    receiver_close(c->receiver);
    for (int i = 0; i < MAKER_LAYERS; i++)
        free(c->place[i]);
}

enum status catcher_take(struct catcher *c, struct rpc_buffer *buffer)
{
    return receiver_message(c->receiver, buffer, &c->err);
}

bool catcher_has(const struct catcher *c, const struct kv_block *b)
{
    return c->place[b->layer] && memcmp(c->place[b->layer], b->data, b->bytes) == 0;
}
