/* SPDX-License-Identifier: Apache-2.0 */
/*
 * options.h - what an operator can set on either kind of node.
 *
 * A node's own struct begins with this one and its table takes these rows between its own: first_options.def at the head,
 * last_options.def at the end.
 */
#ifndef PLATEN_NODE_OPTIONS_H
#define PLATEN_NODE_OPTIONS_H

#include "common/base/opt.h"

#ifdef __cplusplus
extern "C" {
#endif

struct station_config;

struct node_options {
    const char *model, *listen, *metrics, *backend, *config, *log_level, *cache_dir, *transport, *trace;
    struct opt_list press_plugin;
    struct opt_list press_file; /* NAME=PATH each, those of the file's [press-files] first */
    int64_t dtype;              /* index into "bf16|f32" */
    int64_t threads, drain_s;
    double memory_fraction;
    const char *tls_cert, *tls_key, *tls_ca, *token_file;
    bool help, random_weights;
    const struct station_config *stations; /* what transports run on, for tests; NULL: the back end's device */
};

/* Command line over --config's file over defaults. `o` begins a struct of `bytes` bytes that `set` describes; texts live in
 * `arena`. With --help nothing else is asked for. Reads the file. ST_EINVAL with the sentence. */
enum status node_options_read(const struct opt_set *set, struct node_options *o, size_t bytes, int argc, char **argv,
                              struct arena *arena, struct err *err);

#ifdef __cplusplus
}
#endif
#endif
