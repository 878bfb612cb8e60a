/* SPDX-License-Identifier: Apache-2.0 */
/* generate.h - the doors of Inference and Contexts, and the front thread behind them. */
#ifndef PLATEN_DECODE_GENERATE_H
#define PLATEN_DECODE_GENERATE_H

#include "common/base/status.h"
#include "common/rpc/rpc_server.h"

#ifdef __cplusplus
extern "C" {
#endif

struct node;

/* Adds Inference.Generate and Contexts.*. */
void generate_add(struct node *n, struct rpc_server *server);

/* Starts and ends the thread that checks, tokenizes and orders. At the end every request is over. */
enum status front_open(struct node *n, struct err *err);
void front_close(struct node *n);

#ifdef __cplusplus
}
#endif
#endif
