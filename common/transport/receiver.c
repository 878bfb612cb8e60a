/* SPDX-License-Identifier: Apache-2.0 */
/*
 * receiver.c - one order's receiving end.
 *
 * A block goes MISSING -> PLACED -> ARRIVED. Between PLACED and ARRIVED `filled` counts the bytes that are in; a chunk is
 * taken only at exactly that offset, which is all the bookkeeping that "each byte exactly once" needs. The checksum is
 * added up right after each copy, while the bytes are still in the processor's cache.
 */
#include "common/transport/receiver.h"

#include "common/base/arena.h"
#include "common/kv/codec.h"
#include "common/kv/wire.h"
#include "common/rpc/rpc_chunk.h"
#include "common/rpc/rpc_message.h"
#include "common/transport/lease.h"
#include "common/transport/wire_block.h"
#include "proto/platen/internal/v1/prefill.pb-c.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

enum piece_state { PIECE_MISSING, PIECE_PLACED, PIECE_ARRIVED };

struct piece {
    enum piece_state state;
    uint64_t filled;
    uint64_t announced;   /* checksum */
    struct wire_sum *sum; /* while PLACED */
};

struct receiver {
    struct receiver_config config;
    enum lease_state lease;
    int32_t layers;  /* that Accepted promised */
    int32_t awaited; /* layer that comes beside the stream; -1: none */
    struct ticket ticket;
    int32_t arrived;
    uint64_t bytes;
    enum status failed;
    struct kv_block *blocks; /* [config.shape.layers] */
    struct piece *pieces;
    uint64_t *checksums;
};

struct receiver *receiver_open(const struct receiver_config *config)
{
    struct receiver *r = mem_zero(1, sizeof *r);
    const size_t layers = (size_t)config->shape.layers;

    assert(config->shape.layers > 0 && config->sink && config->sink->place);
    assert((config->transport != NULL) == (config->link != NULL));
    r->config = *config;
    r->lease = LEASE_ORDERED;
    r->layers = config->shape.layers;
    r->awaited = -1;
    r->blocks = mem_zero(layers, sizeof *r->blocks);
    r->pieces = mem_zero(layers, sizeof *r->pieces);
    r->checksums = mem_zero(layers, sizeof *r->checksums);
    return r;
}

void receiver_close(struct receiver *r)
{
    if (!r)
        return;
    for (int32_t l = 0; l < r->config.shape.layers; l++)
        wire_sum_close(r->pieces[l].sum);
    free(r->checksums);
    free(r->pieces);
    free(r->blocks);
    free(r);
}

static void piece_arrived(struct receiver *r, int32_t layer)
{
    const struct receiver_sink *sink = r->config.sink;

    r->pieces[layer].state = PIECE_ARRIVED;
    wire_sum_close(r->pieces[layer].sum);
    r->pieces[layer].sum = NULL;
    r->arrived++;
    if (sink->arrived)
        sink->arrived(sink->ctx, &r->blocks[layer]);
}

static enum status piece_prove(struct receiver *r, int32_t layer, uint64_t checksum, struct err *err)
{
    if (checksum != r->pieces[layer].announced)
        return err_set(err, ST_EDATALOSS, "ship: layer %d arrived damaged: checksum %016llx, announced %016llx", layer,
                       (unsigned long long)checksum, (unsigned long long)r->pieces[layer].announced);
    r->checksums[layer] = checksum;
    piece_arrived(r, layer);
    return ST_OK;
}

/* The block has its place: bytes may come. */
static enum status piece_placed(struct receiver *r, int32_t layer, void *place, struct err *err)
{
    const struct receiver_config *c = &r->config;
    struct piece *p = &r->pieces[layer];
    enum status st;

    r->blocks[layer].data = place;
    p->state = PIECE_PLACED;
    p->sum = wire_sum_open();
    if (r->blocks[layer].bytes == 0)
        return piece_prove(r, layer, wire_sum_value(p->sum), err);
    assert(place);
    if (!c->transport || !c->transport->recv)
        return ST_OK;
    r->awaited = layer;
    st = c->transport->recv(c->link, &r->blocks[layer], &r->ticket, err);
    return st == ST_OK && c->ready && !c->transport->pulls ? c->ready(c->sink->ctx, layer, &r->ticket) : st;
}

static enum status on_accepted(struct receiver *r, const Platen__Internal__V1__Accepted *msg, struct err *err)
{
    const struct receiver_sink *sink = r->config.sink;

    if (msg->layers < 1 || msg->layers > r->config.shape.layers)
        return err_set(err, ST_EDATALOSS, "order: the prefill node promises %d layers, the model has %d", msg->layers,
                       r->config.shape.layers);
    r->layers = msg->layers;
    return sink->accepted ? sink->accepted(sink->ctx, msg, err) : ST_OK;
}

