/* SPDX-License-Identifier: Apache-2.0 */
/* test_lease.c - which message may come when. */
#include "common/transport/lease.h"
#include "tests/support/cmocka_main.h"

static void an_order_runs_through(void **state)
{
    static const enum lease_event story[] = { LEASE_ORDER, LEASE_BEAT,   LEASE_ACCEPTED, LEASE_BEAT,
                                              LEASE_BLOCK, LEASE_READY,  LEASE_CHUNK,    LEASE_BLOCK,
                                              LEASE_CHUNK, LEASE_COMMIT, LEASE_BEAT,     LEASE_ADOPTED };
    enum lease_state at = LEASE_FREE;

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(story); i++)
        assert_int_equal(lease_step(&at, story[i], NULL), ST_OK);
    assert_int_equal(at, LEASE_ENDED);
}

static void nothing_may_come_out_of_order(void **state)
{
    static const struct {
        enum lease_state at;
        enum lease_event event;
    } wrong[] = {
        { LEASE_FREE, LEASE_ACCEPTED },    { LEASE_FREE, LEASE_ADOPTED },    { LEASE_ORDERED, LEASE_ORDER },
        { LEASE_ORDERED, LEASE_BLOCK },    { LEASE_ORDERED, LEASE_COMMIT },  { LEASE_OPEN, LEASE_ACCEPTED },
        { LEASE_OPEN, LEASE_ADOPTED },     { LEASE_COMMITTED, LEASE_BLOCK }, { LEASE_COMMITTED, LEASE_CHUNK },
        { LEASE_COMMITTED, LEASE_COMMIT }, { LEASE_ENDED, LEASE_BEAT },      { LEASE_ENDED, LEASE_ORDER },
    };

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(wrong); i++) {
        enum lease_state at = wrong[i].at;
        struct err err = { 0 };

        assert_int_equal(lease_step(&at, wrong[i].event, &err), ST_EINVAL);
        assert_int_equal(at, wrong[i].at);
        assert_non_null(strstr(err.text, lease_event_word(wrong[i].event)));
        assert_non_null(strstr(err.text, lease_state_word(wrong[i].at)));
    }
}

static void an_ended_order_takes_nothing(void **state)
{
    (void)state;
    for (int event = 0; event < LEASE_EVENTS; event++) {
        enum lease_state at = LEASE_ENDED;

        assert_int_equal(lease_step(&at, (enum lease_event)event, NULL), ST_EINVAL);
    }
}

static const struct CMUnitTest tests[] = {
    cmocka_unit_test(an_order_runs_through),
    cmocka_unit_test(nothing_may_come_out_of_order),
    cmocka_unit_test(an_ended_order_takes_nothing),
};

int main(int argc, char **argv)
{
    return cmocka_main(argc, argv, tests, ARRAY_LEN(tests), NULL, NULL);
}
