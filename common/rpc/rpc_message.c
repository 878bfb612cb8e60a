/* SPDX-License-Identifier: Apache-2.0 */
/*
 * rpc_message.c - the walk over a message's raw bytes, guided by the generated descriptor.
 *
 *      tag = number << 3 | wire type       0 varint   1 eight bytes   2 length, bytes   5 four bytes   (3, 4: groups,
 *                                                                                                  not in proto3)
 *
 * Fields that the descriptor does not know are stepped over: a newer caller may send them.
 * https://protobuf.dev/programming-guides/encoding/
 */
#include "common/rpc/rpc_message.h"

#include "common/base/text.h"

#include <string.h>

static bool varint_next(struct cursor *c, uint64_t *out)
{
    uint64_t value = 0;

    for (int shift = 0; shift < 70; shift += 7) {
        uint8_t byte = cursor_u8(c);

        if (c->bad)
            return false;
        if (shift == 63 && byte > 1)
            break; /* more than 64 bits */
        value |= (uint64_t)(byte & 0x7f) << shift;
        if ((byte & 0x80) == 0) {
            *out = value;
            return true;
        }
    }
    c->bad = true;
    return false;
}

bool rpc_field_next(struct cursor *c, struct rpc_field *out)
{
    uint64_t tag, bytes;

    memset(out, 0, sizeof(*out));
    if (c->bad || cursor_left(c) == 0 || !varint_next(c, &tag))
        return false;
    out->number = (uint32_t)(tag >> 3);
    out->wire_type = (uint32_t)(tag & 7);
    c->bad = tag > UINT32_MAX || out->number == 0;
    switch (out->wire_type) {
    case 0:
        varint_next(c, &out->value);
        break;
    case 1:
        out->value = cursor_u64(c);
        break;
    case 2:
        if (varint_next(c, &bytes)) {
            out->data = cursor_take(c, bytes);
            out->bytes = (size_t)bytes;
        }
        break;
    case 5:
        out->value = cursor_u32(c);
        break;
    default:
        c->bad = true;
    }
    return !c->bad;
}

static enum status text_check(const ProtobufCMessageDescriptor *type, const ProtobufCFieldDescriptor *want,
                              const struct rpc_field *f, struct err *err)
{
    if (!utf8_valid((const char *)f->data, f->bytes))
        return err_set(err, ST_EINVAL, "%s.%s is not valid UTF-8", type->short_name, want->name);
    if (want->type == PROTOBUF_C_TYPE_STRING && f->bytes > 0 && memchr(f->data, '\0', f->bytes) != NULL)
        return err_set(err, ST_EINVAL, "%s.%s holds a NUL character", type->short_name, want->name);
    return ST_OK;
}

static enum status walk(const ProtobufCMessageDescriptor *type, bool bytes_are_text, const uint8_t *data, size_t bytes,
                        int depth, struct err *err)
{
    struct cursor c = cursor_on(data, bytes);
    struct rpc_field f;

    if (depth > RPC_DEPTH_MAX)
        return err_set(err, ST_EINVAL, "%s: messages nested more than %d deep", type->short_name, RPC_DEPTH_MAX);
    while (rpc_field_next(&c, &f)) {
        const ProtobufCFieldDescriptor *want = protobuf_c_message_descriptor_get_field(type, f.number);
        enum status st = ST_OK;

        if (want == NULL || f.wire_type != 2)
            continue;
        if (want->type == PROTOBUF_C_TYPE_STRING || (want->type == PROTOBUF_C_TYPE_BYTES && bytes_are_text))
            st = text_check(type, want, &f, err);
        else if (want->type == PROTOBUF_C_TYPE_MESSAGE)
            st = walk((const ProtobufCMessageDescriptor *)want->descriptor, bytes_are_text, f.data, f.bytes, depth + 1,
                      err);
        if (st != ST_OK)
            return st;
    }
    return c.bad ? err_set(err, ST_EINVAL, "malformed message %s", type->short_name) : ST_OK;
}

enum status rpc_message_check(const ProtobufCMessageDescriptor *type, bool bytes_are_text, const uint8_t *data,
                              size_t bytes, struct err *err)
{
    return walk(type, bytes_are_text, data, bytes, 0, err);
}

enum status rpc_message_unpack(ProtobufCMessage **out, const ProtobufCMessageDescriptor *type, bool bytes_are_text,
                               const uint8_t *data, size_t bytes, struct err *err)
{
    ProtobufCMessage *msg;
    enum status st = rpc_message_check(type, bytes_are_text, data, bytes, err);

    if (st != ST_OK)
        return st;
    msg = protobuf_c_message_unpack(type, NULL, bytes, data);
    if (msg == NULL)
        return err_set(err, ST_EINVAL, "malformed message %s", type->short_name);
    *out = msg;
    return ST_OK;
}

void rpc_message_free(ProtobufCMessage *msg)
{
    if (msg != NULL)
        protobuf_c_message_free_unpacked(msg, NULL);
}
