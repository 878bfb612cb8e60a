/* SPDX-License-Identifier: Apache-2.0 */
/* options.h - everything an operator can set on a prefill node; the table behind the flags, the file and docs/CONFIG.md. */
#ifndef PLATEN_PREFILL_OPTIONS_H
#define PLATEN_PREFILL_OPTIONS_H

#include "common/base/opt.h"

struct station_config;

#ifdef __cplusplus
extern "C" {
#endif

struct prefill_options {
    const char *model, *listen, *metrics, *backend, *config, *log_level, *cache_dir, *transport, *trace;
    struct opt_list press_plugin;
    struct opt_list press_file; /* NAME=PATH each; the file's section [press-files] is added to it */
    int64_t dtype;              /* index into "bf16|f32" */
    int64_t threads, context_tokens, queue_tokens, queue_orders, drain_s;
    double memory_fraction;
    const char *tls_cert, *tls_key, *tls_ca, *token_file;
    bool help, random_weights;
    const struct station_config *stations; /* what transports run on, for tests; NULL: the back end's device */
};

extern const struct opt_set prefill_options_table;

/* Command line over file over defaults; ST_EINVAL with the sentence. Texts live in `arena`. */
enum status prefill_options_read(struct prefill_options *o, int argc, char **argv, struct arena *arena,
                                 struct err *err);

#ifdef __cplusplus
}
#endif
#endif
