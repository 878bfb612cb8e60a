/* SPDX-License-Identifier: Apache-2.0 */
/*
 * service.h - the life of a node's process, the same for both nodes.
 *
 *   (signals_open, first of all)
 *   open    ports bound, of calls and of the metrics page   a port in use is refused here
 *   (the node adds its methods and gets ready)
 *   start   the metrics page answers; calls come in; `serving HOST:PORT` on stdout, `metrics HOST:PORT` after it
 *   (signals_wait: until the first SIGTERM or SIGINT)
 *   drain   NOT_SERVING, watches end, no new calls, running ones finish within the limit, then cancelled
 *   (the node takes its parts away, the metrics page first: service_unpublish)
 *   close
 *
 * Nothing else is ever written to stdout.
 */
#ifndef PLATEN_SERVICE_SERVICE_H
#define PLATEN_SERVICE_SERVICE_H

#include "common/base/status.h"
#include "common/metrics/metrics.h"
#include "common/rpc/rpc_server.h"
#include "common/service/health.h"

#include <stdbool.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

struct service;

struct service_options {
    struct rpc_server_options rpc;
    const char *metrics_listen;    /* HOST:PORT; NULL: no page */
    const struct metrics *metrics; /* borrowed; must outlive the service */
    const char *const *names;      /* health names beside "": "platen.v1.Inference", ... ; borrowed */
    size_t name_count;
};

enum status service_open(struct service **out, const struct service_options *o, struct err *err);

/* HOST:PORT that no other node has: the address that was bound; this machine's name where that is every address. Borrowed. */
const char *service_name(const struct service *s);
struct rpc_server *service_server(struct service *s);
struct health *service_health(struct service *s);

/* Adds health and reflection, starts the server, prints the lines. Health stays NOT_SERVING until health_set. */
enum status service_start(struct service *s, struct err *err);

/* True: everything finished by itself until deadline_ns. */
bool service_drain(struct service *s, int64_t deadline_ns);

/* No metrics page from here on. Called before what its gauges read is taken away. NULL and twice are fine. */
void service_unpublish(struct service *s);
void service_close(struct service *s); /* NULL is fine */

#ifdef __cplusplus
}
#endif
#endif
