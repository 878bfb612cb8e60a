/* SPDX-License-Identifier: Apache-2.0 */
/* rpc_call_list.c - the calls of one server or client that are alive: to count them, to cancel them, to wait for them. */
#include "common/rpc/rpc_call_inside.h"

#include "common/base/thread.h"

#include <assert.h>
#include <string.h>

void call_list_init(struct call_list *l)
{
    memset(l, 0, sizeof(*l));
    pthread_mutex_init(&l->lock, NULL);
    cond_init(&l->changed);
}

void call_list_fini(struct call_list *l)
{
    assert(l->count == 0);
    pthread_cond_destroy(&l->changed);
    pthread_mutex_destroy(&l->lock);
}

size_t call_list_count(struct call_list *l)
{
    size_t count;

    pthread_mutex_lock(&l->lock);
    count = l->count;
    pthread_mutex_unlock(&l->lock);
    return count;
}

bool call_list_wait_empty(struct call_list *l, int64_t deadline_ns)
{
    bool empty;

    pthread_mutex_lock(&l->lock);
    while (l->count > 0 && cond_wait(&l->changed, &l->lock, deadline_ns))
        ;
    empty = l->count == 0;
    pthread_mutex_unlock(&l->lock);
    return empty;
}

void call_list_cancel(struct call_list *l)
{
    pthread_mutex_lock(&l->lock);
    for (struct rpc_call *c = l->first; c != NULL; c = c->next)
        rpc_call_cancel(c);
    pthread_mutex_unlock(&l->lock);
}

void call_list_enter(struct rpc_call *call)
{
    struct call_list *l = call->list;

    pthread_mutex_lock(&l->lock);
    call->next = l->first;
    if (call->next != NULL)
        call->next->prev = call;
    l->first = call;
    l->count++;
    pthread_mutex_unlock(&l->lock);
}

void call_list_leave(struct rpc_call *call)
{
    struct call_list *l = call->list;

    pthread_mutex_lock(&l->lock);
    if (call->prev != NULL)
        call->prev->next = call->next;
    else
        l->first = call->next;
    if (call->next != NULL)
        call->next->prev = call->prev;
    l->count--;
    pthread_cond_broadcast(&l->changed);
    pthread_mutex_unlock(&l->lock);
}
