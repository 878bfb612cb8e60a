/* SPDX-License-Identifier: Apache-2.0 */
/* signals.c - one thread that does nothing but wait for signals. */
#include "common/service/signals.h"

#include "common/base/arena.h"
#include "common/base/thread.h"

#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* owned by: main */
struct signals {
    pthread_t thread;
    sigset_t set;
    void (*on_first)(void *arg);
    void *arg;
    pthread_mutex_t lock;
    pthread_cond_t changed;
    atomic_bool raised; /* written under lock */
    atomic_bool closing;
    pthread_mutex_t user_lock; /* of what follows; held while on_user runs, so that its arg can be taken away safely */
    void (*on_user)(void *arg);
    void *user_arg;
};

/* True for the one who raised it. */
static bool raise_once(struct signals *s)
{
    bool first;

    pthread_mutex_lock(&s->lock);
    first = !atomic_exchange(&s->raised, true);
    pthread_cond_broadcast(&s->changed);
    pthread_mutex_unlock(&s->lock);
    return first;
}

static void tell_user(struct signals *s)
{
    pthread_mutex_lock(&s->user_lock);
    if (s->on_user != NULL)
        s->on_user(s->user_arg);
    pthread_mutex_unlock(&s->user_lock);
}

void signals_on_user(struct signals *s, void (*on_user)(void *arg), void *arg)
{
    pthread_mutex_lock(&s->user_lock);
    s->on_user = on_user;
    s->user_arg = arg;
    pthread_mutex_unlock(&s->user_lock);
}

/* The first signal raises, and so may signals_raise; a signal after either ends the process. */
static void *signals_run(void *arg)
{
    struct signals *s = (struct signals *)arg;
    int number;

    for (;;) {
        if (sigwait(&s->set, &number) != 0)
            continue;
        if (atomic_load(&s->closing))
            return NULL;
        if (number == SIGUSR1) {
            tell_user(s);
            continue;
        }
        if (!raise_once(s))
            _exit(1);
        if (s->on_first != NULL)
            s->on_first(s->arg);
    }
}

enum status signals_open(struct signals **out, void (*on_first)(void *arg), void *arg, struct err *err)
{
    struct signals *s = (struct signals *)mem_zero(1, sizeof(*s));
    enum status st;

    s->on_first = on_first;
    s->arg = arg;
    pthread_mutex_init(&s->lock, NULL);
    pthread_mutex_init(&s->user_lock, NULL);
    cond_init(&s->changed);
    sigemptyset(&s->set);
    sigaddset(&s->set, SIGTERM);
    sigaddset(&s->set, SIGINT);
    sigaddset(&s->set, SIGUSR1);
    sigaddset(&s->set, SIGRTMIN);
    pthread_sigmask(SIG_BLOCK, &s->set, NULL);
    st = thread_start(&s->thread, "signals", signals_run, s, err);
    if (st != ST_OK) {
        free(s);
        return st;
    }
    *out = s;
    return ST_OK;
}

bool signals_wait(struct signals *s, int64_t deadline_ns)
{
    bool raised;

    pthread_mutex_lock(&s->lock);
    while (!atomic_load(&s->raised) && cond_wait(&s->changed, &s->lock, deadline_ns))
        ;
    raised = atomic_load(&s->raised);
    pthread_mutex_unlock(&s->lock);
    return raised;
}

void signals_raise(struct signals *s)
{
    if (raise_once(s) && s->on_first != NULL)
        s->on_first(s->arg);
}

bool signals_raised(const struct signals *s)
{
    return atomic_load(&((struct signals *)s)->raised);
}

void signals_close(struct signals *s)
{
    if (s == NULL)
        return;
    atomic_store(&s->closing, true);
    pthread_kill(s->thread, SIGRTMIN); /* wakes it */
    pthread_join(s->thread, NULL);
    pthread_cond_destroy(&s->changed);
    pthread_mutex_destroy(&s->user_lock);
    pthread_mutex_destroy(&s->lock);
    free(s);
}