static enum status on_block(struct receiver *r, const Platen__Internal__V1__Block *msg, struct err *err)
{
    const struct receiver_config *c = &r->config;
    struct kv_block block;
    struct piece *p;
    uint64_t checksum;
    void *place = NULL;
    enum status st;

    st = wire_block_read(&block, &checksum, msg, &c->shape, c->codec, c->rows_max, err);
    if (st != ST_OK)
        return st;
    if (block.layer >= r->layers || r->pieces[block.layer].state != PIECE_MISSING)
        return err_set(err, ST_EDATALOSS, "layer %d came twice or was not promised", block.layer);
    if (r->awaited >= 0)
        return err_set(err, ST_EDATALOSS, "layer %d was announced while layer %d was under way", block.layer,
                       r->awaited);
    if (msg->ticket.len > TICKET_BYTES_MAX)
        return err_set(err, ST_EDATALOSS, "layer %d comes with a ticket of %zu bytes", block.layer, msg->ticket.len);
    r->ticket.bytes = (uint32_t)msg->ticket.len;
    if (msg->ticket.len > 0)
        memcpy(r->ticket.data, msg->ticket.data, msg->ticket.len);
    p = &r->pieces[block.layer];
    r->blocks[block.layer] = block;
    p->announced = checksum;
    st = c->sink->place(c->sink->ctx, &r->blocks[block.layer], &place, err);
    return st == ST_OK ? piece_placed(r, block.layer, place, err) : st;
}

static enum status on_chunk(struct receiver *r, const Platen__Internal__V1__Chunk *msg, struct rpc_bulk data,
                            struct err *err)
{
    struct kv_block *b;
    struct piece *p;
    const int32_t layer = msg->layer;
    enum status st = lease_step(&r->lease, LEASE_CHUNK, err);

    if (st != ST_OK)
        return st;
    if (layer < 0 || layer >= r->layers || r->pieces[layer].state != PIECE_PLACED || r->config.transport)
        return err_set(err, ST_EDATALOSS, "bytes for layer %d, which wants none", layer);
    b = &r->blocks[layer];
    p = &r->pieces[layer];
    if (msg->offset != p->filled || data.bytes > b->bytes - p->filled)
        return err_set(err, ST_EDATALOSS, "layer %d: %zu bytes at %llu, expected at %llu of %llu", layer, data.bytes,
                       (unsigned long long)msg->offset, (unsigned long long)p->filled, (unsigned long long)b->bytes);
    while (data.bytes > 0) {
        uint8_t *to = (uint8_t *)b->data + p->filled;
        const size_t step = rpc_bulk_read(&data, to, data.bytes < CHUNK_BYTES ? data.bytes : CHUNK_BYTES);

        wire_sum_add(p->sum, to, step);
        p->filled += step;
        r->bytes += step;
    }
    return p->filled == b->bytes ? piece_prove(r, layer, wire_sum_value(p->sum), err) : ST_OK;
}

/* The checksums do not cover it, and an answer from another place than the keys' would be a wrong one. */
static enum status check_position(const struct receiver_config *c, int64_t position, struct err *err)
{
    if (c->position_max == 0 || (position >= c->position_min && position <= c->position_max))
        return ST_OK;
    return err_set(err, ST_EDATALOSS, "commit: next_position is %lld, %lld to %lld is possible", (long long)position,
                   (long long)c->position_min, (long long)c->position_max);
}

static enum status on_commit(struct receiver *r, const Platen__Internal__V1__Commit *msg, struct err *err)
{
    const struct receiver_sink *sink = r->config.sink;
    uint64_t rows = 0, bytes = 0;
    enum status st;

    if (msg->layers != r->layers || r->arrived != r->layers)
        return err_set(err, ST_EDATALOSS, "commit: %d of %d layers arrived, %d were sent", r->arrived, r->layers,
                       msg->layers);
    for (int32_t l = 0; l < r->layers; l++) {
        rows += (uint64_t)kv_block_rows(&r->blocks[l]);
        bytes += r->blocks[l].bytes;
    }
    if (msg->rows != rows || msg->bytes != bytes)
        return err_set(err, ST_EDATALOSS, "commit: %llu rows and %llu bytes arrived, %llu and %llu were sent",
                       (unsigned long long)rows, (unsigned long long)bytes, (unsigned long long)msg->rows,
                       (unsigned long long)msg->bytes);
    if (msg->checksum != wire_checksum_layers(r->checksums, (size_t)r->layers))
        return err_set(err, ST_EDATALOSS, "commit: the checksum over all layers differs");
    st = check_position(&r->config, msg->next_position, err);
    if (st == ST_OK && sink->committed)
        sink->committed(sink->ctx, msg);
    return st;
}

