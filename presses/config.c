/* SPDX-License-Identifier: Apache-2.0 */
/* config.c - [press-files] read and opened. */
#include "presses/config.h"

#include "common/base/arena.h"

#include <stdlib.h>
#include <string.h>

enum status press_section_add(void *ctx, const char *section, const char *key, const char *value, struct err *err)
{
    struct press_section *s = ctx;
    const char **items;

    if (strcmp(section, "press-files") != 0)
        return err_set(err, ST_EINVAL, "unknown section [%s]; there is [press-files]", section);
    items = arena_array(s->arena, s->list.count + 1, sizeof *items);
    if (s->list.count > 0)
        memcpy(items, s->list.items, s->list.count * sizeof *items);
    items[s->list.count++] = arena_printf(s->arena, "%s=%s", key, value);
    s->list.items = items;
    return ST_OK;
}

struct opt_list press_section_join(const struct press_section *section, const struct opt_list *line)
{
    struct opt_list all = { NULL, section->list.count + line->count };

    all.items = arena_array(section->arena, all.count + 1, sizeof *all.items);
    for (size_t i = 0; i < all.count; i++)
        all.items[i] = i < section->list.count ? section->list.items[i] : line->items[i - section->list.count];
    return all;
}

static enum status add(struct press_files *files, const char *item, struct err *err)
{
    const char *equals = strchr(item, '=');
    char *name;
    enum status st;

    if (!equals)
        return err_set(err, ST_EINVAL, "--press-file is `%s`; it takes NAME=PATH", item);
    name = strndup(item, (size_t)(equals - item));
    st = press_files_add(files, name, equals + 1, err);
    free(name);
    return st;
}

enum status press_config_open(struct press_files **out, const struct opt_list *items, const struct hparams *hp,
                              struct err *err)
{
    struct press_files *files = NULL;
    enum status st = press_files_open(&files, hp, false, err);

    for (size_t i = 0; st == ST_OK && i < items->count; i++)
        st = add(files, items->items[i], err);
    if (st == ST_OK)
        st = press_files_load(files, err);
    if (st == ST_OK)
        *out = files;
    else
        press_files_close(files);
    return st;
}
