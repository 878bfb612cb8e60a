/* SPDX-License-Identifier: Apache-2.0 */
/* main.c - the program prefill-node: what common/node/program.h runs. */
#include "common/base/bytes.h"
#include "common/node/program.h"
#include "prefill-node/node.h"
#include "prefill-node/options.h"

static enum status read_options(struct node_options *o, int argc, char **argv, struct arena *arena, struct err *err)
{
    return prefill_options_read(CONTAINER_OF(o, struct prefill_options, node), argc, argv, arena, err);
}

static enum status open_node(struct node_parts *parts, const struct node_options *o, struct signals *signals,
                             struct err *err)
{
    return prefill_node_open(CONTAINER_OF(parts, struct prefill_node, parts),
                             CONTAINER_OF(o, const struct prefill_options, node), signals, err);
}

static bool close_node(struct node_parts *parts, int64_t deadline_ns)
{
    return prefill_node_close(CONTAINER_OF(parts, struct prefill_node, parts), deadline_ns);
}

static const struct node_program program = {
    .name = "prefill-node",
    .head = "prefill-node - runs a model over long contexts, presses their KV cache, ships what is kept.\n\n"
            "usage: prefill-node --model PATH --listen HOST:PORT [options]\n\n",
    .finished = "all_orders_finished",
    .options = &prefill_options_table,
    .read = read_options,
    .open = open_node,
    .close = close_node,
};

int main(int argc, char **argv)
{
    static struct prefill_node node;
    struct prefill_options options = { 0 };

    return node_main(&program, &options.node, &node.parts, argc, argv);
}
