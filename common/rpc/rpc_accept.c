/* SPDX-License-Identifier: Apache-2.0 */
/*
 * rpc_accept.c - accept4(2) for the libraries of this program.
 *
 * gRPC's core (1.51) never listens again on a port once accept4 has told it that no descriptor is left: whoever opens enough
 * connections makes a node deaf until it is started anew. So the libraries get this accept4 instead of libc's, as a program's
 * symbols come before those of its libraries. Without a descriptor it gives up the one that was held back, takes the
 * connection with it and closes it at once: the caller knows, the port goes on.
 */
#include "common/rpc/rpc_accept.h"

#include "common/base/clock.h"
#include "common/base/log.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stddef.h>
#include <sys/syscall.h>
#include <unistd.h>

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER; /* of what follows */
static int spare = -1;

static void hold(void)
{
    if (spare < 0)
        spare = open("/dev/null", O_RDONLY | O_CLOEXEC);
}

void rpc_accept_hold(void)
{
    pthread_mutex_lock(&lock);
    hold();
    pthread_mutex_unlock(&lock);
}

#ifndef __SANITIZE_THREAD__ /* which has an accept4 of its own, and must see descriptors come */

enum { TOLD_EVERY_S = 10 };

/* Lock held. */
static void tell(void)
{
    static long long turned_away;
    static int64_t told_ns;

    turned_away++;
    if (told_ns && clock_now_ns() - told_ns < TOLD_EVERY_S * NS_PER_S)
        return;
    told_ns = clock_now_ns();
    log_event(LOG_WARN, "connections-turned-away", "connections=%lld why=\"no descriptor is left\"", turned_away);
}

static int accept_plainly(int fd, void *address, void *bytes, int flags)
{
    return (int)syscall(SYS_accept4, fd, address, bytes, flags);
}

/* Takes the next connection and closes it. Lock held. 0, or what accept4 said. */
static int turn_one_away(int fd)
{
    int got, why;

    if (spare < 0)
        return EMFILE;
    close(spare);
    spare = -1;
    got = accept_plainly(fd, NULL, NULL, O_CLOEXEC);
    why = errno;
    if (got >= 0)
        close(got);
    hold();
    return got >= 0 ? 0 : why;
}

int accept4(int fd, void *address, void *bytes, int flags);

int accept4(int fd, void *address, void *bytes, int flags)
{
    int got, why;

    while ((got = accept_plainly(fd, address, bytes, flags)) < 0 && (errno == EMFILE || errno == ENFILE)) {
        if (!(fcntl(fd, F_GETFL) & O_NONBLOCK))
            return -1; /* it would wait for somebody to turn away */
        pthread_mutex_lock(&lock);
        why = turn_one_away(fd);
        if (why == 0)
            tell();
        pthread_mutex_unlock(&lock);
        if (why == 0)
            continue;
        errno = why == EMFILE || why == ENFILE ? ECONNABORTED : why; /* gRPC looks again when the next one comes */
        return -1;
    }
    return got;
}

#endif
