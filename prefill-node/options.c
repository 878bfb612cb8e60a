/* SPDX-License-Identifier: Apache-2.0 */
/* options.c - the table of a prefill node's options. */
#include "prefill-node/options.h"

#include "common/base/bytes.h"
#include "presses/config.h"

#include <stddef.h>
#include <string.h>

#define AT(field) offsetof(struct prefill_options, field)

static const struct opt rows[] = {
    { "model", OPT_TEXT, AT(model), 0, 0, NULL, NULL, "PATH",
      "directory of a model as the hub gives it, or a GGUF file", true },
    { "listen", OPT_TEXT, AT(listen), 0, 0, NULL, NULL, "HOST:PORT", "where decode nodes connect; port 0 picks one",
      true },
    { "metrics", OPT_TEXT, AT(metrics), 0, 0, NULL, NULL, "HOST:PORT", "where /metrics is served; off unless given",
      false },
    { "backend", OPT_TEXT, AT(backend), 0, 0, NULL, "cpu", "NAME", "cpu, or cuda[:N]", false },
    { "dtype", OPT_WORD, AT(dtype), 0, 0, "bf16|f32", "bf16", "f32|bf16", "type of products and of the cache", false },
    { "threads", OPT_INT, AT(threads), 0, 1024, NULL, "0", "N", "threads of the cpu back end; 0: all cores", false },
    { "config", OPT_TEXT, AT(config), 0, 0, NULL, NULL, "FILE", "file of `name = value` lines; the command line wins",
      false },
    { "max-context-tokens", OPT_INT, AT(context_tokens), 0, 1 << 24, NULL, "0", "N",
      "longest context; 0: what the model and a share of the memory allow", false },
    { "queue-tokens", OPT_INT, AT(queue_tokens), 0, 1e12, NULL, "0", "N",
      "tokens that may wait for their turn; more are refused at once; 0: sixteen longest contexts", false },
    { "queue-orders", OPT_INT, AT(queue_orders), 1, 100000, NULL, "1024", "N", "orders that may wait for their turn",
      false },
    { "memory-fraction", OPT_FLOAT, AT(memory_fraction), 0.05, 1, NULL, "0.9", "F", "of the device's memory (cuda)",
      false },
    { "transport", OPT_TEXT, AT(transport), 0, 0, NULL, NULL, "NAME[,NAME...]",
      "ways of shipping that may be used, best first; not given: ipc,nccl,grpc on cuda, grpc on cpu", false },
    { "press-plugin", OPT_LIST, AT(press_plugin), 0, 0, NULL, NULL, "FILE", "shared object with more presses", false },
    { "press-file", OPT_LIST, AT(press_file), 0, 0, NULL, NULL, "NAME=PATH",
      "parameters that presses may name; section [press-files] of the file says the same", false },
    { "drain-seconds", OPT_INT, AT(drain_s), 0, 86400, NULL, "30", "N",
      "how long running orders may finish after SIGTERM", false },
    { "tls-cert", OPT_TEXT, AT(tls_cert), 0, 0, NULL, NULL, "FILE",
      "PEM certificate chain of this node; plaintext unless given", false },
    { "tls-key", OPT_TEXT, AT(tls_key), 0, 0, NULL, NULL, "FILE", "its private key", false },
    { "tls-ca", OPT_TEXT, AT(tls_ca), 0, 0, NULL, NULL, "FILE", "decode nodes must show a certificate of these",
      false },
    { "token-file", OPT_TEXT, AT(token_file), 0, 0, NULL, NULL, "FILE",
      "decode nodes must send `authorization: Bearer` with this file's text", false },
    { "cache-dir", OPT_TEXT, AT(cache_dir), 0, 0, NULL, NULL, "DIR",
      "where tuned choices of the device are kept between runs", false },
    { "random-weights", OPT_FLAG, AT(random_weights), 0, 0, NULL, "off", NULL,
      "random numbers instead of the model's weights, the same on every node; for benchmarks", false },
    { "trace", OPT_TEXT, AT(trace), 0, 0, NULL, NULL, "FILE",
      "what ran when, per layer, as JSON that Perfetto opens; written at the end and on SIGUSR1", false },
    { "log-level", OPT_TEXT, AT(log_level), 0, 0, NULL, "info", "LEVEL", "error, warn, info or debug", false },
    { "help", OPT_FLAG, AT(help), 0, 0, NULL, "off", NULL, "prints this and ends", false },
};

const struct opt_set prefill_options_table = { rows, ARRAY_LEN(rows) };

static enum status read_file_then_line(struct prefill_options *o, const char *path, int argc, char **argv,
                                       struct arena *arena, struct err *err)
{
    struct press_section section = { .arena = arena };
    enum status st = opt_defaults(&prefill_options_table, o, arena, err);

    if (st == ST_OK)
        st = opt_parse_file(&prefill_options_table, o, path, press_section_add, &section, arena, err);
    if (st == ST_OK)
        st = opt_parse_line(&prefill_options_table, o, argc, argv, NULL, arena, err);
    if (st == ST_OK)
        o->press_file = press_section_join(&section, &o->press_file);
    return st;
}

enum status prefill_options_read(struct prefill_options *o, int argc, char **argv, struct arena *arena, struct err *err)
{
    struct prefill_options line = { 0 };
    enum status st = opt_defaults(&prefill_options_table, &line, arena, err);

    if (st == ST_OK)
        st = opt_parse_line(&prefill_options_table, &line, argc, argv, NULL, arena, err);
    if (st == ST_OK && line.config && !line.help) {
        const char *path = line.config;

        memset(&line, 0, sizeof line);
        st = read_file_then_line(&line, path, argc, argv, arena, err);
    }
    if (st == ST_OK && !line.help)
        st = opt_check(&prefill_options_table, &line, err);
    if (st == ST_OK)
        *o = line;
    return st;
}
