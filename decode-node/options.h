/* SPDX-License-Identifier: Apache-2.0 */
/* options.h - everything an operator can set on a decode node; the table behind the flags, the file and docs/CONFIG.md. */
#ifndef PLATEN_DECODE_OPTIONS_H
#define PLATEN_DECODE_OPTIONS_H

#include "common/base/opt.h"

struct station_config;

#ifdef __cplusplus
extern "C" {
#endif

struct options {
    const char *model, *listen, *metrics, *backend, *config, *chat_template, *log_level, *cache_dir, *transport, *trace;
    struct opt_list prefill;                  /* each may hold several, separated by commas; split by options_read */
    struct opt_list press_plugin, press_file; /* press_file: NAME=PATH, [press-files] first */
    int64_t dtype;                            /* index into "bf16|f32" */
    int64_t threads, slots, sequences, tail_tokens, step_rows, block_mib, contexts, drain_s, special_text,
        grpc_channels;
    double memory_fraction, link_floor_gb_s;
    const char *tls_cert, *tls_key, *tls_ca, *token_file;
    const char *prefill_tls_cert, *prefill_tls_key, *prefill_tls_ca, *prefill_token_file;
    bool help, random_weights;
    const struct station_config *stations; /* what transports run on, for tests; NULL: the back end's device */
};

extern const struct opt_set options_table;

/* Command line over file over defaults; ST_EINVAL with the sentence. Texts live in `arena`. */
enum status options_read(struct options *o, int argc, char **argv, struct arena *arena, struct err *err);

#ifdef __cplusplus
}
#endif
#endif
