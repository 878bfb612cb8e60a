/* SPDX-License-Identifier: Apache-2.0 */
/*
 * shipper.c - stop 8 of 12: one order's sending end.      before: prefill-node/handoff.c   after: receiver.c
 *
 * The totals of the Commit are added up from what truly left, never from what was meant to leave.
 */
#include "common/transport/shipper.h"

#include "common/base/arena.h"
#include "common/kv/wire.h"
#include "common/transport/wire_block.h"
#include "proto/platen/internal/v1/prefill.pb-c.h"

#include <assert.h>
#include <stdlib.h>

enum ship_state { SHIP_IDLE, SHIP_ANNOUNCE, SHIP_WAIT, SHIP_MOVE };

struct shipper {
    struct shipper_config config;
    struct link *link;
    enum ship_state state;
    const struct kv_block *block; /* not IDLE; borrowed */
    uint64_t checksum;
    int32_t ready;        /* layer + 1 that the peer is ready for */
    struct ticket ticket; /* of that Ready */
    int32_t layers;
    uint64_t rows, bytes;
    uint64_t *checksums; /* [config.layers] */
};

enum status shipper_open(struct shipper **out, const struct shipper_config *config, struct err *err)
{
    struct shipper *s = mem_zero(1, sizeof *s);
    enum status st;

    assert(config->layers > 0 && config->say);
    s->config = *config;
    s->checksums = mem_zero((size_t)config->layers, sizeof *s->checksums);
    s->link = config->made;
    st = s->link ? ST_OK : config->transport->connect(&s->link, &config->link, err);
    if (st != ST_OK) {
        shipper_close(s);
        return st;
    }
    *out = s;
    return ST_OK;
}

static bool peer_is_ready(const struct shipper *s)
{
    return s->ready == s->block->layer + 1;
}

void shipper_doubt(struct shipper *s)
{
    if (s && s->config.transport->doubt)
        s->config.transport->doubt(s->link);
}

void shipper_close(struct shipper *s)
{
    if (!s)
        return;
    if (s->state == SHIP_WAIT && s->config.transport->send && s->block->bytes > 0 && peer_is_ready(s))
        s->config.transport->send(s->link, s->block, &s->ticket, NULL);
    s->config.transport->close(s->link);
    free(s->checksums);
    free(s);
}

void shipper_block(struct shipper *s, const struct kv_block *block, uint64_t checksum)
{
    assert(s->state == SHIP_IDLE && block->layer >= 0 && block->layer < s->config.layers);
    s->block = block;
    s->checksum = checksum;
    s->state = SHIP_ANNOUNCE;
}

void shipper_ready(struct shipper *s, int32_t layer, const struct ticket *ticket)
{
    s->ready = layer + 1;
    s->ticket = ticket ? *ticket : (struct ticket){ 0 };
}

static enum status ship_announce(struct shipper *s, struct err *err)
{
    Platen__Internal__V1__FromPrefill msg = PLATEN__INTERNAL__V1__FROM_PREFILL__INIT;
    const struct transport *t = s->config.transport;
    Platen__Internal__V1__Block block;
    uint32_t rows[KV_HEADS_MAX];
    struct ticket ticket = { 0 };
    enum status st = ST_OK;

    if (t->pulls && s->block->bytes > 0)
        st = t->lend(s->link, s->block, &ticket, err);
    if (st != ST_OK)
        return st;
    wire_block_write(&block, rows, s->block, s->checksum);
    block.ticket.data = ticket.data;
    block.ticket.len = ticket.bytes;
    msg.kind_case = PLATEN__INTERNAL__V1__FROM_PREFILL__KIND_BLOCK;
    msg.block = &block;
    st = s->config.say(s->config.ctx, &msg);
    if (st == ST_OK)
        s->state = SHIP_WAIT;
    else if (st != ST_AGAIN)
        err_set(err, st, "layer %d could not be announced", s->block->layer);
    return st;
}

static enum status ship_start(struct shipper *s, struct err *err)
{
    const struct transport *t = s->config.transport;
    enum status st;

    if (t->recv && s->block->bytes > 0 && !peer_is_ready(s)) {
        st = t->poll(s->link, err); /* nothing is under way: says whether the link still is */
        return st < 0 ? st : ST_AGAIN;
    }
    st = s->block->bytes > 0 && !t->pulls ? t->send(s->link, s->block, &s->ticket, err) : ST_OK;
    if (st == ST_OK)
        s->state = SHIP_MOVE;
    return st;
}

static enum status ship_move(struct shipper *s, struct err *err)
{
    enum status st = s->config.transport->poll(s->link, err);

    if (st != ST_OK)
        return st;
    s->checksums[s->block->layer] = s->checksum;
    s->rows += (uint64_t)kv_block_rows(s->block);
    s->bytes += s->block->bytes;
    s->layers++;
    s->block = NULL;
    s->state = SHIP_IDLE;
    return ST_OK;
}

enum status shipper_poll(struct shipper *s, struct err *err)
{
    enum status st = ST_OK;

    while (st == ST_OK && s->state != SHIP_IDLE) {
        if (s->state == SHIP_ANNOUNCE)
            st = ship_announce(s, err);
        else if (s->state == SHIP_WAIT)
            st = ship_start(s, err);
        else
            st = ship_move(s, err);
    }
    return st;
}

uint64_t shipper_moved(const struct shipper *s)
{
    const struct transport *t = s->config.transport;

    return s->bytes + (t->moved && s->state == SHIP_MOVE ? t->moved(s->link) : 0);
}

uint64_t shipper_bytes(const struct shipper *s)
{
    return s->bytes;
}

int32_t shipper_layers(const struct shipper *s)
{
    return s->layers;
}

void shipper_totals(const struct shipper *s, Platen__Internal__V1__Commit *commit)
{
    assert(s->state == SHIP_IDLE && s->layers == s->config.layers);
    commit->layers = s->layers;
    commit->rows = s->rows;
    commit->bytes = s->bytes;
    commit->checksum = wire_checksum_layers(s->checksums, (size_t)s->layers);
}
