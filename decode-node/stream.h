/* SPDX-License-Identifier: Apache-2.0 */
/* stream.h - the thread that turns what the engine made into events on the clients' calls. */
#ifndef PLATEN_DECODE_STREAM_H
#define PLATEN_DECODE_STREAM_H

#include "common/base/status.h"
#include "decode-node/request.h"

#include <semaphore.h>

#ifdef __cplusplus
extern "C" {
#endif

struct stream;

enum status stream_open(struct stream **out, struct err *err);

/* Waits until every request is over (the server was drained, the front ended), and ends the thread. Others may still
 * wake the stream. NULL is fine. */
void stream_end(struct stream *s);

/* After stream_end, when nobody is left who could wake it. NULL is fine. */
void stream_close(struct stream *s);

/* Takes the request over: from here on the stream thread ends the call and gives its count back. Any thread. */
void stream_take(struct stream *s, struct request *r);

/* There is news for some request. Any thread; one sem_post. */
void stream_wake(struct stream *s);
sem_t *stream_semaphore(struct stream *s);

#ifdef __cplusplus
}
#endif
#endif
