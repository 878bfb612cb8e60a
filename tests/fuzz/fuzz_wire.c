/* SPDX-License-Identifier: Apache-2.0 */
/*
 * fuzz_wire.c - what a prefill node could send to a decode node, and the other way round.
 *
 *   input           mode, then messages: length (2 bytes, little-endian), bytes
 *   mode 3 c + 0    FromPrefill messages, one after another, into a receiver of 3 layers that ordered codec c
 *   mode 3 c + 1    the same after a good Accepted
 *   mode 3 c + 2    ToPrefill messages, each checked and unpacked
 *
 * Besides what sanitizers see: a context commits only when every layer arrived, a layer that arrived has the checksum it
 * was announced with, no byte behind a block's place is touched, and every row, scale, mask and score of a block that is believed
 * lies inside its bytes.
 */
#include "common/base/arena.h"
#include "common/base/bytes.h"
#include "common/kv/wire.h"
#include "common/rpc/rpc_chunk.h"
#include "common/rpc/rpc_message.h"
#include "common/transport/receiver.h"
#include "proto/platen/internal/v1/prefill.pb-c.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

enum { LAYERS = 3, ROWS_MAX = 64, GUARD_BYTES = 64, GUARD = 0xa5 };

struct sink {
    void *place[LAYERS];
    uint64_t bytes[LAYERS];
    int32_t arrived, committed;
};

static enum status on_place(void *ctx, const struct kv_block *plan, void **place, struct err *err)
{
    struct sink *s = ctx;

    (void)err;
    assert(plan->layer >= 0 && plan->layer < LAYERS && !s->place[plan->layer]);
    assert(kv_block_rows(plan) <= 2 * ROWS_MAX);
    s->bytes[plan->layer] = plan->bytes;
    s->place[plan->layer] = mem_alloc(plan->bytes + GUARD_BYTES);
    memset((uint8_t *)s->place[plan->layer] + plan->bytes, GUARD, GUARD_BYTES);
    *place = s->place[plan->layer];
    return ST_OK;
}

/* The bytes of head `head` in a part, which has `items` of them from number `first` on; as attention would read them. */
static uint64_t sum_of(const struct kv_block *b, enum kv_part part, int64_t first, int64_t items)
{
    struct kv_parts parts;
    uint64_t sum = 0, begin, end;

    kv_block_parts(b, &parts);
    begin = parts.offset[part] + (uint64_t)first * kv_part_item_bytes(b, part);
    end = begin + (uint64_t)items * kv_part_item_bytes(b, part);
    assert(end <= parts.offset[part] + parts.bytes[part] && end <= b->bytes);
    for (uint64_t i = begin; i < end; i++)
        sum += ((const uint8_t *)b->data)[i];
    return sum;
}

static uint64_t read_head(const struct kv_block *b, int32_t head)
{
    const int64_t rows = b->first[head + 1] - b->first[head], coded = kv_coded_rows(b->codec, rows);
    const int64_t first = kv_coded_first(b, head), whole = b->first[head] - first;
    const int64_t share = b->codec == KV_INT4 ? KV_GROUP_ROWS : 1; /* rows that share a scale of K */
    uint64_t sum = sum_of(b, KV_PART_K, first, coded) + sum_of(b, KV_PART_V, first, coded);

    if (b->codec != KV_PLAIN)
        sum += sum_of(b, KV_PART_K_SCALE, first / share, coded / share) + sum_of(b, KV_PART_V_SCALE, first, coded);
    sum += sum_of(b, KV_PART_K_WHOLE, whole, rows - coded) + sum_of(b, KV_PART_V_WHOLE, whole, rows - coded);
    sum += sum_of(b, KV_PART_VERDICTS, kv_verdict_first(b, head), kv_verdict_bytes(b, rows));
    return b->k_dim < b->dim ? sum + sum_of(b, KV_PART_MASKS, head, 1) : sum;
}

/* Padding is all that no head reads. */
static void on_arrived(void *ctx, const struct kv_block *block)
{
    struct sink *s = ctx;
    uint64_t read = 0, all = 0;

    assert(block->data == s->place[block->layer]);
    for (int32_t g = 0; g < block->heads; g++)
        read += read_head(block, g);
    for (uint64_t i = 0; i < block->bytes; i++)
        all += ((const uint8_t *)block->data)[i];
    assert(read <= all);
    s->arrived++;
}

static void on_committed(void *ctx, const Platen__Internal__V1__Commit *msg)
{
    struct sink *s = ctx;

    assert(msg->layers == s->arrived);
    s->committed++;
}

static void check_guards(const struct sink *s)
{
    for (int l = 0; l < LAYERS; l++) {
        for (int i = 0; s->place[l] && i < GUARD_BYTES; i++)
            assert(((uint8_t *)s->place[l])[s->bytes[l] + (uint64_t)i] == GUARD);
    }
}

/* The next message of the input; false at its end. */
static bool next_message(struct cursor *c, const uint8_t **data, size_t *bytes)
{
    const uint8_t *head = cursor_take(c, 2);

    if (!head)
        return false;
    *bytes = load_u16(head);
    if (*bytes > cursor_left(c))
        *bytes = cursor_left(c);
    *data = cursor_take(c, *bytes);
    return true;
}

static void receive(struct cursor *c, enum kv_codec codec, bool accepted)
{
    static const uint8_t good[] = { 1 << 3 | 2, 2, 5 << 3, LAYERS };
    struct sink s = { 0 };
    struct receiver_sink sink = { .ctx = &s, .place = on_place, .arrived = on_arrived, .committed = on_committed };
    struct receiver_config config = { .shape = { LAYERS, 2, 16, DT_F32, 40 }, .rows_max = ROWS_MAX, .sink = &sink };
    struct receiver *r;
    const uint8_t *data;
    size_t bytes;

    config.codec = codec;
    r = receiver_open(&config);
    if (accepted)
        receiver_message(r, rpc_buffer_copy(good, sizeof good), NULL);
    while (next_message(c, &data, &bytes)) {
        struct err err = { 0 };
        const enum status st = receiver_message(r, rpc_buffer_copy(data, bytes), &err);

        assert(st == ST_OK || st == ST_EDATALOSS);
        assert(st == ST_OK || err.text[0] != '\0');
    }
    assert(s.committed == 0 || s.arrived == receiver_layers(r));
    check_guards(&s);
    receiver_close(r);
    for (int l = 0; l < LAYERS; l++)
        free(s.place[l]);
}

static void unpack(struct cursor *c)
{
    const uint8_t *data;
    size_t bytes;

    while (next_message(c, &data, &bytes)) {
        ProtobufCMessage *msg = NULL;

        if (rpc_message_unpack(&msg, &platen__internal__v1__to_prefill__descriptor, false, data, bytes, NULL) == ST_OK)
            rpc_message_free(msg);
        else
            assert(!msg);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes)
{
    struct cursor c = cursor_on(data, bytes);
    const uint8_t mode = cursor_u8(&c);

    if (mode % 3 == 2)
        unpack(&c);
    else
        receive(&c, (enum kv_codec)(mode / 3 % KV_CODECS), mode % 3 == 1);
    return 0;
}
