/* SPDX-License-Identifier: Apache-2.0 */
/* program.c - a node's process from its command line to its exit code. */
#include "common/node/program.h"

#include "common/base/clock.h"
#include "common/base/file.h"
#include "common/base/log.h"
#include "common/rpc/rpc.h"

#include <signal.h>
#include <stdio.h>

enum { EXIT_FAILED = 1, EXIT_USAGE = 2, WATCH_MS = 1000 };

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
    clean = p->close(parts, clock_in_ms(o->drain_s * 1000));
    log_event(LOG_INFO, "ended", "%s=%d", p->finished, clean);
    return 0;
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
    rpc_tune_bulk();
    code = signals_open(&signals, NULL, NULL, &err) == ST_OK ? serve(p, o, parts, signals) : fail(p, &err, EXIT_FAILED);
out:
    signals_close(signals);
    arena_fini(&arena);
    return code;
}
