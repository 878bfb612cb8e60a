/* SPDX-License-Identifier: Apache-2.0 */
/* reply.h - figures as the client sees them. */
#ifndef PLATEN_DECODE_REPLY_H
#define PLATEN_DECODE_REPLY_H

#include "common/base/status.h"
#include "decode-node/request.h"
#include "proto/platen/v1/inference.pb-c.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Messages that a Figures needs beside itself. */
struct figures_message {
    Platen__V1__Figures figures;
    Platen__V1__RowCounts rows;
    Platen__V1__StageTimes times;
};

/* Fills `m` from the request's context; texts are borrowed from it and from the node. r may be NULL: no request's times. */
void reply_fill(struct figures_message *m, const struct context *c, const char *decode_node, const struct request *r);

/* Sends the last event of a stream through `send`; its status. */
enum status reply_figures(struct request *r, enum status (*send)(struct request *r, const Platen__V1__Event *event));

/* Answers Contexts.Create and ends the call. */
void reply_create(struct request *r, const char *handle);

#ifdef __cplusplus
}
#endif
#endif
