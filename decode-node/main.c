/* SPDX-License-Identifier: Apache-2.0 */
/* main.c - the program decode-node: what common/node/program.h runs. */
#include "common/base/bytes.h"
#include "common/node/program.h"
#include "decode-node/node.h"
#include "decode-node/options.h"

static enum status read_options(struct node_options *o, int argc, char **argv, struct arena *arena, struct err *err)
{
    return options_read(CONTAINER_OF(o, struct options, node), argc, argv, arena, err);
}

static enum status open_node(struct node_parts *parts, const struct node_options *o, struct signals *signals,
                             struct err *err)
{
    return node_open(CONTAINER_OF(parts, struct node, parts), CONTAINER_OF(o, const struct options, node), signals,
                     err);
}

static bool close_node(struct node_parts *parts, int64_t deadline_ns)
{
    return node_close(CONTAINER_OF(parts, struct node, parts), deadline_ns);
}

static const struct node_program program = {
    .name = "decode-node",
    .head = "decode-node - adopts pressed contexts and answers questions about them.\n\n"
            "usage: decode-node --model PATH --listen HOST:PORT --prefill TARGET[,TARGET...] [options]\n\n",
    .finished = "all_answers_finished",
    .options = &options_table,
    .read = read_options,
    .open = open_node,
    .close = close_node,
};

int main(int argc, char **argv)
{
    static struct node node;
    struct options options = { 0 };

    return node_main(&program, &options.node, &node.parts, argc, argv);
}
