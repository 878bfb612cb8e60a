/* SPDX-License-Identifier: Apache-2.0 */
/* rpc_details.h - what a call's end says beside its status: when to come again. */
#ifndef PLATEN_RPC_RPC_DETAILS_H
#define PLATEN_RPC_RPC_DETAILS_H

#include "common/base/text.h"

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Appends the value of the trailer `grpc-status-details-bin`: a google.rpc.Status with the call's code and sentence and
 * one detail, a google.rpc.RetryInfo of retry_ms >= 0. Clients that know the pair show it; others do not look. */
void rpc_details_retry(struct text *out, int code, const char *sentence, size_t bytes, int64_t retry_ms);

#ifdef __cplusplus
}
#endif
#endif
