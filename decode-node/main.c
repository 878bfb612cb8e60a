/* SPDX-License-Identifier: Apache-2.0 */
/* main.c - the program decode-node: options, node, wait, drain. */
#include "common/base/arena.h"
#include "common/base/clock.h"
#include "common/base/log.h"
#include "common/rpc/rpc.h"
#include "common/service/signals.h"
#include "decode-node/node.h"
#include "decode-node/options.h"

#include <signal.h>
#include <stdio.h>

enum { EXIT_FAILED = 1, EXIT_USAGE = 2 };

static int help(void)
{
    struct text out = { 0 };

    text_puts(&out, "decode-node - adopts pressed contexts and answers questions about them.\n\n"
                    "usage: decode-node --model PATH --listen HOST:PORT --prefill TARGET[,TARGET...] [options]\n\n");
    opt_help(&options_table, &out);
    fwrite(text_str(&out), 1, out.bytes, stdout);
    text_fini(&out);
    return 0;
}

static int fail(const struct err *err, int code)
{
    fprintf(stderr, "decode-node: %s: %s\n", status_word(err->code), err->text);
    return code;
}

static int serve(const struct options *opt, struct signals *signals)
{
    static struct node node;
    struct err err = { 0 };

    if (node_open(&node, opt, signals, &err) != ST_OK)
        return fail(&err, EXIT_FAILED);
    signals_wait(signals, INT64_MAX);
    log_event(LOG_INFO, "draining", "seconds=%lld", (long long)opt->drain_s);
    bool clean = node_close(&node, clock_in_ms(opt->drain_s * 1000));
    log_event(LOG_INFO, "ended", "all_answers_finished=%d", clean);
    return 0;
}

int main(int argc, char **argv)
{
    struct arena arena = { 0 };
    struct options opt;
    struct signals *signals = NULL;
    struct err err = { 0 };
    int code, level;

    signal(SIGPIPE, SIG_IGN);
    if (options_read(&opt, argc, argv, &arena, &err) != ST_OK) {
        code = fail(&err, EXIT_USAGE);
        goto out;
    }
    if (opt.help) {
        code = help();
        goto out;
    }
    level = log_level_parse(opt.log_level);
    if (level < 0) {
        err_set(&err, ST_EINVAL, "--log-level is '%s', allowed are error, warn, info and debug", opt.log_level);
        code = fail(&err, EXIT_USAGE);
        goto out;
    }
    log_set_level((enum log_level)level);
    rpc_tune_bulk();
    if (signals_open(&signals, NULL, NULL, &err) != ST_OK) {
        code = fail(&err, EXIT_FAILED);
        goto out;
    }
    code = serve(&opt, signals);
out:
    signals_close(signals);
    arena_fini(&arena);
    return code;
}
