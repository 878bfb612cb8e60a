/* SPDX-License-Identifier: Apache-2.0 */
/*
 * rpc_chunk.c - a message is put together from, and taken apart into, runs of memory.
 *
 * Writing is simple: the head is packed by protobuf-c and the bulk field put last. Reading walks the fields by hand,
 * because any of them may lie across two slices: small ones are gathered into one piece of memory for protobuf-c, the
 * bulk is only pointed at.
 */
#include "common/rpc/rpc_chunk.h"

#include "common/base/arena.h"
#include "common/rpc/rpc_inside.h"
#include "common/rpc/rpc_message.h"

#include <assert.h>
#include <grpc/byte_buffer_reader.h>
#include <grpc/slice.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

enum { VARINT_MAX = 10, TAG_LENGTH_MAX = 2 * VARINT_MAX };

static size_t varint_write(uint8_t *to, uint64_t value)
{
    size_t n = 0;

    for (; value >= 0x80; value >>= 7)
        to[n++] = (uint8_t)(value | 0x80);
    to[n++] = (uint8_t)value;
    return n;
}

static size_t tag_write(uint8_t *to, uint32_t number, uint64_t bytes)
{
    size_t n = varint_write(to, (uint64_t)number << 3 | 2);

    return n + varint_write(to + n, bytes);
}

grpc_byte_buffer *buffer_pack(const ProtobufCMessage *msg)
{
    grpc_slice slice = grpc_slice_malloc(protobuf_c_message_get_packed_size(msg));
    grpc_byte_buffer *out;

    protobuf_c_message_pack(msg, GRPC_SLICE_START_PTR(slice));
    out = grpc_raw_byte_buffer_create(&slice, 1);
    grpc_slice_unref(slice);
    return out;
}

/* Spans that one release stands for: the last slice gRPC lets go of calls it. */
struct lease_of_spans {
    atomic_size_t left;
    void (*release)(void *arg);
    void *arg;
};

static void span_released(void *user)
{
    struct lease_of_spans *l = (struct lease_of_spans *)user;

    TAG_GET(l);
    if (atomic_fetch_sub(&l->left, 1) != 1)
        return;
    if (l->release != NULL)
        l->release(l->arg);
    free(l);
}

static grpc_slice chunk_header(const struct rpc_chunk *chunk, const ProtobufCMessage *head, uint64_t bulk_bytes)
{
    size_t head_bytes = protobuf_c_message_get_packed_size(head), at = 0, inner;
    uint8_t bulk_tag[TAG_LENGTH_MAX];
    grpc_slice slice = grpc_slice_malloc(head_bytes + 2 * TAG_LENGTH_MAX);
    uint8_t *to = GRPC_SLICE_START_PTR(slice);

    inner = tag_write(bulk_tag, chunk->bulk, bulk_bytes);
    if (chunk->outer != 0)
        at = tag_write(to, chunk->outer, head_bytes + inner + bulk_bytes);
    at += protobuf_c_message_pack(head, to + at);
    memcpy(to + at, bulk_tag, inner);
    GRPC_SLICE_SET_LENGTH(slice, at + inner);
    return slice;
}

grpc_byte_buffer *buffer_chunk(const struct rpc_chunk *chunk, const ProtobufCMessage *head,
                               const struct rpc_span *spans, size_t count, void (*release)(void *arg), void *arg)
{
    grpc_slice *slices = (grpc_slice *)mem_zero(count + 1, sizeof(*slices));
    struct lease_of_spans *lease = (struct lease_of_spans *)mem_zero(1, sizeof(*lease));
    grpc_byte_buffer *out;
    uint64_t bytes = 0;

    assert(count > 0 && head->descriptor == chunk->head);
    for (size_t i = 0; i < count; i++)
        bytes += spans[i].bytes;
    atomic_init(&lease->left, count);
    lease->release = release;
    lease->arg = arg;
    TAG_GIVE(lease);
    slices[0] = chunk_header(chunk, head, bytes);
    for (size_t i = 0; i < count; i++)
        slices[i + 1] = grpc_slice_new_with_user_data((void *)spans[i].data, spans[i].bytes, span_released, lease);
    out = grpc_raw_byte_buffer_create(slices, count + 1);
    for (size_t i = 0; i <= count; i++)
        grpc_slice_unref(slices[i]);
    free(slices);
    return out;
}

