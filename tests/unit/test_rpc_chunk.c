/* SPDX-License-Identifier: Apache-2.0 */
/* test_rpc_chunk.c - a chunk is taken apart whatever order, field or size it comes in. */
#include "tests/support/cmocka_main.h"

#include "common/rpc/rpc_chunk.h"
#include "common/rpc/rpc_message.h"
#include "proto/platen/internal/v1/prefill.pb-c.h"

#include <stdlib.h>

typedef Platen__Internal__V1__Chunk Chunk;
typedef Platen__Internal__V1__FromPrefill FromPrefill;

static const struct rpc_chunk plain = { &platen__internal__v1__chunk__descriptor, 15, 0 };
static const struct rpc_chunk nested = { &platen__internal__v1__chunk__descriptor, 15, 15 };

/* Splits these bytes; *bulk points at a text of at most 63 bytes. */
static enum status split(const struct rpc_chunk *type, const char *bytes, size_t count, Chunk *head, char text[64],
                         struct err *err)
{
    struct rpc_buffer *b = rpc_buffer_copy(bytes, count);
    ProtobufCMessage *msg = NULL;
    struct rpc_bulk bulk;
    enum status st = rpc_chunk_split(b, type, &msg, &bulk, err);

    memset(text, 0, 64);
    if (st == ST_OK && msg != NULL) {
        size_t read = rpc_bulk_read(&bulk, text, 63);

        assert_int_equal(read, strlen(text));
        assert_int_equal(bulk.bytes, 0);
        *head = *(Chunk *)msg;
    }
    rpc_message_free(msg);
    rpc_buffer_free(b);
    return st;
}

#define SPLIT(type, literal, head, text) split(type, literal, sizeof(literal) - 1, head, text, NULL)

static void fields_come_in_any_order(void **state)
{
    Chunk head;
    char text[64];

    (void)state;
    assert_int_equal(SPLIT(&plain, "\x08\x07\x10\x2A\x7A\x05hello", &head, text), ST_OK);
    assert_string_equal(text, "hello");
    assert_int_equal(head.layer, 7);
    assert_int_equal(head.offset, 42);
    assert_int_equal(SPLIT(&plain, "\x7A\x05hello\x10\x2A\x08\x07", &head, text), ST_OK);
    assert_string_equal(text, "hello");
    assert_int_equal(head.layer, 7);
    assert_int_equal(head.offset, 42);
}

static void fields_nobody_knows_are_passed_over(void **state)
{
    Chunk head;
    char text[64];

    (void)state;
    assert_int_equal(SPLIT(&plain,
                           "\x08\x07\xA2\x38\x03xyz\x7A\x02hi\xA8\x38\x7F\xA9\x38"
                           "12345678",
                           &head, text),
                     ST_OK);
    assert_string_equal(text, "hi");
    assert_int_equal(head.layer, 7);
}

static void the_last_of_two_bulks_counts(void **state)
{
    Chunk head;
    char text[64];

    (void)state;
    assert_int_equal(SPLIT(&plain, "\x7A\x02no\x08\x01\x7A\x03yes", &head, text), ST_OK);
    assert_string_equal(text, "yes");
}

static void a_chunk_without_bulk_has_none(void **state)
{
    Chunk head;
    char text[64];

    (void)state;
    assert_int_equal(SPLIT(&plain, "\x08\x07", &head, text), ST_OK);
    assert_string_equal(text, "");
    assert_int_equal(SPLIT(&plain, "", &head, text), ST_OK);
    assert_int_equal(head.layer, 0);
}

