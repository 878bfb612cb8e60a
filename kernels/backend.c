/* SPDX-License-Identifier: Apache-2.0 */
/*
 * backend.c - the back ends there are (backend.def), found by name and opened from the text of --backend.
 *
 *   cpu          the best instruction set there is       cuda         device 0
 *   cpu:avx2     that one, for comparisons               cuda:1       device 1
 */
#include "kernels/backend.h"

#include "common/base/bytes.h"
#include "common/base/text.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define BACKEND(name) extern const struct backend_ops backend_##name##_ops;
#include "kernels/backend.def"
#undef BACKEND

static const struct backend_ops *const backends[] = {
#define BACKEND(name) &backend_##name##_ops,
#include "kernels/backend.def"
#undef BACKEND
};

const struct backend_ops *backend_find(const char *name)
{
    for (size_t i = 0; i < ARRAY_LEN(backends); i++)
        if (strcmp(backends[i]->name, name) == 0)
            return backends[i];
    return NULL;
}

static enum status refuse_name(const char *spec, struct err *err)
{
    struct text names = { 0 };
    enum status st;

    for (size_t i = 0; i < ARRAY_LEN(backends); i++)
        text_printf(&names, "%s%s", i ? ", " : "", backends[i]->name);
    st = err_set(err, ST_EINVAL, "%s: no such back end; this program has %s", spec, text_str(&names));
    text_fini(&names);
    return st;
}

enum status backend_open(struct backend **out, const char *spec, const struct backend_config *config, struct err *err)
{
    struct backend_config own = *config;
    const struct backend_ops *ops;
    const char *colon = strchr(spec, ':');
    size_t bytes = colon ? (size_t)(colon - spec) : strlen(spec);
    char name[16] = "", *end;

    if (bytes < sizeof name)
        memcpy(name, spec, bytes);
    ops = backend_find(name);
    if (!ops)
        return refuse_name(spec, err);
    if (colon && strcmp(name, "cpu") == 0)
        own.variant = colon + 1;
    else if (colon) {
        long device = strtol(colon + 1, &end, 10);

        if (end == colon + 1 || *end || device < 0 || device > 1023)
            return err_set(err, ST_EINVAL, "%s: a device is a number from 0 to 1023", spec);
        own.device = (int32_t)device;
    }
    return ops->open(out, &own, err);
}

void backend_close(struct backend *be)
{
    if (be)
        be->ops->close(be);
}

const char *fallback_shape(const struct fallback *f, char out[FALLBACK_SHAPE_BYTES])
{
    if (f->shape[0] == 0)
        return "every";
    snprintf(out, FALLBACK_SHAPE_BYTES, "%lldx%lldx%lld", (long long)f->shape[0], (long long)f->shape[1],
             (long long)f->shape[2]);
    return out;
}

void backend_describe(struct backend *be, char *out, size_t bytes)
{
    size_t at = (size_t)snprintf(out, bytes, "%s", be->ops->describe(be));
    char shape[FALLBACK_SHAPE_BYTES];
    const struct fallback *f;

    for (int32_t i = 0; be->ops->fallback_at && at < bytes && (f = be->ops->fallback_at(be, i)) != NULL; i++)
        at += (size_t)snprintf(out + at, bytes - at, "; %s for %s (%s: %s, status %d)", f->instead,
                               fallback_shape(f, shape), f->library, f->why, f->status);
}
