/* SPDX-License-Identifier: Apache-2.0 */
/* contents.c - open, read until the end. */
#include "client/contents.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

enum { PIECE_BYTES = 1 << 16 };

enum status contents_read(struct text *out, const char *path, struct err *err)
{
    bool is_stdin = strcmp(path, "-") == 0;
    int fd = is_stdin ? STDIN_FILENO : open(path, O_RDONLY | O_CLOEXEC);
    char piece[PIECE_BYTES];
    ssize_t n;
    enum status st = ST_OK;

    if (fd < 0)
        return err_set(err, errno == ENOENT || errno == ENOTDIR ? ST_ENOTFOUND : ST_EINVAL, "%s: %s", path,
                       strerror(errno));
    while ((n = read(fd, piece, sizeof piece)) != 0) {
        if (n > 0)
            text_add(out, piece, (size_t)n);
        else if (errno != EINTR)
            break;
    }
    if (n < 0)
        st = err_set(err, ST_EINVAL, "%s: %s", path, strerror(errno));
    if (!is_stdin)
        close(fd);
    return st;
}
