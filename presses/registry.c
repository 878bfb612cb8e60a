/* SPDX-License-Identifier: Apache-2.0 */
/*
 * registry.c - every word of a chain: those of presses.def, and those that the operator's plug-ins brought.
 *
 * Plug-ins are added while the program starts, before the first text is read and in one thread; afterwards the list only
 * is read. It is the one thing in presses/ that changes outside a chain or a run.
 */
#include "presses/chain.h"
#include "common/base/bytes.h"

#include <dlfcn.h>
#include <string.h>

#define PRESS(symbol) extern const struct press press_##symbol;
#define PRESS_WORD(name, kind)
#include "presses/presses.def"
#undef PRESS
#undef PRESS_WORD

/* A known word without hooks. */
#define PRESS(symbol)
#define PRESS_WORD(word, press_kind) \
    { .name = word,                  \
      .kind = press_kind,            \
      .summary = "not built yet",    \
      .source = "",                  \
      .reference = "",               \
      .cost = "",                    \
      .differs = "" },
static const struct press words[] = {
#include "presses/presses.def"
    { .name = NULL }
};
#undef PRESS
#undef PRESS_WORD

/* In order; NULL where the word stands in `words`. */
#define PRESS(symbol) &press_##symbol,
#define PRESS_WORD(name, kind) NULL,
static const struct press *const table[] = {
#include "presses/presses.def"
};
#undef PRESS
#undef PRESS_WORD

enum { PLUGIN_PRESSES_MAX = 64 };

static const struct press *plugged[PLUGIN_PRESSES_MAX];
static size_t plugged_count;

const struct press *press_at(size_t i)
{
    size_t word = 0;

    if (i >= ARRAY_LEN(table))
        return i - ARRAY_LEN(table) < plugged_count ? plugged[i - ARRAY_LEN(table)] : NULL;
    if (table[i])
        return table[i];
    for (size_t k = 0; k < i; k++)
        word += table[k] == NULL;
    return &words[word];
}

const struct press *press_find(const char *name)
{
    const struct press *p;

    for (size_t i = 0; (p = press_at(i)) != NULL; i++)
        if (strcmp(p->name, name) == 0)
            return p;
    return NULL;
}

bool press_built(const struct press *p)
{
    return p < words || p >= words + ARRAY_LEN(words);
}

const char *press_kind_word(enum press_kind kind)
{
    static const char *const kinds[] = { "score", "refine", "choose", "keep", "edit", "decode" };

    return kinds[kind];
}

/* Adds one press of a plug-in, or says why not. */
static enum status plug(const struct press *p, const char *path, struct err *err)
{
    if (!p || !p->name || !p->name[0] || strspn(p->name, "abcdefghijklmnopqrstuvwxyz0123456789-_") != strlen(p->name))
        return err_set(err, ST_EINVAL, "%s: the name of a press is lower-case letters, digits, - and _", path);
    if (press_find(p->name))
        return err_set(err, ST_EINVAL, "%s: there is a press called %s already", path, p->name);
    if (!p->score && !p->refine && !p->budget && !p->choose && !p->keep && !p->edit)
        return err_set(err, ST_EINVAL, "%s: the press %s has no hook", path, p->name);
    if (!p->summary || !p->source || !p->reference || !p->cost || !p->differs)
        return err_set(err, ST_EINVAL, "%s: the press %s leaves a text of its table NULL", path, p->name);
    if (plugged_count == PLUGIN_PRESSES_MAX)
        return err_set(err, ST_EINVAL, "%s: more than %d presses in plug-ins", path, PLUGIN_PRESSES_MAX);
    plugged[plugged_count++] = p;
    return ST_OK;
}

enum status press_plugin_open(const char *path, struct err *err)
{
    void *object = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    const struct press_plugin *plugin;
    size_t before = plugged_count;
    enum status st = ST_OK;

    if (!object)
        return err_set(err, ST_EINVAL, "press plug-in %s cannot be opened: %s", path, dlerror());
    plugin = dlsym(object, "platen_press_plugin");
    if (!plugin) {
        st = err_set(err, ST_EINVAL, "%s is no press plug-in: it has no platen_press_plugin", path);
    } else if (plugin->abi != PRESS_ABI || plugin->press_bytes != (int32_t)sizeof(struct press) ||
               plugin->ops_bytes != (int32_t)sizeof(struct backend_ops)) {
        st = err_set(err, ST_EPRECONDITION,
                     "%s was built for press ABI %d (tables of %d and %d bytes), this program has %d (%zu and %zu)",
                     path, plugin->abi, plugin->press_bytes, plugin->ops_bytes, PRESS_ABI, sizeof(struct press),
                     sizeof(struct backend_ops));
    } else {
        for (int32_t i = 0; i < plugin->count && st == ST_OK; i++)
            st = plug(plugin->presses[i], path, err);
    }
    if (st != ST_OK) {
        plugged_count = before;
        (void)dlclose(object);
    }
    return st; /* an object that was taken stays open as long as the program runs */
}
