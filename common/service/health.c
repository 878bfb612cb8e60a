/* SPDX-License-Identifier: Apache-2.0 */
/*
 * health.c - a table of names and states, and the Watch calls that are told of each change.
 *
 * Each Watch remembers what it was told last. One that does not read fills its queue, is left alone, and hears the
 * newest state when there is room again.
 *
 * https://github.com/grpc/grpc/blob/master/doc/health-checking.md
 */
#include "common/service/health.h"

#include "common/base/arena.h"
#include "proto/grpc/health/v1/health.pb-c.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

typedef Grpc__Health__V1__HealthCheckRequest Request;
typedef Grpc__Health__V1__HealthCheckResponse Response;

enum {
    SERVING = GRPC__HEALTH__V1__HEALTH_CHECK_RESPONSE__SERVING_STATUS__SERVING,
    NOT_SERVING = GRPC__HEALTH__V1__HEALTH_CHECK_RESPONSE__SERVING_STATUS__NOT_SERVING,
    SERVICE_UNKNOWN = GRPC__HEALTH__V1__HEALTH_CHECK_RESPONSE__SERVING_STATUS__SERVICE_UNKNOWN
};

enum { WATCHES_MAX = 1024 };

struct name {
    const char *name;
    int state;
};

/* owned by: its call (free_user); in the list from open to done */
struct watch {
    struct watch *next, *prev;
    struct rpc_call *call;
    const struct name *name; /* NULL: a service we do not have */
    int told;                /* the state it heard last; -1: none */
};

struct health {
    pthread_mutex_t lock;
    struct name *names;
    size_t name_count;
    struct watch *watches;
    size_t watch_count;
    bool shut;
};

struct health *health_open(const char *const *names, size_t count)
{
    struct health *h = (struct health *)mem_zero(1, sizeof(*h));

    pthread_mutex_init(&h->lock, NULL);
    h->names = (struct name *)mem_zero(count + 1, sizeof(*h->names));
    for (; h->name_count < count; h->name_count++) {
        h->names[h->name_count].name = names[h->name_count];
        h->names[h->name_count].state = NOT_SERVING;
    }
    return h;
}

void health_close(struct health *h)
{
    if (h == NULL)
        return;
    pthread_mutex_destroy(&h->lock);
    free(h->names);
    free(h);
}

static struct name *name_find(struct health *h, const char *name)
{
    for (size_t i = 0; i < h->name_count; i++)
        if (strcmp(h->names[i].name, name) == 0)
            return &h->names[i];
    return NULL;
}

static void check(struct rpc_call *call, void *owner, const ProtobufCMessage *msg)
{
    struct health *h = (struct health *)owner;
    Response r = GRPC__HEALTH__V1__HEALTH_CHECK_RESPONSE__INIT;
    const struct name *n = name_find(h, ((const Request *)msg)->service);

    if (n == NULL) {
        rpc_call_finish(call, ST_ENOTFOUND, "no such service here", -1);
        return;
    }
    pthread_mutex_lock(&h->lock);
    r.status = (Grpc__Health__V1__HealthCheckResponse__ServingStatus)n->state;
    pthread_mutex_unlock(&h->lock);
    rpc_call_reply(call, &r.base);
}

static int watch_state(const struct watch *w)
{
    return w->name != NULL ? w->name->state : SERVICE_UNKNOWN;
}

/* With the lock held: tells a watch its state if that is news. A send takes no lock but the call's own, and calls nobody. */
static void watch_tell(struct health *h, struct watch *w)
{
    Response r = GRPC__HEALTH__V1__HEALTH_CHECK_RESPONSE__INIT;
    int state = watch_state(w);

    r.status = (Grpc__Health__V1__HealthCheckResponse__ServingStatus)state;
    if (w->told != state && rpc_call_send(w->call, &r.base) == ST_OK)
        w->told = state;
    if (h->shut && w->told == state)
        rpc_call_finish(w->call, ST_EUNAVAILABLE, "the node goes down", -1);
}

static void watch_room(struct rpc_call *call, void *owner)
{
    struct health *h = (struct health *)owner;
    struct watch *w = (struct watch *)rpc_call_user(call);

    pthread_mutex_lock(&h->lock);
    if (w != NULL)
        watch_tell(h, w);
    pthread_mutex_unlock(&h->lock);
}

static void watch_start(struct rpc_call *call, void *owner, const ProtobufCMessage *msg)
{
    struct health *h = (struct health *)owner;
    struct watch *w;

    pthread_mutex_lock(&h->lock);
    if (h->watch_count == WATCHES_MAX) {
        pthread_mutex_unlock(&h->lock);
        rpc_call_finish(call, ST_EEXHAUSTED, "too many watches", 1000);
        return;
    }
    w = (struct watch *)mem_zero(1, sizeof(*w));
    w->call = call; /* in the list only while the call is alive: no count needed */
    w->told = -1;
    w->name = name_find(h, ((const Request *)msg)->service);
    rpc_call_set_user(call, w, free);
    w->next = h->watches;
    if (w->next != NULL)
        w->next->prev = w;
    h->watches = w;
    h->watch_count++;
    watch_tell(h, w);
    pthread_mutex_unlock(&h->lock);
}

static void watch_done(struct rpc_call *call, void *owner, const struct rpc_end *end)
{
    struct health *h = (struct health *)owner;
    struct watch *w = (struct watch *)rpc_call_user(call);

    (void)end;
    if (w == NULL)
        return;
    pthread_mutex_lock(&h->lock);
    if (w->prev != NULL)
        w->prev->next = w->next;
    else
        h->watches = w->next;
    if (w->next != NULL)
        w->next->prev = w->prev;
    h->watch_count--;
    pthread_mutex_unlock(&h->lock);
}

static void names_set(struct health *h, const char *name, int state)
{
    for (size_t i = 0; i < h->name_count; i++) {
        struct name *n = &h->names[i];

        if ((name != NULL && strcmp(n->name, name) != 0) || n->state == state)
            continue;
        n->state = state;
        for (struct watch *w = h->watches; w != NULL; w = w->next)
            if (w->name == n)
                watch_tell(h, w);
    }
}

void health_set(struct health *h, const char *name, bool serving)
{
    pthread_mutex_lock(&h->lock);
    if (!h->shut)
        names_set(h, name, serving ? SERVING : NOT_SERVING);
    pthread_mutex_unlock(&h->lock);
}

void health_shutdown(struct health *h)
{
    pthread_mutex_lock(&h->lock);
    if (!h->shut) {
        names_set(h, NULL, NOT_SERVING);
        h->shut = true;
        for (struct watch *w = h->watches; w != NULL; w = w->next) {
            watch_tell(h, w);
            if (w->told != watch_state(w)) /* it does not read: it is not waited for */
                rpc_call_abort(w->call, ST_EUNAVAILABLE, "the node goes down");
        }
    }
    pthread_mutex_unlock(&h->lock);
}

static const struct rpc_events check_events = { .message = check };
static const struct rpc_events watch_events = { .message = watch_start, .room = watch_room, .done = watch_done };

void health_add(struct health *h, struct rpc_server *s)
{
    const ProtobufCMessageDescriptor *type = &grpc__health__v1__health_check_request__descriptor;
    const struct rpc_method methods[] = {
        { "/grpc.health.v1.Health/Check", RPC_UNARY, type, false, true, &check_events, h },
        { "/grpc.health.v1.Health/Watch", RPC_SERVER_STREAM, type, false, true, &watch_events, h },
    };

    rpc_server_add(s, methods, 2);
}
