/* SPDX-License-Identifier: Apache-2.0 */
/* presses.c - platen presses: every word a press may be written with. Needs no server. */
#include "client/command.h"

#include "common/base/bytes.h"
#include "common/base/text.h"
#include "presses/chain.h"

#include <stdio.h>

struct presses_options {
    bool help, json, markdown;
    struct opt_list plugins;
};

#define AT(field) offsetof(struct presses_options, field)

static const struct opt rows[] = {
    HELP_ROW,
    { "json", OPT_FLAG, AT(json), 0, 0, NULL, "off", NULL, "prints one object", false },
    { "markdown", OPT_FLAG, AT(markdown), 0, 0, NULL, "off", NULL, "prints docs/PRESSES.md", false },
    { "press-plugin", OPT_LIST, AT(plugins), 0, 0, NULL, NULL, "FILE", "lists a shared object's presses too", false },
};

static const struct opt_set options = { rows, ARRAY_LEN(rows) };

static enum status check(const void *options_, struct err *err)
{
    const struct presses_options *o = options_;

    if (o->json && o->markdown)
        return err_set(err, ST_EINVAL, "give one of --json and --markdown, not both");
    return ST_OK;
}

static enum status run(const void *options_, struct arena *arena, struct err *err)
{
    const struct presses_options *o = options_;
    struct text out = { 0 };

    (void)arena;
    for (size_t i = 0; i < o->plugins.count; i++) {
        enum status st = press_plugin_open(o->plugins.items[i], err);
        if (st != ST_OK)
            return st;
    }
    if (o->json)
        presses_json(&out);
    else if (o->markdown)
        presses_markdown(&out);
    else
        presses_table(&out);
    fwrite(text_str(&out), 1, out.bytes, stdout);
    if (out.bytes > 0 && out.data[out.bytes - 1] != '\n')
        putchar('\n');
    text_fini(&out);
    return ST_OK;
}

const struct command command_presses = {
    .name = "presses",
    .summary = "lists the words a press may be written with",
    .usage = "[--json]",
    .options = &options,
    .options_bytes = sizeof(struct presses_options),
    .check = check,
    .run = run,
};
