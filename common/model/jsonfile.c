/* SPDX-License-Identifier: Apache-2.0 */
/* jsonfile.c - jansson does the work; this file only says where and what was wrong. */
#include "common/model/jsonfile.h"

#include "common/base/file.h"

#include <jansson.h>
#include <limits.h>
#include <stdio.h>

enum status json_parse(struct json_t **out, const char *text, size_t bytes, struct err *err)
{
    json_error_t bad;
    json_t *doc = json_loadb(text, bytes, JSON_ALLOW_NUL, &bad);

    if (!doc)
        return err_set(err, ST_EINVAL, "line %d, column %d: %s", bad.line, bad.column, bad.text);
    if (!json_is_object(doc)) {
        json_decref(doc);
        return err_set(err, ST_EINVAL, "not a JSON object");
    }
    *out = doc;
    return ST_OK;
}

enum status json_read(struct json_t **out, const char *dir, const char *name, struct err *err)
{
    char path[PATH_MAX];
    struct file f = { 0 };
    enum status st;

    if (snprintf(path, sizeof path, "%s/%s", dir, name) >= (int)sizeof path)
        return err_set(err, ST_EINVAL, "%s: the path is too long", dir);
    st = file_open(&f, path, err);
    if (st != ST_OK)
        return st;
    st = json_parse(out, f.data ? (const char *)f.data : "", f.bytes, err);
    if (st != ST_OK)
        err_prefix(err, "%s", path);
    file_close(&f);
    return st;
}

enum status json_read_optional(struct json_t **out, const char *dir, const char *name, struct err *err)
{
    char path[PATH_MAX];

    *out = NULL;
    snprintf(path, sizeof path, "%s/%s", dir, name);
    return file_exists(path) ? json_read(out, dir, name, err) : ST_OK;
}
