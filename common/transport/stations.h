/* SPDX-License-Identifier: Apache-2.0 */
/*
 * stations.h - the transports that this process may use, in its operator's order, each with its station.
 *
 *   decode node    offers all of them, with one hello          stations_hello
 *   prefill node   takes the first that both can use           stations_choose
 *
 * A transport that the operator named and this machine does not have is left out and told; nothing is taken in its place
 * that was not named. What is chosen, and why not what was offered first, travels in Accepted.
 */
#ifndef PLATEN_TRANSPORT_STATIONS_H
#define PLATEN_TRANSPORT_STATIONS_H

#include "common/base/status.h"
#include "common/base/text.h"
#include "common/transport/transport.h"

#include <stddef.h>

#ifdef __cplusplus
extern "C" {
#endif

enum { STATIONS_MAX = 8 };

struct stations;

/* allowed: names separated by commas, or NULL: ipc,nccl,grpc where blocks lie on a device, else grpc. missing(ctx, name,
 * why), may be NULL: a named transport is not to be had. ST_EINVAL: a name that is none, or none is left. */
enum status stations_open(struct stations **out, const char *allowed, const struct station_config *config,
                          void (*missing)(void *ctx, const char *name, const char *why), void *ctx, struct err *err);
void stations_close(struct stations *s); /* after every link; NULL is fine */

/* About once a second: each lets go of what nobody has used for some time. It may wait for the device. Any thread. */
void stations_tick(const struct stations *s);

/* The CUDA ordinal of a back end's name ("cuda", "cuda:1"); -1: its memory is the host's. */
int32_t stations_device(const char *backend);

/* The i-th, best first; NULL past the end. */
const struct transport *stations_at(const struct stations *s, size_t i);
/* The station of a transport, NULL where it has none; *has (may be NULL): whether it is among them. */
struct station *stations_of(const struct stations *s, const struct transport *t, bool *has);
const char *stations_list(const struct stations *s);  /* "ipc,nccl,grpc" */
bool stations_place_device(const struct stations *s); /* one of them wants blocks on the device */

/* What this process says of itself to peers: the hellos of all of them. */
enum status stations_hello(const struct stations *s, struct text *out, struct err *err);

/* The part of a peer's hello that is for one transport; false: none. Borrows. */
bool stations_hello_of(const void *hello, size_t hello_bytes, const char *name, const void **part, size_t *part_bytes);

/* The first offered transport that is here and can meet the peer. *note: why not the ones before it; empty otherwise.
 * ST_EPRECONDITION when there is none. */
enum status stations_choose(const struct stations *s, const char *const *offered, size_t count, const void *hello,
                            size_t hello_bytes, const struct transport **out, struct text *note, struct err *err);

#ifdef __cplusplus
}
#endif
#endif