static enum status on_message(struct receiver *r, const Platen__Internal__V1__FromPrefill *m, struct err *err)
{
    const struct receiver_sink *sink = r->config.sink;
    enum status st;

    switch (m->kind_case) {
    case PLATEN__INTERNAL__V1__FROM_PREFILL__KIND_ACCEPTED:
        st = lease_step(&r->lease, LEASE_ACCEPTED, err);
        return st == ST_OK ? on_accepted(r, m->accepted, err) : st;
    case PLATEN__INTERNAL__V1__FROM_PREFILL__KIND_BEAT:
        st = lease_step(&r->lease, LEASE_BEAT, err);
        if (st == ST_OK && sink->beat)
            sink->beat(sink->ctx, m->beat);
        return st;
    case PLATEN__INTERNAL__V1__FROM_PREFILL__KIND_BLOCK:
        st = lease_step(&r->lease, LEASE_BLOCK, err);
        return st == ST_OK ? on_block(r, m->block, err) : st;
    case PLATEN__INTERNAL__V1__FROM_PREFILL__KIND_COMMIT:
        st = lease_step(&r->lease, LEASE_COMMIT, err);
        return st == ST_OK ? on_commit(r, m->commit, err) : st;
    default:
        return ST_OK; /* a message of a later minor version */
    }
}

/* Messages that are wrong in themselves come from a peer that was accepted: to whoever asked, that is damage. */
static enum status blame(enum status st, struct err *err)
{
    if (st != ST_EINVAL)
        return st;
    if (err)
        err->code = ST_EDATALOSS;
    return ST_EDATALOSS;
}

/* The first failure stays the receiver's answer. */
static enum status settle(struct receiver *r, enum status st)
{
    if (st < 0)
        r->failed = st;
    return st;
}

/* A Chunk is read where it lies; everything else is small and unpacked. */
static enum status take(struct receiver *r, const struct rpc_buffer *buffer, struct err *err)
{
    ProtobufCMessage *msg = NULL;
    struct rpc_bulk data;
    enum status st = rpc_chunk_split(buffer, &wire_chunk, &msg, &data, err);

    if (st == ST_OK && msg) {
        st = on_chunk(r, (const Platen__Internal__V1__Chunk *)msg, data, err);
        goto out;
    }
    if (st == ST_OK)
        st = rpc_buffer_unpack(buffer, &platen__internal__v1__from_prefill__descriptor, false, &msg, err);
    if (st == ST_OK)
        st = on_message(r, (const Platen__Internal__V1__FromPrefill *)msg, err);
out:
    rpc_message_free(msg);
    return st;
}

enum status receiver_message(struct receiver *r, struct rpc_buffer *buffer, struct err *err)
{
    enum status st = r->failed;

    if (st == ST_OK)
        st = settle(r, blame(take(r, buffer, err), err));
    else
        err_set(err, st, "the order failed before");
    rpc_buffer_free(buffer);
    return st;
}

void receiver_use(struct receiver *r, const struct transport *transport, struct link *link,
                  enum status (*ready)(void *ctx, int32_t layer, const struct ticket *ticket))
{
    assert(r->arrived == 0 && !r->config.transport && transport->recv && link);
    r->config.transport = transport;
    r->config.link = link;
    r->config.ready = ready;
}

int32_t receiver_awaits(const struct receiver *r)
{
    return r->awaited;
}

enum status receiver_taken(struct receiver *r, struct err *err)
{
    const struct receiver_config *c = &r->config;
    enum status st;

    if (!c->transport->pulls || !c->ready)
        return ST_OK;
    st = c->ready(c->sink->ctx, r->awaited, &(struct ticket){ 0 });
    return st < 0 ? err_set(err, st, "the stream ended before layer %d was acknowledged", r->awaited) : ST_OK;
}

enum status receiver_filled(struct receiver *r, int32_t layer, uint64_t checksum, struct err *err)
{
    assert(layer >= 0 && layer < r->layers && r->pieces[layer].state == PIECE_PLACED);
    r->awaited = -1;
    r->bytes += r->blocks[layer].bytes;
    r->pieces[layer].filled = r->blocks[layer].bytes;
    return settle(r, piece_prove(r, layer, checksum, err));
}

const struct kv_block *receiver_blocks(const struct receiver *r)
{
    return r->blocks;
}

int32_t receiver_layers(const struct receiver *r)
{
    return r->arrived;
}

uint64_t receiver_bytes(const struct receiver *r)
{
    return r->bytes;
}
