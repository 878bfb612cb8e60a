/* SPDX-License-Identifier: Apache-2.0 */
/* program.h - the main() of both nodes: options, open, wait for SIGTERM, drain, close. */
#ifndef PLATEN_NODE_PROGRAM_H
#define PLATEN_NODE_PROGRAM_H

#include "common/node/options.h"
#include "common/node/parts.h"

#ifdef __cplusplus
extern "C" {
#endif

/* What is a node's own. Its struct of options begins with node_options, its node holds node_parts. */
struct node_program {
    const char *name;     /* "decode-node" */
    const char *head;     /* of --help: what it does, and its usage */
    const char *finished; /* key of the last line of the log: "all_answers_finished" */
    const struct opt_set *options;
    enum status (*read)(struct node_options *o, int argc, char **argv, struct arena *arena, struct err *err);
    enum status (*open)(struct node_parts *parts, const struct node_options *o, struct signals *signals,
                        struct err *err);
    bool (*close)(struct node_parts *parts, int64_t deadline_ns); /* true: nothing had to be cancelled */
};

/* Runs the node until the first SIGTERM or SIGINT. Gives the exit code: 0; 1: it could not be opened; 2: wrong options; in
 * both cases one line on stderr says why. Where the device fails (parts_device_failed) it does not return: drained and closed,
 * or not within 5 s after the time for draining, the process ends with 1. */
int node_main(const struct node_program *p, struct node_options *o, struct node_parts *parts, int argc, char **argv);

#ifdef __cplusplus
}
#endif
#endif
