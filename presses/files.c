/* SPDX-License-Identifier: Apache-2.0 */
/*
 * files.c - learned parameters of presses: names, paths, and what was read from them.
 *
 * An entry may serve several presses (a file of gates is read by one, its head scores by another): what each made of it
 * is kept apart, in `loads`. A lock guards the list, since requests are parsed on many threads; reading a file holds it,
 * which at worst makes the first users of two files wait for each other.
 */
#include "presses/files.h"
#include "common/base/arena.h"
#include "common/base/text.h"
#include "presses/chain.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

struct press_file {
    struct press_file *next;
    char *name, *path;
    const struct press *press; /* who read it; NULL: an entry, not read yet */
    void *file;
};

struct press_files {
    const struct hparams *hp;
    bool paths;
    pthread_mutex_t lock;
    struct press_file *entries; /* names and paths */
    struct press_file *loads;   /* what presses made of them */
};

enum status press_files_open(struct press_files **out, const struct hparams *hp, bool paths, struct err *err)
{
    struct press_files *f = mem_zero(1, sizeof *f);

    (void)err;
    f->hp = hp;
    f->paths = paths;
    (void)pthread_mutex_init(&f->lock, NULL);
    *out = f;
    return ST_OK;
}

static void list_close(struct press_file *e)
{
    while (e) {
        struct press_file *next = e->next;

        if (e->press && e->press->file_close)
            e->press->file_close(e->file);
        free(e->name);
        free(e->path);
        free(e);
        e = next;
    }
}

void press_files_close(struct press_files *f)
{
    if (!f)
        return;
    list_close(f->loads);
    list_close(f->entries);
    (void)pthread_mutex_destroy(&f->lock);
    free(f);
}

static struct press_file *list_find(struct press_file *e, const char *name, const struct press *press)
{
    while (e && (strcmp(e->name, name) != 0 || e->press != press))
        e = e->next;
    return e;
}

static struct press_file *list_add(struct press_file **list, const char *name, const char *path)
{
    struct press_file *e = mem_zero(1, sizeof *e);

    e->name = mem_strdup(name);
    e->path = mem_strdup(path);
    e->next = *list;
    *list = e;
    return e;
}

enum status press_files_add(struct press_files *f, const char *name, const char *path, struct err *err)
{
    const size_t letters = strspn(name, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.");

    if (!name[0] || name[letters] || name[0] == '.')
        return err_set(err, ST_EINVAL, "press-files: \"%s\" is no name for an entry; letters, digits, -, _ and .",
                       name);
    if (list_find(f->entries, name, NULL))
        return err_set(err, ST_EINVAL, "press-files: the entry %s stands twice", name);
    if (!path[0])
        return err_set(err, ST_EINVAL, "press-files: the entry %s names no file; expected %s = PATH", name, name);
    (void)list_add(&f->entries, name, path);
    return ST_OK;
}

/* Says which entries there are. */
static enum status unknown(const struct press_files *f, const char *name, const struct press *press, struct err *err)
{
    struct text list = { 0 };
    enum status st;

    if (strpbrk(name, "/\\") || name[0] == '.' || name[0] == '~')
        return err_set(err, ST_EINVAL,
                       "%s: file names an entry of the operator's [press-files], never a path, as \"%.60s\" is",
                       press->name, name);
    for (const struct press_file *e = f ? f->entries : NULL; e; e = e->next)
        text_printf(&list, "%s%s", list.bytes ? ", " : "", e->name);
    st = err_set(err, ST_EINVAL, "%s: there is no parameter file called \"%.60s\"; %s%s", press->name, name,
                 list.bytes ? "the operator named " : "the operator named none", text_str(&list));
    text_fini(&list);
    return st;
}

/* What is wrong with a file, "PATH: reason", with the entry's name instead: who asks a node may not learn of its paths. */
static void tell_entry(struct err *err, const struct press_file *entry)
{
    const size_t bytes = strlen(entry->path);
    const char *reason;

    if (!err)
        return;
    reason = strncmp(err->text, entry->path, bytes) == 0 ? err->text + bytes : strstr(err->text, ": ");
    if (reason && strncmp(reason, ": ", 2) == 0)
        memmove(err->text, reason + 2, strlen(reason + 2) + 1);
    err_prefix(err, "the file called %s", entry->name);
}

static enum status find_locked(struct press_files *f, const char *name, const struct press *press, const void **out,
                               struct err *err)
{
    struct press_file *load = list_find(f->loads, name, press), *entry = list_find(f->entries, name, NULL);
    void *file = NULL;
    enum status st;

    if (load) {
        *out = load->file;
        return ST_OK;
    }
    if (!entry && !f->paths)
        return unknown(f, name, press, err);
    st = press->file_open(&file, entry ? entry->path : name, f->hp, err);
    if (st != ST_OK) {
        if (entry)
            tell_entry(err, entry);
        err_prefix(err, "%s", press->name);
        return st;
    }
    load = list_add(&f->loads, name, entry ? entry->path : name);
    load->press = press;
    load->file = file;
    *out = file;
    return ST_OK;
}

/* Lets every press read the entry that can; fails with all their reasons where none can. */
static enum status load_entry(struct press_files *f, const struct press_file *entry, struct err *err)
{
    const struct press *press;
    struct text reasons = { 0 };
    const void *file;
    bool read = false;

    for (size_t i = 0; (press = press_at(i)) != NULL; i++) {
        struct err why = { 0 };

        if (!press->file_open)
            continue;
        if (press_files_find(f, entry->name, press, &file, &why) == ST_OK)
            read = true;
        else
            text_printf(&reasons, "%s%s", reasons.bytes ? "; " : "", why.text);
    }
    if (!read)
        (void)err_set(err, ST_EINVAL, "press-files: no press can use %s = %s: %s", entry->name, entry->path,
                      text_str(&reasons));
    text_fini(&reasons);
    return read ? ST_OK : ST_EINVAL;
}

enum status press_files_load(struct press_files *f, struct err *err)
{
    enum status st = ST_OK;

    for (const struct press_file *e = f->entries; e && st == ST_OK; e = e->next)
        st = load_entry(f, e, err);
    return st;
}

enum status press_files_find(struct press_files *f, const char *name, const struct press *press, const void **out,
                             struct err *err)
{
    enum status st;

    if (!f)
        return unknown(NULL, name, press, err);
    (void)pthread_mutex_lock(&f->lock);
    st = find_locked(f, name, press, out, err);
    (void)pthread_mutex_unlock(&f->lock);
    return st;
}
