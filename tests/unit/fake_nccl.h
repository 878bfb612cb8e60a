/* SPDX-License-Identifier: Apache-2.0 */
/*
 * fake_nccl.h - CUDA and NCCL as far as the transports use them, in this process's own memory, with their faults as knobs.
 *
 * Two ranks that open a communicator of one id share a world; a send and a receive that stand at the heads of their queues
 * become one copy. There is one fake per process: the functions of the real tables have no context either.
 */
#ifndef PLATEN_TESTS_FAKE_NCCL_H
#define PLATEN_TESTS_FAKE_NCCL_H

#include "common/transport/nccl_table.h"

#include <stdbool.h>

enum fake_hang { FAKE_NO_HANG, FAKE_HANG_ABORT, FAKE_HANG_SEND, FAKE_HANG_OPEN };

/* Written between the tests' steps, read by any thread: __atomic. All zero: a perfect wire. */
struct fake_knobs {
    int32_t latency_us; /* of a transfer, from when both ends are there */
    int32_t make_us;    /* of a communicator, from when both ranks are there */
    int32_t silent;     /* transfers neither fail nor finish, as with a peer that died */
    int32_t error;      /* what comm_state says of every communicator that is up; 0: nothing is wrong */
    int32_t refuse;     /* what comm_open says; 0: nothing is wrong */
    int32_t hang;       /* enum fake_hang: calls made meanwhile stay until fake_release */
    int32_t damage;     /* flips one bit of the next so many transfers */
};

extern struct fake_knobs fake_knobs;
extern const struct cuda_table fake_cuda;
extern const struct nccl_table fake_nccl;

void fake_reset(void);   /* all knobs to zero, all counts too; nothing may be open */
void fake_release(void); /* calls that hang come back */

int32_t fake_comms(void);   /* that are open */
int32_t fake_opened(void);  /* calls of comm_open since fake_reset */
int32_t fake_streams(void); /* streams and events that are open */
int32_t fake_mapped(void);  /* mappings that are open */

/* The one allocation that range and ipc_get know; without it, every address is one. */
void fake_memory(void *base, size_t bytes);

#endif
