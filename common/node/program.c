/* SPDX-License-Identifier: Apache-2.0 */
/*
 * program.c - a node's process from its command line to its exit code.
 *
 * A node whose device failed drains as if it had been asked to, and leaves with 1, so that whoever runs it starts it again.
 * A card that hangs may hold up whoever gives something back to it, inside the driver: so closing has a deadline then, and
 * the process takes what is left with it.
 */
#include "common/node/program.h"

#include "common/base/clock.h"
#include "common/base/file.h"
#include "common/base/log.h"
#include "common/base/thread.h"
#include "common/rpc/rpc.h"

#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <sys/resource.h>
#include <unistd.h>

enum { EXIT_FAILED = 1, EXIT_USAGE = 2, WATCH_MS = 1000, CLOSE_MS = 5000 };

static int help(const struct node_program *p)
{
    struct text out = { 0 };

    text_puts(&out, p->head);
    opt_help(p->options, &out);
    fwrite(text_str(&out), 1, out.bytes, stdout);
    text_fini(&out);
    return 0;
}

static int fail(const struct node_program *p, const struct err *err, int code)
{
    fprintf(stderr, "%s: %s: %s\n", p->name, status_word(err->code), err->text);
    return code;
}

static enum status set_log_level(const char *word, struct err *err)
{
    const int level = log_level_parse(word);

    if (level < 0)
        return err_set(err, ST_EINVAL, "--log-level is '%s', allowed are error, warn, info and debug", word);
    log_set_level((enum log_level)level);
    return ST_OK;
}

/* A node being closed on a thread of its own. */
struct closing {
    const struct node_program *program;
    struct node_parts *parts;
    int64_t deadline_ns;
    pthread_mutex_t lock;
    pthread_cond_t changed;
    bool done, clean; /* under lock */
};

static void *close_run(void *arg)
{
    struct closing *c = arg;
    const bool clean = c->program->close(c->parts, c->deadline_ns);

    pthread_mutex_lock(&c->lock);
    c->done = true;
    c->clean = clean;
    pthread_cond_signal(&c->changed);
    pthread_mutex_unlock(&c->lock);
    return NULL;
}

/* Ends the process without its exit handlers: the driver's wait for the card as well. */
static void end_failed(const struct node_program *p, const struct node_options *o, struct node_parts *parts)
{
    struct closing c = { .program = p, .parts = parts, .deadline_ns = clock_in_ms(o->drain_s * 1000) };
    const int64_t last_ns = c.deadline_ns + CLOSE_MS * NS_PER_MS;
    pthread_t thread;

    pthread_mutex_init(&c.lock, NULL);
    cond_init(&c.changed);
    if (thread_start(&thread, "closing", close_run, &c, NULL) == ST_OK) {
        pthread_mutex_lock(&c.lock);
        while (!c.done && cond_wait(&c.changed, &c.lock, last_ns))
            ;
    }
    log_event(LOG_ERROR, "ended", "%s=%d closed=%d why=\"the device failed\"", p->finished, c.clean, c.done);
    _exit(EXIT_FAILED);
}

static int serve(const struct node_program *p, const struct node_options *o, struct node_parts *parts,
                 struct signals *signals)
{
    struct err err = { 0 };
    bool clean;

    if (p->open(parts, o, signals, &err) != ST_OK)
        return fail(p, &err, EXIT_FAILED);
    while (!signals_wait(signals, clock_in_ms(WATCH_MS)))
        parts_watch(parts);
    log_event(LOG_INFO, "draining", "seconds=%lld", (long long)o->drain_s);
    if (__atomic_load_n(&parts->device_failed, __ATOMIC_RELAXED))
        end_failed(p, o, parts);
    clean = p->close(parts, clock_in_ms(o->drain_s * 1000));
    log_event(LOG_INFO, "ended", "%s=%d", p->finished, clean);
    return 0;
}

/* As many descriptors as the system allows: every connection is one. */
static void raise_descriptors(void)
{
    struct rlimit limit;

    if (getrlimit(RLIMIT_NOFILE, &limit) == 0 && limit.rlim_cur < limit.rlim_max) {
        limit.rlim_cur = limit.rlim_max;
        (void)setrlimit(RLIMIT_NOFILE, &limit);
    }
}

int node_main(const struct node_program *p, struct node_options *o, struct node_parts *parts, int argc, char **argv)
{
    struct arena arena = { 0 };
    struct signals *signals = NULL;
    struct err err = { 0 };
    int code;

    file_fill_std();
    signal(SIGPIPE, SIG_IGN);
    if (p->read(o, argc, argv, &arena, &err) != ST_OK || (!o->help && set_log_level(o->log_level, &err) != ST_OK)) {
        code = fail(p, &err, EXIT_USAGE);
        goto out;
    }
    if (o->help) {
        code = help(p);
        goto out;
    }
    raise_descriptors();
    rpc_tune_bulk();
    code = signals_open(&signals, NULL, NULL, &err) == ST_OK ? serve(p, o, parts, signals) : fail(p, &err, EXIT_FAILED);
out:
    signals_close(signals);
    arena_fini(&arena);
    return code;
}
