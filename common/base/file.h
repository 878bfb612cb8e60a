/* SPDX-License-Identifier: Apache-2.0 */
/* file.h - a whole file, read-only, mapped. The pages are the kernel's: a 16 GB checkpoint costs no memory to open. */
#ifndef PLATEN_BASE_FILE_H
#define PLATEN_BASE_FILE_H

#include "common/base/status.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

struct file {
    const uint8_t *data; /* NULL when closed or empty */
    size_t bytes;
};

/* Maps `path`. Errors: ST_ENOTFOUND (does not exist), ST_EINVAL (a directory, cannot be read), each naming the path. */
enum status file_open(struct file *out, const char *path, struct err *err);
void file_close(struct file *f);

/* What errno says of `path`, as file_open tells it. */
enum status file_refuse(const char *path, struct err *err);

/* First thing in a main: descriptors 0, 1 and 2 that are closed are opened on /dev/null the wrong way round, so that writing
 * to them (for 0: reading) goes on to fail and never reaches a file or connection that was given the number. */
void file_fill_std(void);

bool file_is_dir(const char *path);

/* Also a link to nothing: opening it tells what is wrong, passing over it would not. */
bool file_exists(const char *path);

#ifdef __cplusplus
}
#endif
#endif
