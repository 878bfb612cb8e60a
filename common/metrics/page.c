/* SPDX-License-Identifier: Apache-2.0 */
/*
 * page.c - libmicrohttpd serves one page from one thread.
 *
 * The socket is made here, not there, so that a port in use is told with its reason. Everything is bounded: connections,
 * their time, their memory.
 */
#include "common/metrics/page.h"

#include "common/base/arena.h"

#include <errno.h>
#include <microhttpd.h>
#include <netdb.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

enum { CONNECTIONS_MAX = 32, TIMEOUT_S = 10, CONNECTION_BYTES = 16384, BACKLOG = 32 };

/* owned by: whoever opened it; libmicrohttpd's thread reads `metrics` */
struct page {
    const struct metrics *metrics;
    int fd;                    /* the listening socket; the daemon's once there is one */
    struct MHD_Daemon *daemon; /* NULL: not started */
    char address[300];
};

static enum MHD_Result answer(struct MHD_Connection *connection, unsigned code, const char *type, char *body,
                              size_t bytes, enum MHD_ResponseMemoryMode mode)
{
    struct MHD_Response *r = MHD_create_response_from_buffer(bytes, body, mode);
    enum MHD_Result done;

    if (r == NULL)
        return MHD_NO;
    MHD_add_response_header(r, MHD_HTTP_HEADER_CONTENT_TYPE, type);
    if (code == MHD_HTTP_METHOD_NOT_ALLOWED)
        MHD_add_response_header(r, MHD_HTTP_HEADER_ALLOW, "GET, HEAD");
    done = MHD_queue_response(connection, code, r);
    MHD_destroy_response(r);
    return done;
}

static enum MHD_Result on_request(void *arg, struct MHD_Connection *connection, const char *url, const char *method,
                                  const char *version, const char *body, size_t *body_bytes, void **state)
{
    static char not_found[] = "the page is /metrics\n", not_allowed[] = "only GET\n";
    const struct page *p = (const struct page *)arg;
    struct text out = { 0 };

    (void)version;
    (void)body;
    if (*state == NULL) { /* the headers; the body, if any, comes next and is thrown away */
        *state = (void *)p;
        return MHD_YES;
    }
    if (*body_bytes > 0) {
        *body_bytes = 0;
        return MHD_YES;
    }
    if (strcmp(method, MHD_HTTP_METHOD_GET) != 0 && strcmp(method, MHD_HTTP_METHOD_HEAD) != 0)
        return answer(connection, MHD_HTTP_METHOD_NOT_ALLOWED, "text/plain", not_allowed, sizeof(not_allowed) - 1,
                      MHD_RESPMEM_PERSISTENT);
    if (strcmp(url, "/metrics") != 0)
        return answer(connection, MHD_HTTP_NOT_FOUND, "text/plain", not_found, sizeof(not_found) - 1,
                      MHD_RESPMEM_PERSISTENT);
    metrics_print(p->metrics, &out);
    return answer(connection, MHD_HTTP_OK, "text/plain; version=0.0.4; charset=utf-8", out.data, out.bytes,
                  MHD_RESPMEM_MUST_FREE);
}

/* A listening socket at the first address of the host that takes one; *failed is errno where none does. */
static int listen_at(const struct addrinfo *list, int *failed)
{
    *failed = EADDRNOTAVAIL;
    for (const struct addrinfo *a = list; a != NULL; a = a->ai_next) {
        int fd = socket(a->ai_family, a->ai_socktype | SOCK_CLOEXEC | SOCK_NONBLOCK, a->ai_protocol), on = 1;

        if (fd < 0) {
            *failed = errno;
            continue;
        }
        setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
        if (bind(fd, a->ai_addr, a->ai_addrlen) == 0 && listen(fd, BACKLOG) == 0)
            return fd;
        *failed = errno;
        close(fd);
    }
    return -1;
}

static enum status socket_open(int *out, const char *host, int port, struct err *err)
{
    struct addrinfo hints = { .ai_flags = AI_PASSIVE | AI_NUMERICSERV, .ai_socktype = SOCK_STREAM }, *list;
    char service[12];
    int failed, fd;

    snprintf(service, sizeof(service), "%d", port);
    failed = getaddrinfo(host, service, &hints, &list);
    if (failed != 0)
        return err_set(err, ST_EINVAL, "cannot listen on %s:%d: %s", host, port, gai_strerror(failed));
    fd = listen_at(list, &failed);
    freeaddrinfo(list);
    if (fd < 0)
        return err_set(err, ST_EUNAVAILABLE, "cannot listen on %s:%d: %s", host, port, strerror(failed));
    *out = fd;
    return ST_OK;
}

static int bound_port(int fd)
{
    union {
        struct sockaddr any;
        struct sockaddr_in v4;
        struct sockaddr_in6 v6;
    } at = { .v6 = { 0 } };
    socklen_t bytes = sizeof(at);

    if (getsockname(fd, &at.any, &bytes) != 0)
        return 0;
    return ntohs(at.any.sa_family == AF_INET6 ? at.v6.sin6_port : at.v4.sin_port);
}

enum status page_open(struct page **out, const struct metrics *m, const char *host, int port, struct err *err)
{
    struct page *p;
    int fd = -1;
    enum status st = socket_open(&fd, host, port, err);

    if (st != ST_OK)
        return st;
    p = (struct page *)mem_zero(1, sizeof(*p));
    p->metrics = m;
    p->fd = fd;
    snprintf(p->address, sizeof(p->address), strchr(host, ':') != NULL ? "[%s]:%d" : "%s:%d", host, bound_port(fd));
    *out = p;
    return ST_OK;
}

enum status page_start(struct page *p, struct err *err)
{
    p->daemon = MHD_start_daemon(MHD_USE_INTERNAL_POLLING_THREAD | MHD_USE_POLL | MHD_USE_ITC, 0, NULL, NULL,
                                 on_request, p, MHD_OPTION_LISTEN_SOCKET, p->fd, MHD_OPTION_CONNECTION_LIMIT,
                                 (unsigned)CONNECTIONS_MAX, MHD_OPTION_CONNECTION_TIMEOUT, (unsigned)TIMEOUT_S,
                                 MHD_OPTION_CONNECTION_MEMORY_LIMIT, (size_t)CONNECTION_BYTES, MHD_OPTION_END);
    return p->daemon ? ST_OK : err_set(err, ST_EINTERNAL, "cannot serve metrics on %s", p->address);
}

const char *page_address(const struct page *p)
{
    return p->address;
}

void page_close(struct page *p)
{
    if (p == NULL)
        return;
    if (p->daemon != NULL)
        MHD_stop_daemon(p->daemon); /* closes the socket, too */
    else
        close(p->fd);
    free(p);
}
