/* SPDX-License-Identifier: Apache-2.0 */
/*
 * rpc_token.c - a token travels as `authorization: Bearer TOKEN`, so it must be what a header can carry; a file that is
 * empty or cut at a NUL would be a door that everybody passes.
 */
#include "common/rpc/rpc_token.h"

#include "common/base/arena.h"
#include "common/base/clock.h"
#include "common/base/file.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <string.h>
#include <unistd.h>

enum { WAIT_MS = 5000, NEWLINES_MAX = 2 };

/* Until the end of the file, or `room` bytes. */
static enum status fill(int fd, const char *path, char *text, size_t room, size_t *bytes, struct err *err)
{
    int64_t until_ns = clock_in_ms(WAIT_MS);

    for (*bytes = 0; *bytes < room;) {
        struct pollfd p = { .fd = fd, .events = POLLIN };
        int64_t left_ms = (until_ns - clock_now_ns()) / NS_PER_MS;
        int ready = poll(&p, 1, left_ms > 0 ? (int)left_ms : 0);
        ssize_t n = ready > 0 ? read(fd, text + *bytes, room - *bytes) : ready;

        if (ready == 0)
            return err_set(err, ST_EDEADLINE, "%s: nobody has written the token after %d s", path, WAIT_MS / 1000);
        if (n < 0 && errno != EINTR && errno != EAGAIN)
            return file_refuse(path, err);
        if (n == 0)
            break;
        if (n > 0)
            *bytes += (size_t)n;
    }
    return ST_OK;
}

static enum status check(const char *path, const char *text, size_t bytes, struct err *err)
{
    if (bytes == 0)
        return err_set(err, ST_EINVAL, "%s: the token file is empty", path);
    if (bytes > RPC_TOKEN_MAX)
        return err_set(err, ST_EINVAL, "%s: the token is longer than %d bytes", path, RPC_TOKEN_MAX);
    for (size_t i = 0; i < bytes; i++) {
        if (text[i] < ' ' || text[i] > '~')
            return err_set(err, ST_EINVAL, "%s: byte %zu of the token is not a printable ASCII character", path, i + 1);
    }
    return ST_OK;
}

enum status rpc_token_read(char **out, const char *path, struct err *err)
{
    char text[RPC_TOKEN_MAX + NEWLINES_MAX + 1];
    size_t bytes = 0;
    enum status st;
    int fd;

    *out = NULL;
    if (path == NULL)
        return ST_OK;
    fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK); /* a FIFO must not make us wait for its writer */
    if (fd < 0)
        return file_refuse(path, err);
    st = fill(fd, path, text, sizeof text - 1, &bytes, err);
    close(fd);
    while (bytes > 0 && (text[bytes - 1] == '\n' || text[bytes - 1] == '\r'))
        bytes--;
    text[bytes] = '\0';
    if (st == ST_OK)
        st = check(path, text, bytes, err);
    if (st == ST_OK)
        *out = mem_strdup(text);
    return st;
}
