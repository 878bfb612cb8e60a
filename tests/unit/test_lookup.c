/* SPDX-License-Identifier: Apache-2.0 */
/* test_lookup.c - names, by a resolver of this file's: "slow" takes two seconds, "none" is no name. */
#include "common/base/clock.h"
#include "decode-node/lookup.h"
#include "tests/support/cmocka_main.h"

#include <stdatomic.h>
#include <stdlib.h>
#include <unistd.h>

static atomic_int made, lists;

int getaddrinfo(const char *host, const char *service, const struct addrinfo *hints, struct addrinfo **list)
{
    (void)service, (void)hints;
    if (strcmp(host, "slow") == 0)
        usleep(2000000);
    if (strcmp(host, "none") == 0)
        return EAI_NONAME;
    *list = calloc(1, sizeof **list);
    atomic_fetch_add(&lists, 1);
    atomic_fetch_add(&made, 1);
    return 0;
}

void freeaddrinfo(struct addrinfo *list)
{
    free(list);
    atomic_fetch_sub(&lists, 1);
}

static bool twice(void *ctx)
{
    return ++*(int *)ctx < 3;
}

static bool always(void *ctx)
{
    ++*(int *)ctx;
    return true;
}

static void a_name_has_addresses_and_what_is_none_has_the_reason(void **state)
{
    struct addrinfo *list;
    int looks = 0;

    (void)state;
    assert_int_equal(lookup("here", "1", always, &looks, &list), 0);
    assert_non_null(list);
    freeaddrinfo(list);
    assert_int_equal(lookup("none", "1", always, &looks, &list), EAI_NONAME);
    assert_null(list);
    assert_int_equal(atomic_load(&lists), 0);
}

static void a_name_server_that_takes_its_time_is_waited_for(void **state)
{
    struct addrinfo *list;
    int looks = 0;

    (void)state;
    assert_int_equal(lookup("slow", "1", always, &looks, &list), 0);
    assert_in_range(looks, 5, 25);
    freeaddrinfo(list);
}

static void who_does_not_wait_any_more_is_let_go(void **state)
{
    int64_t begin = clock_now_ns();
    int before = atomic_load(&made);
    struct addrinfo *list;
    int looks = 0;

    (void)state;
    assert_int_equal(lookup("slow", "1", twice, &looks, &list), EAI_AGAIN);
    assert_null(list);
    assert_int_equal(looks, 3);
    assert_in_range((clock_now_ns() - begin) / NS_PER_MS, 200, 1500);
    for (int i = 0; i < 1000 && atomic_load(&made) == before; i++)
        usleep(10000); /* it answers after all */
    for (int i = 0; i < 1000 && atomic_load(&lists) > 0; i++)
        usleep(10000);
    assert_int_equal(atomic_load(&lists), 0); /* and the last of them gives it back */
}

int main(int argc, char **argv)
{
    static const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_name_has_addresses_and_what_is_none_has_the_reason),
        cmocka_unit_test(a_name_server_that_takes_its_time_is_waited_for),
        cmocka_unit_test(who_does_not_wait_any_more_is_let_go),
    };

    return cmocka_main(argc, argv, tests, ARRAY_LEN(tests), NULL, NULL);
}
