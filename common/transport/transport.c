/* SPDX-License-Identifier: Apache-2.0 */
/* transport.c - the table of transports, and the check of an operator's list of them. */
#include "common/transport/transport.h"

#include "common/base/bytes.h"

#include <string.h>

#define TRANSPORT(name) extern const struct transport transport_##name;
#include "common/transport/transport.def"
#undef TRANSPORT

static const struct transport *const transports[] = {
#define TRANSPORT(name) &transport_##name,
#include "common/transport/transport.def"
#undef TRANSPORT
};

const struct transport *transport_at(size_t i)
{
    return i < ARRAY_LEN(transports) ? transports[i] : NULL;
}

static const struct transport *find_n(const char *name, size_t bytes)
{
    for (size_t i = 0; i < ARRAY_LEN(transports); i++) {
        if (strlen(transports[i]->name) == bytes && memcmp(transports[i]->name, name, bytes) == 0)
            return transports[i];
    }
    return NULL;
}

const struct transport *transport_find(const char *name)
{
    return find_n(name, strlen(name));
}

/* The next word of a comma-separated list; false at its end. */
static bool list_next(const char **list, const char **word, size_t *bytes)
{
    *list += strspn(*list, ", ");
    *word = *list;
    *bytes = strcspn(*list, ", ");
    *list += *bytes;
    return *bytes > 0;
}

enum status transport_list_check(const char *allowed, struct err *err)
{
    const char *word;
    size_t bytes, count = 0;

    for (; list_next(&allowed, &word, &bytes); count++) {
        if (!find_n(word, bytes))
            return err_set(err, ST_EINVAL, "unknown transport `%.*s`; this program has nccl, ipc and grpc", (int)bytes,
                           word);
    }
    if (count == 0)
        return err_set(err, ST_EINVAL, "no transport is named");
    return ST_OK;
}
