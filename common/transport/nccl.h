/* SPDX-License-Identifier: Apache-2.0 */
/* nccl.h - what tests may set of the NCCL transport, and what they may look at. */
#ifndef PLATEN_TRANSPORT_NCCL_H
#define PLATEN_TRANSPORT_NCCL_H

#include "common/transport/nccl_pair.h"
#include "common/transport/transport.h"

#ifdef __cplusplus
extern "C" {
#endif

enum { NCCL_PAIRS_MAX = 16 };

void nccl_set_times(struct station *s, const struct nccl_times *times); /* before any link */

/* Pairs that are open, and threads that NCCL has not let go of since their pairs were lost. */
int32_t nccl_pairs(struct station *s);
int32_t nccl_ending(struct station *s);

#ifdef __cplusplus
}
#endif
#endif
