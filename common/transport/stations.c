/* SPDX-License-Identifier: Apache-2.0 */
/*
 * stations.c - opening, offering and choosing transports.
 *
 *   hello   [bytes of name u8][name][bytes u32][what the transport says] for each
 */
#include "common/transport/stations.h"

#include "common/base/arena.h"
#include "common/base/bytes.h"

#include <stdlib.h>
#include <string.h>

struct entry {
    const struct transport *transport;
    struct station *station;
};

struct stations {
    struct entry entries[STATIONS_MAX];
    size_t count;
    struct text list;
};

int32_t stations_device(const char *backend)
{
    if (strncmp(backend, "cuda", 4) != 0)
        return -1;
    return backend[4] == ':' ? (int32_t)strtol(backend + 5, NULL, 10) : 0;
}

static const struct entry *find(const struct stations *s, const char *name)
{
    for (size_t i = 0; i < s->count; i++) {
        if (strcmp(s->entries[i].transport->name, name) == 0)
            return &s->entries[i];
    }
    return NULL;
}

/* One named transport: opened, or told as missing. */
static void add(struct stations *s, const struct transport *t, const struct station_config *config,
                void (*missing)(void *ctx, const char *name, const char *why), void *ctx)
{
    struct entry *e = &s->entries[s->count];
    struct err why = { 0 };

    if (s->count == STATIONS_MAX || find(s, t->name))
        return;
    if (t->open && t->open(&e->station, config, &why) != ST_OK) {
        if (missing)
            missing(ctx, t->name, why.text);
        return;
    }
    e->transport = t;
    text_printf(&s->list, "%s%s", s->count++ > 0 ? "," : "", t->name);
}

enum status stations_open(struct stations **out, const char *allowed, const struct station_config *config,
                          void (*missing)(void *ctx, const char *name, const char *why), void *ctx, struct err *err)
{
    const char *list = allowed ? allowed : config->device >= 0 ? "ipc,nccl,grpc" : "grpc";
    struct stations *s;
    char *copy, *save = NULL;
    enum status st = transport_list_check(list, err);

    if (st != ST_OK)
        return st;
    s = mem_zero(1, sizeof *s);
    copy = mem_strdup(list);
    for (char *name = strtok_r(copy, ", ", &save); name; name = strtok_r(NULL, ", ", &save))
        add(s, transport_find(name), config, missing, ctx);
    free(copy);
    if (s->count == 0) {
        stations_close(s);
        return err_set(err, ST_EINVAL, "--transport %s: none of them can be used here", list);
    }
    *out = s;
    return ST_OK;
}

void stations_close(struct stations *s)
{
    if (!s)
        return;
    for (size_t i = 0; i < s->count; i++) {
        if (s->entries[i].transport->shut)
            s->entries[i].transport->shut(s->entries[i].station);
    }
    text_fini(&s->list);
    free(s);
}

void stations_tick(const struct stations *s)
{
    for (size_t i = 0; i < s->count; i++) {
        if (s->entries[i].transport->tick)
            s->entries[i].transport->tick(s->entries[i].station);
    }
}

const struct transport *stations_at(const struct stations *s, size_t i)
{
    return i < s->count ? s->entries[i].transport : NULL;
}

struct station *stations_of(const struct stations *s, const struct transport *t, bool *has)
{
    const struct entry *e = find(s, t->name);

    if (has)
        *has = e != NULL;
    return e ? e->station : NULL;
}

const char *stations_list(const struct stations *s)
{
    return text_str(&s->list);
}

bool stations_place_device(const struct stations *s)
{
    for (size_t i = 0; i < s->count; i++) {
        if (s->entries[i].transport->place == PLACE_DEVICE)
            return true;
    }
    return false;
}

/* ---- hello ------------------------------------------------------------------------------------------------------- */

static void add_part(struct text *out, const char *name, const struct text *part)
{
    const uint8_t name_bytes = (uint8_t)strlen(name);
    uint8_t bytes[4];

    store_u32(bytes, (uint32_t)part->bytes);
    text_add(out, (const char *)&name_bytes, 1);
    text_add(out, name, name_bytes);
    text_add(out, (const char *)bytes, sizeof bytes);
    text_add(out, text_str(part), part->bytes);
}

enum status stations_hello(const struct stations *s, struct text *out, struct err *err)
{
    enum status st = ST_OK;

    for (size_t i = 0; i < s->count && st == ST_OK; i++) {
        const struct entry *e = &s->entries[i];
        struct text part = { 0 };

        if (!e->transport->hello)
            continue;
        st = e->transport->hello(e->station, &part, err);
        if (st == ST_OK)
            add_part(out, e->transport->name, &part);
        text_fini(&part);
    }
    return st;
}

bool stations_hello_of(const void *hello, size_t hello_bytes, const char *name, const void **part, size_t *part_bytes)
{
    struct cursor c = cursor_on(hello, hello_bytes);

    while (cursor_left(&c) > 0 && !c.bad) {
        const uint8_t name_bytes = cursor_u8(&c);
        const uint8_t *its_name = cursor_take(&c, name_bytes);
        const uint32_t bytes = cursor_u32(&c);
        const uint8_t *data = cursor_take(&c, bytes);

        if (!data || strlen(name) != name_bytes || memcmp(its_name, name, name_bytes) != 0)
            continue;
        *part = data;
        *part_bytes = bytes;
        return true;
    }
    return false;
}

/* ---- choosing ---------------------------------------------------------------------------------------------------- */

/* Whether the offered transport can be used with this peer; else why not is added to the note. */
static const struct transport *consider(const struct stations *s, const char *name, const void *hello,
                                        size_t hello_bytes, struct text *note)
{
    const struct entry *e = find(s, name);
    const void *part = NULL;
    size_t part_bytes = 0;
    struct err why = { 0 };

    if (!e)
        err_set(&why, ST_EPRECONDITION, "%.32s: this node uses %s", name, stations_list(s));
    else if (e->transport->meets && !stations_hello_of(hello, hello_bytes, name, &part, &part_bytes))
        err_set(&why, ST_EPRECONDITION, "%.32s: it was offered without a hello", name);
    else if (!e->transport->meets || e->transport->meets(e->station, part, part_bytes, &why) == ST_OK)
        return e->transport;
    text_printf(note, "%s%s", note->bytes > 0 ? "; " : "", why.text);
    return NULL;
}

enum status stations_choose(const struct stations *s, const char *const *offered, size_t count, const void *hello,
                            size_t hello_bytes, const struct transport **out, struct text *note, struct err *err)
{
    for (size_t i = 0; i < count && i < STATIONS_MAX; i++) {
        *out = consider(s, offered[i], hello, hello_bytes, note);
        if (*out)
            return ST_OK;
    }
    return err_set(err, ST_EPRECONDITION, "no transport in common: %s",
                   note->bytes > 0 ? text_str(note) : "none was offered");
}
