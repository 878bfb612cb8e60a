/* SPDX-License-Identifier: Apache-2.0 */
/* rpc.c - addresses as people write them, whether they are free, and the allocator's settings for bulk. */
#include "common/rpc/rpc.h"

#include "common/base/text.h"
#include "common/rpc/rpc_inside.h"

#include <errno.h>
#include <limits.h>
#include <malloc.h>
#include <netdb.h>
#include <netinet/in.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

enum status rpc_address_parse(const char *text, char *host, int *port, struct err *err)
{
    const char *colon = strrchr(text, ':'), *from = text;
    size_t bytes;
    int64_t number;

    if (strstr(text, "://") != NULL)
        return err_set(err, ST_EINVAL, "%s: an address is HOST:PORT, nothing before it", text);
    if (colon == NULL)
        return err_set(err, ST_EINVAL, "%s: no port; an address is HOST:PORT", text);
    if (!text_to_i64(colon + 1, 0, 65535, &number))
        return err_set(err, ST_EINVAL, "%s: \"%s\" is no port (0 to 65535)", text, colon + 1);
    bytes = (size_t)(colon - text);
    if (bytes >= 2 && text[0] == '[' && text[bytes - 1] == ']') {
        from++;
        bytes -= 2;
    } else if (memchr(text, ':', bytes) != NULL) {
        return err_set(err, ST_EINVAL, "%s: an IPv6 address is written [ADDRESS]:PORT", text);
    }
    if (bytes == 0 || bytes >= RPC_ADDRESS_MAX)
        return err_set(err, ST_EINVAL, "%s: no host; an address is HOST:PORT", text);
    if (strcspn(from, " \t\r\n/") < bytes)
        return err_set(err, ST_EINVAL, "%s: this is no host name or address", text);
    memcpy(host, from, bytes);
    host[bytes] = '\0';
    *port = (int)number;
    return ST_OK;
}

/* 0, or errno of the first step that failed. */
static int address_try(const struct addrinfo *a)
{
    int fd = socket(a->ai_family, a->ai_socktype | SOCK_CLOEXEC, a->ai_protocol), on = 1, failed = 0;

    if (fd < 0)
        return errno;
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on)); /* as gRPC does: a port that just closed is free */
    if (a->ai_family == AF_INET6)
        setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &on, sizeof(on));
    if (bind(fd, a->ai_addr, a->ai_addrlen) != 0)
        failed = errno;
    close(fd);
    return failed;
}

enum status address_free(const char *text, const char *host, int port, struct err *err)
{
    struct addrinfo hints = { .ai_flags = AI_PASSIVE | AI_NUMERICSERV, .ai_socktype = SOCK_STREAM }, *list;
    char service[8];
    int failed = 0, good = 0;

    snprintf(service, sizeof(service), "%d", port);
    failed = getaddrinfo(host, service, &hints, &list);
    if (failed != 0)
        return err_set(err, ST_EINVAL, "cannot listen on %s: %s", text, gai_strerror(failed));
    for (const struct addrinfo *a = list; a != NULL; a = a->ai_next) {
        int e = address_try(a);

        if (e == 0)
            good++;
        else if (failed == 0 || e == EADDRINUSE)
            failed = e; /* a host without IPv6 may fail at ::1 and still serve */
    }
    freeaddrinfo(list);
    if (failed == EADDRINUSE || good == 0)
        return err_set(err, failed == EADDRINUSE ? ST_EUNAVAILABLE : ST_EINVAL, "cannot listen on %s: %s", text,
                       strerror(failed));
    return ST_OK;
}

void rpc_tune_bulk(void)
{
    mallopt(M_MMAP_THRESHOLD, 1 << 30);
    mallopt(M_TRIM_THRESHOLD, INT_MAX);
}
