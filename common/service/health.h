/* SPDX-License-Identifier: Apache-2.0 */
/* health.h - grpc.health.v1: Check and Watch, one state per service name; "" is the whole node. */
#ifndef PLATEN_SERVICE_HEALTH_H
#define PLATEN_SERVICE_HEALTH_H

#include "common/base/status.h"
#include "common/rpc/rpc_server.h"

#include <stdbool.h>
#include <stddef.h>

#ifdef __cplusplus
extern "C" {
#endif

struct health;

/* `names` (borrowed, `count` of them, "" among them) start as NOT_SERVING. Never fails. */
struct health *health_open(const char *const *names, size_t count);

/* Before the server starts. The server must be closed before the health is. Asked without a token too. */
void health_add(struct health *h, struct rpc_server *s);

/* Any thread. Watches are told at once. NULL name: all. After health_shutdown it does nothing. */
void health_set(struct health *h, const char *name, bool serving);

/* Everything is NOT_SERVING from now on; every Watch is told so and then ended (UNAVAILABLE), so that a drain does not
 * wait for it. Any thread. */
void health_shutdown(struct health *h);
void health_close(struct health *h); /* NULL is fine */

#ifdef __cplusplus
}
#endif
#endif
