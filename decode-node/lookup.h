/* SPDX-License-Identifier: Apache-2.0 */
/* lookup.h - the addresses of a name, from a name server that may take its time. */
#ifndef PLATEN_DECODE_LOOKUP_H
#define PLATEN_DECODE_LOOKUP_H

#include <netdb.h>
#include <stdbool.h>

#ifdef __cplusplus
extern "C" {
#endif

/* What getaddrinfo says of `host` and `service` (both copied): 0 and a list for freeaddrinfo, or its error. It runs on a thread
 * of its own, since nothing ends it early; go_on(ctx) is called ten times a second meanwhile. Once that is false the thread is
 * left to itself: EAI_AGAIN. */
int lookup(const char *host, const char *service, bool (*go_on)(void *ctx), void *ctx, struct addrinfo **list);

#ifdef __cplusplus
}
#endif
#endif
