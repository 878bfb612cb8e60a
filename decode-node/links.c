/* SPDX-License-Identifier: Apache-2.0 */
/* links.c - one thread that measures each prefill node's link when it begins to answer, and slow ones again later. */
#include "decode-node/links.h"

#include "common/base/arena.h"
#include "common/base/clock.h"
#include "common/base/log.h"
#include "common/base/thread.h"
#include "decode-node/node.h"
#include "decode-node/pull.h"

#include <stdlib.h>
#include <time.h>

enum { REST_MS = 100 };
#define MEASURE_BYTES (UINT64_C(64) << 20)

struct links {
    struct node *node;
    pthread_t thread;
    int32_t stopping; /* atomic */
};

static void tell(const struct node *n, struct peer *peer, const struct transport *t, double gb_s)
{
    const bool slow = gb_s < n->opt.link_floor_gb_s;

    log_event(slow ? LOG_WARN : LOG_INFO, slow ? "link-slow" : "link",
              "prefill_node=%s transport=%s gb_s=%.3f floor_gb_s=%.3f%s", peer_address(peer), t->name, gb_s,
              n->opt.link_floor_gb_s, slow ? " why=\"slower than the floor: not serving by this link\"" : "");
}

/* Over the first transport that works; those before it are told with their reason. */
static void measure(struct node *n, struct peer *peer)
{
    const struct transport *t;

    for (size_t i = 0; (t = stations_at(n->parts.stations, i)); i++) {
        struct err err = { 0 };
        struct log_text why;
        double seconds = 0;

        /* the first block makes what the transport makes once: a communicator, mappings */
        if (pull_bytes(n, peer, t->name, 1, &seconds, &err) == ST_OK &&
            pull_bytes(n, peer, t->name, MEASURE_BYTES, &seconds, &err) == ST_OK && seconds > 0) {
            const double gb_s = (double)MEASURE_BYTES / 1e9 / seconds;

            tell(n, peer, t, gb_s);
            peer_measured(peer, gb_s);
            return;
        }
        log_event(LOG_WARN, "link-unmeasured", "prefill_node=%s transport=%s why=%s", peer_address(peer), t->name,
                  log_quote(&why, err.text));
    }
    peer_measured(peer, 0);
}

static void *links_run(void *arg)
{
    struct links *l = arg;
    struct peer *peer;

    while (!__atomic_load_n(&l->stopping, __ATOMIC_RELAXED)) {
        if (!signals_raised(l->node->parts.signals) && peers_unmeasured(l->node->peers, &peer))
            measure(l->node, peer);
        else
            nanosleep(&(struct timespec){ 0, REST_MS * NS_PER_MS }, NULL);
    }
    return NULL;
}

enum status links_open(struct links **out, struct node *n, struct err *err)
{
    struct links *l;
    enum status st;

    *out = NULL;
    if (n->opt.link_floor_gb_s == 0 && !stations_place_device(n->parts.stations))
        return ST_OK;
    l = mem_zero(1, sizeof *l);
    l->node = n;
    st = thread_start(&l->thread, "links", links_run, l, err);
    if (st != ST_OK) {
        free(l);
        return st;
    }
    *out = l;
    return ST_OK;
}

void links_close(struct links *l)
{
    if (!l)
        return;
    __atomic_store_n(&l->stopping, 1, __ATOMIC_RELAXED);
    pthread_join(l->thread, NULL);
    free(l);
}
