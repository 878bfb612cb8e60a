/* SPDX-License-Identifier: Apache-2.0 */
/* prepare.h - from a client's message to tokens and promised room. */
#ifndef PLATEN_DECODE_PREPARE_H
#define PLATEN_DECODE_PREPARE_H

#include "common/base/status.h"
#include "decode-node/request.h"

#ifdef __cplusplus
extern "C" {
#endif

/*
 * Checks r->msg, frees it, and fills the request: chain, tokens, questions, and a context (empty, or the kept one of an
 * Ask). What a request could still be refused for later is refused here, before any prefill: too long for the model, a
 * press this model cannot run, no room for the answers. *retry_ms is set where waiting helps. May take as long as
 * tokenizing takes; front thread.
 */
enum status prepare(struct request *r, int64_t *retry_ms, struct err *err);

#ifdef __cplusplus
}
#endif
#endif
