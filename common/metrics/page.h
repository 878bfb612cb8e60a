/* SPDX-License-Identifier: Apache-2.0 */
/* page.h - GET /metrics on a port of its own. */
#ifndef PLATEN_METRICS_PAGE_H
#define PLATEN_METRICS_PAGE_H

#include "common/base/status.h"
#include "common/metrics/metrics.h"

#ifdef __cplusplus
extern "C" {
#endif

struct page;

/* A page of `m` at host and port (0 picks one), which is bound here: who asks before the start waits. `m` must outlive the
 * page. ST_EINVAL: no such host; ST_EUNAVAILABLE: cannot listen there (in use), each naming it. */
enum status page_open(struct page **out, const struct metrics *m, const char *host, int port, struct err *err);

/* Serves from a thread of its own, which reads gauges: what they read must be there. */
enum status page_start(struct page *p, struct err *err);

/* HOST:PORT with the port that was bound. Borrowed. */
const char *page_address(const struct page *p);
void page_close(struct page *p); /* NULL is fine */

#ifdef __cplusplus
}
#endif
#endif
