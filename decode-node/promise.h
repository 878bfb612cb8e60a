/* SPDX-License-Identifier: Apache-2.0 */
/* promise.h - room for an answer, promised before its context is ordered. */
#ifndef PLATEN_DECODE_PROMISE_H
#define PLATEN_DECODE_PROMISE_H

#include "decode-node/request.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Positions, tail and, for a press with a decode part, blocks of its own for a question that begins at `position`. What was
 * promised is in `q`, for request_unref to give back also when this fails. Waits for the engine where there is a decode
 * part. ST_ERANGE: longer than the model; ST_EEXHAUSTED names what is full and sets *retry_ms. */
enum status promise_room(struct request *r, struct question *q, int64_t position, int64_t *retry_ms, struct err *err);

#ifdef __cplusplus
}
#endif
#endif
