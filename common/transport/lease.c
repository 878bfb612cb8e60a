/* SPDX-License-Identifier: Apache-2.0 */
/* lease.c - which message may come when: one table, states down, events across. */
#include "common/transport/lease.h"

#include <stddef.h>

enum { NO = -1 };

static const int lease_table[LEASE_STATES][LEASE_EVENTS] = {
    /*                    Order          Accepted    Beat           Block       Chunk       Ready       Commit           Adopted */
    [LEASE_FREE] = { LEASE_ORDERED, NO, NO, NO, NO, NO, NO, NO },
    [LEASE_ORDERED] = { NO, LEASE_OPEN, LEASE_ORDERED, NO, NO, NO, NO, NO },
    [LEASE_OPEN] = { NO, NO, LEASE_OPEN, LEASE_OPEN, LEASE_OPEN, LEASE_OPEN, LEASE_COMMITTED, NO },
    [LEASE_COMMITTED] = { NO, NO, LEASE_COMMITTED, NO, NO, NO, NO, LEASE_ENDED },
    [LEASE_ENDED] = { NO, NO, NO, NO, NO, NO, NO, NO },
};

const char *lease_state_word(enum lease_state state)
{
    static const char *const words[] = { "free", "ordered", "open", "committed", "ended" };

    return (size_t)state < LEASE_STATES ? words[state] : "?";
}

const char *lease_event_word(enum lease_event event)
{
    static const char *const words[] = { "Order", "Accepted", "Beat", "Block", "Chunk", "Ready", "Commit", "Adopted" };

    return (size_t)event < LEASE_EVENTS ? words[event] : "?";
}

enum status lease_step(enum lease_state *state, enum lease_event event, struct err *err)
{
    const int next = lease_table[*state][event];

    if (next == NO)
        return err_set(err, ST_EINVAL, "%s may not come while the order is %s", lease_event_word(event),
                       lease_state_word(*state));
    *state = (enum lease_state)next;
    return ST_OK;
}
