/* SPDX-License-Identifier: Apache-2.0 */
/* service.c - the parts of a node's process, opened and closed in order. */
#include "common/service/service.h"

#include "common/base/arena.h"
#include "common/metrics/page.h"
#include "common/rpc/rpc.h"
#include "common/service/reflection.h"

#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* owned by: main */
struct service {
    struct rpc_server *server;
    struct health *health;
    struct reflection *reflection;
    struct page *page;
    const char **names;
    char name[RPC_ADDRESS_MAX + HOST_NAME_MAX];
};

static enum status metrics_page(struct service *s, const struct service_options *o, struct err *err)
{
    char host[RPC_ADDRESS_MAX];
    int port;
    enum status st;

    if (o->metrics_listen == NULL)
        return ST_OK;
    st = rpc_address_parse(o->metrics_listen, host, &port, err);
    return st == ST_OK ? page_open(&s->page, o->metrics, host, port, err) : st;
}

static void set_name(struct service *s)
{
    static const char *const anywhere[] = { "0.0.0.0:", "[::]:" };
    const char *address = rpc_server_address(s->server);
    char host[HOST_NAME_MAX + 1] = "";

    snprintf(s->name, sizeof(s->name), "%s", address);
    for (size_t i = 0; i < sizeof(anywhere) / sizeof(*anywhere); i++)
        if (strncmp(address, anywhere[i], strlen(anywhere[i])) == 0 && gethostname(host, sizeof(host) - 1) == 0)
            snprintf(s->name, sizeof(s->name), "%s:%s", host, address + strlen(anywhere[i]));
}

enum status service_open(struct service **out, const struct service_options *o, struct err *err)
{
    struct service *s = (struct service *)mem_zero(1, sizeof(*s));
    enum status st;

    s->names = (const char **)mem_zero(o->name_count + 1, sizeof(*s->names));
    s->names[0] = "";
    for (size_t i = 0; i < o->name_count; i++)
        s->names[i + 1] = o->names[i];
    s->health = health_open(s->names, o->name_count + 1);
    st = reflection_open(&s->reflection, err);
    if (st == ST_OK)
        st = rpc_server_open(&s->server, &o->rpc, err);
    if (st == ST_OK)
        st = metrics_page(s, o, err);
    if (st != ST_OK) {
        service_close(s);
        return st;
    }
    set_name(s);
    *out = s;
    return ST_OK;
}

const char *service_name(const struct service *s)
{
    return s->name;
}

struct rpc_server *service_server(struct service *s)
{
    return s->server;
}

struct health *service_health(struct service *s)
{
    return s->health;
}

enum status service_start(struct service *s, struct err *err)
{
    enum status st;

    health_add(s->health, s->server);
    reflection_add(s->reflection, s->server);
    st = s->page != NULL ? page_start(s->page, err) : ST_OK;
    if (st == ST_OK)
        st = rpc_server_start(s->server, err);
    if (st != ST_OK)
        return st;
    printf("serving %s\n", rpc_server_address(s->server));
    if (s->page != NULL)
        printf("metrics %s\n", page_address(s->page));
    fflush(stdout);
    return ST_OK;
}

bool service_drain(struct service *s, int64_t deadline_ns)
{
    health_shutdown(s->health);
    return rpc_server_drain(s->server, deadline_ns);
}

void service_unpublish(struct service *s)
{
    if (s == NULL)
        return;
    page_close(s->page);
    s->page = NULL;
}

void service_close(struct service *s)
{
    if (s == NULL)
        return;
    service_unpublish(s);
    rpc_server_close(s->server);
    reflection_close(s->reflection);
    health_close(s->health);
    free(s->names);
    free(s);
}
