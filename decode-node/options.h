/* SPDX-License-Identifier: Apache-2.0 */
/* options.h - everything an operator can set on a decode node; the table behind the flags, the file and docs/CONFIG.md. */
#ifndef PLATEN_DECODE_OPTIONS_H
#define PLATEN_DECODE_OPTIONS_H

#include "common/node/options.h"

#ifdef __cplusplus
extern "C" {
#endif

struct options {
    struct node_options node;
    const char *chat_template;
    struct opt_list prefill; /* each may hold several, separated by commas; split by options_read */
    int64_t slots, sequences, tail_tokens, step_rows, block_mib, contexts, special_text, grpc_channels;
    double link_floor_gb_s;
    const char *prefill_tls_cert, *prefill_tls_key, *prefill_tls_ca, *prefill_token_file;
};

extern const struct opt_set options_table;

/* Command line over file over defaults; ST_EINVAL with the sentence. Texts live in `arena`. */
enum status options_read(struct options *o, int argc, char **argv, struct arena *arena, struct err *err);

#ifdef __cplusplus
}
#endif
#endif
