/* SPDX-License-Identifier: Apache-2.0 */
/*
 * options.c - a node's options, read once: defaults, then the file that the line names, then the line over both.
 *
 * The line is read twice, since only it tells whether there is a file.
 */
#include "common/node/options.h"

#include "presses/config.h"

#include <string.h>

/* What only a line can say would do nothing in a file. */
static enum status check_file(const struct node_options *o, const char *file, struct err *err)
{
    if (o->config)
        return err_set(err, ST_EINVAL, "%s: config = %s: a file names no other file; --config is for the command line",
                       file, o->config);
    return o->help ? err_set(err, ST_EINVAL, "%s: help = on: --help is for the command line", file) : ST_OK;
}

static enum status read_over(const struct opt_set *set, struct node_options *o, const char *file, int argc, char **argv,
                             struct press_section *section, struct err *err)
{
    enum status st = opt_defaults(set, o, section->arena, err);

    if (st == ST_OK && file)
        st = opt_parse_file(set, o, file, press_section_add, section, section->arena, err);
    if (st == ST_OK && file)
        st = check_file(o, file, err);
    if (st == ST_OK)
        st = opt_parse_line(set, o, argc, argv, NULL, section->arena, err);
    return st;
}

enum status node_options_read(const struct opt_set *set, struct node_options *o, size_t bytes, int argc, char **argv,
                              struct arena *arena, struct err *err)
{
    struct press_section section = { .arena = arena };
    const char *file;
    enum status st;

    memset(o, 0, bytes);
    st = read_over(set, o, NULL, argc, argv, &section, err);
    if (st != ST_OK || o->help)
        return st;
    file = o->config;
    if (file) {
        memset(o, 0, bytes);
        st = read_over(set, o, file, argc, argv, &section, err);
    }
    if (st == ST_OK)
        st = opt_check(set, o, err);
    if (st == ST_OK)
        o->press_file = press_section_join(&section, &o->press_file);
    return st;
}
