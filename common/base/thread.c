/* SPDX-License-Identifier: Apache-2.0 */
/*
 * thread.c - starting a named thread, waiting with a deadline, and how many threads are of use here.
 *
 * Signals are the main thread's: every other thread starts with SIGINT, SIGTERM and SIGHUP blocked, set before it is
 * created so that there is no moment without.
 *
 * Cores are what the affinity mask allows, cut by the quota of this cgroup and of each of its parents (cgroup v2,
 * cpu.max: "QUOTA PERIOD" in microseconds, or "max"). A quota of 1.5 cores counts as one: a thread too many does not
 * run slower, it stands still for the rest of the period.
 */
#include "common/base/thread.h"

#include "common/base/clock.h"

#include <errno.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum { PATH_BYTES_MAX = 4096 };

enum status thread_start(pthread_t *out, const char *name, void *(*run)(void *), void *arg, struct err *err)
{
    sigset_t mains, before;
    char cut[16];
    pthread_t thread;
    int rc;

    sigemptyset(&mains);
    sigaddset(&mains, SIGINT);
    sigaddset(&mains, SIGTERM);
    sigaddset(&mains, SIGHUP);
    pthread_sigmask(SIG_BLOCK, &mains, &before);
    rc = pthread_create(&thread, NULL, run, arg);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (rc != 0)
        return err_set(err, ST_EEXHAUSTED, "thread %s: %s", name, strerror(rc));
    snprintf(cut, sizeof cut, "%s", name);
    pthread_setname_np(thread, cut);
    *out = thread;
    return ST_OK;
}

void cond_init(pthread_cond_t *cond)
{
    pthread_condattr_t attr;

    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_cond_init(cond, &attr);
    pthread_condattr_destroy(&attr);
}

bool cond_wait(pthread_cond_t *cond, pthread_mutex_t *lock, int64_t deadline_ns)
{
    const int64_t at = deadline_ns > 0 ? deadline_ns : 0;
    const struct timespec until = { .tv_sec = at / NS_PER_S, .tv_nsec = at % NS_PER_S };

    return pthread_cond_timedwait(cond, lock, &until) != ETIMEDOUT;
}

static int cores_of_affinity(void)
{
    long online = sysconf(_SC_NPROCESSORS_ONLN);
    cpu_set_t mask;

    if (sched_getaffinity(0, sizeof mask, &mask) == 0)
        return CPU_COUNT(&mask);
    return online > 0 ? (int)online : 1; /* more than CPU_SETSIZE cores: the mask does not fit */
}

int thread_cut_by_quota(int cores, const char *folder)
{
    char path[PATH_BYTES_MAX + 16], line[64] = "", *end;
    long long quota_us, period_us;
    FILE *f;

    snprintf(path, sizeof path, "%s/cpu.max", folder);
    f = fopen(path, "re");
    if (!f)
        return cores;
    if (!fgets(line, sizeof line, f))
        line[0] = '\0';
    fclose(f);
    quota_us = strtoll(line, &end, 10); /* "max" reads as 0 */
    period_us = strtoll(end, NULL, 10);
    if (quota_us <= 0 || period_us <= 0 || quota_us / period_us >= cores)
        return cores;
    return quota_us < period_us ? 1 : (int)(quota_us / period_us);
}

/* Where this process stands in the cgroup tree: the line "0::/PATH". */
static void cgroup_folder(char *out, size_t room)
{
    char line[PATH_BYTES_MAX] = "";
    FILE *f = fopen("/proc/self/cgroup", "re");

    snprintf(out, room, "/sys/fs/cgroup");
    if (!f)
        return;
    while (fgets(line, sizeof line, f)) {
        line[strcspn(line, "\n")] = '\0';
        if (strncmp(line, "0::/", 4) == 0)
            snprintf(out, room, "/sys/fs/cgroup%.3000s", line + 3);
    }
    fclose(f);
}

int thread_cores(void)
{
    char folder[PATH_BYTES_MAX];
    int cores = cores_of_affinity();
    size_t root = strlen("/sys/fs/cgroup");

    cgroup_folder(folder, sizeof folder);
    for (;;) {
        cores = thread_cut_by_quota(cores, folder);
        if (strlen(folder) <= root)
            return cores < 1 ? 1 : cores;
        *strrchr(folder, '/') = '\0';
    }
}
