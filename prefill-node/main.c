/* SPDX-License-Identifier: Apache-2.0 */
/* main.c - the program prefill-node: options, node, wait, drain. */
#include "common/base/arena.h"
#include "common/base/clock.h"
#include "common/base/log.h"
#include "common/rpc/rpc.h"
#include "common/service/signals.h"
#include "prefill-node/node.h"
#include "prefill-node/options.h"

#include <signal.h>
#include <stdio.h>

enum { EXIT_FAILED = 1, EXIT_USAGE = 2 };

static int help(void)
{
    struct text out = { 0 };

    text_puts(&out, "prefill-node - runs a model over long contexts, presses their KV cache, ships what is kept.\n\n"
                    "usage: prefill-node --model PATH --listen HOST:PORT [options]\n\n");
    opt_help(&prefill_options_table, &out);
    fwrite(text_str(&out), 1, out.bytes, stdout);
    text_fini(&out);
    return 0;
}

static int fail(const struct err *err, int code)
{
    fprintf(stderr, "prefill-node: %s: %s\n", status_word(err->code), err->text);
    return code;
}

static int serve(const struct prefill_options *opt, struct signals *signals)
{
    static struct prefill_node node;
    struct err err = { 0 };
    bool clean;

    if (prefill_node_open(&node, opt, signals, &err) != ST_OK)
        return fail(&err, EXIT_FAILED);
    signals_wait(signals, INT64_MAX);
    log_event(LOG_INFO, "draining", "seconds=%lld", (long long)opt->drain_s);
    clean = prefill_node_close(&node, clock_in_ms(opt->drain_s * 1000));
    log_event(LOG_INFO, "ended", "all_orders_finished=%d", clean);
    return 0;
}

static enum status set_log_level(const char *word, struct err *err)
{
    const int level = log_level_parse(word);

    if (level < 0)
        return err_set(err, ST_EINVAL, "--log-level is '%s', allowed are error, warn, info and debug", word);
    log_set_level((enum log_level)level);
    return ST_OK;
}

int main(int argc, char **argv)
{
    struct arena arena = { 0 };
    struct prefill_options opt = { 0 };
    struct signals *signals = NULL;
    struct err err = { 0 };
    int code;

    signal(SIGPIPE, SIG_IGN);
    if (prefill_options_read(&opt, argc, argv, &arena, &err) != ST_OK ||
        (!opt.help && set_log_level(opt.log_level, &err) != ST_OK)) {
        code = fail(&err, EXIT_USAGE);
        goto out;
    }
    if (opt.help) {
        code = help();
        goto out;
    }
    rpc_tune_bulk();
    code = signals_open(&signals, NULL, NULL, &err) == ST_OK ? serve(&opt, signals) : fail(&err, EXIT_FAILED);
out:
    signals_close(signals);
    arena_fini(&arena);
    return code;
}
