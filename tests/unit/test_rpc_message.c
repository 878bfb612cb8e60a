/* SPDX-License-Identifier: Apache-2.0 */
/* test_rpc_message.c - what is refused before anybody reads it. */
#include "tests/support/cmocka_main.h"

#include "common/rpc/rpc_message.h"
#include "proto/platen/internal/v1/prefill.pb-c.h"
#include "proto/platen/v1/inference.pb-c.h"

#include <stdlib.h>

static const ProtobufCMessageDescriptor *const generate = &platen__v1__generate_request__descriptor;

static enum status check(const ProtobufCMessageDescriptor *type, const char *bytes, size_t count, struct err *err)
{
    /* a copy of exactly this size, so that reading past it is seen */
    uint8_t *copy = (uint8_t *)calloc(1, count > 0 ? count : 1);
    enum status st;

    memcpy(copy, bytes, count);
    st = rpc_message_check(type, true, copy, count, err);
    free(copy);
    return st;
}

#define CHECK(type, literal, err) check(type, literal, sizeof(literal) - 1, err)

static void good_messages_pass(void **state)
{
    (void)state;
    assert_int_equal(CHECK(generate, "", NULL), ST_OK);
    assert_int_equal(CHECK(generate,
                           "\x0A\x03"
                           "abc",
                           NULL),
                     ST_OK);
    assert_int_equal(CHECK(generate, "\x0A\x02\xC3\xA9\x52\x08original", NULL), ST_OK);
}

static void fields_nobody_knows_are_passed_over(void **state)
{
    (void)state;
    /* 900: varint; 901: eight bytes; 902: bytes that are no UTF-8; 903: four bytes */
    assert_int_equal(CHECK(generate,
                           "\xA0\x38\x05\xA9\x38"
                           "12345678"
                           "\xB2\x38\x02\xFF\xFE\xBD\x38"
                           "1234",
                           NULL),
                     ST_OK);
}

static void truncated_messages_are_refused(void **state)
{
    static const char whole[] = "\x0A\x03"
                                "abc"
                                "\x38\x85\x01"
                                "\xA9\x38"
                                "12345678";
    static const size_t good[] = { 0, 5, 8, 18 };
    struct err err = { 0 };

    (void)state;
    for (size_t n = 0; n < sizeof(whole); n++) {
        bool ends_a_field = false;

        for (size_t i = 0; i < ARRAY_LEN(good); i++)
            ends_a_field = ends_a_field || good[i] == n;
        err_clear(&err);
        assert_int_equal(check(generate, whole, n, &err), ends_a_field ? ST_OK : ST_EINVAL);
    }
}

static void text_that_is_no_utf8_is_refused_by_name(void **state)
{
    struct err err = { 0 };

    (void)state;
    assert_int_equal(CHECK(generate,
                           "\x0A\x02"
                           "a\xFF",
                           &err),
                     ST_EINVAL); /* bytes in C, text for callers */
    assert_string_equal(err.text, "GenerateRequest.context is not valid UTF-8");
    err_clear(&err);
    assert_int_equal(CHECK(generate, "\x52\x02\xC0\x80", &err), ST_EINVAL); /* a string in C; an overlong NUL */
    assert_string_equal(err.text, "GenerateRequest.position is not valid UTF-8");
}

static void a_nul_is_refused_where_it_would_cut(void **state)
{
    struct err err = { 0 };

    (void)state;
    assert_int_equal(CHECK(generate,
                           "\x52\x03"
                           "a\0b",
                           &err),
                     ST_EINVAL);
    assert_string_equal(err.text, "GenerateRequest.position holds a NUL character");
    assert_int_equal(CHECK(generate,
                           "\x0A\x03"
                           "a\0b",
                           NULL),
                     ST_OK);
}

static void bytes_may_be_anything_where_they_are_bytes(void **state)
{
    static const uint8_t order[] = { 0x0A, 0x04, 0x52, 0x02, 0xFF, 0xFE }; /* ToPrefill.order.transport_hello */

    (void)state;
    assert_int_equal(
        rpc_message_check(&platen__internal__v1__to_prefill__descriptor, false, order, sizeof(order), NULL), ST_OK);
    assert_int_equal(rpc_message_check(&platen__internal__v1__to_prefill__descriptor, true, order, sizeof(order), NULL),
                     ST_EINVAL);
}

