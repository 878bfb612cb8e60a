/* SPDX-License-Identifier: Apache-2.0 */
/*
 * command.h - one subcommand of `platen`: a table of options, a check, a run.
 *
 *   argv ─▶ options (table) ─▶ check: usage only, opens nothing ─▶ run
 *             exit 2              exit 2                            exit 0, or 1 with one sentence on stderr
 *
 * A new subcommand is one file and one line in commands.def.
 */
#ifndef PLATEN_CLIENT_COMMAND_H
#define PLATEN_CLIENT_COMMAND_H

#include "common/base/arena.h"
#include "common/base/opt.h"
#include "common/base/status.h"

#include <stdbool.h>
#include <stddef.h>

#ifdef __cplusplus
extern "C" {
#endif

enum { EXIT_FAILED = 1, EXIT_USAGE = 2 };

struct command {
    const char *name;
    const char *summary; /* one sentence, no full stop */
    const char *usage;   /* what stands after `platen NAME` */
    const char *more;    /* after the options in --help; NULL: nothing */
    const struct opt_set *options;
    size_t options_bytes; /* of the struct the table fills; its first member is `bool help` */

    /* What the table cannot say: which options go together. May be NULL. ST_EINVAL is a usage error. */
    enum status (*check)(const void *options, struct err *err);
    enum status (*run)(const void *options, struct arena *arena, struct err *err);
};

/* The row every table begins with. */
#define HELP_ROW                                                                    \
    {                                                                               \
        "help", OPT_FLAG, 0, 0, 0, NULL, "off", NULL, "prints this and ends", false \
    }

#ifdef __cplusplus
}
#endif
#endif
