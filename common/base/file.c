/* SPDX-License-Identifier: Apache-2.0 */
/*
 * file.c - maps a whole file, read-only and private.
 *
 * Not promised: a file that somebody shortens while it is mapped ends the reader with SIGBUS. Checkpoints are replaced
 * by renaming a new file over them, never by writing into them.
 */
#include "common/base/file.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

enum status file_refuse(const char *path, struct err *err)
{
    return err_set(err, errno == ENOENT || errno == ENOTDIR ? ST_ENOTFOUND : ST_EINVAL, "%s: %s", path,
                   strerror(errno));
}

static enum status map(struct file *out, int fd, const char *path, struct err *err)
{
    struct stat info;
    void *data = NULL;

    if (fstat(fd, &info) != 0)
        return file_refuse(path, err);
    if (S_ISDIR(info.st_mode))
        return err_set(err, ST_EINVAL, "%s: is a directory", path);
    if (!S_ISREG(info.st_mode))
        return err_set(err, ST_EINVAL, "%s: is not a regular file", path);
    if (info.st_size > 0) {
        data = mmap(NULL, (size_t)info.st_size, PROT_READ, MAP_PRIVATE, fd, 0);
        if (data == MAP_FAILED)
            return file_refuse(path, err);
    }
    out->data = data;
    out->bytes = (size_t)info.st_size;
    return ST_OK;
}

enum status file_open(struct file *out, const char *path, struct err *err)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK); /* a FIFO must not make us wait for its writer */
    enum status st;

    if (fd < 0)
        return file_refuse(path, err);
    st = map(out, fd, path, err);
    close(fd); /* the mapping stays */
    return st;
}

void file_close(struct file *f)
{
    if (!f)
        return;
    if (f->data)
        munmap((void *)(uintptr_t)f->data, f->bytes);
    f->data = NULL;
    f->bytes = 0;
}

void file_fill_std(void)
{
    for (int fd = STDIN_FILENO; fd <= STDERR_FILENO; fd++)
        if (fcntl(fd, F_GETFD) < 0 && open("/dev/null", fd == STDIN_FILENO ? O_WRONLY : O_RDONLY) != fd)
            return; /* no /dev/null: as it was */
}

bool file_is_dir(const char *path)
{
    struct stat info;

    return stat(path, &info) == 0 && S_ISDIR(info.st_mode);
}

bool file_exists(const char *path)
{
    struct stat info;

    return lstat(path, &info) == 0;
}
