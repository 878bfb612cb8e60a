/* SPDX-License-Identifier: Apache-2.0 */
/*
 * rpc_details.c - four small messages inside each other, written by hand.
 *
 *   google.rpc.Status        1 code   2 message   3 details: Any
 *   google.protobuf.Any      1 type_url           2 value: RetryInfo
 *   google.rpc.RetryInfo     1 retry_delay: Duration
 *   google.protobuf.Duration 1 seconds            2 nanos
 *
 * By hand, because the files that define them are not ours: a copy under proto/ would collide with the one that every
 * client brings along. https://github.com/googleapis/googleapis/blob/master/google/rpc/error_details.proto
 */
#include "common/rpc/rpc_details.h"

enum { WIRE_VARINT = 0, WIRE_BYTES = 2 };

static void put_varint(struct text *out, uint64_t value)
{
    char byte;

    for (; value >= 0x80; value >>= 7) {
        byte = (char)(value | 0x80);
        text_add(out, &byte, 1);
    }
    byte = (char)value;
    text_add(out, &byte, 1);
}

/* Zero is the default, which is not written. */
static void put_number(struct text *out, unsigned field, uint64_t value)
{
    if (value == 0)
        return;
    put_varint(out, field << 3 | WIRE_VARINT);
    put_varint(out, value);
}

static void put_bytes(struct text *out, unsigned field, const char *bytes, size_t count)
{
    put_varint(out, field << 3 | WIRE_BYTES);
    put_varint(out, count);
    text_add(out, bytes, count);
}

void rpc_details_retry(struct text *out, int code, const char *sentence, size_t bytes, int64_t retry_ms)
{
    static const char type[] = "type.googleapis.com/google.rpc.RetryInfo";
    struct text duration = { 0 }, info = { 0 }, any = { 0 };

    put_number(&duration, 1, (uint64_t)retry_ms / 1000);
    put_number(&duration, 2, (uint64_t)retry_ms % 1000 * 1000000);
    put_bytes(&info, 1, text_str(&duration), duration.bytes);
    put_bytes(&any, 1, type, sizeof type - 1);
    put_bytes(&any, 2, text_str(&info), info.bytes);
    put_number(out, 1, (uint64_t)code);
    put_bytes(out, 2, sentence, bytes);
    put_bytes(out, 3, text_str(&any), any.bytes);
    text_fini(&duration);
    text_fini(&info);
    text_fini(&any);
}
