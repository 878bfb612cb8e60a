/* SPDX-License-Identifier: Apache-2.0 */
/* options.c - the table of a prefill node's options. */
#include "prefill-node/options.h"

#include "common/base/bytes.h"

#include <stddef.h>

#define AT(field) offsetof(struct prefill_options, node.field)
#define OWN(field) offsetof(struct prefill_options, field)
#define CALLERS "decode nodes"
#define WORK "orders"

static const struct opt rows[] = {
#include "common/node/first_options.def"
    { "max-context-tokens", OPT_INT, OWN(context_tokens), 0, 1 << 24, NULL, "0", "N",
      "longest context; 0: what the model and a share of the memory allow", false },
    { "queue-tokens", OPT_INT, OWN(queue_tokens), 0, 1e12, NULL, "0", "N",
      "tokens that may wait for their turn; more are refused at once; 0: sixteen longest contexts", false },
    { "queue-orders", OPT_INT, OWN(queue_orders), 1, 100000, NULL, "1024", "N", "orders that may wait for their turn",
      false },
#include "common/node/last_options.def"
};

const struct opt_set prefill_options_table = { rows, ARRAY_LEN(rows) };

enum status prefill_options_read(struct prefill_options *o, int argc, char **argv, struct arena *arena, struct err *err)
{
    return node_options_read(&prefill_options_table, &o->node, sizeof *o, argc, argv, arena, err);
}
