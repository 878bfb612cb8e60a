/* SPDX-License-Identifier: Apache-2.0 */
/* config.c - platen config: every option of the three programs as Markdown. docs/CONFIG.md is its output. */
#include "client/command.h"

#include "common/base/bytes.h"
#include "common/base/text.h"
#include "decode-node/options.h"
#include "prefill-node/options.h"

#include <stdio.h>

struct config_options {
    bool help;
};

static const struct opt rows[] = { HELP_ROW };
static const struct opt_set options = { rows, ARRAY_LEN(rows) };

#define COMMAND(name) extern const struct command command_##name;
#include "client/commands.def"
#undef COMMAND

static const char head[] =
    "# Options\n\n"
    "Printed by `platen config`; a test says when this file is stale. An option is `--name value` or `--name=value` on "
    "the "
    "command line; nodes also read `name = value` lines from the file given with `--config`, where the command line "
    "wins. "
    "`[press-files]` in both nodes' files names the parameter files of learned presses, under the same names: `name = "
    "path`.\n";

static enum status run(const void *options_, struct arena *arena, struct err *err)
{
    struct text out = { 0 };

    (void)options_;
    (void)arena;
    (void)err;
    text_puts(&out, head);
    text_puts(&out, "\n## prefill-node\n\n");
    opt_markdown(&prefill_options_table, &out);
    text_puts(&out, "\n## decode-node\n\n");
    opt_markdown(&options_table, &out);
#define COMMAND(symbol)                                                                              \
    text_printf(&out, "\n## platen %s\n\n%s.\n\n", command_##symbol.name, command_##symbol.summary); \
    opt_markdown(command_##symbol.options, &out);
#include "client/commands.def"
#undef COMMAND
    fwrite(text_str(&out), 1, out.bytes, stdout);
    text_fini(&out);
    return ST_OK;
}

const struct command command_config = {
    .name = "config",
    .summary = "prints every option of the programs as Markdown",
    .usage = "",
    .options = &options,
    .options_bytes = sizeof(struct config_options),
    .run = run,
};
