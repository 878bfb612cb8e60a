/* SPDX-License-Identifier: Apache-2.0 */
/* test_rpc_details.c - byte for byte what Python's googleapis-common-protos 1.75.0 and protobuf 4.25.9 write. */
#include "tests/support/cmocka_main.h"

#include "common/rpc/rpc_details.h"

static void a_delay_is_a_status_with_retry_info(void **state)
{
    static const char sentence[] = "full: 3 orders wait";
    static const char want[] = "\x08\x08\x12\x13"
                               "full: 3 orders wait"
                               "\x1a\x36\x0a\x28"
                               "type.googleapis.com/google.rpc.RetryInfo"
                               "\x12\x0a\x0a\x08\x08\x0c\x10\xc0\x90\xc1\xa4\x01";
    struct text got = { 0 };

    (void)state;
    rpc_details_retry(&got, 8, sentence, sizeof sentence - 1, 12345);
    assert_int_equal(got.bytes, sizeof want - 1);
    assert_memory_equal(text_str(&got), want, sizeof want - 1);
    text_fini(&got);
}

static void no_delay_is_an_empty_duration(void **state)
{
    static const char want[] = "\x08\x0e\x12\x00\x1a\x2e\x0a\x28"
                               "type.googleapis.com/google.rpc.RetryInfo"
                               "\x12\x02\x0a\x00";
    struct text got = { 0 };

    (void)state;
    rpc_details_retry(&got, 14, "", 0, 0);
    assert_int_equal(got.bytes, sizeof want - 1);
    assert_memory_equal(text_str(&got), want, sizeof want - 1);
    text_fini(&got);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_delay_is_a_status_with_retry_info),
        cmocka_unit_test(no_delay_is_an_empty_duration),
    };

    return cmocka_main(argc, argv, tests, ARRAY_LEN(tests), NULL, NULL);
}
