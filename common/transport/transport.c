/* SPDX-License-Identifier: Apache-2.0 */
/*
 * transport.c - the table of transports, and which one an order uses.
 *
 * The decode node offers what it can, best first; the prefill node takes the first of them that its operator allows. The
 * choice is said aloud: in Accepted, in the reply, in metrics.
 */
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

static bool list_has(const char *list, const char *name)
{
    const char *word;
    size_t bytes;

    while (list_next(&list, &word, &bytes)) {
        if (strlen(name) == bytes && memcmp(word, name, bytes) == 0)
            return true;
    }
    return false;
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

static enum status choose_none(const char *allowed, const char *const *offered, size_t count, struct err *err)
{
    struct text list = { 0 };

    for (size_t i = 0; i < count && i < 8; i++)
        text_printf(&list, "%s%.32s", i ? "," : "", offered[i]);
    err_set(err, ST_EPRECONDITION, "no transport in common: offered `%s`, this node has `%s`", text_str(&list),
            allowed);
    text_fini(&list);
    return ST_EPRECONDITION;
}

enum status transport_choose(const struct transport **out, const char *allowed, const char *const *offered,
                             size_t count, struct text *note, struct err *err)
{
    for (size_t i = 0; i < count; i++) {
        const struct transport *t = transport_find(offered[i]);

        if (!t || !list_has(allowed, offered[i]))
            continue;
        if (i > 0 && note)
            text_printf(note, "%.32s was offered first; this node has `%s`", offered[0], allowed);
        *out = t;
        return ST_OK;
    }
    return choose_none(allowed, offered, count, err);
}
