/* SPDX-License-Identifier: Apache-2.0 */
/* model_dir.h - model directories and GGUF files made by a test, with one thing wrong at a time. */
#ifndef PLATEN_TESTS_MODEL_DIR_H
#define PLATEN_TESTS_MODEL_DIR_H

#include "common/base/arena.h"
#include "common/base/file.h"
#include "common/base/text.h"
#include "tests/support/cmocka_main.h"

#include <stdlib.h>
#include <unistd.h>

/* A new folder under /tmp. */
static inline const char *dir_new(struct arena *arena)
{
    char *path = arena_strdup(arena, "/tmp/platen-model-XXXXXX");

    assert_non_null(mkdtemp(path));
    return path;
}

static inline void dir_write(const char *dir, const char *name, const void *data, size_t bytes)
{
    char path[512];
    FILE *f;

    snprintf(path, sizeof path, "%s/%s", dir, name);
    f = fopen(path, "wb");
    assert_non_null(f);
    assert_int_equal(fwrite(data, 1, bytes, f), bytes);
    fclose(f);
}

static inline void dir_puts(const char *dir, const char *name, const char *text)
{
    dir_write(dir, name, text, strlen(text));
}

/* The bytes of a file, to be changed and written elsewhere. */
static inline struct text file_text(const char *path)
{
    struct file f = { 0 };
    struct err err = { 0 };
    struct text out = { 0 };

    if (file_open(&f, path, &err) != ST_OK)
        fail_msg("%s", err.text);
    text_add(&out, (const char *)f.data, f.bytes);
    file_close(&f);
    return out;
}

static inline void dir_copy(const char *dir, const char *name, const char *from)
{
    struct text t = file_text(from);

    dir_write(dir, name, t.data, t.bytes);
    text_fini(&t);
}

/* Replaces the first `old` by `new` of the same length, or of any length where the file is text. */
static inline void text_swap(struct text *t, const char *old, const char *new)
{
    char *at = memmem(t->data, t->bytes, old, strlen(old));
    struct text out = { 0 };

    assert_non_null(at);
    text_add(&out, t->data, (size_t)(at - t->data));
    text_puts(&out, new);
    text_add(&out, at + strlen(old), t->bytes - (size_t)(at - t->data) - strlen(old));
    text_fini(t);
    *t = out;
}

/* Removes the files of a folder made by dir_new, and the folder. */
static inline void dir_remove(const char *dir)
{
    char command[600];

    assert_true(strncmp(dir, "/tmp/platen-model-", 18) == 0);
    snprintf(command, sizeof command, "rm -r '%s'", dir);
    assert_int_equal(system(command), 0);
}

#endif
