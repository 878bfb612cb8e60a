/* SPDX-License-Identifier: Apache-2.0 */
/* options.h - everything an operator can set on a prefill node; the table behind the flags, the file and docs/CONFIG.md. */
#ifndef PLATEN_PREFILL_OPTIONS_H
#define PLATEN_PREFILL_OPTIONS_H

#include "common/node/options.h"

#ifdef __cplusplus
extern "C" {
#endif

struct prefill_options {
    struct node_options node;
    int64_t context_tokens, queue_tokens, queue_orders;
};

extern const struct opt_set prefill_options_table;

/* Command line over file over defaults; ST_EINVAL with the sentence. Texts live in `arena`. */
enum status prefill_options_read(struct prefill_options *o, int argc, char **argv, struct arena *arena,
                                 struct err *err);

#ifdef __cplusplus
}
#endif
#endif
