/* SPDX-License-Identifier: Apache-2.0 */
/*
 * reflection.h - grpc.reflection.v1 and v1alpha: a stranger's tool learns the services and their messages.
 *
 * Answers come from the descriptor set that protoc wrote at build time and that lies inside the program. Only services
 * that the server has are listed.
 */
#ifndef PLATEN_SERVICE_REFLECTION_H
#define PLATEN_SERVICE_REFLECTION_H

#include "common/base/status.h"
#include "common/rpc/rpc_server.h"

#ifdef __cplusplus
extern "C" {
#endif

struct reflection;

/* Indexes the descriptor set. ST_EINTERNAL when it is none. */
enum status reflection_open(struct reflection **out, struct err *err);

/* After all other methods were added, before the server starts. Must outlive the server. */
void reflection_add(struct reflection *r, struct rpc_server *s);
void reflection_close(struct reflection *r); /* NULL is fine */

#ifdef __cplusplus
}
#endif
#endif