size_t rpc_buffer_bytes(const struct rpc_buffer *b)
{
    return buffer_core(b)->data.raw.slice_buffer.length;
}

size_t rpc_buffer_spans(const struct rpc_buffer *b)
{
    return buffer_core(b)->data.raw.slice_buffer.count;
}

struct rpc_span rpc_buffer_span(const struct rpc_buffer *b, size_t i)
{
    const grpc_slice *slice = &buffer_core(b)->data.raw.slice_buffer.slices[i];
    struct rpc_span span = { GRPC_SLICE_START_PTR(*slice), GRPC_SLICE_LENGTH(*slice) };

    return span;
}

void rpc_buffer_free(struct rpc_buffer *b)
{
    if (b != NULL)
        grpc_byte_buffer_destroy(buffer_core(b));
}

struct rpc_buffer *rpc_buffer_copy(const void *data, size_t bytes)
{
    grpc_slice slice = grpc_slice_from_copied_buffer((const char *)data, bytes);
    grpc_byte_buffer *out = grpc_raw_byte_buffer_create(&slice, 1);

    grpc_slice_unref(slice);
    return buffer_of(out);
}

bool rpc_bulk_next(struct rpc_bulk *bulk, struct rpc_span *out)
{
    struct rpc_span span;

    if (bulk->bytes == 0)
        return false;
    span = rpc_buffer_span(bulk->buffer, bulk->span);
    while (bulk->offset == span.bytes) {
        bulk->offset = 0;
        span = rpc_buffer_span(bulk->buffer, ++bulk->span);
    }
    out->data = (const uint8_t *)span.data + bulk->offset;
    out->bytes = span.bytes - bulk->offset;
    if (out->bytes > bulk->bytes)
        out->bytes = bulk->bytes;
    bulk->bytes -= out->bytes;
    bulk->offset += out->bytes;
    return true;
}

/* Steps over at most `bytes` bytes of one slice; `to` (may be NULL) gets them. Returns how many. */
static size_t bulk_step(struct rpc_bulk *bulk, uint8_t *to, size_t bytes)
{
    struct rpc_span run;
    size_t left = bulk->bytes;

    if (bytes > left)
        bytes = left;
    bulk->bytes = bytes; /* the next run is no longer than asked for */
    if (!rpc_bulk_next(bulk, &run))
        run.bytes = 0;
    bulk->bytes = left - run.bytes;
    if (to != NULL && run.bytes > 0)
        memcpy(to, run.data, run.bytes);
    return run.bytes;
}

size_t rpc_bulk_read(struct rpc_bulk *bulk, void *to, size_t bytes)
{
    size_t done = 0, step;

    while (done < bytes && (step = bulk_step(bulk, (uint8_t *)to + done, bytes - done)) > 0)
        done += step;
    return done;
}

static bool bulk_skip(struct rpc_bulk *bulk, uint64_t bytes)
{
    if (bytes > bulk->bytes)
        return false;
    while (bytes > 0)
        bytes -= bulk_step(bulk, NULL, (size_t)bytes);
    return true;
}

/* A varint as it stands: its bytes go to raw (room VARINT_MAX), its value to *value. 0 when it is none. */
static size_t bulk_varint(struct rpc_bulk *at, uint8_t *raw, uint64_t *value)
{
    uint64_t v = 0;

    for (size_t n = 0; n < VARINT_MAX; n++) {
        if (rpc_bulk_read(at, &raw[n], 1) != 1)
            return 0;
        v |= (uint64_t)(raw[n] & 0x7f) << (7 * n);
        if ((raw[n] & 0x80) == 0) {
            *value = v;
            return n + 1;
        }
    }
    return 0;
}

/* One field of a message that may lie across slices. */
struct scattered {
    uint32_t number, wire_type;
    uint8_t raw[TAG_LENGTH_MAX]; /* tag and length, or tag and varint, as they stood */
    size_t raw_bytes;
    uint64_t bytes; /* that follow raw */
};