static void text_deep_inside_is_checked(void **state)
{
    struct err err = { 0 };

    (void)state;
    /* ToPrefill.order(1).identity(1).dtype(5) */
    assert_int_equal(CHECK(&platen__internal__v1__to_prefill__descriptor, "\x0A\x05\x0A\x03\x2A\x01\xFF", &err),
                     ST_EINVAL);
    assert_string_equal(err.text, "Identity.dtype is not valid UTF-8");
}

static void numbers_that_are_none_are_refused(void **state)
{
    (void)state;
    assert_int_equal(CHECK(generate, "\x00\x01", NULL), ST_EINVAL);                                     /* field 0 */
    assert_int_equal(CHECK(generate, "\x0B", NULL), ST_EINVAL);                                         /* a group */
    assert_int_equal(CHECK(generate, "\x38\xFF\xFF\xFF\xFF\xFF\xFF\xFF\xFF\xFF\x02", NULL), ST_EINVAL); /* 65 bits */
    assert_int_equal(CHECK(generate, "\x38\xFF\xFF\xFF\xFF\xFF\xFF\xFF\xFF\xFF\x01", NULL), ST_OK);     /* -1 */
    assert_int_equal(CHECK(generate,
                           "\x0A\xFF\xFF\xFF\xFF\xFF\xFF\xFF\xFF\xFF\x01"
                           "abc",
                           NULL),
                     ST_EINVAL); /* length */
}

static void unpacking_gives_what_was_packed(void **state)
{
    Platen__V1__GenerateRequest r = PLATEN__V1__GENERATE_REQUEST__INIT;
    ProtobufCBinaryData questions[2] = { { 3, (uint8_t *)"a\0b" }, { 0, NULL } };
    Platen__V1__GenerateRequest *back;
    ProtobufCMessage *msg = NULL;
    uint8_t packed[64];
    size_t bytes;

    (void)state;
    r.questions = questions;
    r.n_questions = 2;
    r.request_id = (char *)"me";
    bytes = protobuf_c_message_pack(&r.base, packed);
    assert_int_equal(rpc_message_unpack(&msg, generate, true, packed, bytes, NULL), ST_OK);
    back = (Platen__V1__GenerateRequest *)msg;
    assert_int_equal(back->n_questions, 2);
    assert_int_equal(back->questions[0].len, 3);
    assert_memory_equal(back->questions[0].data, "a\0b", 3);
    assert_int_equal(back->questions[1].len, 0);
    assert_string_equal(back->request_id, "me");
    rpc_message_free(msg);
}

/* Random bytes and damaged good ones: every answer is fine, reading past the end or a leak is not (sanitizers). */
static void random_bytes_never_hurt(void **state)
{
    uint32_t seed = 12345;
    uint8_t bytes[64];

    (void)state;
    for (int round = 0; round < 100000; round++) {
        ProtobufCMessage *msg = NULL;
        size_t count;

        for (size_t i = 0; i < sizeof(bytes); i++) {
            seed = seed * 1664525u + 1013904223u;
            bytes[i] = (uint8_t)(seed >> (round % 2 == 0 ? 24 : 26));
        }
        count = bytes[0] % sizeof(bytes);
        if (rpc_message_unpack(&msg, generate, true, bytes + 1, count, NULL) == ST_OK)
            rpc_message_free(msg);
    }
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(good_messages_pass),
        cmocka_unit_test(fields_nobody_knows_are_passed_over),
        cmocka_unit_test(truncated_messages_are_refused),
        cmocka_unit_test(text_that_is_no_utf8_is_refused_by_name),
        cmocka_unit_test(a_nul_is_refused_where_it_would_cut),
        cmocka_unit_test(bytes_may_be_anything_where_they_are_bytes),
        cmocka_unit_test(text_deep_inside_is_checked),
        cmocka_unit_test(numbers_that_are_none_are_refused),
        cmocka_unit_test(unpacking_gives_what_was_packed),
        cmocka_unit_test(random_bytes_never_hurt),
    };

    return cmocka_main(argc, argv, tests, ARRAY_LEN(tests), NULL, NULL);
}