static void a_message_without_chunk_is_told_apart(void **state)
{
    FromPrefill from = PLATEN__INTERNAL__V1__FROM_PREFILL__INIT, *back;
    Platen__Internal__V1__Commit commit = PLATEN__INTERNAL__V1__COMMIT__INIT;
    ProtobufCMessage *msg = (ProtobufCMessage *)&from;
    struct rpc_buffer *b;
    struct rpc_bulk bulk;
    uint8_t packed[64];

    (void)state;
    commit.layers = 30;
    from.kind_case = PLATEN__INTERNAL__V1__FROM_PREFILL__KIND_COMMIT;
    from.commit = &commit;
    b = rpc_buffer_copy(packed, protobuf_c_message_pack(&from.base, packed));
    assert_int_equal(rpc_chunk_split(b, &nested, &msg, &bulk, NULL), ST_OK);
    assert_null(msg);
    assert_int_equal(bulk.bytes, 0);
    assert_int_equal(rpc_buffer_unpack(b, &platen__internal__v1__from_prefill__descriptor, false, &msg, NULL), ST_OK);
    back = (FromPrefill *)msg;
    assert_int_equal(back->kind_case, PLATEN__INTERNAL__V1__FROM_PREFILL__KIND_COMMIT);
    assert_int_equal(back->commit->layers, 30);
    rpc_message_free(msg);
    rpc_buffer_free(b);
}

/* What protobuf itself writes, one message deep. */
static void what_protobuf_packs_is_read(void **state)
{
    FromPrefill from = PLATEN__INTERNAL__V1__FROM_PREFILL__INIT;
    Chunk chunk = PLATEN__INTERNAL__V1__CHUNK__INIT, head;
    uint8_t packed[64];
    char text[64];

    (void)state;
    chunk.layer = 29;
    chunk.offset = (uint64_t)1 << 40;
    chunk.data.data = (uint8_t *)"payload";
    chunk.data.len = 7;
    from.chunk = &chunk;
    assert_int_equal(split(&nested, (char *)packed, protobuf_c_message_pack(&from.base, packed), &head, text, NULL),
                     ST_OK);
    assert_string_equal(text, "payload");
    assert_int_equal(head.layer, 29);
    assert_true(head.offset == (uint64_t)1 << 40);
}

static void truncated_chunks_are_refused(void **state)
{
    static const char whole[] = "\x7A\x0B\x08\x07\x10\x2A\x7A\x05hello";
    Chunk head;
    char text[64];

    (void)state;
    for (size_t n = 1; n < sizeof(whole) - 1; n++)
        assert_int_equal(split(&nested, whole, n, &head, text, NULL), ST_EINVAL);
    assert_int_equal(split(&nested, whole, sizeof(whole) - 1, &head, text, NULL), ST_OK);
    assert_string_equal(text, "hello");
}

static void lengths_that_lie_are_refused(void **state)
{
    Chunk head;
    char text[64];

    (void)state;
    assert_int_equal(SPLIT(&plain, "\x7A\xFF\xFF\xFF\xFF\xFF\xFF\xFF\xFF\xFF\x01", &head, text), ST_EINVAL);
    assert_int_equal(SPLIT(&plain, "\x7A\x06hello", &head, text), ST_EINVAL);
    assert_int_equal(SPLIT(&plain, "\xA2\x38\xFF\xFF\xFF\xFF\x0F", &head, text), ST_EINVAL);
    assert_int_equal(SPLIT(&plain, "\x0B", &head, text), ST_EINVAL);
}

static void a_head_too_large_is_refused(void **state)
{
    size_t bytes = RPC_CHUNK_HEAD_MAX + 100;
    char *big = (char *)calloc(1, bytes), text[64];
    struct err err = { 0 };
    Chunk head;

    (void)state;
    memcpy(big, "\xA2\x38\xE0\x20", 4); /* field 900 of 4192 bytes */
    assert_int_equal(split(&plain, big, bytes, &head, text, &err), ST_EINVAL);
    assert_non_null(strstr(err.text, "larger than 4096"));
    free(big);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(fields_come_in_any_order),
        cmocka_unit_test(fields_nobody_knows_are_passed_over),
        cmocka_unit_test(the_last_of_two_bulks_counts),
        cmocka_unit_test(a_chunk_without_bulk_has_none),
        cmocka_unit_test(a_message_without_chunk_is_told_apart),
        cmocka_unit_test(what_protobuf_packs_is_read),
        cmocka_unit_test(truncated_chunks_are_refused),
        cmocka_unit_test(lengths_that_lie_are_refused),
        cmocka_unit_test(a_head_too_large_is_refused),
    };

    return cmocka_main(argc, argv, tests, ARRAY_LEN(tests), NULL, NULL);
}