static bool scattered_next(struct rpc_bulk *at, struct scattered *f)
{
    uint64_t tag, value;
    size_t n;

    memset(f, 0, sizeof(*f));
    n = bulk_varint(at, f->raw, &tag);

    if (n == 0 || tag > UINT32_MAX || tag >> 3 == 0)
        return false;
    f->number = (uint32_t)(tag >> 3);
    f->wire_type = (uint32_t)(tag & 7);
    f->raw_bytes = n;
    f->bytes = f->wire_type == 1 ? 8 : f->wire_type == 5 ? 4 : 0;
    if (f->wire_type == 0 || f->wire_type == 2) {
        n = bulk_varint(at, f->raw + f->raw_bytes, &value);
        if (n == 0)
            return false;
        f->raw_bytes += n;
        f->bytes = f->wire_type == 2 ? value : 0;
        return f->bytes <= at->bytes;
    }
    return (f->wire_type == 1 || f->wire_type == 5) && f->bytes <= at->bytes;
}

/* Finds the outer field's bytes; the last of several counts. False: the buffer is no message. */
static bool outer_find(struct rpc_bulk *at, uint32_t outer, struct rpc_bulk *inside, bool *found)
{
    struct scattered f;

    while (at->bytes > 0) {
        if (!scattered_next(at, &f))
            return false;
        if (f.number == outer && f.wire_type == 2) {
            *inside = *at;
            inside->bytes = (size_t)f.bytes;
            *found = true;
        }
        if (!bulk_skip(at, f.bytes))
            return false;
    }
    return true;
}

/* Everything but the bulk field goes to head[], room RPC_CHUNK_HEAD_MAX. */
static enum status head_gather(struct rpc_bulk *at, uint32_t bulk_field, uint8_t *head, size_t *head_bytes,
                               struct rpc_bulk *bulk, struct err *err)
{
    struct scattered f;

    while (at->bytes > 0) {
        if (!scattered_next(at, &f))
            return err_set(err, ST_EINVAL, "malformed chunk");
        if (f.number == bulk_field && f.wire_type == 2) {
            *bulk = *at;
            bulk->bytes = (size_t)f.bytes;
            bulk_skip(at, f.bytes);
            continue;
        }
        if (f.bytes + f.raw_bytes > RPC_CHUNK_HEAD_MAX - *head_bytes)
            return err_set(err, ST_EINVAL, "a chunk's head is larger than %d bytes", RPC_CHUNK_HEAD_MAX);
        memcpy(head + *head_bytes, f.raw, f.raw_bytes);
        *head_bytes += f.raw_bytes;
        *head_bytes += rpc_bulk_read(at, head + *head_bytes, (size_t)f.bytes);
    }
    return ST_OK;
}

enum status rpc_chunk_split(const struct rpc_buffer *buffer, const struct rpc_chunk *chunk, ProtobufCMessage **head,
                            struct rpc_bulk *bulk, struct err *err)
{
    struct rpc_bulk whole = { buffer, 0, 0, rpc_buffer_bytes(buffer) }, inside = whole, found = { buffer, 0, 0, 0 };
    uint8_t bytes[RPC_CHUNK_HEAD_MAX];
    size_t head_bytes = 0;
    bool here = chunk->outer == 0;
    enum status st;

    if (!here && !outer_find(&whole, chunk->outer, &inside, &here))
        return err_set(err, ST_EINVAL, "malformed message");
    if (!here) {
        *head = NULL;
        *bulk = found;
        return ST_OK;
    }
    st = head_gather(&inside, chunk->bulk, bytes, &head_bytes, &found, err);
    if (st == ST_OK)
        st = rpc_message_unpack(head, chunk->head, false, bytes, head_bytes, err);
    if (st == ST_OK)
        *bulk = found;
    return st;
}

enum status rpc_buffer_unpack(const struct rpc_buffer *b, const ProtobufCMessageDescriptor *type, bool bytes_are_text,
                              ProtobufCMessage **out, struct err *err)
{
    grpc_byte_buffer_reader reader;
    struct rpc_span span = { NULL, 0 };
    grpc_slice whole;
    enum status st;

    if (rpc_buffer_spans(b) > 0)
        span = rpc_buffer_span(b, 0);
    if (rpc_buffer_spans(b) <= 1)
        return rpc_message_unpack(out, type, bytes_are_text, (const uint8_t *)span.data, span.bytes, err);
    grpc_byte_buffer_reader_init(&reader, buffer_core(b));
    whole = grpc_byte_buffer_reader_readall(&reader);
    grpc_byte_buffer_reader_destroy(&reader);
    st = rpc_message_unpack(out, type, bytes_are_text, GRPC_SLICE_START_PTR(whole), GRPC_SLICE_LENGTH(whole), err);
    grpc_slice_unref(whole);
    return st;
}
