/* SPDX-License-Identifier: Apache-2.0 */
/*
 * lookup.c - getaddrinfo on a thread of its own.
 *
 * A name server that does not answer holds getaddrinfo for 5 to 30 s, and nothing cancels it: the thread that asked must not
 * be held, too. What both share goes with the last of them.
 */
#include "decode-node/lookup.h"

#include "common/base/arena.h"
#include "common/base/clock.h"
#include "common/base/thread.h"

#include <pthread.h>
#include <stdlib.h>

enum { LOOK_MS = 100 };

struct asking {
    pthread_mutex_t lock; /* guards refs, ended */
    pthread_cond_t over;
    int refs;
    bool ended;
    int failed; /* once ended, with `list`, for who waited */
    struct addrinfo *list;
    struct arena arena;
    const char *host, *service;
};

static void asking_unref(struct asking *a)
{
    int left;

    pthread_mutex_lock(&a->lock);
    left = --a->refs;
    pthread_mutex_unlock(&a->lock);
    if (left > 0)
        return;
    if (a->list)
        freeaddrinfo(a->list);
    pthread_cond_destroy(&a->over);
    pthread_mutex_destroy(&a->lock);
    arena_fini(&a->arena);
    free(a);
}

static void *run(void *arg)
{
    struct addrinfo hints = { .ai_socktype = SOCK_STREAM }, *list = NULL;
    struct asking *a = arg;
    int failed = getaddrinfo(a->host, a->service, &hints, &list);

    pthread_mutex_lock(&a->lock);
    a->failed = failed;
    a->list = failed == 0 ? list : NULL;
    a->ended = true;
    pthread_cond_signal(&a->over);
    pthread_mutex_unlock(&a->lock);
    asking_unref(a);
    return NULL;
}

/* False: go_on said so. */
static bool await(struct asking *a, bool (*go_on)(void *ctx), void *ctx)
{
    bool ended = false;

    while (!ended) {
        pthread_mutex_lock(&a->lock);
        if (!a->ended)
            cond_wait(&a->over, &a->lock, clock_in_ms(LOOK_MS));
        ended = a->ended;
        pthread_mutex_unlock(&a->lock);
        if (!ended && !go_on(ctx))
            return false;
    }
    return true;
}

int lookup(const char *host, const char *service, bool (*go_on)(void *ctx), void *ctx, struct addrinfo **list)
{
    struct asking *a = mem_zero(1, sizeof *a);
    struct err err = { 0 };
    pthread_t thread;
    int failed = EAI_AGAIN;

    pthread_mutex_init(&a->lock, NULL);
    cond_init(&a->over);
    a->refs = 2;
    a->host = arena_strdup(&a->arena, host);
    a->service = arena_strdup(&a->arena, service);
    *list = NULL;
    if (thread_start(&thread, "lookup", run, a, &err) != ST_OK) {
        a->refs = 1;
    } else {
        pthread_detach(thread);
        if (await(a, go_on, ctx)) {
            failed = a->failed;
            *list = a->list;
            a->list = NULL;
        }
    }
    asking_unref(a);
    return failed;
}
