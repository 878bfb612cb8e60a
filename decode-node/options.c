/* SPDX-License-Identifier: Apache-2.0 */
/* options.c - the table of a decode node's options. */
#include "decode-node/options.h"

#include "common/base/bytes.h"
#include "decode-node/peers.h"
#include "presses/config.h"

#include <stddef.h>
#include <string.h>

#define AT(field) offsetof(struct options, field)

static const struct opt rows[] = {
    { "model", OPT_TEXT, AT(model), 0, 0, NULL, NULL, "PATH",
      "directory of a model as the hub gives it, or a GGUF file", true },
    { "listen", OPT_TEXT, AT(listen), 0, 0, NULL, NULL, "HOST:PORT", "where clients connect; port 0 picks one", true },
    { "prefill", OPT_LIST, AT(prefill), 0, 0, NULL, NULL, "TARGET[,TARGET...]",
      "prefill nodes: HOST:PORT, or dns:NAME:PORT for every address of a name", true },
    { "metrics", OPT_TEXT, AT(metrics), 0, 0, NULL, NULL, "HOST:PORT", "where /metrics is served; off unless given",
      false },
    { "backend", OPT_TEXT, AT(backend), 0, 0, NULL, "cpu", "NAME", "cpu, or cuda[:N]", false },
    { "dtype", OPT_WORD, AT(dtype), 0, 0, "bf16|f32", "bf16", "f32|bf16", "type of products and of the cache", false },
    { "threads", OPT_INT, AT(threads), 0, 1024, NULL, "0", "N", "threads of the cpu back end; 0: all cores", false },
    { "config", OPT_TEXT, AT(config), 0, 0, NULL, NULL, "FILE", "file of `name = value` lines; the command line wins",
      false },
    { "slots", OPT_INT, AT(slots), 1, 4096, NULL, "64", "N", "answers that run in one step", false },
    { "sequences-limit", OPT_INT, AT(sequences), 1, 1000000, NULL, "512", "N",
      "answers running and waiting; more are refused", false },
    { "tail-tokens", OPT_INT, AT(tail_tokens), 64, 1 << 30, NULL, "65536", "N",
      "room for questions and answers, in tokens", false },
    { "step-rows", OPT_INT, AT(step_rows), 1, 65536, NULL, "256", "N",
      "rows of one step; longer questions are fed in pieces", false },
    { "block-mib", OPT_INT, AT(block_mib), 1, 1 << 24, NULL, "1024", "N", "room for pressed contexts, in MiB", false },
    { "contexts-limit", OPT_INT, AT(contexts), 0, 1000000, NULL, "256", "N", "contexts kept by Contexts.Create",
      false },
    { "memory-fraction", OPT_FLOAT, AT(memory_fraction), 0.05, 1, NULL, "0.9", "F", "of the device's memory (cuda)",
      false },
    { "transport", OPT_TEXT, AT(transport), 0, 0, NULL, NULL, "NAME[,NAME...]",
      "ways in which blocks may come, best first; not given: ipc,nccl,grpc on cuda, grpc on cpu", false },
    { "grpc-channels", OPT_INT, AT(grpc_channels), 1, PEER_CHANNELS_MAX, NULL, "1", "N",
      "connections to each prefill node, which orders take in turn; more where one does not fill the network", false },
    { "link-floor-gb-s", OPT_FLOAT, AT(link_floor_gb_s), 0, 10000, NULL, "0", "G",
      "not serving while no prefill node's link moves so many GB/s; 0: any link will do", false },
    { "special-text", OPT_WORD, AT(special_text), 0, 0, "parse|plain", "parse", "parse|plain",
      "whether the text of special tokens inside a context counts as such", false },
    { "chat-template", OPT_TEXT, AT(chat_template), 0, 0, NULL, NULL, "FILE",
      "JSON with `prefix` and `suffix`, instead of the model's template", false },
    { "press-plugin", OPT_LIST, AT(press_plugin), 0, 0, NULL, NULL, "FILE", "shared object with more presses", false },
    { "press-file", OPT_LIST, AT(press_file), 0, 0, NULL, NULL, "NAME=PATH",
      "parameters that presses may name; section [press-files] of the file says the same", false },
    { "drain-seconds", OPT_INT, AT(drain_s), 0, 86400, NULL, "30", "N",
      "how long running answers may finish after SIGTERM", false },
    { "tls-cert", OPT_TEXT, AT(tls_cert), 0, 0, NULL, NULL, "FILE",
      "PEM certificate chain of this node; plaintext unless given", false },
    { "tls-key", OPT_TEXT, AT(tls_key), 0, 0, NULL, NULL, "FILE", "its private key", false },
    { "tls-ca", OPT_TEXT, AT(tls_ca), 0, 0, NULL, NULL, "FILE", "clients must show a certificate of these", false },
    { "token-file", OPT_TEXT, AT(token_file), 0, 0, NULL, NULL, "FILE",
      "clients must send `authorization: Bearer` with this file's text", false },
    { "prefill-tls-ca", OPT_TEXT, AT(prefill_tls_ca), 0, 0, NULL, NULL, "FILE",
      "prefill nodes must show a certificate of these", false },
    { "prefill-tls-cert", OPT_TEXT, AT(prefill_tls_cert), 0, 0, NULL, NULL, "FILE",
      "certificate shown to prefill nodes", false },
    { "prefill-tls-key", OPT_TEXT, AT(prefill_tls_key), 0, 0, NULL, NULL, "FILE", "its private key", false },
    { "prefill-token-file", OPT_TEXT, AT(prefill_token_file), 0, 0, NULL, NULL, "FILE", "token sent to prefill nodes",
      false },
    { "cache-dir", OPT_TEXT, AT(cache_dir), 0, 0, NULL, NULL, "DIR",
      "where tuned choices of the device are kept between runs", false },
    { "random-weights", OPT_FLAG, AT(random_weights), 0, 0, NULL, "off", NULL,
      "random numbers instead of the model's weights, the same on every node; for benchmarks", false },
    { "trace", OPT_TEXT, AT(trace), 0, 0, NULL, NULL, "FILE",
      "what ran when, per layer, as JSON that Perfetto opens; written at the end and on SIGUSR1", false },
    { "log-level", OPT_TEXT, AT(log_level), 0, 0, NULL, "info", "LEVEL", "error, warn, info or debug", false },
    { "help", OPT_FLAG, AT(help), 0, 0, NULL, "off", NULL, "prints this and ends", false },
};

