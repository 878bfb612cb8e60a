/* SPDX-License-Identifier: Apache-2.0 */
#include "common/base/clock.h"
#include "tests/support/cmocka_main.h"

#include <time.h>

static void time_never_goes_back(void **state)
{
    int64_t last = clock_now_ns();

    (void)state;
    for (int i = 0; i < 10000; i++) {
        int64_t now = clock_now_ns();

        assert_true(now >= last);
        last = now;
    }
}

static void a_deadline_lies_as_far_ahead_as_asked(void **state)
{
    int64_t before = clock_now_ns(), deadline = clock_in_ms(250), after = clock_now_ns();

    (void)state;
    assert_true(deadline >= before + 250 * NS_PER_MS);
    assert_true(deadline <= after + 250 * NS_PER_MS);
}

static void a_deadline_too_far_ahead_is_the_end_of_time(void **state)
{
    (void)state;
    assert_true(clock_in_ms(INT64_MAX) == INT64_MAX);
    assert_true(clock_in_ms(INT64_MAX / NS_PER_MS) == INT64_MAX);
    assert_true(clock_in_ms(INT64_MIN) == INT64_MIN);
}

static void a_sleep_of_ten_ms_takes_at_least_ten(void **state)
{
    struct timespec ten = { 0, 10 * NS_PER_MS };
    int64_t before = clock_now_ns();

    (void)state;
    nanosleep(&ten, NULL);
    assert_true(clock_now_ns() - before >= 10 * NS_PER_MS);
}

static void wall_time_agrees_with_time(void **state)
{
    int64_t seconds = clock_wall_ns() / NS_PER_S, now = time(NULL);

    (void)state;
    assert_true(seconds - now <= 1 && now - seconds <= 1);
}

int main(int argc, char **argv)
{
    static const struct CMUnitTest tests[] = {
        cmocka_unit_test(time_never_goes_back),
        cmocka_unit_test(a_deadline_lies_as_far_ahead_as_asked),
        cmocka_unit_test(a_deadline_too_far_ahead_is_the_end_of_time),
        cmocka_unit_test(a_sleep_of_ten_ms_takes_at_least_ten),
        cmocka_unit_test(wall_time_agrees_with_time),
    };

    return cmocka_main(argc, argv, tests, ARRAY_LEN(tests), NULL, NULL);
}