const struct opt_set options_table = { rows, ARRAY_LEN(rows) };

/* "a:1,b:2" given once or "a:1" "b:2" given twice are the same list. */
static void split_targets(struct options *o, struct arena *arena)
{
    struct opt_list out = { 0 };
    size_t room = 0;

    for (size_t i = 0; i < o->prefill.count; i++)
        room += strlen(o->prefill.items[i]) + 1;
    out.items = arena_array(arena, room + 1, sizeof *out.items);
    for (size_t i = 0; i < o->prefill.count; i++) {
        char *save = NULL;
        for (char *word = strtok_r(arena_strdup(arena, o->prefill.items[i]), ", ", &save); word;
             word = strtok_r(NULL, ", ", &save))
            out.items[out.count++] = word;
    }
    o->prefill = out;
}

enum status options_read(struct options *o, int argc, char **argv, struct arena *arena, struct err *err)
{
    struct options line = { 0 };
    struct press_section section = { .arena = arena };
    enum status st = opt_defaults(&options_table, &line, arena, err);

    if (st == ST_OK)
        st = opt_parse_line(&options_table, &line, argc, argv, NULL, arena, err);
    if (st != ST_OK)
        return st;
    *o = line;
    if (line.help)
        return ST_OK;
    if (line.config) { /* the file first, then the line over it */
        memset(o, 0, sizeof *o);
        st = opt_defaults(&options_table, o, arena, err);
        if (st == ST_OK)
            st = opt_parse_file(&options_table, o, line.config, press_section_add, &section, arena, err);
        if (st == ST_OK)
            st = opt_parse_line(&options_table, o, argc, argv, NULL, arena, err);
    }
    if (st == ST_OK)
        st = opt_check(&options_table, o, err);
    if (st == ST_OK) {
        o->press_file = press_section_join(&section, &o->press_file);
        split_targets(o, arena);
    }
    if (st == ST_OK && o->prefill.count == 0)
        st = err_set(err, ST_EINVAL, "--prefill names no node");
    return st;
}
